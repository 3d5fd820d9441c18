"""Draws as the paths that a guide walks, scored together, in parts that fit in memory; and what the objectives see of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
from attrs import frozen
from torch import Tensor

from posterior_lm.infer.choosers import Chooser, SampleEach
from posterior_lm.infer.drawing import contexts_of
from posterior_lm.infer.guide import PriorGuide
from posterior_lm.infer.rollout import finished, roll_out
from posterior_lm.lang.diagnostics import InferenceError
from posterior_lm.lm.hf.transformers import TransformersModel
from posterior_lm.support.base import Ending, Support
from posterior_lm.target.target import LatentInfo, Target, having
from posterior_lm.target.values import ABSENT, Value, Values
from posterior_lm.train.guide import Reading, turn_ids
from posterior_lm.train.memory import LEAST
from posterior_lm.train.scoring import Path, path_maker, score_paths

_makers: dict[tuple[int, tuple[int, ...], float | None, float], tuple[Support, object]] = {}


@frozen(eq=False)
class Walked:
    """One draw: the paths through the adapted model of the latents that it has, and log q of what the prior drew, nats."""

    paths: tuple[Path, ...]
    rest: float = 0.0


def ending_of(support: Support) -> Ending:
    """How a guide ends a value: by the stop string, else by end-of-text."""
    return "stop" if support.ending == "stop" else "eos"


def walk(target: Target, readings: Mapping[str, Reading], values: Mapping[str, Value]) -> Walked:
    """The paths of one draw's latents. Raises ValueError for a value outside its support."""
    return walks(target, readings, [values])[0]


def walks(
    target: Target, readings: Mapping[str, Reading], draws: Sequence[Mapping[str, Value]]
) -> list[Walked]:
    """The paths of each draw's latents; what the draws of a target have in common is looked up once."""
    paths: list[list[Path]] = [[] for _ in draws]
    rest = [0.0] * len(draws)
    for k, info in enumerate(target.latents):
        mine = [d for d, values in enumerate(draws) if values[info.name] != ABSENT]
        if not mine:  # nothing was chosen
            continue
        drawn = {name: [draws[d][name] for d in mine] for name in target.names[:k]}
        if (reading := readings.get(info.name)) is not None:
            contexts, _ = contexts_of(target, reading.lm, reading.segments, drawn, len(mine))
            make = _maker(info.support, turn_ids(target, reading), reading.stop, reading.power)
            for d, context in zip(mine, contexts, strict=True):
                paths[d].append(make(context, draws[d][info.name].ids))
        else:
            own = _prior_log_prob(target, info, drawn, [draws[d][info.name] for d in mine])
            for d, log_prob in zip(mine, own.tolist(), strict=True):
                rest[d] += log_prob
    return [Walked(tuple(found), part) for found, part in zip(paths, rest, strict=True)]


def _maker(support: Support, eos_ids: tuple[int, ...], stop: float | None, power: float):
    known = _makers.get((id(support), eos_ids, stop, power))
    if known is None or known[0] is not support:
        if len(_makers) >= 256:
            _makers.clear()
        known = (support, path_maker(support, eos_ids, stop, power))
        _makers[id(support), eos_ids, stop, power] = known
    return known[1]


def _prior_log_prob(target: Target, info: LatentInfo, drawn: Values, values: Sequence[Value]) -> np.ndarray:
    """(N,) of a finite latent's values, each after what was drawn before it; nats. All pasts are scored together."""
    candidates = [target.value_of(info.name, ids) for ids in info.support.values()]
    known = [c.ids for c in candidates]
    picked = [known.index(value.ids) for value in values]
    rows = PriorGuide(target).prior_scores(info, candidates, drawn, len(values))
    found: np.ndarray = rows[np.arange(len(values)), picked] - np.logaddexp.reduce(rows, axis=1)
    return found


@frozen(eq=False)
class Scored:
    """log q of N draws with gradient: `log_prob` (N,); for one latent `end_log_prob` and `is_end` (N, T + 1)."""

    log_prob: Tensor
    end_log_prob: Tensor | None
    is_end: Tensor | None


