"""The two steps of a round.

The E-step trains the guide on the posterior of the program as its model now stands. The M-step
makes gradient steps on the weighted log-probability of what was observed:

    Q(θ) = mean over rows of Σ_i w_i log p_θ(y | x, z_i),    draws and weights held fixed.

It need not be maximised: any rise of Q raises the evidence bound by as much (generalised EM,
Dempster et al. 1977, theorem 1). Steps that lower it are taken back. The first steps mostly learn what every
row has in common, such as the words before a label; so it goes on until Q of held-out rows no longer rises,
or where there are too few of these, until its own rise is not worth the steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from attrs import evolve, frozen
from torch import Tensor

from posterior_lm.em.rounds import Raised, Weighted, weighted
from posterior_lm.em.trained_terms import Term, log_probs, trained_terms
from posterior_lm.lm.hf.threads import threads
from posterior_lm.lm.hf.transformers import TransformersModel
from posterior_lm.target.prepared import PreparedProgram
from posterior_lm.train.adapter import Adapter
from posterior_lm.train.guide import PolicyGuide
from posterior_lm.train.parallel import World
from posterior_lm.train.progress import Progress, not_finite
from posterior_lm.train.rows import Inputs, Rows
from posterior_lm.train.settings import FitSettings
from posterior_lm.train.simulate import Simulator
from posterior_lm.train.sleep_phase import SleepPhase
from posterior_lm.train.trainer import Trainer

# ------------------------------------------------------------------------------- E-step


@frozen(eq=False)
class Stand:
    """The program bound to its rows with the model as it is in one round, and the guide's adapter."""

    program: PreparedProgram
    inputs: Inputs
    rows: Rows
    guide: Adapter

    def simulator(self) -> Simulator:
        """Simulated rows of the program as it stands. Looking at what they are like takes a while."""
        return Simulator(self.program, self.inputs.data, alike=True)

    def drawn(self, numbers: Sequence[int], n: int, seed: int) -> list[Weighted]:
        """n weighted draws of the guide for each row, with random numbers of the row's own.

        They are the same in every round, so that two rounds' bounds differ by less than two samples' do.
        """
        found = []
        for number in numbers:
            target = self.rows.target(number)
            rng = np.random.default_rng([seed, 11, number])
            found.append(weighted(target, PolicyGuide.of(target, self.guide), n, rng))
        return found


def e_step(
    stand: Stand, numbers: Sequence[int], settings: FitSettings, *, first: bool,
    tick: Callable[[Progress], None], stop: Callable[[], bool],
) -> bool:  # fmt: skip
    """Train the guide on these rows. Returns whether it was finished, not stopped.

    The first E-step is a whole fit: simulated pairs where the program can be simulated, then
    the rows. Later ones go on from a guide that is nearly right, on the rows alone.
    """
    sleep_phase = simulator = None
    if first and settings.sleep != 0:
        simulator = stand.simulator()
        sleep_phase, _ = SleepPhase.of(stand.rows, numbers, simulator, settings.pairs, settings.seed)
    exact = sleep_phase is not None and simulator is not None and simulator.exact
    # A guide that is nearly right needs neither seeds from elsewhere nor a flattened reward.
    own = settings.resolved(exact=exact or not first).scaled(settings, stand.guide.scale)
    if not first:
        own = evolve(own, sleep=0.0, reward_temperature=1.0)
    trainer = Trainer(stand.rows, numbers, stand.guide, own, sleep_phase, World(), simulator)
    for row, known in stand.inputs.known:
        trainer.replay = trainer.replay.add(row, trainer.balancer.scored(row, known, pinned=True))
    while not trainer.finished:
        tick(trainer.step())
        if stop() and not trainer.finished:
            return False
    return True


# ------------------------------------------------------------------------------- M-step

GRADIENT_NORM = 1.0
"""Gradients are scaled down to this norm, as those of a fit."""
DRAWS = 512
"""Terms of one forward and backward pass at most."""
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
    rng: np.random.Generator, held_out: Sequence[Lesson] = (), tick: Callable[[int], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Raised | None:  # fmt: skip
    """Train the adapter on the rows, `batch` of them a step, and of each `draws` draws by their weights.

    A step's gradient is unbiased for that of Q. At most `steps` of them: it ends with the best weights where Q of
    `held_out` rows, or with fewer than `FEW_HELD` of them that of its own, no longer rises. Taken back where Q
    fell, and, with None, where `stop` asked for an end.

    Raises InferenceError PLM626 where a gradient is not finite. ValueError without rows.
    """
    if not rows:
        raise ValueError("an M-step needs a row")
    before = surrogate(adapter.model(), rows)
    kept = adapter.tensors()
    parameters = list(adapter.parameters.values())
    optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.99), weight_decay=0.0)
    order: list[int] = []
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
        q = 0.0
        with threads(adapter.base._forward, None):
            for value in _parts(adapter.model(), [_drawn(rows[k], draws, rng) for k in some]):
                (-value / len(some)).backward()
                q += float(value.detach()) / len(some)
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, GRADIENT_NORM))
        if not math.isfinite(norm):
            optimizer.zero_grad(set_to_none=True)
            adapter.restore(kept)
            raise not_finite("the gradient of the M-step", None, "observe")
        optimizer.step()
        if tick is not None:
            tick(step + 1)
        if looks.done(step + 1, q):
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


def _parts(model: TransformersModel, rows: Sequence[Lesson]) -> Iterator[Tensor]:
    """Σ w log p of at most `DRAWS` draws at a time, nats."""
    terms = [t for row in rows for t in row.terms]
    weights = np.concatenate([row.weights for row in rows])
    for at in range(0, len(terms), DRAWS):
        found = log_probs(model, terms[at : at + DRAWS])
        share = torch.as_tensor(weights[at : at + DRAWS], dtype=torch.float64, device=found.device)
        yield (share * found).sum()
