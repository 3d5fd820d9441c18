"""Every diagnostic code, one file per hundred."""

from __future__ import annotations

from posterior_lm.lang.codes import (
    baselines,
    cli,
    data,
    lint,
    models,
    names,
    numbers,
    structure,
    syntax,
    types,
)
from posterior_lm.lang.codes.base import Code

__all__ = ["CODES", "Code"]

_FILES = (syntax, names, types, structure, models, data, numbers, baselines, cli, lint)

CODES: dict[str, Code] = {code.code: code for file in _FILES for code in file.CODES}
