"""From the text of a program to a checked module: it is parsed, and everything wrong with it is found.

Nothing else runs the parser and the checker one after the other.
"""

from __future__ import annotations

from pathlib import Path

from attrs import evolve

from posterior_lm.lang import ast
from posterior_lm.lang.check.lint import warnings
from posterior_lm.lang.check.scope import Scope, report_cycles
from posterior_lm.lang.check.structure import Structure, declaration, parameter
from posterior_lm.lang.compose import rename
from posterior_lm.lang.diagnostics import in_order
from posterior_lm.lang.parser import parse, read_source
from posterior_lm.lang.source import Source
from posterior_lm.lang.typed import CheckedModule


def compile_source(source: Source, *, lint: bool = False) -> CheckedModule:
    """Parses and checks: what could be read, and everything found; with `lint` warnings too.

    Of a text that cannot be read at all the module is empty.
    """
    module, found = parse(source)
    if module is None:
        return CheckedModule(diagnostics=tuple(found))
    checked = check(module)
    found = [*found, *in_order([*checked.diagnostics, *(warnings(checked) if lint and not found else ())])]
    found.sort(key=lambda d: d.primary.span.start if d.primary else 0)  # syntax first, where two begin alike
    return evolve(checked, diagnostics=tuple(found))


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
