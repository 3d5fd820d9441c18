"""Drawing an observed text from a language model, shaped like the rows' own texts.

The program does not say where an observed text ends; the rows do. Where all their
texts end in the same sign, a simulated text ends at its first such sign; else its
number of tokens is drawn from theirs. Either rule looks at the text alone, so the
pairs it makes are exact draws of latents and observation.
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
    """How long the rows' texts are: the sign they all end in, or how many tokens each has."""

    stop: str | None
    tokens: tuple[int, ...]

    @classmethod
    def of(cls, texts: Sequence[str], speller: Speller) -> Shape:
        """The shape of the rows' texts; at least one text."""
        ends = {t[-1:] for t in texts}
        stop = ends.pop() if len(ends) == 1 else ""
        counts = tuple(max(1, len(speller.text(t, first=False))) for t in texts)
        return cls(stop if stop and not stop.isalnum() and not stop.isspace() else None, counts)

    def draw(self, rng: np.random.Generator) -> TextSpec:
        """The specification of one text."""
        if self.stop is not None:
            return TextSpec(1, 2 * max(self.tokens) + 4, stop=self.stop, end="stop")
        length = int(self.tokens[rng.integers(len(self.tokens))])
        return TextSpec(length, length, stop=None, end="free")


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
    groups: dict[TextSpec, list[int]] = {}
    for d, spec in enumerate(specs):
        groups.setdefault(spec, []).append(d)
    for spec, draws in sorted(groups.items(), key=lambda item: item[1][0]):
        support: Support = build_support(spec, model.tokenizer)
        chosen = SampleEach([rngs[d] for d in draws])
        ids, drawn, mass = roll_out_with_mass(model, [starts[d] for d in draws], support, chosen)
        for d, tokens, q, one in zip(draws, ids, drawn, mass, strict=True):
            text = model.tokenizer.decode(tokens)
            log_q[d], log_mass[d] = q, one
            whole = heads[d] + text
            own = (speller.text(heads[d], first=False) if heads[d] else ()) + tuple(tokens)
            if (
                text.startswith(leads[d])
                and len(text) > len(leads[d])
                and speller.text(whole, first=False) == own
            ):
                texts[d] = text[len(leads[d]) :]
    return texts, log_q, log_mass
