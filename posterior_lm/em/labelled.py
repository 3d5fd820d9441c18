"""Which rows EM learns from: those that hold what is observed, of more than one kind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from posterior_lm.amortize.rows import Rows
from posterior_lm.em.split_model import SplitModel
from posterior_lm.graph.graph import RewardGraph
from posterior_lm.graph.nodes import ChoiceScore, LmScore, Power, Sum
from posterior_lm.graph.ops import spelled
from posterior_lm.lang.diagnostics import DataError, error
from posterior_lm.target.pieces import Known
from posterior_lm.target.target import Target

Row = Mapping[str, object]


def labelled(
    rows: Sequence[Row], graph: RewardGraph, split: SplitModel, known: Mapping[str, object]
) -> tuple[list[Row], str | None]:
    """The rows that hold every observed value, and a remark about the others; None where there are none.

    A column that is absent or null is a missing value, unless it is `known` for every row. Raises
    DataError PLM791 where no row holds them all.
    """
    wanted = [p.name for p in graph.params if p.name in split.labels and p.name not in known]
    kept: list[Row] = []
    missing: dict[str, int] = {}
    for row in rows:
        absent = [
            name
            for name in wanted
            if row.get(name) is None and (name in row or graph.param(name).required)  # type: ignore[union-attr]
        ]
        if not absent:
            kept.append(row)
        for name in absent:
            missing[name] = missing.get(name, 0) + 1
    if not missing:
        return kept, None
    names = " or ".join(f"`{name}`" for name in missing)
    if not kept:
        raise DataError(
            error(
                "PLM791",
                f"none of the {len(rows)} rows has a value of {names}, and EM learns from nothing else",
                help=f"add the column {names} to some rows; those without it are left out",
            )
        )
    few = len(rows) - len(kept)
    word = "row has" if few == 1 else "rows have"
    return kept, f"{few} of {len(rows)} {word} no {names}: they say nothing about it and are left out"


def one_label(rows: Rows, numbers: Sequence[int], alias: str) -> bool:
    """Whether the model `alias` is taught one and the same text by all of these rows."""
    seen: set[str] = set()
    for number in numbers:
        seen |= _texts(rows.target(number), alias)
        if len(seen) > 1:
            return False
    return True


def check_labels(rows: Rows, numbers: Sequence[int], alias: str) -> None:
    """Raises DataError PLM794 where every row teaches the same text.

    Then p(y | x, z) goes to 1 whatever z is, and the evidence with it.
    """
    if not one_label(rows, numbers, alias):
        return
    said = next(iter(_texts(rows.target(numbers[0]), alias)), "").strip()
    who = f"all {len(numbers)} rows observe" if len(numbers) > 1 else "the only row observes"
    raise DataError(
        error(
            "PLM794",
            f"{who} {said!r}, so the M-step would learn to say it whatever the latents are",
            help="give rows with at least two labels, or fit the guide alone with `plm fit`",
        )
    )


def trained_scores(graph: RewardGraph, alias: str) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Each score of the model and the exponents around it, in the order of the statements."""
    stack: list[tuple[int, tuple[int, ...]]] = [(i, ()) for i in reversed(graph.sink.inputs)]
    while stack:
        i, powers = stack.pop()
        node = graph[i]
        match node:
            case Sum():
                stack += [(j, powers) for j in reversed(node.inputs)]
            case Power():
                stack.append((node.inputs[1], (*powers, node.inputs[0])))
            case LmScore() | ChoiceScore() if node.lm == alias:
                yield i, powers


def _texts(target: Target, alias: str) -> set[str]:
    """What the trained scores of a row say, latents aside."""
    found: set[str] = set()
    for i, _ in trained_scores(target.graph, alias):
        node, evaluator = target.graph[i], target.evaluator
        if isinstance(node, ChoiceScore):
            if node.inputs[1] in target.graph.fixed:
                found.add(spelled(evaluator.fixed_value(node.inputs[1])))  # type: ignore[arg-type]
            continue
        pieces = evaluator.plan(i).text
        if all(isinstance(p, Known) or hasattr(p, "kind") for p in pieces):
            found.add("".join(p.text for p in pieces if isinstance(p, Known)))
    return found
