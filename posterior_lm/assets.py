"""Finds the files that ship beside the code: the grammar and the example programs.

In a wheel they lie inside the package, in a checkout beside it.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def find(kind: str, name: str = "") -> Path:
    """The path of a shipped file or folder; `kind` is "grammar" or "programs".

    Raises FileNotFoundError naming both places that were looked at.
    """
    places = [_PACKAGE / kind / name, _PACKAGE.parent / kind / name]
    for place in places:
        if place.exists():
            return place
    looked = " and ".join(str(place) for place in places)
    raise FileNotFoundError(f"{kind}/{name} does not ship with this installation; looked at {looked}")


def grammar_text() -> str:
    """The text of `grammar/plm.lark`."""
    return find("grammar", "plm.lark").read_text(encoding="utf-8")
