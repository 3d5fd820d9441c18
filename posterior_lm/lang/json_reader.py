"""JSON and numbers that others wrote, read so that whatever is wrong with them is said in one way."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any, TypeGuard

DIGITS = 308
"""Of a whole number: every one of so many digits is below the largest float, 1.8e308."""

_HALF = re.compile(r"\\u[dD][89a-fA-F]")


def read_json(
    data: str | bytes,
    *,
    finite: bool = True,
    pairs: Callable[[list[tuple[str, Any]]], Any] | None = None,
) -> Any:
    """The value that a JSON text spells; `pairs` is the `object_pairs_hook` of `json.loads`.

    Raises ValueError with one line about what is wrong, without a full stop: bytes that are not UTF-8, no
    JSON, brackets nested too deeply, a whole number beyond every float, half of a surrogate pair, and, where
    only `finite` numbers are meant, NaN and Infinity, which Python's reader takes.
    """
    try:
        text = data if isinstance(data, str) else data.decode("utf-8-sig")
        constant = _refuse if finite else None
        found = json.loads(text, object_pairs_hook=pairs, parse_int=_whole, parse_constant=constant)
        if _HALF.search(text):
            json.dumps(found, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError as wrong:
        why = f"{wrong.msg.lower()} in line {wrong.lineno}, column {wrong.colno}"
        raise ValueError(why) from None
    except UnicodeDecodeError as wrong:
        raise ValueError(f"byte {wrong.start} is not UTF-8") from None
    except UnicodeEncodeError:
        raise ValueError("it holds half of a surrogate pair, which is no text") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return found


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a number that can be computed with: finite, as a float too; true and false are none."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number from 1.8e308 on
        return False


def _whole(word: str) -> int:
    if len(word) > DIGITS:
        raise ValueError(f"a whole number of more than {DIGITS} digits stands in it")
    return int(word)


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no number that JSON has")
