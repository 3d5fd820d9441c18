"""Tables of other libraries: data frames in as lists of rows, columns out as a data frame or a dataset."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from posterior_lm.installed import need
from posterior_lm.lang.diagnostics import DataError
from posterior_lm.target.rows import frame_rows, present

if TYPE_CHECKING:
    import datasets
    import pandas

Columns = Mapping[str, Sequence[Any]]


def records(value: object) -> Any:
    """A data frame of pandas, a dataset of `datasets` or a table of pyarrow as a list of rows; all else as it is.

    What one of them has no value for (None, NaN, NaT) is left out, so that a default holds.
    """
    if hasattr(value, "columns") and hasattr(value, "to_dict"):
        return list(frame_rows(value))
    for whole in ("to_list", "to_pylist"):
        if hasattr(value, "column_names") and hasattr(value, whole):
            return list(map(present, getattr(value, whole)()))
    return value


def apart(name: str, taken: Iterable[str]) -> str:
    """The name with as many underscores behind it as it takes to be none of those taken."""
    taken = set(taken)
    while name in taken:
        name += "_"
    return name


def optional(module: str, extra: str) -> Any:
    """The module of an optional package. Raises DataError PLM732 where it is absent."""
    try:
        return need(module, extra)
    except ImportError as problem:
        raise DataError.of("PLM732", str(problem), help="install it, and start the session again") from None


def frame(columns: Columns) -> pandas.DataFrame:
    """Columns of N values each as a data frame of N rows."""
    made: pandas.DataFrame = optional("pandas", "pandas").DataFrame(dict(columns))
    return made


def dataset(columns: Columns) -> datasets.Dataset:
    """Columns of N values each as a dataset of N rows."""
    made: datasets.Dataset = optional("datasets", "datasets").Dataset.from_dict(
        {name: list(values) for name, values in columns.items()}
    )
    return made
