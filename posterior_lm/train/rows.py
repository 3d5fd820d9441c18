"""What a fit is given: rows, checked before anything is trained and bound when they are needed; known latents; the split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from attrs import evolve, frozen

from posterior_lm.graph.graph import RewardGraph
from posterior_lm.graph.ground import ground
from posterior_lm.graph.nodes import Input, Total
from posterior_lm.infer.methods import OBJECTIVES
from posterior_lm.lang.diagnostics import DataError, Diagnostic, InferenceError, PlmError
from posterior_lm.target.evaluate import Evaluator
from posterior_lm.target.prepared import BoundRows, Data, PreparedProgram, in_row
from posterior_lm.target.target import Target
from posterior_lm.target.values import ABSENT, Value
from posterior_lm.train.guide import Reading, Reads, own_readings, readings_of
from posterior_lm.train.scoring import has_end_points
from posterior_lm.train.settings import FitSettings


class Rows(BoundRows):
    """Rows of one program by number, and what the guide reads in each."""

    def __init__(self, program: PreparedProgram, data: Sequence[Data], reads: Reads = "observed") -> None:
        super().__init__(program, data)
        self.reads = reads
        self.stop: float | None = None
        """As a `Reading` has it."""
        self.powered = False
        """Whether readings have the powers of the priors."""
        self._readings: dict[int, tuple[Target, Mapping[str, Reading]]] = {}
        self._guides: RewardGraph | None = None

    def readings(self, number: int) -> Mapping[str, Reading]:
        """What the guide reads in that row."""
        target = self.target(number)
        found = self._readings.get(number)
        if found is None or found[0] is not target:
            if len(self._readings) >= self.HELD:
                self._readings.clear()
            with in_row(number):
                found = self._readings[number] = (target, self.readings_of(target))
        return found[1]

    def readings_of(self, target: Target) -> Mapping[str, Reading]:
        """What the guide reads in a target of this program."""
        return readings_of(target, self.reads, self.stop, self.powered)

    def own_readings_of(self, target: Target) -> Mapping[str, Reading]:
        """What the frozen model reads to draw as the prior does."""
        return own_readings(target, self.stop, self.powered)

    def read_own(self) -> None:
        """Let guides read what `readings_of` calls own from now on."""
        self.reads = "own"
        self._readings.clear()

    def told_apart(self) -> bool:
        """Whether the first latent's own context differs from row to row, so that a guide can know them by it."""
        seen = set()
        for number in range(len(self)):
            target = self.target(number)
            with in_row(number):
                reading = readings_of(target, "own").get(target.names[0])
            if reading is None or reading.segments in seen:
                return False
            seen.add(reading.segments)
        return True

    def reader(self, number: int, data: Data) -> Target:
        """A target that can only be read by guides: that of `data`, which differs from the row in what is observed.

        Where every latent is read by a `guide` statement this binds the statements alone,
        which is several times faster than the whole program.
        """
        target, readings = self.target(number), self.readings(number)
        if not all(info.name in readings and readings[info.name].stated for info in target.latents):
            return self.program.bind_valid(data)
        if self._guides is None:
            self._guides = guides_alone(self.program.graph)
        grounded = ground(self._guides, data)
        evaluator = Evaluator(grounded, self.program.models, target.evaluator.spellers, {})
        return evolve(target, graph=grounded, data=dict(data), evaluator=evaluator)

    def forget(self) -> None:
        """Bind again from now on, so that a resumed fit stands where this one does."""
        super().forget()
        self._readings.clear()
        self.program.forget()


def guides_alone(graph: RewardGraph) -> RewardGraph:
    """The program without its log reward: its latents, and what their guides read."""
    latents = tuple(i for i, _ in graph.latents())
    keep = graph.ancestors(*latents, *(g.context for g in graph.guides.values()))
    nodes = {i: n for i, n in graph.nodes.items() if i in keep}
    nodes[graph.total] = Total(inputs=latents)
    return graph.rebuilt(nodes)


