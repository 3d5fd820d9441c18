"""One training step after another: what is drawn, the loss, the gradient, the weights.

A step is a function of the weights, the seed and the step's number, so a fit that is
resumed goes on bit for bit (on a CPU, with as many threads, which the state holds). Nothing
here writes files; `fit` does.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from posterior_lm.infer.methods import OBJECTIVES
from posterior_lm.lang.diagnostics import InferenceError
from posterior_lm.lm.hf.placement import free_memory
from posterior_lm.lm.hf.threads import threads
from posterior_lm.train.adapter import Adapter, drawing_model, training_model
from posterior_lm.train.balancing import Balancer, Behaved, reward_temperature, tensors_of
from posterior_lm.train.checkpoint import optimizer_tensors, restore_optimizer
from posterior_lm.train.enumerated import EnumeratedRows
from posterior_lm.train.gflownet_batch import (
    Scored,
    Walked,
    columns_of,
    halving,
    is_memory,
    micro_batches,
    score_draws,
)
from posterior_lm.train.judge import Gain, Judge, Looks
from posterior_lm.train.memory import Fit, fitting, recomputing
from posterior_lm.train.objectives import Objective, Trajectories, moved, objective_of, row_log_z
from posterior_lm.train.parallel import World
from posterior_lm.train.progress import Progress, check_finite, measured, not_finite
from posterior_lm.train.replay import Replay
from posterior_lm.train.rows import Rows
from posterior_lm.train.schedule import Schedule
from posterior_lm.train.settings import Resolved
from posterior_lm.train.simulate import Simulator
from posterior_lm.train.sleep_phase import SleepPhase, WeightedBatch
from posterior_lm.train.trials import Trials

FEW = 4
"""Draws that are tried to see what a column keeps."""
NAMED = 5
"""Rows without a reward that are named."""
HOPELESS = 1024
"""Draws without a reward, of all rows together, after which a fit is given up."""


class Trainer(Schedule):
    """The weights, the optimiser and the buffer of one fit; `step` moves all of them on."""

    def __init__(
        self, rows: Rows, numbers: Sequence[int], adapter: Adapter, settings: Resolved,
        sleep_phase: SleepPhase | None, world: World, simulator: Simulator | None = None,
        enumerated: EnumeratedRows | None = None, judge: Judge | None = None,
    ) -> None:  # fmt: skip
        looks = None if judge is None else Looks(adapter, [judge])
        super().__init__(settings, world, sleep_phase, enumerated, looks)
        self.rows, self.adapter = rows, adapter
        entry = OBJECTIVES[settings.objective]
        self.prefixes = entry.needs_prefixes
        if not entry.peer:  # which computes a loss of its own
            self.objective: Objective = objective_of(settings)
        self.balancer = Balancer(rows, numbers, settings, self.prefixes, simulator)
        self.replay = Replay(settings.capacity, settings.capacity_total)
        self.names = adapter.names
        self.parameters = list(adapter.parameters.values())
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=settings.learning_rate, betas=(0.9, 0.99), weight_decay=0.0
        )
        device = self.parameters[0].device
        self.log_z = torch.full((len(rows),), math.nan, dtype=torch.float64, device=device)
        self.fit: Fit | None = None
        self.trials = None if self.looks is None or not settings.trial else Trials(self, self.looks)
        self.shown: set[int] = set()
        """Rows of which every value was listed."""
        self._looked = 0.0
        """Share of the training before the last look."""
        self._last: float | None = None

    # ------------------------------------------------------------- a step

    def step(self, stage: str | None = None) -> Progress:
        """One step, of the stage that is due if none is named.

        Raises InferenceError PLM626 where a number is not finite, with row and statement.
        """
        arm = self.trials.due() if self.trials is not None and stage is None else None
        began = time.monotonic() if self._last is None else self._last  # what came between steps, too
        before = self.progress()
        stage = self.world.broadcast(stage or (self.stage() if arm is None else arm.stage))
        kind = self._kind(stage)
        rate = self.rate(stage, arm)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        numbers = self._sleep() if stage == "sleep" else self._balance()
        norm = self._move()
        self.steps_done += 1
        self.balanced += stage == "balance"
        self._last = time.monotonic()
        seconds = self.world.broadcast(self._last - began)
        self.seconds += seconds
        self._costs[kind] = seconds
        if arm is None and self.looks is not None and self.looks.due(before, self.progress(), self.budget):
            self._look(self.looks, stage)
        return Progress(
            step=self.steps_done,
            stage=stage,
            seconds=self.seconds,
            loss=numbers["loss"],
            ess=numbers.get("ess", math.nan),
            log_evidence_lower=numbers.get("lower", math.nan),
            log_evidence_upper=numbers.get("upper", math.nan),
            dead=numbers.get("dead", math.nan),
            gradient_norm=norm,
            rate=rate,
            draws_per_second=numbers["draws"] / max(seconds, 1e-9),
            done=self.progress(),
        )

    @property
    def trying(self) -> bool:
        """Whether it is tried how to go on, so that the weights may be dropped."""
        return self.trials is not None and self.trials.running

    @property
    def columns(self) -> int:
        """Token columns of a pass that fit in memory, as far as is known."""
        return self.settings.max_batch_tokens if self.fit is None else self.fit.columns

    def look(self) -> Gain | None:
        """What the weights of now gained over the best; the time of that is the training's."""
        assert self.looks is not None
        gain = self.looks.risen(self.steps_done, [self.replay], self.columns)
        self.seconds += self.world.broadcast(self.looks.seconds)
        self._last = time.monotonic()
        return gain

    def _look(self, looks: Looks, stage: str) -> None:
        gain, before, self._looked = self.look(), self._looked, self.progress()
        if looks.worse(gain):
            self.fall_back(stage)
        elif self.trials is not None:
            self.trials.looked(gain, self._looked - before)

    def fall_back(self, stage: str) -> None:
        """Go on from better weights than those that a stage has led to, without the optimiser's memory of them."""
        self.optimizer.state.clear()
        super().fall_back(stage)

    def settle(self) -> str:
        """Take the best of the weights that were looked at; what to say of it, where that matters."""
        return "" if self.looks is None else self.looks.settled(self.steps_done, [self.replay], self.columns)

    def _move(self) -> float:
        """One move of the optimiser by the gradient of all processes; the norm of that."""
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self.world.sum_([p.grad for p in self.parameters if p.grad is not None])
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.gradient_norm))
        if not math.isfinite(norm):
            self.optimizer.zero_grad(set_to_none=True)
            raise not_finite("the gradient", None, self._statement())
        self.optimizer.step()
        return norm

    def _statement(self) -> str:
        """The statement of the latent that the guide draws, which is what its numbers are about."""
        return next(s.label for s in self.rows.target(0).statements if s.keyword == "latent")

    def _sleep(self) -> dict[str, float]:
        batch = self._pairs()
        draws, total = self.world.all_reduce([len(batch.draws), float(batch.weights.sum())])
        loss = [0.0]

        def backward(part: list[int], scored: Scored) -> None:
            shares = torch.as_tensor(batch.weights[part] / max(total, 1e-300), device=scored.log_prob.device)
            value = -(shares * scored.log_prob).sum()
            check_finite(value, scored.log_prob, None, self._statement())
            value.backward()
            loss[0] += float(value.detach())

        self._in_parts(backward, batch.draws, range(len(batch.draws)), loss)
        value, ess, rows = self.world.all_reduce([loss[0], batch.ess * batch.rows, batch.rows])
        return {"loss": value, "ess": ess / max(1.0, rows), "draws": draws}

    def _pairs(self) -> WeightedBatch:
        """Simulated pairs, or rows with their listed posteriors, in turn by the share of these."""
        share = 0.0 if self.enumerated is None else 1.0 if self.sleep_phase is None else self.settings.listed
        before, after = (math.floor(k * share) for k in (self.steps_done, self.steps_done + 1))
        if self.sleep_phase is not None and before == after:
            return self.sleep_phase.batch(self.steps_done, tuple(self.world.share(self.sleep_phase.groups)))
        assert self.enumerated is not None
        slots = self.world.share(self.enumerated.groups)
        self.replay = self.enumerated.learn(before, slots, self.replay, self.world, self.balancer.scored)
        if self.enumerated.complete:
            self._seen_whole(self.enumerated, before)
        return self.enumerated.batch(before, slots, self.replay)

    def _seen_whole(self, enumerated: EnumeratedRows, step: int) -> None:
        """Remember which rows were shown with all their values; blame what leaves one without a reward."""
        new = set(enumerated.step_rows(step)) - self.shown
        for row in sorted(row for row in new if not self.replay.entries(row)):
            self.balancer.blame(row, enumerated.values)
        self.shown |= new
        if new:
            self.check_rewards(self.balanced)

    def _in_parts(
        self, run: Callable[[list[int], Scored], None], draws: Sequence[Walked],
        groups: Sequence[int | Sequence[int]], loss: list[float], *, ends: bool = False,
    ) -> None:  # fmt: skip
        """`run` on parts of the draws that fit in memory; the `loss` that it adds to begins anew with smaller ones."""
        if not draws:
            return
        log_z = self.log_z
        if self.fit is None:
            self.fit = self._fitting(draws, groups, ends)
        recomputed = self.fit.recomputed

        def scored(part: Sequence[int], columns: int) -> None:
            mine = list(part)
            some = [draws[k] for k in mine]
            run(mine, self._score(some, recomputed, ends=ends, columns=columns))

        def restart() -> None:
            loss[:] = [0.0]
            self.log_z = log_z
            self.optimizer.zero_grad(set_to_none=True)

        with threads(self.adapter.base._forward, None):
            fits = halving(
                scored, lambda columns: micro_batches(draws, groups, columns), self.fit.columns, restart
            )
        self.fit = Fit(fits, recomputed)

    def _score(self, draws: Sequence[Walked], recomputed: bool, *, ends: bool, columns: int) -> Scored:
        if not recomputed:
            return score_draws(training_model(self.adapter), draws, ends=ends, columns=columns)
        with recomputing(self.adapter):  # of what is folded into the weights nothing could be computed again
            return score_draws(self.adapter.model(), draws, ends=ends, columns=columns)

    def _fitting(self, draws: Sequence[Walked], groups: Sequence[int | Sequence[int]], ends: bool) -> Fit:
        """What fits in memory, tried on a few draws of the first step."""
        most, free = self.settings.max_batch_tokens, free_memory(self.parameters[0].device)
        parts = micro_batches(draws, groups, 1)
        if free is not None and self.parameters[0].device.type == "cpu":
            free //= self.world.size  # all processes are on this machine

        def score(some: Sequence[int], recomputed: bool) -> Tensor:
            return self._score([draws[k] for k in some], recomputed, ends=ends, columns=most).log_prob

        some = [k for part in parts for k in part][:FEW]
        widest = max((columns_of(draws, part) for part in parts), default=0)
        try:
            return fitting(score, some[:1], some, lambda k: columns_of(draws, k), widest, most, free)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as problem:
            if not is_memory(problem):
                raise
            return Fit(most)  # what the step makes of it is `halving`'s to say

    @property
    def notes(self) -> tuple[str, ...]:
        """What the looks and the memory made of the fit."""
        short = "memory is short: every layer is computed again in the backward pass"
        return tuple(self.returns + [short] * (self.fit is not None and self.fit.recomputed))

    def _drawn(self, replay: Replay) -> tuple[Behaved, Replay]:
        """The draws of a step, of this process's share of its rows, and the buffer with them."""
        slots = list(self.world.share(self._rows()))
        try:
            return self.balancer.draw(drawing_model(self.adapter), self.balanced, slots, replay)
        except InferenceError as problem:
            first = problem.diagnostics[0]
            if first.code == "PLM701" and first.primary is None:  # the guide's own numbers, no statement's
                raise not_finite("the guide's log probability", None, self._statement()) from None
            raise

    def _rows(self) -> int:
        """Data rows of a step, of all processes."""
        return min(self.settings.rows, len(self.balancer.numbers))

    def _balance(self) -> dict[str, float]:
        behaved, self.replay = self._drawn(self.replay)
        # A row of which nothing with a reward is known would teach the policy its dead draws, one after the other.
        known = [k for k, row in enumerate(behaved.rows) if behaved.simulated[k] or self.replay.entries(row)]
        rows, some = self.world.all_reduce([len(behaved.rows), len(known)])
        if some < rows:
            behaved = behaved.only(known)
            self.check_rewards(self.balanced + 1, HOPELESS)
        temperature = reward_temperature(self.settings, self._balanced_share())
        log_z = self.log_z
        loss, log_q = [0.0], np.full(len(behaved.draws), np.nan)

        def backward(part: list[int], scored: Scored) -> None:
            loss[0] += self._objective(behaved, part, scored, temperature, log_q)

        groups = [np.flatnonzero(behaved.slot == k).tolist() for k in range(len(behaved.rows))]
        self._in_parts(backward, behaved.draws, groups, loss, ends=self.prefixes)
        self.log_z = self.world.merged(log_z, self.log_z)
        numbers = measured(behaved, log_q, self.world)
        numbers["dead"] += (1 - numbers["dead"]) * (rows - some) / rows
        return {**numbers, "loss": self.world.all_reduce([loss[0]])[0]}

    def lost(self, steps: int) -> list[int]:
        """The rows that so many balancing steps drew, or of which all was listed, where nothing of any process had a reward."""
        rows = sorted(self.balancer.drawn_rows(steps) | self.shown)
        known = self.world.all_reduce([float(bool(self.replay.entries(row))) for row in rows])
        return [row for row, some in zip(rows, known, strict=True) if not some]

    def without_rewards(self, lost: Sequence[int]) -> list[str]:
        """What to say of these rows, at most `NAMED` of them by name."""
        said = []
        for row in lost[:NAMED]:
            by = self.balancer.blamed.get(row)
            said.append(
                f"no draw of rows[{row}] has a reward{f', by `{by}`' if by else ''}: it is not trained on"
            )
        return said + [f"nor has one of {len(lost) - NAMED} more rows"] * (len(lost) > NAMED)

    def check_rewards(self, steps: int, least: int = 0) -> list[int]:
        """The lost rows after so many balancing steps. Raises InferenceError PLM629 where that is all rows, by `least` draws."""
        lost = self.lost(steps)
        numbers, drawn = self.balancer.numbers, steps * self._rows() * self.balancer.draws
        if self.enumerated is not None:
            drawn += len(self.shown) * len(self.enumerated.values)
        if lost == sorted(numbers) and drawn >= least:
            rules = {self.balancer.blamed[row] for row in lost if row in self.balancer.blamed}
            raise InferenceError.of(
                "PLM629",
                f"no draw of any row has a reward, of {drawn}: its log reward is −∞"
                + (f" by `{rules.pop()}`" if len(rules) == 1 else ""),
                help="loosen the conditions, look at a row with `plm score`, or give known values of the latents as columns",
            )
        return lost

    def _objective(
        self, behaved: Behaved, index: list[int], scored: Scored, temperature: float, log_q: np.ndarray
    ) -> float:  # fmt: skip
        """Backward through the draws `index`, which are whole rows; its share of the step's loss."""
        device = scored.log_prob.device
        log_reward, slot, ends = (
            None if t is None else t[index] for t in tensors_of(behaved, device, temperature)
        )
        assert log_reward is not None and slot is not None
        check_finite(
            scored.log_prob.sum(), scored.log_prob, [behaved.rows[int(k)] for k in slot], self._statement()
        )
        log_q[index] = scored.log_prob.detach().cpu().numpy()
        present, place = torch.unique(slot, return_inverse=True)
        is_end = end_log_prob = None
        if ends is not None:
            assert scored.is_end is not None and scored.end_log_prob is not None
            ends = ends[:, : scored.is_end.shape[1]]
            is_end = scored.is_end[:, : ends.shape[1]] & (ends > -torch.inf)
            end_log_prob = scored.end_log_prob[:, : ends.shape[1]]
            ends = torch.where(is_end, ends, 0.0)
        trajectories = Trajectories(scored.log_prob, log_reward, place, end_log_prob, ends, is_end)
        log_z = None
        if self.objective.needs_log_z:
            numbers = [None if behaved.simulated[int(k)] else behaved.rows[int(k)] for k in present]
            log_z = row_log_z(self.log_z, numbers, place, log_reward - scored.log_prob.detach())
        loss = self.objective.loss(trajectories, log_z)
        share = len(present) / self._rows()
        value = share * (loss.value + self._forward(behaved, index, scored.log_prob, log_reward, place))
        log_z_gradient = None
        if log_z is not None:
            (log_z_gradient,) = torch.autograd.grad(loss.value, [log_z], retain_graph=True)
        value.backward()
        if log_z is not None and log_z_gradient is not None:
            self.log_z = moved(self.log_z, numbers, log_z.detach(), log_z_gradient)
        return share * float(loss.value.detach())

    def _forward(
        self, behaved: Behaved, index: list[int], log_prob: Tensor, log_reward: Tensor, row: Tensor
    ) -> Tensor:
        """The cross-entropy of the policy with the posterior on a row's replayed draws, averaged over rows, as the
        schedule weighs it: a mode that the buffer knows and the policy has left moves it by its share, where the
        objective sees one draw among many."""
        weight = self.settings.forward * (1.0 - self.progress())
        if weight == 0 or behaved.replayed is None:
            return log_prob.new_zeros(())
        known = torch.as_tensor(behaved.replayed[index], device=log_prob.device)
        reward = torch.where(known, log_reward, -torch.inf)
        rows = int(row.max()) + 1
        top = torch.full((rows,), -torch.inf, dtype=reward.dtype, device=reward.device)
        top = top.scatter_reduce(0, row, reward, "amax")
        share = torch.where(known, torch.exp(reward - torch.where(top.isfinite(), top, 0.0)[row]), 0.0)
        total = torch.zeros_like(top).index_add(0, row, share)
        each = share / total.clamp(min=1e-300)[row] * torch.where(known, log_prob, 0.0)
        return -weight * each.sum() / rows

    # ------------------------------------------------------------- the state

    def tensors(self) -> dict[str, Tensor]:
        """Weights, optimiser state and log evidences, by name."""
        found = {f"adapter.{k}": v for k, v in self.adapter.tensors().items()}
        found |= optimizer_tensors(self.optimizer, self.names)
        found |= {} if self.looks is None else self.looks.tensors()
        return found | {"log_z": self.log_z.detach().cpu().clone()}

    def arrays(self) -> dict[str, np.ndarray]:
        """The buffer, by name."""
        return self.replay.to_arrays()

    def state(self) -> dict[str, object]:
        return {
            "steps_done": self.steps_done, "balanced": self.balanced, "seconds": self.seconds,
            "best": 0 if self.looks is None else self.looks.steps, "lowered": self.lowered, "asleep": self.asleep,
            "returns": self.returns, "shown": sorted(self.shown), "looked": self._looked, "ranged": self.trials is None or self.trials.ranged,
            "columns": None if self.fit is None else self.fit.columns,
            "recomputed": self.fit is not None and self.fit.recomputed,
            "threads": self.adapter.base.threads, "stop": self.rows.stop, "powered": self.rows.powered,
        }  # fmt: skip

    def pause(self) -> None:
        """Let the time until the next step be another's."""
        self._last = None

    def restore(
        self, tensors: Mapping[str, Tensor], arrays: Mapping[str, np.ndarray], state: Mapping[str, object]
    ) -> None:
        """Stand where `tensors`, the buffer's arrays and `state` were taken. ValueError where they do not fit."""
        adapter = {k.removeprefix("adapter."): v for k, v in tensors.items() if k.startswith("adapter.")}
        self.adapter.restore(adapter)
        restore_optimizer(self.optimizer, tensors, self.names)
        if self.looks is not None:
            self.looks.restore(tensors, int(str(state["best"])))
        self.lowered, self.asleep = float(str(state["lowered"])), float(str(state["asleep"]))
        self.returns = [*map(str, state["returns"])]  # type: ignore[call-overload]
        self._looked = float(str(state["looked"]))
        self.shown = {int(str(row)) for row in state.get("shown", [])}  # type: ignore[attr-defined]
        # What guides begin as may have been found by other draws, in less time.
        if "powered" in state:
            self.rows.stop, self.rows.powered = state["stop"], bool(state["powered"])  # type: ignore[assignment]
            self.adapter.stop, self.adapter.powered = self.rows.stop, self.rows.powered
            self.rows.forget()
        if self.trials is not None:
            self.trials.end()
            self.trials.ranged = bool(state["ranged"])
        if tensors["log_z"].shape != self.log_z.shape:
            raise ValueError("it was trained on another number of rows")
        self.log_z = tensors["log_z"].to(self.log_z.device)
        self.replay = Replay.from_arrays(dict(arrays)) if arrays else self.replay
        self.steps_done, self.balanced = int(str(state["steps_done"])), int(str(state["balanced"]))
        self.seconds = float(str(state["seconds"]))
        if state["columns"] is not None:
            self.fit = Fit(int(str(state["columns"])), bool(state.get("recomputed")))

    def forget(self) -> None:
        """Drop what is remembered, so that a resumed fit and this one go on alike."""
        self.rows.forget()
        self.balancer.forget()
        if self.trials is not None:
            self.trials.end()
        if self.looks is not None:
            self.looks.forget()
        if self.sleep_phase is not None:
            self.sleep_phase.forget()
