"""What is said of a user's words: the name that was probably meant, and long values cut short."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The closest of `known` by edit distance, if close enough to be meant; ties go to the first.

    At most 3 edits, and at most a third of the longer word (one edit is allowed
    in words of two letters); swapping neighbours is one edit.
    """
    best: tuple[int, str] | None = None
    for name in known:
        longer = max(len(word), len(name))
        limit = min(3, max(1, (longer + 1) // 3)) if longer > 1 else 0
        if abs(len(word) - len(name)) > limit or name == word or longer > 60:
            continue
        distance = _distance(word.lower(), name.lower())
        if distance <= limit and (best is None or distance < best[0]):
            best = (distance, name)
    return best[1] if best else None


def readable(path: str | Path, reason: str) -> str:
    """What to do about a file that cannot be read for this reason, in lower case."""
    if "permission" in reason:
        return f"allow reading it: chmod +r {path}"
    if "directory" in reason and "no such" not in reason:
        return "name a file, not a folder"
    try:
        beside = [other.name for other in Path(path).parent.iterdir()]
        close = nearest(Path(path).name, sorted(beside))
    except (OSError, ValueError):
        close = None
    if close:
        return f"did you mean `{Path(path).with_name(close)}`?"
    return "a relative path starts at the folder that the command runs in"


def shortened(text: str, most: int = 60) -> str:
    """A text of a user's for a message: itself, or its beginning with "..." where it is longer than `most`."""
    return text if len(text) <= most else text[: most - 3] + "..."


def shown(value: object, most: int = 60) -> str:
    """A value of a user's for a message: its `repr`, shortened, so that spaces and quotes can be seen."""
    if isinstance(value, str):
        return repr(shortened(value, most))
    try:
        return shortened(repr(value), most)
    except Exception:  # an int of more than 4300 digits, lists nested too deeply, a class of one's own
        return f"a value of type {type(value).__name__}"


def _distance(a: str, b: str) -> int:
    """Edits that turn `a` into `b`: insert, delete, replace, swap neighbours (Damerau 1964)."""
    rows = [list(range(len(b) + 1))]
    for i, left in enumerate(a, 1):
        row = [i]
        for j, right in enumerate(b, 1):
            cost = min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (left != right))
            if i > 1 and j > 1 and left == b[j - 2] and a[i - 2] == right:
                cost = min(cost, rows[-2][j - 2] + 1)
            row.append(cost)
        rows.append(row)
    return rows[-1][-1]


def either(names: Iterable[str]) -> str:
    """The names as one reads them: `a, b or c`."""
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last
