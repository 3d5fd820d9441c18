"""Scope, type and structure checks: everything wrong with a module in one run."""

from __future__ import annotations

from posterior_lm.lang import ast
from posterior_lm.lang.check.cycles import report_cycles
from posterior_lm.lang.check.declarations import declaration, parameter
from posterior_lm.lang.check.scope import Scope
from posterior_lm.lang.check.structure import Structure
from posterior_lm.lang.diagnostics import Diagnostic

__all__ = ["check"]


def check(module: ast.Module, *, lint: bool = False) -> list[Diagnostic]:
    """What is wrong with a module, in order of position; with `lint` warnings too.

    A name or an expression that is wrong is unknown from there on, and what is
    unknown fits everywhere, so one mistake gives one error.
    """
    scope = Scope(module)
    for decl in module.declarations:
        declaration(scope, decl)
    for param in module.program.params:
        parameter(scope, param)
    report_cycles(scope, module.program)
    structure = Structure(scope)
    structure.program(module.program.body)
    found = scope.found
    if lint:
        from posterior_lm.lang.check.lint import lint as run_lint

        found = found + run_lint(module, scope.used)
    return sorted(found, key=_position)


def _position(diagnostic: Diagnostic) -> tuple[int, int]:
    span = diagnostic.primary.span if diagnostic.primary else None
    return (span.start, span.end) if span else (0, 0)
