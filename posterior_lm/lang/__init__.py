"""The language: from program text to a checked module."""

from __future__ import annotations

from pathlib import Path

from attrs import evolve

from posterior_lm.lang.diagnostics import CompileError, error, in_order
from posterior_lm.lang.near import readable
from posterior_lm.lang.source import Source
from posterior_lm.lang.typed import CheckedModule

__all__ = ["CheckedModule", "compile_source", "load_module", "read_source"]


def compile_source(source: Source, *, lint: bool = False) -> CheckedModule:
    """Parses and checks: what could be read, and everything found; with `lint` warnings too.

    Of a text that cannot be read at all the module is empty.
    """
    from posterior_lm.lang.check import check
    from posterior_lm.lang.check.lint import warnings
    from posterior_lm.lang.parse import parse

    module, found = parse(source)
    if module is None:
        return CheckedModule(diagnostics=tuple(found))
    checked = check(module)
    found = [*found, *in_order([*checked.diagnostics, *(warnings(checked) if lint and not found else ())])]
    found.sort(key=lambda d: d.primary.span.start if d.primary else 0)  # syntax first, where two begin alike
    return evolve(checked, diagnostics=tuple(found))


def read_source(path: str | Path) -> Source:
    """The text of a program file. Raises `CompileError` (PLM801) where it cannot be read."""
    name = str(path)
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return Source(name, file.read())
    except UnicodeDecodeError as wrong:
        message = f"{name} is not UTF-8 text: byte {wrong.start} is 0x{wrong.object[wrong.start]:02X}"
        raise CompileError(error("PLM801", message, where=name, help="save it as UTF-8")) from wrong
    except (OSError, ValueError) as wrong:  # ValueError: a null byte or half of a character in the name
        reason = (getattr(wrong, "strerror", None) or str(wrong)).lower()
        message = f"cannot read {name}: {reason}"
        raise CompileError(error("PLM801", message, where=name, help=readable(name, reason))) from wrong


def load_module(path: str | Path) -> CheckedModule:
    """The checked module of a program file. Raises `CompileError` holding every error."""
    return compile_source(read_source(path)).without_errors()
