"""The M-step of a round: gradient steps on the weighted log-probability of what was observed,

    Q(θ) = mean over rows of Σ_i w_i log p_θ(y | x, z_i),    draws and weights held fixed.

It need not be maximised: any rise of Q raises the evidence bound by as much (generalised EM,
Dempster et al. 1977, theorem 1). Steps that lower it are taken back. The first steps mostly learn what every
row has in common, such as the words before a label; so it goes on until Q of held-out rows no longer rises,
or where there are too few of these, until its own rise is not worth the steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext

import numpy as np
import torch
from attrs import frozen
from torch import Tensor

from posterior_lm.em.rounds import Raised, Weighted
from posterior_lm.em.trained_terms import Term, log_probs, trained_terms
from posterior_lm.lm.hf.placement import free_memory
from posterior_lm.lm.hf.threads import threads
from posterior_lm.lm.hf.transformers import TransformersModel
from posterior_lm.train.adapter import Adapter
from posterior_lm.train.gflownet_batch import halving
from posterior_lm.train.memory import Fit, fitting, recomputing
from posterior_lm.train.progress import not_finite

GRADIENT_NORM = 1.0
"""Gradients are scaled down to this norm, as those of a fit."""
DRAWS, FEW = 512, 4
"""Terms of one pass without gradients; and those tried to see what a pass with them keeps."""
LOOK = 10
"""Steps between two looks at least; so many more that each row is among them."""
FEW_HELD = 4
"""Held-out rows below which an M-step is not ended by them: one that is hard to foretell would end it."""
LOOKS = 2
"""Looks without a better Q of the held-out rows after which an M-step ends; the best weights are kept."""
SETTLED = 0.01
"""Nats a row: from one look to the next Q rises by less where the steps are not worth it."""


@frozen(eq=False)
class Lesson:
    """One row of an M-step: the trained terms of its draws and their weights (N,)."""

    terms: tuple[Term, ...]
    weights: np.ndarray


def lessons(rows: Sequence[Weighted], alias: str) -> list[Lesson]:
    """What rows teach the model `alias`; a row whose draws were all dead teaches nothing."""
    return [
        Lesson(tuple(trained_terms(row.target, row.values, alias)), row.weights)
        for row in rows
        if len(row.weights)
    ]


def surrogate(model: TransformersModel, rows: Sequence[Lesson]) -> float:
    """Q, nats a row."""
    with torch.inference_mode():
        return sum(float(value) for value in _parts(model, rows)) / len(rows)


def m_step(
    adapter: Adapter, rows: Sequence[Lesson], *, steps: int, rate: float, batch: int, draws: int,
    rng: np.random.Generator, held_out: Sequence[Lesson] = (), columns: int = 1 << 14,
    tick: Callable[[int], None] | None = None, stop: Callable[[], bool] = lambda: False,
    late: Callable[[], bool] = lambda: False,
) -> Raised | None:  # fmt: skip
    """Train the adapter on the rows, `batch` of them a step, and of each `draws` draws by their weights.

    A step's gradient is unbiased for that of Q. At most `steps` of them: it ends with the best weights where Q of
    `held_out` rows, or with fewer than `FEW_HELD` of them that of its own, no longer rises, and after the step behind
    which it is `late`. Taken back where Q fell, and, with None, where `stop` asked for an end. A pass has at most
    `columns` tokens, and fewer where these do not fit in memory.

    Raises InferenceError PLM626 where a gradient is not finite or one draw does not fit in memory. ValueError
    without rows.
    """
    if not rows:
        raise ValueError("an M-step needs a row")
    before = surrogate(adapter.model(), rows)
    kept = adapter.tensors()
    parameters = list(adapter.parameters.values())
    optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.99), weight_decay=0.0)
    order: list[int] = []
    fit: Fit | None = None
    watched = [_drawn(row, draws, rng) for row in held_out] if len(held_out) >= FEW_HELD else []
    looks = _Looks(adapter, watched, every=max(LOOK, math.ceil(len(rows) / batch)))
    for step in range(steps):
        if stop():
            adapter.restore(kept)
            return None
        while len(order) < min(batch, len(rows)):
            order += rng.permutation(len(rows)).tolist()
        some, order = order[:batch], order[batch:]
        optimizer.zero_grad(set_to_none=True)
        drawn = [_drawn(rows[k], draws, rng) for k in some]
        fit = _fitting(adapter, drawn, columns) if fit is None else fit
        q, fit = _backward(adapter, drawn, fit)
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, GRADIENT_NORM))
        if not math.isfinite(norm):
            optimizer.zero_grad(set_to_none=True)
            adapter.restore(kept)
            raise not_finite("the gradient of the M-step", None, "observe")
        optimizer.step()
        if tick is not None:
            tick(step + 1)
        if looks.done(step + 1, q) or late():
            break
    optimizer.zero_grad(set_to_none=True)
    taken = looks.settle(step + 1)
    after = surrogate(adapter.model(), rows) if taken else before
    if taken and after >= before:
        return Raised(before, after, True, taken)
    adapter.restore(kept)
    return Raised(before, before, False)


class _Looks:
    """Whether an M-step has come to its end, by Q of `rows`, held out, or without any by Q of its own steps."""

    def __init__(self, adapter: Adapter, rows: Sequence[Lesson], every: int) -> None:
        self.adapter, self.rows, self.every = adapter, rows, every
        self.since: list[float] = []
        self.last = -math.inf
        self.best = (surrogate(adapter.model(), rows), 0, adapter.tensors()) if rows else None

    def done(self, step: int, q: float) -> bool:
        """Whether the step, before which Q of its rows was `q`, was the last."""
        self.since.append(q)
        if len(self.since) < self.every:
            return False
        mean, self.since = float(np.mean(self.since)), []
        if self.best is None:
            settled, self.last = mean - self.last < SETTLED, mean
            return settled
        self._look(step)
        return step - self.best[1] >= LOOKS * self.every

    def _look(self, step: int) -> None:
        assert self.best is not None
        found = surrogate(self.adapter.model(), self.rows)
        if found > self.best[0]:
            self.best = found, step, self.adapter.tensors()

    def settle(self, step: int) -> int:
        """The number of steps behind the weights that are kept, which the adapter has from now on."""
        if self.best is None:
            return step
        if self.since:
            self._look(step)
        self.adapter.restore(self.best[2])
        return self.best[1]


def _drawn(row: Lesson, n: int, rng: np.random.Generator) -> Lesson:
    """`n` of a row's draws, drawn by their weights, as a row of equal weights; all where there are no more."""
    if n >= len(row.weights):
        return row
    counts = rng.multinomial(n, row.weights / row.weights.sum())
    kept = np.flatnonzero(counts)
    return Lesson(tuple(row.terms[int(k)] for k in kept), counts[kept] / n)