def score_draws(
    model: TransformersModel, draws: Sequence[Walked], *, ends: bool = False, columns: int
) -> Scored:
    """log q of each draw. Equal paths are scored once; `ends` is for draws of a single path."""
    places: dict[tuple[tuple[int, ...], tuple[int, ...], int], int] = {}
    distinct: list[Path] = []
    owner, place = [], []
    for n, draw in enumerate(draws):
        for path in draw.paths:
            key = (path.context, path.ids, id(path.masks))
            if key not in places:
                places[key] = len(distinct)
                distinct.append(path)
            owner.append(n)
            place.append(places[key])
    device = model._forward.device
    rest = torch.tensor([d.rest for d in draws], dtype=torch.float64, device=device)
    if not distinct:  # draws of branches without a latent that the guide draws, which no weight moves
        return Scored(rest.requires_grad_(torch.is_grad_enabled()), None, None)
    scores = score_paths(model, distinct, ends=ends, columns=columns)
    index = torch.as_tensor(place, device=device)
    log_prob = rest.index_add(0, torch.as_tensor(owner, device=device), scores.log_prob[index])
    if scores.end_log_prob is None or scores.is_end is None:
        return Scored(log_prob, None, None)
    return Scored(log_prob, scores.end_log_prob[index], scores.is_end[index])


def propose(
    model: TransformersModel, targets: Sequence[Target], readings: Sequence[Mapping[str, Reading]],
    rngs: Sequence[np.random.Generator], exponents: Sequence[float],
) -> list[dict[str, Value]]:  # fmt: skip
    """One draw of what there is in it for each target, many rows side by side; each draw has its own generator.

    Each token is drawn in proportion to q to the power of the draw's exponent.
    """
    drawn: list[dict[str, Value]] = [{} for _ in targets]
    for k in range(max((len(t.latents) for t in targets), default=0)):
        groups: dict[tuple[str, int, float], list[int]] = {}
        for d, target in enumerate(targets):
            if k < len(target.latents):
                info = target.latents[k]
                power = readings[d][info.name].power if info.name in readings[d] else 1.0
                groups.setdefault((info.name, id(info.support), power), []).append(d)
        for (name, _, power), members in groups.items():
            mine = having(targets, name, drawn, members)
            if not mine:
                continue
            powers = np.array([exponents[d] for d in mine])
            chooser: Chooser = SampleEach([rngs[d] for d in mine], None if np.all(powers == 1) else powers)
            if name in readings[mine[0]]:
                contexts: list[tuple[int, ...]] = []
                known: dict[tuple[int, tuple], tuple[int, ...]] = {}
                for d in mine:
                    key = (id(targets[d]), tuple(v.ids for v in drawn[d].values()))
                    if key not in known:
                        reading = readings[d][name]
                        columns = {n: (v,) for n, v in drawn[d].items()}
                        known[key] = contexts_of(targets[d], reading.lm, reading.segments, columns, 1)[0][0]
                    contexts.append(known[key])
                support = targets[mine[0]].latents[k].support
                first = readings[mine[0]][name]
                walked = roll_out(
                    model, contexts, support, chooser, exponent=power, ending=ending_of(support),
                    eos_ids=turn_ids(targets[mine[0]], first), stop=first.stop,
                )  # fmt: skip
                for d, one in zip(mine, walked.values, strict=True):
                    drawn[d][name] = targets[d].value_of(name, one)
                continue
            together: dict[tuple[int, tuple[str, ...]], list[int]] = {}
            for d in mine:
                together.setdefault((id(targets[d]), tuple(drawn[d])), []).append(d)
            for some in together.values():
                target, own = targets[some[0]], SampleEach([rngs[d] for d in some])
                pasts = {n: tuple(drawn[d][n] for d in some) for n in drawn[some[0]]}
                walk = finished(PriorGuide(target).begin(target.latents[k], pasts, len(some)), own)
                for d, one in zip(some, walk.values, strict=True):
                    drawn[d][name] = target.value_of(name, one)
    return drawn


