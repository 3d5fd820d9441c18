"""Drawing an observed text from a language model, shaped like the rows' own texts.

The program does not say where an observed text ends; the rows do. Where all their
texts end in the same sign, a simulated text ends at its k-th such sign, with k as
often as in a row's text (its number of sentences); else its number of tokens is
drawn from theirs. Either rule looks at the text alone, so the pairs it makes are
exact draws of latents and observation.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from attrs import frozen

from posterior_lm.infer.choose import SampleEach
from posterior_lm.infer.rollout import roll_out_with_mass
from posterior_lm.lm.base import LanguageModel
from posterior_lm.support.base import Support
from posterior_lm.support.build import build_support
from posterior_lm.support.spec import TextSpec
from posterior_lm.target.pieces import Speller


@frozen
class Shape:
    """How long the rows' texts are: by a sign that they all end in, or by tokens.

    `signs` and `tokens` say of each row's text how often the sign occurs in it and how
    many tokens it has; a simulated text takes its number from one of them.
    """

    stop: str | None
    signs: tuple[int, ...]
    tokens: tuple[int, ...]

    @classmethod
    def of(cls, texts: Sequence[str], speller: Speller) -> Shape:
        """The shape of the rows' texts; at least one text."""
        ends = {t[-1:] for t in texts}
        stop = ends.pop() if len(ends) == 1 else ""
        counts = tuple(max(1, len(speller.text(t, first=False))) for t in texts)
        if not stop or stop.isalnum() or stop.isspace():
            return cls(None, (1,) * len(texts), counts)
        return cls(stop, tuple(t.count(stop) for t in texts), counts)

    def draw(self, rng: np.random.Generator) -> tuple[TextSpec, int]:
        """The specification of one stretch of the text, and how many of them follow each other."""
        row = int(rng.integers(len(self.tokens)))
        if self.stop is not None:
            return TextSpec(1, 2 * max(self.tokens) + 4, stop=self.stop, end="stop"), self.signs[row]
        return TextSpec(self.tokens[row], self.tokens[row], stop=None, end="free"), 1


def split_lead(lead: str) -> tuple[str, str]:
    """Known text before a drawn one: what stands in the context, and the space that joins the draw's first token."""
    head = lead.rstrip(" ")
    return head, lead[len(head) :]


def draw_texts(
    rngs: Sequence[np.random.Generator], model: LanguageModel, speller: Speller,
    contexts: Sequence[tuple[int, ...]], heads: Sequence[str], leads: Sequence[str], shape: Shape,
) -> tuple[list[str | None], np.ndarray, np.ndarray]:  # fmt: skip
    """A text after each context and its head; (N,) its log probability here, (N,) log of the mass of its shape, nats.

    The known `head` stands in the context; the draw begins with `lead`, which is
    taken off again. None for a draw that does not begin so, or whose tokens are not
    the tokenizer's own spelling: leaving those out keeps the others exact.
    """
    specs = [shape.draw(rng) for rng in rngs]
    starts = [c + (speller.text(h, first=False) if h else ()) for c, h in zip(contexts, heads, strict=True)]
    texts: list[str | None] = [None] * len(contexts)
    log_q, log_mass = np.zeros(len(contexts)), np.zeros(len(contexts))
    ids: list[tuple[int, ...]] = [()] * len(contexts)
    for stretch in range(max((many for _, many in specs), default=0)):
        groups: dict[TextSpec, list[int]] = {}
        for d, (spec, many) in enumerate(specs):
            if stretch < many:
                groups.setdefault(spec, []).append(d)
        for spec, draws in sorted(groups.items(), key=lambda item: item[1][0]):
            support: Support = build_support(spec, model.tokenizer)
            chosen = SampleEach([rngs[d] for d in draws])
            begun = [starts[d] + ids[d] for d in draws]
            drawn, step, mass = roll_out_with_mass(model, begun, support, chosen)
            for d, tokens, q, one in zip(draws, drawn, step, mass, strict=True):
                ids[d] += tokens
                log_q[d] += q
                log_mass[d] += one
    for d, tokens in enumerate(ids):
        text = model.tokenizer.decode(tokens)
        own = (speller.text(heads[d], first=False) if heads[d] else ()) + tuple(tokens)
        begins = text.startswith(leads[d]) and len(text) > len(leads[d])
        if begins and speller.text(heads[d] + text, first=False) == own:
            texts[d] = text[len(leads[d]) :]
    return texts, log_q, log_mass
