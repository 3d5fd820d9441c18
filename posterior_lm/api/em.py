"""EM of a query: what comes of it is a query too, with the trained model and its guide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from posterior_lm.api.query import EmResult, Query, loads
from posterior_lm.em.saved import read_record

__all__ = ["EmResult", "em", "load", "with_em"]


def em(query: Query, rows: Sequence[Mapping[str, object]], out: str | Path, /, **options: Any) -> EmResult:
    """As `Query.em`."""
    return query.em(rows, out, **options)


def load(folder: str | Path, query: Query | None = None) -> Query:
    """The program of a result with its trained model and its guide, ready to be asked.

    `query` is the program that EM was run on, with its data, methods and models; without it the
    stored text of the program is taken. Raises DataError PLM795 for a folder that holds no result,
    PLM796 for one of another program or model.
    """
    if query is None:
        record = read_record(Path(folder))
        query = loads(record.program, record.name)
    return query.with_em(folder)


def with_em(query: Query, folder: str | Path) -> Query:
    """As `load`, of a query."""
    return query.with_em(folder)
