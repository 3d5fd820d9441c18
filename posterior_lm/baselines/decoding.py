"""What a decoder does, as plain values, and decoding of one text by whichever code can do it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from attrs import frozen

from posterior_lm.lang.diagnostics import InferenceError, error
from posterior_lm.lm.base import LanguageModel
from posterior_lm.support.base import Ending, Support

Ids = tuple[int, ...]


@frozen(kw_only=True)
class Decoding:
    """A way to pick tokens: by chance (`sampled`), by `beams` side by side, or with neither the likeliest.

    `temperature` divides the logits under the mask; then only the `k` likeliest tokens stay (0: all),
    then the likeliest ones with mass `p`. `groups` and `penalty` are those of diverse beams.
    """

    sampled: bool = False
    temperature: float = 1.0
    p: float = 1.0
    k: int = 0
    beams: int = 0
    groups: int = 1
    penalty: float = 0.0

    @property
    def searched(self) -> bool:
        """Whether equal contexts always give equal values."""
        return not self.sampled


def decode(
    model: LanguageModel, contexts: Sequence[Ids], support: Support, how: Decoding, *,
    keep: int, rng: np.random.Generator, ending: Ending,
) -> list[list[Ids]]:  # fmt: skip
    """For each context its values: one, or with beams at most `keep`, best first; none where all beams died.

    A transformers model is decoded by that library's `generate`; other models, and diverse beams,
    by the code of this package.
    """
    # Only then torch is there already.
    if how.groups == 1 and model.identity.kind == "transformers":
        from posterior_lm.lm.transformers import TransformersModel

        if isinstance(model, TransformersModel):
            from posterior_lm.baselines.generate import generate

            seed = int(rng.integers(1 << 62))
            return generate(model, contexts, support, how, keep=keep, seed=seed, ending=ending)
    if how.beams:
        from posterior_lm.baselines.beams import beams

        number: dict[Ids, list[Ids]] = {}
        for context in contexts:
            if context not in number:
                number[context] = beams(
                    model, context, support, number=how.beams, groups=how.groups, penalty=how.penalty,
                    ending=ending,
                )  # fmt: skip
        return [number[context][:keep] for context in contexts]
    from posterior_lm.baselines.choosers import Likeliest, Likely
    from posterior_lm.infer.rollout import roll_out

    choose = Likely(rng, how.temperature, how.p, how.k) if how.sampled else Likeliest()
    ids, _ = roll_out(model, contexts, support, choose, ending=ending)
    return [[one] for one in ids]


def pick(scores: np.ndarray, how: Decoding, *, keep: int, rng: np.random.Generator) -> list[list[int]]:
    """For each row of log probabilities (R, C), of values in a list, the places that `how` picks.

    Diverse beams of one step are the likeliest values, each once.
    """
    from posterior_lm.baselines.choosers import narrowed
    from posterior_lm.infer.choose import Sample

    if how.sampled:
        probs = narrowed(np.exp(scores - scores.max(axis=1, keepdims=True)), how.temperature, how.p, how.k)
        rows = np.arange(len(scores))
        return [[int(place)] for place in Sample(rng).tokens(rows, rows, 0, probs)]
    order = np.argsort(-scores, axis=1, kind="stable")
    most = min(keep, how.beams) if how.beams else 1
    return [[int(c) for c in row[:most] if scores[r, c] > -np.inf] for r, row in enumerate(order)]


def likeliest(options: Mapping[str, Any], n: int) -> Decoding:
    """Greedy decoding. `options` of this and the next functions are a method's own with their defaults."""
    return Decoding()


def by_chance(options: Mapping[str, Any], n: int) -> Decoding:
    """Token by token, of all tokens or of the likeliest."""
    return Decoding(
        sampled=True, temperature=float(options["temperature"]), p=float(options.get("p", 1.0)),
        k=int(options.get("k", 0)),
    )  # fmt: skip


def in_beams(options: Mapping[str, Any], n: int) -> Decoding:
    """The best n of some beams, which keep apart in groups where there is a penalty for being alike.

    Raises InferenceError PLM770 for numbers that do not go together.
    """
    number, penalty = int(options.get("beams", n)), options.get("penalty")
    groups = 1 if penalty is None else int(options.get("groups", number))
    wrong = help = None
    if number < n:
        wrong = f"{number} beam{'s' * (number != 1)} cannot give {n} values"
        help = f"ask for `beams={n}` at least, or fewer values with `n`"
    elif number % groups:
        wrong = f"{number} beams cannot be divided into {groups} groups of equal size"
        help = "let `groups` divide `beams`"
    if wrong is not None:
        raise InferenceError(error("PLM770", wrong, help=help))
    return Decoding(beams=number, groups=groups, penalty=float(penalty or 0.0))
