"""The model's window: how many tokens fit, and the error when they do not."""

from __future__ import annotations

from collections.abc import Iterable

from posterior_lm.lang.diagnostics import ModelError, error
from posterior_lm.lm.base import Request


def check_window(tokens: int, max_length: int | None) -> None:
    """Raises `ModelError` (PLM520) where a sequence of that many tokens does not fit."""
    if max_length is not None and tokens > max_length:
        extra = tokens - max_length
        raise ModelError(
            error(
                "PLM520",
                f"a sequence of {tokens} tokens is {extra} token{'s' * (extra > 1)} "
                f"longer than the model's window of {max_length}",
                help=f"shorten the context or the text by {extra} token{'s' * (extra > 1)}, "
                "or use a model with a longer window",
            )
        )


def longest(requests: Iterable[Request]) -> int:
    """The most tokens that any request, or any of its branches, needs at once."""
    lengths = (max([len(r.ids), *(b.at + len(b.ids) for b in r.branches)]) for r in requests)
    return max(lengths, default=0)
