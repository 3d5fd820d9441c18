"""Optional packages: imported where they are used, named clearly where they are absent."""

from __future__ import annotations

import importlib
from types import ModuleType


def need(module: str, extra: str) -> ModuleType:
    """The module; raises ImportError that says which extra installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as problem:
        raise ImportError(
            f"this needs the package {module}: pip install 'posterior_lm[{extra}]'"
        ) from problem
