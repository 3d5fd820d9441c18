"""From what a grammar rule matched to a frozen node: by the node's fields, or a function of the rule's own.

The parser calls these as it reduces, bottom up, so building never recurses. They
change nothing they are given: the parser may go back to an earlier state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import attrs
from attrs import evolve, frozen
from lark.grammar import Rule
from lark.lexer import Token

from posterior_lm.lang import ast
from posterior_lm.lang.diagnostics import Diagnostic, error
from posterior_lm.lang.lexer import DECLARATIONS, STATEMENTS, decode_number, decode_string, extent
from posterior_lm.lang.signatures import BUILT_IN, ROLES
from posterior_lm.lang.source import Source, Span

_DROPPED = frozenset(
    ("EQUAL", "LPAR", "RPAR", "LBRACE", "RBRACE", "LSQB", "RSQB", "COMMA", "COLON", "TILDE",
     "CIRCUMFLEX", "DOT", "RANGE", "IF", "THEN", "ELSE", "IN", "FROM", "OVER", *STATEMENTS, *DECLARATIONS)
)  # fmt: skip
"""Tokens that say nothing beside the rule that they stand in."""

_NODES: dict[str, type[ast.Node]] = {
    "name": ast.Name, "marker": ast.Marker, "field": ast.Field, "power_expr": ast.PowerExpr,
    "unary": ast.Unary, "if_expr": ast.IfExpr, "range": ast.Range, "option": ast.Option,
    "column": ast.Column, "param": ast.Param, "latent": ast.Latent, "observe": ast.Observe,
    "factor": ast.Factor, "condition": ast.Condition, "temper": ast.Temper, "plate": ast.Plate,
    "if_block": ast.If, "else_block": ast.Else,
    "let": ast.Let, "guide": ast.Guide,
}  # fmt: skip
"""Rules whose parts are the fields of a node, in order."""


@cache
def _kinds(node: type[ast.Node]) -> list[str]:
    """The types of a node's fields as they are annotated."""
    return [str(f.type) for f in attrs.fields(node) if f.name != "span"]


@frozen(eq=False)
class Sequence:
    """Items matched so far, as a chain to the earlier ones: appending copies nothing."""

    earlier: Sequence | None
    items: tuple[Any, ...]
    start: int
    end: int

    def __iter__(self) -> Iterator[Any]:
        links = []
        link: Sequence | None = self
        while link is not None:
            links.append(link)
            link = link.earlier
        for link in reversed(links):
            yield from link.items


def _ends(part: Any) -> tuple[int, int]:
    if isinstance(part, Token):
        return extent(part)
    if isinstance(part, Sequence):
        return part.start, part.end
    return part.span.start, part.span.end


def _sequence(parts: list[Any]) -> Sequence:
    earlier = parts[0] if isinstance(parts[0], Sequence) else None
    items: list[Any] = []
    for part in parts if earlier is None else parts[1:]:
        if isinstance(part, Sequence):  # a first item, then the rest
            items.extend(part)
        elif not isinstance(part, Token):
            items.append(part)
    return Sequence(earlier, tuple(items), _ends(parts[0])[0], _ends(parts[-1])[1])


def _role(arg: ast.Expr) -> ast.Expr:
    if isinstance(arg, ast.Call) and arg.function.id in ROLES and not arg.options:
        return ast.Role(arg.function.id, arg.args, span=arg.span)
    return arg