def split(count: int, held_out: int, seed: int) -> tuple[list[int], list[int]]:
    """Row numbers to train on and to certify with: at most a fifth is held out, of few rows none."""
    order = [int(i) for i in np.random.default_rng([seed, 7]).permutation(count)]
    kept = min(held_out, count // 5)
    return sorted(order[kept:]), sorted(order[:kept])


def check_rows(data: Sequence[Data], name: str) -> None:
    """Raises DataError PLM628 where there is nothing to train on."""
    if not data:
        raise DataError.of(
            "PLM628",
            f"there are no rows to fit `{name}` on",
            help="give at least one row of parameters with --data; a program without parameters takes {}",
        )


# ------------------------------------------------------------------------------- what is checked

MOST = 20
"""Mistakes shown of one set of rows."""


@frozen(eq=False)
class Inputs:
    """A program, validated rows, and for some rows values of the latents that are known to be good."""

    program: PreparedProgram
    data: tuple[Data, ...]
    known: tuple[tuple[int, tuple[Mapping[str, Value], ...]], ...]


def read_inputs(
    program: PreparedProgram, rows: Sequence[Data], settings: FitSettings, given: Data | None = None
) -> Inputs:
    """Rows checked against the program's parameters; a column named after a latent holds a known value of it.

    `given` are parameters of every row. Raises DataError with what is wrong in any row, InferenceError PLM624.
    """
    graph = program.graph
    check_rows(rows, graph.name)
    latents = {node.name for _, node in graph.latents()}
    found: list[Diagnostic] = []
    data: list[Mapping[str, object]] = []
    hints: list[tuple[int, dict[str, object]]] = []
    for number, row in enumerate(rows):
        hint = {k: v for k, v in row.items() if k in latents and graph.param(k) is None}
        if hint:
            hints.append((number, hint))
        whole = {**{k: v for k, v in row.items() if k not in hint}, **(given or {})}
        try:
            data.append(program.validate(whole, path=f"rows[{number}]."))
        except DataError as wrong:
            found += wrong.diagnostics
    if found:
        raise DataError(_most(found))
    bound = BoundRows(program, data)
    _check_objective(bound.target(0), settings)
    _check_supports(bound)
    known = tuple((n, (known_draw(bound.target(n), n, h),)) for n, h in hints)
    return Inputs(program, tuple(data), known)


def _most(found: list[Diagnostic]) -> list[Diagnostic]:
    if len(found) <= MOST:
        return found
    last = found[MOST - 1]
    return [
        *found[: MOST - 1],
        evolve(last, notes=(*last.notes, f"{len(found) - MOST} more mistakes are not shown")),
    ]


def _check_objective(target: Target, settings: FitSettings) -> None:
    if not OBJECTIVES[settings.objective].needs_prefixes:
        return
    why = None
    info = target.latents[0] if target.latents else None
    if info is not None and info.mark is not None:
        why = f"`{info.name.partition('[')[0]}` is a list"
    elif len(target.latents) != 1:
        why = f"the program has {len(target.latents)} latents"
    elif target.latents[0].lm is None:
        why = f"`{target.names[0]}` is not drawn token by token"
    elif not has_end_points(target.latents[0].support):
        why = f"the stop of `{target.names[0]}` is several tokens"
    if why is not None:
        raise InferenceError.of(
            "PLM624",
            f"`{settings.objective}` compares the rewards of stopping early, which do not exist here: {why}",
            target.latents[0].span if target.latents else None,
            help="use the objective `vargrad`, which compares whole draws",
        )


def _check_supports(rows: BoundRows) -> None:
    """Bind every row where a latent's type depends on the row, so that an empty support is found now."""
    graph = rows.program.graph
    latents = [i for i, _ in graph.latents()]
    if not any(isinstance(graph[i], Input) for i in graph.ancestors(*latents)):
        return
    found: list[Diagnostic] = []
    for number in range(len(rows)):
        try:
            rows.target(number)
        except PlmError as wrong:
            found += wrong.diagnostics
    if found:
        raise DataError(_most(found))


def known_draw(target: Target, number: int, hint: Mapping[str, object]) -> dict[str, Value]:
    """The draw that a row gives, where null is the end of a list, or nothing in a branch that is not taken.

    Raises DataError PLM610.
    """
    drawn: dict[str, Value] = {}
    for info in target.latents:
        there = target.there(info, {name: (value,) for name, value in drawn.items()}, 1)
        given = hint.get(info.name)
        if there is not None and not there[0]:
            if given is not None:
                raise DataError.of(
                    "PLM610",
                    f"rows[{number}] gives `{info.name}`, which stands in a branch that its other values do not take",
                    where=f"rows[{number}]",
                    help="leave it out, or write null",
                )
            drawn[info.name] = ABSENT
            continue
        given = info.mark if given is None and info.name in hint else given
        if given is None:
            raise DataError.of(
                "PLM610",
                f"rows[{number}] gives some latents and not `{info.name}`",
                where=f"rows[{number}]",
                help="give a value for every latent, or for none",
            )
        with in_row(number):
            drawn[info.name] = target.value(info.name, given)  # type: ignore[arg-type]
    return drawn
