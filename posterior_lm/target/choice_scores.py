"""`choice(d)`: a language model renormalised over the values of a finite type.

    log p(v) = log d(v | context) − log Σ_u d(u | context),   u over the type's values
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from posterior_lm.lm.base import Request, Scores
from posterior_lm.target.lm_scores import Batch, total


def ask_choice(
    batch: Batch,
    context: tuple[int, ...],
    texts: Sequence[tuple[int, ...]],
    candidates: Sequence[object],
    picked: object,
    put: Callable[[float], None],
) -> Callable[[], None]:
    """Ask for the tokens of every candidate; the function to call once the batch has run.

    It puts the log probability of the picked candidate, −inf for none of them.
    """
    scores = np.zeros(len(texts))
    for place, text in enumerate(texts):

        def read(answer: Scores, place: int = place, size: int = len(text)) -> None:
            scores[place] = total(answer, 0, size, ends=False)

        batch.ask(Request(context + text, len(context), len(context)), read)

    def finish() -> None:
        if picked not in candidates:
            put(-math.inf)
        else:
            with np.errstate(invalid="ignore"):  # 0 / 0 where every value is impossible
                put(float(scores[candidates.index(picked)] - np.logaddexp.reduce(scores)))

    return finish
