"""A module as canonical text.

Two spaces of indent, one statement a line, at most one blank line in a row, long
calls spread over lines, comments where they stood: above a statement or behind
it. `parse(format_module(m)) == m`, and formatting twice changes nothing more.

A node is printed as pieces: strings, `Group`s of items between brackets, and `BREAK`s, spaces
where a long line may be broken. Text that fits stays on one line; otherwise a line is broken
at its `BREAK`s, and then its brackets are opened, the last first.
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import evolve, frozen

from posterior_lm.lang import ast
from posterior_lm.lang.comments import Comments, Line, units
from posterior_lm.lang.lexer import encode_number, encode_string

_IF, _OR, _AND, _NOT, _COMPARE, _SUM, _PRODUCT, _SIGN, _POWER, _ATOM = range(10)
_LEVEL = {"or": _OR, "and": _AND, "+": _SUM, "-": _SUM, "*": _PRODUCT, "/": _PRODUCT}


def format_module(module: ast.Module) -> str:
    """The text of a module, ending in a newline. Modules built in Python, without spans, print too."""
    comments, lines = Comments(module), list[str]()
    _body(lines, comments, (*module.declarations, module.program), 0, 0, len(comments.source.text) + 1)
    return "\n".join(lines) + "\n"


def format_statement(statement: ast.Statement) -> str:
    """One statement by itself, without comments and without a newline at its end."""
    empty = ast.Module((), ast.Program(ast.Name("p"), (), ()))
    lines: list[str] = []
    _body(lines, Comments(empty), (statement,), 0, 0, 0)
    return "\n".join(lines)


def on_one_line(statement: ast.Statement) -> str:
    """One statement without comments and line breaks, the statements of its block separated by semicolons."""
    text = flat(_head(statement))
    if isinstance(statement, _Block):
        text += " " + "; ".join(map(on_one_line, statement.body)) + " }"
    return text


def _behind(line: str, comment: str | None) -> str:
    return line if comment is None else f"{line}  {comment}"


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
            text = layout(_parameter(unit.item), INDENT, tail=1)  # type: ignore[arg-type]
            inner += ["", *text[:-1]] if unit.blank and inner else text[:-1]
            inner.append(_behind(text[-1] + ",", unit.after))
        _lines(inner, rest, INDENT)
        return [*lines, *inner, ") {"]
    group = Group("(", tuple(_parameter(p) for p in program.params), ")")
    return layout((start, group, " {"), 0)


def _lines(out: list[str], lines: Sequence[Line], indent: int) -> None:
    for line in lines:
        if line.blank and out:
            out.append("")
        out.append(" " * indent + line.text)


def _body(
    lines: list[str], comments: Comments, items: Sequence[ast.Node], indent: int, start: int, end: int
) -> None:
    """Appends the items of a block whose text lies between two offsets: statements, or a whole module."""
    braces = [_brace(comments, item) for item in items]
    heads = [
        _header(comments, item, brace) if isinstance(item, ast.Program) else layout(_head(item), indent)
        for item, brace in zip(items, braces, strict=True)
    ]
    found, rest = units(comments, items, start, end, braces)
    for unit, head, brace in zip(found, heads, braces, strict=True):
        item, above = unit.item, list(unit.above)
        apart = isinstance(item, ast.Program)  # from the declarations, whatever stands there
        if apart and above and not (unit.blank or any(line.blank for line in above)):
            above[0] = evolve(above[0], blank=True)
        _lines(lines, above, indent)
        if lines and (unit.blank or (apart and not above)):
            lines.append("")
        if isinstance(item, ast.Else) and lines and lines[-1] == " " * indent + "}" and not unit.blank:
            head = [lines.pop() + " else {"]
        if isinstance(item, _Block):
            lines += [*head[:-1], _behind(head[-1], unit.head_after)]
            inside = item.span.end - 1 if comments.here(item.span) else 0
            _body(lines, comments, item.body, indent + INDENT, (brace or 0) + 1, inside)
            head = [" " * indent + "}"]
        lines += [*head[:-1], _behind(head[-1], unit.after)]
    _lines(lines, rest, indent)


_Block = ast.Program | ast.Block


def _brace(comments: Comments, item: ast.Node) -> int | None:
    """Where the block of an item begins, if it has one."""
    if not isinstance(item, _Block) or not comments.here(item.span):
        return None
    if isinstance(item, ast.Program):
        before = [item.name, *(p for p in item.params if comments.here(p.span))]
    elif isinstance(item, ast.Else):
        return comments.brace(item.span.start)
    else:
        before = [
            item.exponent
            if isinstance(item, ast.Temper)
            else item.test
            if isinstance(item, ast.If)
            else item.table
        ]
    return comments.brace(max(node.span.end for node in before))


# ---------------------------------------------------------------- with the fewest parentheses


def _level(expr: ast.Expr) -> int:
    match expr:
        case ast.IfExpr():
            return _IF
        case ast.Binary():
            return _LEVEL.get(expr.op, _COMPARE)
        case ast.Unary():
            return _NOT if expr.op == "not" else _SIGN
        case ast.PowerExpr():
            return _POWER
        case ast.Literal(value=value) if isinstance(value, (int, float)) and value < 0:
            return _SIGN
    return _ATOM


def _expression(expr: ast.Expr | ast.Range | ast.Column, at_least: int = _IF) -> Pieces:
    """The pieces of an expression, in parentheses where it binds more loosely than `at_least`."""
    if isinstance(expr, ast.Column):
        return (f"{expr.name.id}: ", *_type_(expr.type))
    if isinstance(expr, ast.Range):
        return (*_expression(expr.low), "..", *_expression(expr.high))
    if _level(expr) < at_least:
        return (Group("(", (_bare(expr),), ")", comma=False),)
    return _bare(expr)


def _bare(expr: ast.Expr) -> Pieces:
    match expr:
        case ast.Literal():
            return (_literal(expr),)
        case ast.Name():
            return (expr.id,)
        case ast.Field():
            return (f"{expr.row.id}.{expr.column}",)
        case ast.Marker():
            return (expr.kind,)
        case ast.ListExpr():
            return (Group("[", tuple(_expression(item) for item in expr.items), "]"),)
        case ast.Call():
            return _call(expr)
        case ast.Role():
            return (expr.role, _arguments(expr.args, ()))
        case ast.PowerExpr():
            return (*_expression(expr.base, _POWER), " ^ ", *_exponent(expr.exponent))
        case ast.Unary(op="not"):
            return ("not ", *_expression(expr.operand, _NOT))
        case ast.Unary():
            return ("-", *_expression(expr.operand, _SIGN))
        case ast.IfExpr():
            test, then = _expression(expr.test, _OR), _expression(expr.then, _OR)
            return ("if ", *test, BREAK, "then ", *then, BREAK, "else ", *_expression(expr.orelse))
        case ast.Binary():
            level = _level(expr)
            left = level + 1 if level == _COMPARE else level
            middle = (BREAK, f"{expr.op} ") if level in (_OR, _AND) else (f" {expr.op} ",)
            return (*_expression(expr.left, left), *middle, *_expression(expr.right, level + 1))
    raise TypeError(f"not an expression: {expr!r}")


def _exponent(expr: ast.Expr) -> Pieces:
    """What may follow `^` bare: an atom, or minus signs and an atom."""
    inner = expr
    while isinstance(inner, ast.Unary) and inner.op == "-":
        inner = inner.operand
    return _expression(expr, _SIGN if _level(inner) == _ATOM else _ATOM)


def _literal(expr: ast.Literal) -> str:
    value = expr.value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return encode_string(value, raw=expr.raw)
    return encode_number(value)


def _call(expr: ast.Call) -> Pieces:
    return (expr.function.id, _arguments(expr.args, expr.options))


def _arguments(
    args: tuple[ast.Expr | ast.Range, ...], options: tuple[ast.Option, ...], extra: tuple[Pieces, ...] = ()
) -> Group:
    named = tuple((f"{option.name}=", *_expression(option.value)) for option in options)
    return Group("(", (*(_expression(arg) for arg in args), *extra, *named), ")")


def _type_(expr: ast.TypeExpr) -> Pieces:
    columns = tuple(_expression(column) for column in expr.columns)
    group = _arguments(expr.args, expr.options, columns)
    return (expr.name, group) if group.items else (expr.name,)


def _parameter(param: ast.Param) -> Pieces:
    default = () if param.default is None else (" = ", *_expression(param.default))
    return (f"{param.name.id}: ", *_type_(param.type), *default)


def _head(item: ast.Node) -> Pieces:
    """A declaration or statement, up to the `{` of its block where it has one."""
    match item:
        case ast.LmDecl():
            return (f"lm {item.name.id} = ", *_expression(item.model))
        case ast.ToolDecl():
            return (f"tool {item.name.id} = ", *_expression(item.tool))
        case ast.UseDecl():
            return (f"use {item.name.id} from {_literal(item.target)}",)
        case ast.Latent():
            return (f"latent {item.name.id}: ", *_type_(item.type), BREAK, "~ ", *_expression(item.dist))
        case ast.Observe():
            return ("observe ", *_expression(item.value), BREAK, "~ ", *_expression(item.dist))
        case ast.Prefer():
            over = tuple(piece for item in item.items[1:] for piece in (BREAK, "over ", *_expression(item)))
            return ("prefer ", *_expression(item.items[0]), *over, BREAK, "~ ", *_expression(item.dist))
        case ast.Factor():
            return ("factor ", *_expression(item.value))
        case ast.Condition():
            return ("condition ", *_expression(item.value))
        case ast.Temper():
            return ("temper ", *_expression(item.exponent), " {")
        case ast.Plate():
            return (f"plate {item.row.id} in ", *_expression(item.table), " {")
        case ast.If():
            return ("if ", *_expression(item.test), " {")
        case ast.Else():
            return ("else {",)
        case ast.Let():
            return (f"let {item.name.id} = ", *_expression(item.value))
        case ast.Guide():
            return (f"guide {item.name.id}", BREAK, "~ ", *_expression(item.dist))
        case ast.Infer():
            bare = not item.method.args and not item.method.options
            return ("infer ", item.method.function.id) if bare else ("infer ", *_call(item.method))
    raise TypeError(f"not a statement: {item!r}")


# ---------------------------------------------------------------- pieces fitted into lines

WIDTH = 88
INDENT = 2


@frozen
class Group:
    """`open item, item close`; an item is itself a tuple of pieces.

    `comma` says that one may stand behind the last item too.
    """

    open: str
    items: tuple[Pieces, ...]
    close: str
    comma: bool = True


@frozen
class Break:
    pass


BREAK = Break()
Piece = str | Group | Break
Pieces = tuple[Piece, ...]


def flat(pieces: Pieces) -> str:
    """The pieces on one line."""
    out = []
    for piece in pieces:
        if isinstance(piece, Group):
            out.append(piece.open + ", ".join(flat(item) for item in piece.items) + piece.close)
        else:
            out.append(" " if isinstance(piece, Break) else piece)
    return "".join(out)


def layout(pieces: Pieces, indent: int, *, tail: int = 0) -> list[str]:
    """Lines for the pieces, the first indented by `indent`; `tail` characters follow the last."""
    line = " " * indent + flat(pieces)
    if len(line) + tail <= WIDTH:
        return [line]
    parts = _split(pieces)
    if len(parts) > 1:
        deeper = indent + 2 * INDENT
        if all(len(flat(part)) + deeper <= WIDTH - tail for part in parts) or not _groups(pieces):
            lines = [" " * indent + flat(parts[0])]
            return lines + [" " * deeper + flat(part) for part in parts[1:]]
    groups = _groups(pieces)
    if not groups:
        return [line]
    opened = _open(pieces, indent, {groups[-1]}, tail)
    if len(opened[0]) > WIDTH and len(groups) > 1:
        first = _open(pieces, indent, {groups[0]}, tail)
        fits = all(len(line) + tail <= WIDTH for line in first)
        return first if fits else _open(pieces, indent, set(groups), tail)
    return opened


def _groups(pieces: Pieces) -> list[int]:
    return [i for i, piece in enumerate(pieces) if isinstance(piece, Group) and piece.items]


def _split(pieces: Pieces) -> list[Pieces]:
    parts: list[list[Piece]] = [[]]
    for piece in pieces:
        if isinstance(piece, Break):
            parts.append([])
        else:
            parts[-1].append(piece)
    return [tuple(part) for part in parts]


def _open(pieces: Pieces, indent: int, opened: set[int], tail: int) -> list[str]:
    """The pieces with the groups at these places spread over lines."""
    lines: list[str] = []
    current = " " * indent
    for index, piece in enumerate(pieces):
        if index not in opened or not isinstance(piece, Group):
            current += flat((piece,))
            continue
        lines.append(current + piece.open)
        inner = " " * (indent + INDENT) + ", ".join(flat(item) for item in piece.items)
        if len(inner) <= WIDTH:
            lines.append(inner)
        else:
            for item in piece.items:
                laid = layout(item, indent + INDENT, tail=1)
                lines += [*laid[:-1], laid[-1] + ("," if piece.comma else "")]
        current = " " * indent + piece.close
    return [*lines, current]
