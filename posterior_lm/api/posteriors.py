"""The posteriors of many rows of data: drawn row by row, and shown and converted as one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

from attrs import evolve, frozen

from posterior_lm.api.engine import draw
from posterior_lm.api.posterior import Posterior
from posterior_lm.api.tables import apart, dataset, frame, optional
from posterior_lm.infer.base import Info
from posterior_lm.infer.request import Request, seed_of_row
from posterior_lm.lang.diagnostics import DataError, shown
from posterior_lm.shown import Shown
from posterior_lm.target.prepared import BoundRows, Data, PreparedProgram, in_row

if TYPE_CHECKING:
    import datasets
    import pandas
    import xarray

MOST_LINES = 10
"""Rows of which a line is shown."""


def draw_rows(
    program: PreparedProgram, request: Request, rows: Any, n: int | None, *, given: Data, seed: int,
    budget: float | None, progress: Callable[[Info], None] | None,
) -> Posteriors:  # fmt: skip
    """See `Query.draw_rows`."""
    check_rows(rows)
    found: list[Posterior] = []
    valid = [program.validate({**given, **row}, path=f"rows[{k}].") for k, row in enumerate(rows)]
    bound = BoundRows(program, valid)
    for k in range(len(valid)):
        with in_row(k):
            how: dict[str, Any] = {"seed": seed_of_row(seed, k), "budget": budget}
            watch = of_row(progress, k, len(valid))
            found.append(draw(program, bound.target(k), request, n, progress=watch, **how))
    return Posteriors(tuple(found))


def check_rows(rows: Any) -> None:
    """Raises DataError PLM603 for what is no list of mappings."""
    if isinstance(rows, str | bytes) or not isinstance(rows, Sequence):
        help = "give a list of mappings, such as [{…}, {…}], or a data frame"
        raise DataError.of("PLM603", f"rows are a list, not {shown(rows)}", help=help)
    for k, row in enumerate(rows):
        if not hasattr(row, "keys"):
            help = "a row is a mapping from the names of parameters to values"
            raise DataError.of("PLM603", f"a row is {shown(row)}", where=f"rows[{k}]", help=help)


def of_row(progress: Callable[[Info], None] | None, row: int, rows: int) -> Callable[[Info], None] | None:
    """What takes the progress of one row of several and tells that of all."""

    def tell(info: Info) -> None:
        assert progress is not None
        note = f"row {row} of {rows}: {info.note}".removesuffix(": ")
        progress(evolve(info, fraction=(row + (info.fraction or 0.0)) / rows, note=note))

    return None if progress is None else tell


def in_short(verdict: str) -> str:
    """The first words of a verdict, before its reasons."""
    return re.split("[:;]", verdict)[0].removesuffix(".")


@frozen(eq=False)
class Posteriors(Shown, Sequence[Posterior]):
    """The posterior of each row of data, in their order."""

    rows: tuple[Posterior, ...]

    @overload
    def __getitem__(self, item: int) -> Posterior: ...
    @overload
    def __getitem__(self, item: slice) -> Posteriors: ...
    def __getitem__(self, item: int | slice) -> Posterior | Posteriors:
        return Posteriors(self.rows[item]) if isinstance(item, slice) else self.rows[item]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Posterior]:
        return iter(self.rows)

    def __repr__(self) -> str:
        of = f" of {self.rows[0].program}" if self.rows else ""
        lines = [
            f"  row {k}: {one.summary}; {in_short(one.verdict)}"
            for k, one in enumerate(self.rows[:MOST_LINES])
        ]
        more = [f"  … and {len(self) - MOST_LINES:,} more"] if len(self) > MOST_LINES else []
        return "\n".join([f"<Posteriors{of}: {len(self):,} row{'s' * (len(self) != 1)}>", *lines, *more])

    def columns(self) -> dict[str, list[Any]]:
        """One entry per draw of every row: the number of its `row`, then as `Posterior.columns`."""
        parts = [one.columns() for one in self.rows]
        names = list(dict.fromkeys(name for part in parts for name in part))
        count = [len(one) for one in self.rows]
        numbers = [k for k, n in enumerate(count) for _ in range(n)]
        columns = {
            name: [x for part, n in zip(parts, count, strict=True) for x in part.get(name, [None] * n)]
            for name in names
        }
        return {apart("row", names): numbers, **columns}

    def to_pandas(self) -> pandas.DataFrame:
        """`columns` as one data frame. Raises DataError PLM732 without pandas."""
        return frame(self.columns())

    def to_datasets(self) -> datasets.Dataset:
        """`columns` as one dataset of Hugging Face. Raises DataError PLM732 without `datasets`."""
        return dataset(self.columns())

    def to_arviz(self) -> xarray.DataTree:
        """A tree with one group a row, `row_0`, `row_1`, …, each as `Posterior.to_arviz` makes it."""
        optional("arviz_base", "arviz")
        trees = {f"row_{k}": one.to_arviz() for k, one in enumerate(self.rows)}
        made: xarray.DataTree = optional("xarray", "arviz").DataTree(children=trees)
        return made
