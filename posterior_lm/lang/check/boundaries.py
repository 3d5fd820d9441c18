"""Places where a latent or an observed text begins: a lone space before it, a word cut in two.

Known neighbours are tokenised together, but what is drawn or observed has tokens
of its own. Models learn words with the space in front, so "is " followed by
"true" is far less likely than "is" followed by " true".
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from posterior_lm.lang import ast
from posterior_lm.lang.diagnostics import Diagnostic, warning
from posterior_lm.lang.source import Span
from posterior_lm.lang.typed import CheckedModule, Type
from posterior_lm.lang.walk import nodes, statements


def boundaries(checked: CheckedModule) -> Iterator[Diagnostic]:
    """Warnings for every context of every statement, each place once."""
    seen: set[tuple[str, int, int]] = set()
    for diagnostic in _Boundaries(checked).run():
        span = diagnostic.primary.span if diagnostic.primary else None
        key = (diagnostic.code, id(span.source), span.start) if span else (diagnostic.code, 0, 0)
        if key not in seen:
            seen.add(key)
            yield diagnostic


class _Boundaries:
    def __init__(self, checked: CheckedModule) -> None:
        self.checked = checked

    def run(self) -> Iterator[Diagnostic]:
        for statement in statements(self.checked.module.program.body):
            if isinstance(statement, (ast.Latent, ast.Guide)):
                yield from self._dist(statement.dist, [statement.name])
            elif isinstance(statement, ast.Observe):
                yield from self._dist(statement.dist, self._flatten(statement.value))
            for node in nodes(statement):
                if isinstance(node, ast.Call) and node.function.id == "log_prob" and len(node.args) == 2:
                    yield from self._dist(node.args[1], self._flatten(node.args[0]))

    def _flatten(self, expr: ast.Expr) -> list[ast.Expr]:
        """The segments of an expression, lists and lets opened."""
        out: list[ast.Expr] = []
        stack, opened = [expr], 0
        while stack:
            item = stack.pop()
            if isinstance(item, ast.ListExpr):
                stack += reversed(item.items)
            elif (definition := self._definition(item)) is not None and opened < 1000:
                opened += 1
                stack.append(definition)
            else:
                out.append(item)
        return out

    def _definition(self, expr: ast.Expr) -> ast.Expr | None:
        binding = self.checked.binding(expr) if isinstance(expr, ast.Name) else None
        return None if binding is None else binding.definition

    def _dist(self, dist: ast.Expr, scored: list[ast.Expr]) -> Iterator[Diagnostic]:
        call = self.checked.dist(dist).lm
        declared = None if call is None else self.checked.binding(call.function)
        if call is None or declared is None or declared.sort != "lm":
            return
        context = self._flatten(ast.ListExpr(call.args))
        for before, after in pairwise(context):
            if self._latent(after) is not None:
                yield from self._pair(before, after)
        if context and scored:
            yield from self._pair(context[-1], scored[0])

    def _pair(self, before: ast.Expr, after: ast.Expr) -> Iterator[Diagnostic]:
        if not isinstance(before, ast.Literal) or not isinstance(before.value, str) or not before.value:
            return
        if isinstance(after, ast.Literal) and not isinstance(after.value, str):
            return
        text = before.value
        what = f"'{after.id}'" if isinstance(after, ast.Name) else "the scored text"
        if text[-1] in " \t":
            yield warning(
                "PLM901",
                f"the text before {what} ends in a lone space",
                _tail(before),
                "tokenised without the word that follows",
                secondary=_second(after),
                notes=["models learn words with the space in front of them"],
                help=self._fix(after),
            )
        elif text[-1].isalnum() and self._begins_a_word(after):
            yield warning(
                "PLM902",
                f"a word is cut in two before {what}",
                _tail(before),
                "ends inside a word",
                secondary=_second(after),
                help=self._fix(after, add=True),
            )

    def _begins_a_word(self, after: ast.Expr) -> bool:
        if isinstance(after, ast.Literal):
            return str(after.value)[:1].isalnum()
        type_ = self.checked.declared(after) if isinstance(after, ast.Name) else None
        if type_ is None:
            return False
        if type_.known.kind == "int":
            return not type_.options.get("lead")
        return any(choice[:1].isalnum() for choice in type_.choices)

    def _latent(self, expr: ast.Expr) -> Type | None:
        """The type of a latent; None of anything else."""
        binding = self.checked.binding(expr) if isinstance(expr, ast.Name) else None
        return binding.type if binding is not None and binding.sort == "latent" else None

    def _fix(self, after: ast.Expr, *, add: bool = False) -> str:
        drop = "" if add else "drop the space here and "
        if (latent := self._latent(after)) is not None:
            if "lead" in latent.known.options:
                return f'{drop}spell it in the type: {latent.name}(…, lead=" ")'
            if latent.known.takes == "choices":
                return f"{drop}begin each choice with the space"
            return "drop the space here: the text that is drawn begins with its own"
        if isinstance(after, ast.Name):
            return f'{drop}score [" ", {after.id}]'
        return f"{drop}begin the scored text with the space"


def _tail(literal: ast.Literal) -> Span:
    """The last character of a string literal, or all of it where no source spells it."""
    span = literal.span
    if span.end - span.start < 3:
        return span
    return Span(span.source, span.end - 2, span.end - 1)


def _second(after: ast.Expr) -> list[tuple[Span, str]]:
    return [(after.span, "begins here")] if after.span.end > after.span.start else []
