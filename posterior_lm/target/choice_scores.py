"""`choice(d)`: a language model renormalised over the values of a finite type.

    log p(v) = b log d(v | context) − log Σ_u d(u | context)^b,   u over the type's values,

with b the power of the model inside `choice(d ^ b)`, 1 without one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from posterior_lm.lm.base import Request, Scores
from posterior_lm.target.lm_scores import Batch


def ask_choice(
    batch: Batch,
    context: tuple[int, ...],
    texts: Sequence[tuple[int, ...]],
    picked: int | None,
    power: float,
    put: Callable[[float], None],
) -> Callable[[], None]:
    """Ask for the tokens `texts` of every value; the function to call once the batch has run.

    It puts the log probability of the value in the place `picked`, −inf for None.
    """
    scores = np.zeros(len(texts))
    for place, text in enumerate(texts):

        def read(answer: Scores, place: int = place, size: int = len(text)) -> None:
            scores[place] = float(np.sum(answer.tokens[:size]))

        batch.ask(Request(context + text, len(context), len(context)), read)

    def finish() -> None:
        if picked is None:
            put(-math.inf)
        else:
            with np.errstate(invalid="ignore"):  # 0 / 0 where every value is impossible
                tempered = np.where(np.isneginf(scores), -np.inf, power * scores)
                put(float(tempered[picked] - np.logaddexp.reduce(tempered)))

    return finish
