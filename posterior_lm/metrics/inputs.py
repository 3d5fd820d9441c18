"""What a metric is given, checked: texts, numbers, optional packages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from posterior_lm.installed import need
from posterior_lm.lang.diagnostics import DataError
from posterior_lm.lang.source import is_text

EXTRA = "metrics"
"""The extra of `pip install 'posterior_lm[...]'` that has every package used here."""


def wrong(message: str, *, where: str | None = None, help: str | None = None) -> DataError:
    """A DataError PLM780: what was given has no value of this metric."""
    return DataError.of("PLM780", message, where=where, help=help)


def package(module: str) -> ModuleType:
    """An optional package. Raises DataError PLM781 where it is absent."""
    try:
        return need(module, EXTRA)
    except ImportError as problem:
        raise DataError.of("PLM781", str(problem), help="or leave this metric out") from None


def texts_of(texts: Sequence[str], name: str = "texts", *, least: int = 1, metric: str) -> list[str]:
    """The texts as a list. Raises DataError PLM780 for fewer than `least`, or what is no Unicode text."""
    if isinstance(texts, str) or not isinstance(texts, Iterable):
        raise wrong(f"{metric} takes a list of texts", where=name, help="put a single text in a list: [text]")
    found = list(texts)
    for place, text in enumerate(found):
        if not isinstance(text, str):
            kind = type(text).__name__
            raise wrong(f"this is not a text but {kind}", where=f"{name}[{place}]", help="pass its text")
        check_unicode(text, f"{name}[{place}]")
    if len(found) < least:
        raise wrong(
            f"{metric} of {_count(len(found))} is not defined",
            where=name,
            help=f"give at least {_count(least)}",
        )
    return found


def check_unicode(text: str, where: str) -> None:
    """Raises DataError PLM780 for half of a surrogate pair, which no tokenizer can read."""
    if not is_text(text):
        raise wrong("this text is not valid Unicode", where=where, help="decode it with errors='replace'")


def numbers_of(numbers: Any, name: str, *, metric: str, infinite: bool = False) -> np.ndarray:
    """(N,) float64. Raises DataError PLM780 for none, for NaN and ∞, and for −∞ unless `infinite`."""
    try:
        found = np.asarray(numbers, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise wrong(
            f"{metric} takes a list of numbers", where=name, help="leave None and texts out"
        ) from None
    if found.ndim != 1:
        raise wrong(
            f"{metric} takes a list of numbers, not {found.ndim} dimensions",
            where=name,
            help="flatten it: values.ravel()" if found.ndim else "put the number in a list",
        )
    if not len(found):
        raise wrong(f"{metric} of no numbers is not defined", where=name, help="give at least one")
    bad = ~np.isfinite(found) & ~(infinite & (found == -np.inf))
    if bad.any():
        place = int(np.argmax(bad))
        raise wrong(
            f"this is {found[place]}, which {metric} cannot use",
            where=f"{name}[{place}]",
            help="look for where it was computed; a missing value is left out",
        )
    return found


def _count(n: int) -> str:
    return {0: "no text", 1: "one text"}.get(n, f"{n} texts")
