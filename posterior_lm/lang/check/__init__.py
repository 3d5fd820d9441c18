"""Scope, type and structure checks: everything wrong with a module in one run, and what is known of it."""

from __future__ import annotations

from posterior_lm.lang import ast
from posterior_lm.lang.check.cycles import report_cycles
from posterior_lm.lang.check.declarations import declaration, parameter
from posterior_lm.lang.check.scope import Scope
from posterior_lm.lang.check.structure import Structure
from posterior_lm.lang.compose import rename
from posterior_lm.lang.diagnostics import in_order
from posterior_lm.lang.typed import CheckedModule

__all__ = ["check"]


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
