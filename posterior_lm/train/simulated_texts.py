"""Observed texts drawn from a language model: shaped like the rows' own, and those unlike them left out.

The program does not say where an observed text ends; the rows do. Where all their
texts end in the same sign, a simulated text ends at its k-th such sign, with k as
often as in a row's text (its number of sentences). Else it ends where the model
itself ends the line, and that line break, which is no part of the text, is made up
for by the weight 1 / p(line break | text). Where the model hardly ever ends a line,
the number of tokens is drawn from the rows'.

A model also writes more kinds of text than the rows hold, and pairs of another kind
teach a guide nothing that it will be asked. The filter ends a text at its first token
that simulated texts hold far more often than the rows do, so a text of another kind
costs a few tokens, not all of its own. Each of these rules looks at the observation
alone, so the pairs that are left are still exact draws of the latents given it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
from attrs import evolve, field, frozen

from posterior_lm.infer.choosers import SampleEach
from posterior_lm.infer.rollout import roll_out
from posterior_lm.lm.protocol import LanguageModel, Tokenizer
from posterior_lm.support.base import Ending, Support, uncounted
from posterior_lm.support.build import build_support
from posterior_lm.support.spec import TextSpec
from posterior_lm.support.text import raise_unlisted
from posterior_lm.target.segments import Speller

# ------------------------------------------------------------------------------- the filter

TIMES = 10.0
"""How much more often a token has to occur in simulated texts to mark another kind. Counts have one added
on both sides, so a token that no row has must be in more than a few texts of many to be one."""

WORSE = 3.0
"""How much less often a pair has to be kept after a token of a latent for its draws to be given up there."""


def unlike(rows: Sequence[Sequence[int]], simulated: Sequence[Sequence[int]], vocabulary: int) -> np.ndarray:
    """(V,) bool: tokens whose share of simulated texts is over `TIMES` that of the rows' texts."""
    return _share(simulated, vocabulary) > TIMES * _share(rows, vocabulary)


def low_yield_tokens(latents: Sequence[Sequence[int]], alive: Sequence[bool], vocabulary: int) -> np.ndarray:
    """(V,) bool: tokens of a latent after which a pair is kept at least `WORSE` times less often than usual."""
    kept = [ids for ids, lives in zip(latents, alive, strict=True) if lives]
    share = (_counts(kept, vocabulary) + 1) / (_counts(latents, vocabulary) + 1)
    return share < len(kept) / max(1, len(latents)) / WORSE


def _counts(texts: Sequence[Sequence[int]], vocabulary: int) -> np.ndarray:
    """(V,) how many texts hold each token."""
    counts = np.zeros(vocabulary)
    for ids in texts:
        counts[list(set(ids))] += 1
    return counts


def _share(texts: Sequence[Sequence[int]], vocabulary: int) -> np.ndarray:
    """(V,) the share of texts that hold each token, with one added to the count and to the texts."""
    return (_counts(texts, vocabulary) + 1) / (len(texts) + 1)


@frozen(eq=False)
class TruncatedSupport:
    """A support whose values end early, at the first of the tokens `ends` (V,) bool.

    Whoever draws from it leaves such values out; they are not values of `support`.
    """

    support: Support
    ends: np.ndarray
    _nothing: np.ndarray = field(init=False)

    @_nothing.default
    def _none_allowed(self) -> np.ndarray:
        return np.zeros(len(self.ends), dtype=bool)

    @property
    def ending(self) -> Ending:
        return self.support.ending

    @property
    def max_tokens(self) -> int:
        return self.support.max_tokens

    @property
    def stop_ids(self) -> tuple[int, ...]:
        return self.support.stop_ids

    @property
    def size(self) -> int | None:
        return self.support.size

    def count_values(self, limit: int) -> int | None:
        return None

    def start(self) -> Any:
        return self.support.start()

    def allowed(self, state: Any) -> np.ndarray:
        return self._nothing if state is None else self.support.allowed(state)

    def may_stop(self, state: Any) -> bool:
        return state is None or self.support.may_stop(state)

    def must_stop(self, state: Any) -> bool:
        return state is None or self.support.must_stop(state)

    def uncounted(self, state: Any) -> bool:
        return state is not None and uncounted(self.support, state)

    def advance(self, state: Any, token: int) -> Any:
        then = self.support.advance(state, token)
        return None if self.ends[token] else then

    def accepts(self, ids: Sequence[int]) -> bool:
        return not self.ends[list(ids)].any() and self.support.accepts(ids)

    def cut(self, ids: Sequence[int], tokens: int) -> tuple[int, ...] | None:
        return self.support.cut(ids, tokens)

    def values(self) -> Iterator[tuple[int, ...]]:
        raise_unlisted()


# ------------------------------------------------------------------------------- the shape of a text

LINE = "\n"
SELDOM = 0.25
"""Below this share of draws whose line the model ended by itself, lengths are the rows' instead."""


