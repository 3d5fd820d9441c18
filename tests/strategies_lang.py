"""Random syntax trees: anything the grammar can say, whether it checks or not."""

from __future__ import annotations

import operator

from hypothesis import strategies as st

from posterior_lm.lang import ast
from posterior_lm.lang.lexer import KEYWORDS

names = st.from_regex(r"[a-z_][a-zA-Z0-9_]{0,8}", fullmatch=True).filter(lambda s: s not in KEYWORDS)
name_nodes = st.builds(ast.Name, names)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
raw_texts = st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters='"'), max_size=8)
literals = st.one_of(
    st.builds(ast.Literal, texts),
    st.builds(ast.Literal, raw_texts, raw=st.just(True)),
    st.builds(ast.Literal, st.integers(0, 2**53)),
    st.builds(ast.Literal, st.floats(0, allow_nan=False, allow_infinity=False)),
    st.builds(ast.Literal, st.booleans()),
)
_leaves = st.one_of(
    literals,
    name_nodes,
    st.builds(ast.Field, name_nodes, names),
    st.builds(ast.Marker, st.sampled_from(["bos", "eos"])),
)


def _tuples(items: st.SearchStrategy, low: int = 0, high: int = 3) -> st.SearchStrategy[tuple]:
    return st.lists(items, min_size=low, max_size=high).map(tuple)


def _options(values: st.SearchStrategy) -> st.SearchStrategy[tuple]:
    ranges = st.builds(ast.Range, values, values)
    return _tuples(st.builds(ast.Option, names, values | ranges), high=2)


def _calls(values: st.SearchStrategy) -> st.SearchStrategy[ast.Call]:
    return st.builds(ast.Call, name_nodes, _tuples(values), _options(values))


def _larger(inner: st.SearchStrategy) -> st.SearchStrategy:
    operators = st.sampled_from(["+", "-", "*", "/", "==", "!=", "<", "<=", ">", ">=", "and", "or"])
    return st.one_of(
        st.builds(ast.ListExpr, _tuples(inner)),
        _calls(inner),
        st.builds(ast.PowerExpr, inner, inner),
        st.builds(ast.Unary, st.sampled_from(["-", "not"]), inner),
        st.builds(ast.Binary, operators, inner, inner),
        st.builds(ast.IfExpr, inner, inner, inner),
    )


expressions = st.recursive(_leaves, _larger, max_leaves=8)
_simple_types = st.builds(
    ast.TypeExpr,
    st.sampled_from(["text", "int", "real", "bool", "one_of"]),
    _tuples(expressions | st.builds(ast.Range, expressions, expressions), high=2),
    _options(expressions),
)
_columns = st.builds(ast.Column, name_nodes, _simple_types)
_ranges = st.builds(ast.Range, _leaves, _leaves)
_items = st.builds(ast.Call, name_nodes, _tuples(_leaves | _ranges | _columns, high=2), _options(_leaves))
_literals = st.builds(ast.Literal, texts)
_made_of = (
    _simple_types,
    st.builds(ast.TypeExpr, st.just("table"), columns=_tuples(_columns, 1, 2)),
    st.builds(ast.TypeExpr, st.just("record"), columns=_tuples(_columns | _literals, 1, 3)),
    st.builds(ast.TypeExpr, st.just("list"), st.tuples(_items, _ranges), _options(_leaves)),
)


@st.composite
def _types(draw: st.DrawFn) -> ast.TypeExpr:  # what it is made of would be too long to be shown
    return draw(st.one_of(*_made_of))


types = _types()
calls = _calls(expressions)
_flat_statements = st.one_of(
    st.builds(ast.Latent, name_nodes, types, expressions),
    st.builds(ast.Observe, expressions, expressions),
    st.builds(ast.Prefer, _tuples(expressions, 2, 3), expressions),
    st.builds(ast.Factor, expressions),
    st.builds(ast.Condition, expressions),
    st.builds(ast.Let, name_nodes, expressions),
    st.builds(ast.Guide, name_nodes, expressions),
    st.builds(ast.Infer, calls),
)
statements = st.recursive(
    _flat_statements,
    lambda inner: st.one_of(
        st.builds(ast.Temper, expressions, _tuples(inner)),
        st.builds(ast.Plate, name_nodes, expressions, _tuples(inner)),
        st.builds(ast.If, expressions, _tuples(inner)),
    ),
    max_leaves=3,
)
declarations = st.one_of(
    st.builds(ast.LmDecl, name_nodes, st.builds(ast.Literal, texts) | calls),
    st.builds(ast.ToolDecl, name_nodes, calls),
    st.builds(ast.UseDecl, name_nodes, st.builds(ast.Literal, texts)),
)
params = st.builds(ast.Param, name_nodes, types, st.none() | expressions)
_or_else = st.builds(
    lambda block, other: (block, ast.Else(other)),
    st.builds(ast.If, expressions, _tuples(statements)),
    _tuples(statements),
)
_bodies = st.builds(operator.add, _tuples(statements, 1, 3), st.just(()) | _or_else)
programs = st.builds(ast.Program, name_nodes, _tuples(params), _bodies)
modules = st.builds(ast.Module, _tuples(declarations, high=2), programs)
"""Modules as Python builds them: no spans, no comments."""

spaces = st.text(" \t\n\r", max_size=3)
comments = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=10)
