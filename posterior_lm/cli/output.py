"""What goes to standard output: JSON without NaN, texts that cannot move the cursor, plain tables."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence

from posterior_lm.storage import plain

BAR = 20
"""Characters of a bar that stands for weight 1."""


def json_text(value: object) -> str:
    """Pure JSON: what is not finite is null, and letters are escaped where the stream is not UTF-8."""
    encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("-", "")
    return json.dumps(plain(value), indent=2, ensure_ascii=encoding != "utf8", allow_nan=False)


def quoted(text: object) -> str:
    """A text as JSON would quote it, so that spaces at its ends and line breaks can be seen."""
    shown = json.dumps(str(text), ensure_ascii=False)
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in shown)


def number(value: float | None, digits: int = 3) -> str:
    """A number of nats for people; `-` where there is none."""
    if value is None or math.isnan(value):
        return "-"
    return f"{value:.{digits}f}" if math.isfinite(value) else ("inf" if value > 0 else "-inf")


def bar(share: float, mark: str) -> str:
    """A bar of at most `BAR` marks; anything above zero has at least one."""
    return mark * (max(1, round(share * BAR)) if share > 0 else 0)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool]) -> list[str]:
    """Aligned columns, two spaces apart, ASCII only where the cells are; the last one is not padded."""
    widths = [max([len(h), *(len(r[k]) for r in rows)]) for k, h in enumerate(head)]
    lines = []
    for row in (head, *rows):
        cells = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)]
        lines.append(("  " + "  ".join(cells)).rstrip())
    return lines