def _flat(rows: Sequence[Lesson]) -> tuple[list[Term], np.ndarray]:
    return [t for row in rows for t in row.terms], np.concatenate([row.weights for row in rows])


def _parts(model: TransformersModel, rows: Sequence[Lesson]) -> Iterator[Tensor]:
    """Σ w log p of at most `DRAWS` draws at a time, nats."""
    terms, weights = _flat(rows)
    for at in range(0, len(terms), DRAWS):
        found = log_probs(model, terms[at : at + DRAWS])
        share = torch.as_tensor(weights[at : at + DRAWS], dtype=torch.float64, device=found.device)
        yield (share * found).sum()


# ------------------------------------------------------------------------------- passes with gradients


def _backward(adapter: Adapter, rows: Sequence[Lesson], fit: Fit) -> tuple[float, Fit]:
    """Adds the gradient of −Q of these rows to those of the adapter, which are none yet; Q, and what fitted in memory."""
    terms, weights = _flat(rows)
    q = [0.0]

    def run(part: Sequence[int], columns: int) -> None:
        found = _scored(adapter, [terms[k] for k in part], columns, fit.recomputed)
        share = torch.as_tensor(weights[list(part)], dtype=torch.float64, device=found.device)
        value = (share * found).sum() / len(rows)
        (-value).backward()
        q[0] += float(value.detach())

    def restart() -> None:
        q[0] = 0.0
        for parameter in adapter.parameters.values():
            parameter.grad = None

    with threads(adapter.base._forward, None):
        columns = halving(run, lambda most: divided(terms, most), fit.columns, restart)
    return q[0], Fit(columns, fit.recomputed)


def _fitting(adapter: Adapter, rows: Sequence[Lesson], most: int) -> Fit:
    """What fits in memory, tried on a few draws."""
    terms, _ = _flat(rows)
    widest = max(columns_of([t]) for t in terms)
    return fitting(
        lambda some, recomputed: _scored(adapter, [terms[k] for k in some], most, recomputed),
        [0], range(min(FEW, len(terms))), lambda some: columns_of([terms[k] for k in some]), widest, most,
        free_memory(next(iter(adapter.parameters.values())).device),
    )  # fmt: skip


def _scored(adapter: Adapter, terms: Sequence[Term], columns: int, recomputed: bool) -> Tensor:
    with recomputing(adapter) if recomputed else nullcontext():
        return log_probs(adapter.model(), terms, columns=columns)


def columns_of(terms: Sequence[Term], after: tuple[int, ...] = ()) -> int:
    """Token columns of these terms, where a context begins with what it shares with the line before it; `after` is the first one's."""
    total, before = 0, after
    for line in (line for term in terms for part in term for line in part.lines):
        shared = next((k for k, (a, b) in enumerate(zip(before, line.context, strict=False)) if a != b), None)
        shared = min(len(before), len(line.context)) if shared is None else shared
        total += len(line.context) - shared + len(line.ids) + line.ends
        before = line.context
    return total


def divided(terms: Sequence[Term], most: int) -> list[list[int]]:
    """The terms by number, in their order, in parts of at most so many columns; one that is larger has a part of its own."""
    parts: list[list[int]] = []
    used = 0
    before: tuple[int, ...] = ()
    for k, term in enumerate(terms):
        own = columns_of([term], before)
        if not parts or used + own > most:
            parts.append([])
            used, own = 0, columns_of([term])
        parts[-1].append(k)
        used += own
        before = term[-1].lines[-1].context if term else ()
    return parts
