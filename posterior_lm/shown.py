"""What answers have in common for notebooks: they show themselves by a module above them, imported when it is asked."""

from __future__ import annotations

from importlib import import_module
from typing import Any


class Shown:
    """An answer that `api.html` has a function of the name of, and `api.plots` where it has a picture."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        found: str = self._above("html")
        return found

    def _above(self, module: str, *arguments: object) -> Any:
        function = getattr(import_module(f"posterior_lm.api.{module}"), type(self).__name__.lower())
        return function(self, *arguments)
