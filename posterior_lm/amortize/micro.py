"""Micro-batches that fit in memory: whole rows together, halved when memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch

from posterior_lm.amortize.batches import Walked
from posterior_lm.lang.diagnostics import InferenceError, error

LEAST = 64
"""Columns below which halving is given up."""


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
        paths = {(p.context, p.ids) for k in members for p in draws[k].paths}
        width = sum(len(c) for c in {c for c, _ in paths}) + sum(len(ids) for _, ids in paths)
        if parts and filled + width <= columns:
            parts[-1] += members
            filled += width
        else:
            parts.append(members)
            filled = width
    return parts


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
            if not _is_memory(problem):
                raise
        restart()
        if columns // 2 < LEAST:
            raise InferenceError(
                error(
                    "PLM626",
                    f"training stopped: {columns} token columns at a time do not fit in memory",
                    help="take fewer draws a row, shorter rows, or a smaller model",
                )
            )
        columns //= 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _is_memory(problem: BaseException) -> bool:
    # The CPU allocator raises a plain RuntimeError.
    return isinstance(problem, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(
        problem
    )