# ------------------------------------------------------------------------------- parts that fit in memory


def micro_batches(
    draws: Sequence[Walked], groups: Iterable[int | Sequence[int]], columns: int
) -> list[list[int]]:
    """Numbers of draws in parts of at most `columns` token columns; a group is never divided.

    A context that several draws of a group share counts once.
    """
    parts: list[list[int]] = []
    filled = 0
    for group in groups:
        members = [group] if isinstance(group, int) else [int(k) for k in group]
        if not members:
            continue
        width = columns_of(draws, members)
        if parts and filled + width <= columns:
            parts[-1] += members
            filled += width
        else:
            parts.append(members)
            filled = width
    return parts


def columns_of(draws: Sequence[Walked], members: Sequence[int]) -> int:
    """Token columns of some draws; a context that several of them share counts once."""
    paths = {(p.context, p.ids) for k in members for p in draws[k].paths}
    return sum(len(c) for c in {c for c, _ in paths}) + sum(len(ids) for _, ids in paths)


def halving(
    run: Callable[[Sequence[int], int], None], parts: Callable[[int], list[list[int]]], columns: int,
    restart: Callable[[], None],
) -> int:  # fmt: skip
    """Run every part; when memory runs out, begin again with half the columns. Returns the columns that fit.

    Raises InferenceError PLM626 where not even `LEAST` columns fit.
    """
    while True:
        try:
            for part in parts(columns):
                run(part, columns)
            return columns
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as problem:
            if not is_memory(problem):
                raise
        restart()
        if columns // 2 < LEAST:
            raise InferenceError.of(
                "PLM626",
                f"training stopped: {columns} token columns at a time do not fit in memory",
                help="take fewer draws a row, shorter rows, or a smaller model",
            )
        columns //= 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def is_memory(problem: BaseException) -> bool:
    """Whether memory was all that was missing."""
    # The CPU allocator raises a plain RuntimeError.
    return isinstance(problem, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(
        problem
    )


# ------------------------------------------------------------------------------- what the objectives see

DEAD = 5.0
"""Nats: far above the residuals of a guide that is nearly right, and no −99 that drowns them."""


@frozen(eq=False)
class Trajectories:
    """Draws of several rows: N draws, R rows, T tokens of the longest value. Float64, nats.

    `log_prob` (N,) is log q of the whole draw, all latents, with gradient. `log_reward` (N,) is
    divided by the reward temperature already; −∞ for a dead draw. `row` (N,) is int64 in 0..R−1.

    Only for objectives that compare prefixes, each (N, T+1): `end_log_prob` is log q of the value
    that stops after t tokens, log q(z_1:t) + log q(stop | z_1:t), with gradient; a forced stop has
    log q(stop) = 0. `end_log_reward` is its log reward. `is_end` says whether it is an end point of
    the draw: it may stop there, in the support, with a log reward above −∞, each distinct value
    once. Where that is false the other two mean nothing. Whether the empty value (t = 0) is one is
    up to the row.
    """

    log_prob: Tensor
    log_reward: Tensor
    row: Tensor
    end_log_prob: Tensor | None = None
    end_log_reward: Tensor | None = None
    is_end: Tensor | None = None

    @property
    def rows(self) -> int:
        """One more than the largest row that a draw belongs to."""
        return int(self.row.max()) + 1 if len(self.row) else 0

    @property
    def alive(self) -> Tensor:
        """(N,) whether the log reward is above −∞."""
        return self.log_reward > -torch.inf

    def per_row(self, numbers: Tensor) -> Tensor:
        """(R,) float64 sums of (N,) `numbers` over the draws of each row."""
        zeros = torch.zeros(self.rows, dtype=torch.float64, device=self.row.device)
        return zeros.index_add(0, self.row, numbers.double())

    def checked(self) -> Trajectories:
        """Itself; ValueError, naming the argument, for a shape, a type or a number that cannot be."""
        n = len(self.row)
        if self.row.shape != (n,) or self.row.dtype != torch.int64 or (n and int(self.row.min()) < 0):
            raise ValueError("row: (N,) int64, from 0 on")
        for name, column in (("log_prob", self.log_prob), ("log_reward", self.log_reward)):
            if column.shape != (n,) or column.dtype != torch.float64:
                raise ValueError(f"{name}: ({n},) float64, not {tuple(column.shape)} {column.dtype}")
            _refuse(name, "NaN or +inf", column.isnan() | (column == torch.inf))
        _refuse("log_prob", "−inf, with a log reward above it", self.alive & (self.log_prob == -torch.inf))
        return self

    def checked_prefixes(self) -> tuple[Tensor, Tensor, Tensor]:
        """`end_log_prob`, `end_log_reward` and `is_end`; ValueError as `checked`."""
        ends = self.is_end
        if self.end_log_prob is None or self.end_log_reward is None or ends is None:
            raise ValueError("end_log_prob, end_log_reward, is_end: this objective compares prefixes")
        if ends.ndim != 2 or len(ends) != len(self.row) or ends.dtype != torch.bool or not ends.shape[1]:
            raise ValueError(f"is_end: ({len(self.row)}, T+1) bool, not {tuple(ends.shape)} {ends.dtype}")
        both = (("end_log_prob", self.end_log_prob), ("end_log_reward", self.end_log_reward))
        for name, block in both:
            if block.shape != ends.shape or block.dtype != torch.float64:
                raise ValueError(
                    f"{name}: {tuple(ends.shape)} float64, not {tuple(block.shape)} {block.dtype}"
                )
            _refuse(name, "not finite at an end point", (ends & ~block.isfinite()).any(dim=1))
        return self.end_log_prob, self.end_log_reward, ends


@frozen(eq=False)
class Loss:
    """`value`, a float64 scalar in nats² with gradient, and how many `terms` (rows or draws) it averages.

    With no term the value is 0, and its gradient exists and is 0.
    """

    value: Tensor
    terms: int


def log_ratio(mask: Tensor, log_prob: Tensor, log_reward: Tensor) -> Tensor:
    """log q − log R where the mask is true, else 0; nothing behind the mask reaches the gradient."""
    return torch.where(mask, log_prob - log_reward, 0.0)


def cut(residual: Tensor, clip: float) -> Tensor:
    """The residual cut to ±clip nats, with the gradient of the residual itself."""
    return residual.detach().clamp(-clip, clip) + residual - residual.detach()


def log_mean_weight(t: Trajectories, u: Tensor) -> Tensor:
    """(R,) log of the mean of exp(−u) over a row's draws that are alive; 0 where none is."""
    alive, k = t.alive, t.per_row(t.alive)
    top = torch.full_like(k, -torch.inf).scatter_reduce(0, t.row, torch.where(alive, -u, -torch.inf), "amax")
    top = torch.where(top.isfinite(), top, 0.0)
    mean = t.per_row(torch.where(alive, torch.exp(-u - top[t.row]), 0.0)) / k.clamp(min=1)
    return torch.where(mean > 0, top + torch.log(mean.clamp(min=1e-300)), 0.0)


def dead_squares(t: Trajectories) -> tuple[Tensor, Tensor]:
    """(N,) which dead draws the guide can make, and DEAD² for each, with gradient 2 · DEAD · ∇log q."""
    dead = ~t.alive & (t.log_prob > -torch.inf)
    log_prob = torch.where(dead, t.log_prob, 0.0)
    return dead, torch.where(dead, log_prob - log_prob.detach() + DEAD, 0.0).square()


def mean_of(squares: Tensor, counted: Tensor) -> Loss:
    """The mean over what is `counted`; 0 where nothing is."""
    terms = int(counted.sum())
    return Loss(torch.where(counted, squares, 0.0).sum() / max(terms, 1), terms)


def _refuse(name: str, what: str, wrong: Tensor) -> None:
    if bool(wrong.any()):
        raise ValueError(f"{name}: {what}, at draw {int(wrong.nonzero()[0, 0])}")
