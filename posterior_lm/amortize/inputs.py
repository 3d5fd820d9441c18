"""What a fit is given, checked before anything is trained: rows, known latents, models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import evolve, frozen

from posterior_lm.amortize.paths import has_end_points
from posterior_lm.amortize.rows import check_rows
from posterior_lm.amortize.settings import FitSettings
from posterior_lm.graph.nodes import Input
from posterior_lm.infer.methods import OBJECTIVES
from posterior_lm.lang.diagnostics import DataError, Diagnostic, InferenceError, PlmError, error
from posterior_lm.target.prepared import BoundRows, Data, PreparedProgram, in_row
from posterior_lm.target.target import Target
from posterior_lm.target.values import Value

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
    known = tuple((n, (_known(bound.target(n), n, h),)) for n, h in hints)
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
    if len(target.latents) != 1:
        why = f"the program has {len(target.latents)} latents"
    elif target.latents[0].lm is None:
        why = f"`{target.names[0]}` is not drawn token by token"
    elif not has_end_points(target.latents[0].support):
        why = f"the stop of `{target.names[0]}` is several tokens"
    if why is not None:
        raise InferenceError(
            error(
                "PLM624",
                f"`{settings.objective}` compares the rewards of stopping early, which do not exist here: {why}",
                target.latents[0].span if target.latents else None,
                help="use the objective `vargrad`, which compares whole draws",
            )
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


def _known(target: Target, number: int, hint: Mapping[str, object]) -> Mapping[str, Value]:
    missing = [n for n in target.names if n not in hint]
    if missing:
        raise DataError(
            error(
                "PLM610",
                f"rows[{number}] gives some latents and not `{missing[0]}`",
                where=f"rows[{number}]",
                help="give a value for every latent, or for none",
            )
        )
    with in_row(number):
        return {n: target.value(n, hint[n]) for n in target.names}  # type: ignore[arg-type]