class Builder:
    """The callbacks of one parse, and what they found wrong."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.found: list[Diagnostic] = []

    def callbacks(self, rules: list[Rule]) -> dict[int, Callable[[list[Any]], Any] | None]:
        """By the rule's identity, since lark hashes all that a rule holds; None where the only part stays as it is."""
        return {id(rule): self._callback(rule) for rule in rules}

    def _callback(self, rule: Rule) -> Callable[[list[Any]], Any] | None:
        name = rule.alias or rule.origin.name
        if name.startswith("__") or name in ("params", "type_items", "arguments"):
            return _sequence
        if rule.options.expand1 and rule.alias is None:
            return None if len(rule.expansion) == 1 else self._parenthesised
        make = partial(self._node, _NODES[name]) if name in _NODES else getattr(self, f"_{name}")

        def callback(parts: list[Any]) -> Any:
            kept = [p for p in parts if not (isinstance(p, Token) and p.type in _DROPPED)]
            return make(self._span(parts), *kept)

        return callback

    def _span(self, parts: list[Any]) -> Span:
        return Span(self.source, _ends(parts[0])[0], _ends(parts[-1])[1])

    def _parenthesised(self, parts: list[Any]) -> ast.Expr:
        return evolve(parts[1], span=self._span(parts))

    def _named(self, token: Token) -> ast.Name:
        return ast.Name(str(token), span=self._span([token]))

    def _node(self, node: type[ast.Node], span: Span, *parts: Any) -> ast.Node:
        return node(*map(self._part, _kinds(node), parts), span=span)  # type: ignore[arg-type]

    def _part(self, kind: str, part: Any) -> Any:
        if isinstance(part, Token):
            return self._named(part) if kind == "Name" else str(part)
        return tuple(part) if isinstance(part, Sequence) else part

    def _wrong(self, code: str, message: str, span: Span, label: str = "", **more: Any) -> None:
        self.found.append(error(code, message, span, label, **more))

    def _literal(self, span: Span, token: Token) -> ast.Literal:
        value: str | int | float | bool
        if token.type == "STRING":
            value, wrong = decode_string(token, span)
        elif token.type == "RAW_STRING":
            return ast.Literal(str(token[2:-1]), raw=True, span=span)
        elif token.type in ("TRUE", "FALSE"):
            return ast.Literal(token.type == "TRUE", span=span)
        else:
            value, wrong = decode_number(token, span)
        self.found += wrong
        return ast.Literal(value, span=span)

    def _list_expr(self, span: Span, first: Any = None, more: Any = ()) -> ast.ListExpr:
        items = () if first is None else (first, *more)
        return ast.ListExpr(items, span=span)

    def _call(self, span: Span, function: Token, arguments: Any = ()) -> ast.Call:
        args, options = self._arguments(arguments)
        if (
            str(function) not in BUILT_IN
        ):  # log_prob and choice hold distributions, which may have such a name
            args = tuple(_role(arg) for arg in args)
        return ast.Call(self._named(function), args, options, span=span)

    def _arguments(self, parts: Any) -> tuple[tuple[Any, ...], tuple[ast.Option, ...]]:
        args: list[Any] = []
        options: list[ast.Option] = []
        for part in parts:
            if isinstance(part, ast.Option):
                options.append(part)
                continue
            if options:
                self._wrong(
                    "PLM112",
                    "a plain argument stands after an option",
                    part.span,
                    "move it to the front",
                    secondary=[(options[-1].span, "the option")],
                )
            args.append(part)
        return tuple(args), tuple(options)

    def _binary(self, span: Span, left: Any, op: Token, right: Any) -> ast.Binary:
        return ast.Binary(str(op), left, right, span=span)

    def _type(self, span: Span, name: Token, items: Any = ()) -> ast.TypeExpr:
        plain = [item for item in items if not ast.TypeExpr.is_column(name, item)]
        columns = tuple(item for item in items if ast.TypeExpr.is_column(name, item))
        args, options = self._arguments(plain)
        return ast.TypeExpr(str(name), args, options, columns, span=span)

    def _prefer(self, span: Span, first: Any, more: Any, dist: Any) -> ast.Prefer:
        return ast.Prefer((first, *more), dist, span=span)

    def _infer(self, span: Span, name: Token, arguments: Any = ()) -> ast.Infer:
        args, options = self._arguments(arguments)
        call = ast.Call(self._named(name), args, options, span=self._span([name]).to(span))
        return ast.Infer(call, span=span)

    def _lm_decl(self, span: Span, name: Token, model: Any) -> ast.LmDecl:
        if not isinstance(model, ast.Call) and not (
            isinstance(model, ast.Literal) and isinstance(model.value, str)
        ):
            self._wrong(
                "PLM116",
                "this does not name a language model",
                model.span,
                'expected a string such as "tiny", or a call such as transformers("gpt2")',
            )
            model = ast.Literal("", span=model.span)
        return ast.LmDecl(self._named(name), model, span=span)

    def _tool_decl(self, span: Span, name: Token, tool: Any) -> ast.ToolDecl:
        if not isinstance(tool, ast.Call):
            self._wrong("PLM116", "this does not make a tool", tool.span,
                        'expected a call such as calculator(trigger="=")')  # fmt: skip
            tool = ast.Call(ast.Name("", span=tool.span), span=tool.span)
        return ast.ToolDecl(self._named(name), tool, span=span)

    def _use_decl(self, span: Span, name: Token, target: Token) -> ast.UseDecl:
        where = self._span([target])
        return ast.UseDecl(self._named(name), self._literal(where, target), span=span)

    def _program(self, span: Span, name: Token, *parts: Any) -> ast.Program:
        params: tuple[ast.Param, ...] = ()
        body: tuple[ast.Statement, ...] = ()
        for part in parts:
            items = tuple(part)
            if items and isinstance(items[0], ast.Param):
                params = items
            else:
                body = items
        if not body:
            self._wrong(
                "PLM114",
                f"the program '{name}' has no statements",
                self._span([name]),
                help="write at least one, such as: latent z: text(tokens=1..20) ~ base()",
            )
        return ast.Program(self._named(name), params, body, span=span)

    def _module(self, span: Span, *parts: Any) -> ast.Module:
        declarations = tuple(parts[0]) if len(parts) == 2 else ()
        return ast.Module(declarations, parts[-1], span=span)
