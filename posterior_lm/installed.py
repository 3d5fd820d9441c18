"""What an installation holds: the files that ship beside the code, and optional packages.

The grammar, the example programs and the known posteriors lie inside the package in a wheel, beside it in a
checkout. Optional packages are imported where they are used, and named where they are absent.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

_PACKAGE = Path(__file__).resolve().parent


def find(kind: str, name: str = "") -> Path:
    """The path of a shipped file or folder; `kind` is "grammar", "programs" or "posteriors".

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


def need(module: str, extra: str) -> ModuleType:
    """The module; raises ImportError that says which extra installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as problem:
        raise ImportError(
            f"this needs the package {module}: pip install 'posterior_lm[{extra}]'"
        ) from problem
