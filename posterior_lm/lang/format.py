"""A module as canonical text.

Two spaces of indent, one statement a line, at most one blank line in a row, long
calls spread over lines, comments where they stood: above a statement or behind
it. `parse(format_module(m)) == m`, and formatting twice changes nothing more.
"""

from __future__ import annotations

from collections.abc import Sequence

from posterior_lm.lang import ast, spell
from posterior_lm.lang.comments import Comments, Line, units
from posterior_lm.lang.layout import INDENT, Group, layout


def format_module(module: ast.Module) -> str:
    """The text of a module, ending in a newline. Modules built in Python, without spans, print too."""
    comments = Comments(module)
    program = module.program
    items: list[ast.Node] = [*module.declarations, program]
    brace = _program_brace(comments, program)
    heads: list[int | None] = [*(None for _ in module.declarations), brace]
    header = _header(comments, program, brace)
    found, rest = units(comments, items, 0, len(comments.source.text) + 1, heads)
    last = found[-1]
    apart = len(items) == 1 or last.blank or any(line.blank for line in last.above)
    lines: list[str] = []
    for unit in found:
        force = unit is last and not apart
        for i, line in enumerate(unit.above):
            _put(lines, line.text, 0, blank=line.blank or (force and i == 0))
        blank = unit.blank or (force and not unit.above)
        if isinstance(unit.item, ast.Program):
            opening = [*header[:-1], _behind(header[-1], unit.head_after)]
            lines += ["", *opening] if blank and lines else opening
            end = program.span.end - 1 if comments.here(program.span) else 0
            _body(lines, comments, program.body, INDENT, (brace or 0) + 1, end)
            lines.append(_behind("}", unit.after))
        else:
            text = layout(spell.head(unit.item), 0)  # type: ignore[arg-type]
            lines += ["", *text[:-1]] if blank and lines else text[:-1]
            lines.append(_behind(text[-1], unit.after))
    for line in rest:
        _put(lines, line.text, 0, blank=line.blank)
    return "\n".join(lines) + "\n"


def format_statement(statement: ast.Statement) -> str:
    """One statement by itself, without comments and without a newline at its end."""
    empty = ast.Module((), ast.Program(ast.Name("p"), (), ()))
    lines: list[str] = []
    _body(lines, Comments(empty), (statement,), 0, 0, 0)
    return "\n".join(lines)


def _put(lines: list[str], text: str, indent: int, *, blank: bool) -> None:
    if blank and lines:
        lines.append("")
    lines.append(" " * indent + text)


def _behind(line: str, comment: str | None) -> str:
    return line if comment is None else f"{line}  {comment}"


def _program_brace(comments: Comments, program: ast.Program) -> int | None:
    if not comments.here(program.span):
        return None
    ends = [p.span.end for p in program.params if comments.here(p.span)]
    return comments.brace(max([program.name.span.end, *ends]))


def _header(comments: Comments, program: ast.Program, brace: int | None) -> list[str]:
    """`program name(params) {`, a parameter a line where comments stand between them."""
    start = f"program {program.name.id}"
    if brace is not None and any(program.span.start <= c.span.start < brace for c in comments.left):
        begin = program.name.span.end
        comments_above = comments.take(program.span.start, begin)
        found, rest = units(comments, program.params, begin, brace, [None] * len(program.params))
        lines = [start + "("]
        inner: list[str] = [" " * INDENT + c.text.rstrip() for c in comments_above]
        for unit in found:
            _lines(inner, unit.above, INDENT)
            text = layout(spell.parameter(unit.item), INDENT, tail=1)  # type: ignore[arg-type]
            inner += ["", *text[:-1]] if unit.blank and inner else text[:-1]
            inner.append(_behind(text[-1] + ",", unit.after))
        _lines(inner, rest, INDENT)
        return [*lines, *inner, ") {"]
    group = Group("(", tuple(spell.parameter(p) for p in program.params), ")")
    return layout((start, group, " {"), 0)


def _lines(out: list[str], lines: Sequence[Line], indent: int) -> None:
    for line in lines:
        _put(out, line.text, indent, blank=line.blank)


def _body(
    lines: list[str], comments: Comments, body: Sequence[ast.Statement], indent: int, start: int, end: int
) -> None:
    """Appends the statements of a block whose text lies between two offsets."""
    found, rest = units(comments, body, start, end, [_brace(comments, s) for s in body])
    for unit in found:
        statement = unit.item
        _lines(lines, unit.above, indent)
        if unit.blank:
            lines.append("")
        text = layout(spell.head(statement), indent)  # type: ignore[arg-type]
        if isinstance(statement, (ast.Temper, ast.Plate)):
            lines += [*text[:-1], _behind(text[-1], unit.head_after)]
            here = comments.here(statement.span)
            brace = _brace(comments, statement)
            _body(lines, comments, statement.body, indent + INDENT,
                  (brace or 0) + 1, statement.span.end - 1 if here else 0)  # fmt: skip
            lines.append(_behind(" " * indent + "}", unit.after))
        else:
            lines += [*text[:-1], _behind(text[-1], unit.after)]
    _lines(lines, rest, indent)


def _brace(comments: Comments, statement: ast.Statement) -> int | None:
    """Where the block of a statement begins, if it has one."""
    if not isinstance(statement, (ast.Temper, ast.Plate)) or not comments.here(statement.span):
        return None
    last = statement.exponent if isinstance(statement, ast.Temper) else statement.table
    return comments.brace(last.span.end)