@frozen(eq=False)
class Shape:
    """How long the rows' texts are: by a sign that they all end in, by the line, or by tokens.

    `signs` says of each row's text how often the sign occurs in it, `texts` its tokens;
    a simulated text takes its number from one of them. `unlike` (V,) bool are tokens of
    texts of another kind, or None.
    """

    by: Literal["sign", "line", "tokens"]
    stop: str | None
    signs: tuple[int, ...]
    texts: tuple[tuple[int, ...], ...]
    unlike: np.ndarray | None = None

    @classmethod
    def of(cls, texts: Sequence[str], speller: Speller, lead: str = "") -> Shape:
        """The shape of the rows' texts, at least one, as they are spelled after the `lead`."""
        ends = {t[-1:] for t in texts}
        sign = ends.pop() if len(ends) == 1 else ""
        ids = tuple(tuple(speller.text(lead + t, first=False)) for t in texts)
        once = (1,) * len(texts)
        if sign and not sign.isalnum() and not sign.isspace():
            return cls("sign", sign, tuple(t.count(sign) for t in texts), ids)
        if _ends_lines(speller.tokenizer) and not any(LINE in t for t in texts):
            return cls("line", LINE, once, ids)
        return cls("tokens", None, once, ids)

    def learnt(self, drawn: Sequence[Drawn], *, alike: bool) -> Shape:
        """The shape after a look at texts that were drawn by it.

        Lengths go by tokens where the model ends no lines; with `alike`, tokens that
        mark another kind of text are known from now on.
        """
        ended = np.array([one.log_mass > np.log(0.5) for one in drawn])
        shape = self
        if self.by == "line" and ended.mean() < SELDOM:
            shape = evolve(self, by="tokens", stop=None)
        elif alike:
            end = -1 if self.by == "line" else None
            shape = evolve(self, unlike=unlike(self.texts, [one.ids[:end] for one in drawn], drawn[0].size))
        return shape

    @property
    def longest(self) -> int:
        """Tokens of a simulated text at most: a quarter more than the longest row, and the stop."""
        most = max(map(len, self.texts))
        return most + most // 4 + 2

    def draw(self, rng: np.random.Generator) -> tuple[TextSpec, int]:
        """The specification of one stretch of the text, and how many of them follow each other."""
        row = int(rng.integers(len(self.texts)))
        if self.stop is not None:
            return TextSpec(1, self.longest, stop=self.stop, end="stop"), self.signs[row]
        tokens = max(1, len(self.texts[row]))
        return TextSpec(tokens, tokens, stop=None, end="free"), 1


@frozen(eq=False)
class Drawn:
    """A drawn text, or None where it is not what a row would hold.

    `ids` are all its tokens, of a vocabulary of `size`. `log_prob` is that of drawing
    it, its line's end included; `log_mass` the log of the model's mass on what could be
    drawn, less that of the line's end where that was drawn. Nats.
    """

    text: str | None
    ids: tuple[int, ...]
    size: int
    log_prob: float
    log_mass: float


def _ends_lines(tokenizer: Tokenizer) -> bool:
    return LINE.encode() in tokenizer.token_bytes


def split_lead(lead: str) -> tuple[str, str]:
    """Known text before a drawn one: what stands in the context, and the space that joins the draw's first token."""
    head = lead.rstrip(" ")
    return head, lead[len(head) :]


def draw_texts(
    rngs: Sequence[np.random.Generator], model: LanguageModel, speller: Speller,
    contexts: Sequence[tuple[int, ...]], heads: Sequence[str], leads: Sequence[str], shape: Shape,
) -> list[Drawn]:  # fmt: skip
    """A text after each of N contexts and its head.

    The known `head` stands in the context; the draw begins with `lead`, which is
    taken off again. There is no text where a draw does not begin so, where its tokens
    are not the tokenizer's own spelling, or where it is of another kind than the rows'
    texts: leaving those out keeps the others exact.
    """
    specs = [shape.draw(rng) for rng in rngs]
    starts = [c + (speller.text(h, first=False) if h else ()) for c, h in zip(contexts, heads, strict=True)]
    log_q, log_mass = np.zeros(len(contexts)), np.zeros(len(contexts))
    ids: list[tuple[int, ...]] = [()] * len(contexts)
    like = np.ones(len(contexts), dtype=bool)
    for stretch in range(max((many for _, many in specs), default=0)):
        groups: dict[TextSpec, list[int]] = {}
        for d, (spec, many) in enumerate(specs):
            if stretch < many and like[d]:
                groups.setdefault(spec, []).append(d)
        for spec, draws in sorted(groups.items(), key=lambda item: item[1][0]):
            support: Support = build_support(spec, model.tokenizer)
            if shape.unlike is not None:
                support = TruncatedSupport(support, shape.unlike)
            chosen = SampleEach([rngs[d] for d in draws])
            begun = [starts[d] + ids[d] for d in draws]
            walk = roll_out(model, begun, support, chosen, late=True)
            found = zip(draws, walk.values, walk.log_q, walk.log_mass, walk.last, strict=True)
            for d, tokens, q, one, end in found:
                ids[d] += tokens
                log_q[d] += q
                log_mass[d] += one - (end if shape.by == "line" else 0.0)
                like[d] = shape.unlike is None or not shape.unlike[list(tokens)].any()
    texts = [
        _text(speller, tokens, head, lead, shape.by == "line") if alike else None
        for tokens, head, lead, alike in zip(ids, heads, leads, like, strict=True)
    ]
    size = model.tokenizer.vocabulary_size
    return [
        Drawn(*one)
        for one in zip(texts, ids, [size] * len(ids), log_q.tolist(), log_mass.tolist(), strict=True)
    ]


def _text(speller: Speller, ids: tuple[int, ...], head: str, lead: str, line: bool) -> str | None:
    """The text of what was drawn, or None where it is not what a row would hold."""
    if line:
        if speller.tokenizer.token_bytes[ids[-1]] != LINE.encode():
            return None  # its last token holds the end of the text too
        ids = ids[:-1]
    text = speller.tokenizer.decode(ids)
    own = (speller.text(head, first=False) if head else ()) + ids
    begins = text.startswith(lead) and len(text) > len(lead)
    return text[len(lead) :] if begins and speller.text(head + text, first=False) == own else None
