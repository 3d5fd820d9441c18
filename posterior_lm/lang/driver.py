"""From the text of a program to a checked module: it is parsed, and everything wrong with it is found.

Nothing else runs the parser and the checker one after the other.
"""

from __future__ import annotations

from pathlib import Path

from attrs import evolve

from posterior_lm.lang import ast
from posterior_lm.lang.check.scope import Scope, report_cycles
from posterior_lm.lang.check.structure import Structure, declaration, parameter
from posterior_lm.lang.compose import rename
from posterior_lm.lang.diagnostics import CompileError, error, in_order, readable
from posterior_lm.lang.source import Source
from posterior_lm.lang.typed import CheckedModule

__all__ = ["CheckedModule", "compile_source", "load_module", "read_source", "check"]


def compile_source(source: Source, *, lint: bool = False) -> CheckedModule:
    """Parses and checks: what could be read, and everything found; with `lint` warnings too.

    Of a text that cannot be read at all the module is empty.
    """
    from posterior_lm.lang.check.lint import warnings
    from posterior_lm.lang.parser import parse

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


def check(module: ast.Module) -> CheckedModule:
    """The module with what is wrong with it, in order of position, and what is known of it.

    A name or an expression that is wrong is unknown from there on, and what is
    unknown fits everywhere, so one mistake gives one error. A node that Python put in two
    places, where its names mean different things, becomes two nodes of the checked module.
    """
    scope, structure = _walked(module)
    if scope.shared:
        module = rename(module, {})
        scope, structure = _walked(module)
    return CheckedModule(
        module, tuple(in_order(scope.found)), frozenset(scope.used), structure.spellers, scope.findings
    )


def _walked(module: ast.Module) -> tuple[Scope, Structure]:
    scope = Scope(module)
    for decl in module.declarations:
        declaration(scope, decl)
    for param in module.program.params:
        parameter(scope, param)
    report_cycles(scope, module.program)
    structure = Structure(scope)
    structure.program(module.program.body)
    return scope, structure
