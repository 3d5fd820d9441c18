"""Dictionaries that forget their oldest entry rather than grow."""

from __future__ import annotations

from typing import TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


def keep(kept: dict[Key, Value], key: Key, value: Value, most: int) -> Value:
    """`value`, stored under `key`; the oldest entries leave so that at most `most` remain."""
    while len(kept) >= most:
        # Another thread may have taken the same one.
        kept.pop(next(iter(kept), key), None)
    kept[key] = value
    return value
