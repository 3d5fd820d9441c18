"""The language: from program text to a checked module."""

from __future__ import annotations

from pathlib import Path

from posterior_lm.lang.ast import Module
from posterior_lm.lang.diagnostics import CompileError, Diagnostic
from posterior_lm.lang.source import Source

__all__ = ["compile_source", "load_module", "read_source"]


def compile_source(source: Source, *, lint: bool = False) -> tuple[Module | None, list[Diagnostic]]:
    """Parses and checks: the module, or None, and everything found, in order of position."""
    from posterior_lm.lang.check import check
    from posterior_lm.lang.parse import parse

    module, found = parse(source)
    if module is not None:
        found = found + check(module, lint=lint and not found)
        found.sort(key=lambda d: d.primary.span.start if d.primary else 0)
    return module, found


def read_source(path: str | Path) -> Source:
    """The text of a program file. Raises `CompileError` (PLM801) where it cannot be read."""
    from posterior_lm.lang.diagnostics import error

    name = str(path)
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return Source(name, file.read())
    except OSError as wrong:
        from posterior_lm.lang.near import readable

        reason = (wrong.strerror or str(wrong)).lower()
        message = f"cannot read {name}: {reason}"
        raise CompileError(error("PLM801", message, where=name, help=readable(name, reason))) from wrong
    except UnicodeDecodeError as wrong:
        message = f"{name} is not UTF-8 text: byte {wrong.start} is 0x{wrong.object[wrong.start]:02X}"
        raise CompileError(error("PLM801", message, where=name, help="save it as UTF-8")) from wrong


def load_module(path: str | Path) -> Module:
    """The checked module of a program file. Raises `CompileError` holding every error."""
    module, found = compile_source(read_source(path))
    errors = [d for d in found if d.severity == "error"]
    if errors or module is None:
        raise CompileError(errors)
    return module
