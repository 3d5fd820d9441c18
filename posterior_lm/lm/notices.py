"""What is worth a line while a model is found, loaded or used: something slow, and why.

A notice is an ordinary Python warning, so a program filters it as it likes; `plm` prints it as `note: …`.
Nothing else is imported here: every command needs the kind of warning, `plm --help` too.
"""

from __future__ import annotations

import warnings

__all__ = ["ModelNotice", "notice"]


class ModelNotice(UserWarning):
    """A sentence without a full stop."""


def notice(message: str) -> None:
    """Say it once: the same words are not repeated, which is the default of `warnings`."""
    warnings.warn(message, ModelNotice, stacklevel=3)
