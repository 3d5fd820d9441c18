"""What an editor tells of a place in a program, as Markdown: kinds, dependence, what a statement adds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

from posterior_lm.editors.document import Document, Named
from posterior_lm.graph import lower, optimize
from posterior_lm.graph.conditions import conjuncts
from posterior_lm.infer.methods import METHODS, OptionType
from posterior_lm.lang import ast
from posterior_lm.lang.diagnostics import PlmError
from posterior_lm.lang.signatures import DISTRIBUTIONS, FUNCTIONS, LMS, TOOLS, USED_TOOL
from posterior_lm.lang.source import Span
from posterior_lm.lang.value_types import VALUE_TYPES

_SORTS = {"lm": "a language model", "tool": "a tool", "use": "an imported function", "row": "a row of a table",
          "parameter": "a parameter", "latent": "a latent", "let": "a name for a value",
          "it": "each of what is compared, one after the other"}  # fmt: skip


def hover(document: Document, offset: int) -> tuple[Span, str] | None:
    """What is known of the name, word or expression at a place, and how far that goes."""
    if (found := document.named(offset)) is not None:
        return found[0], _of_name(document, found[1])
    if any(c.span.start <= offset <= c.span.end for c in document.checked.module.comments):
        return None
    path, word = document.path(offset), document.word(offset)
    in_text = bool(path) and isinstance(path[-1], ast.Literal)
    if word is not None and not in_text and (text := _of_word(document, word, path)):
        return word, text
    for node in reversed(path):
        value = document.checked.value(node)  # type: ignore[arg-type]
        if value.kind != "unknown":
            return node.span, f"{value.shown}{_always(value.constant)}{_reads(b.name for b in value.depends)}"
    return None


def _of_name(document: Document, named: Named) -> str:
    if isinstance(named, ast.Column):
        table = any(
            isinstance(n, ast.TypeExpr) and n.name == "table" and named in n.fields for n in document.nodes
        )
        return f"{_code(named.span.text)}\na {'column of a table' if table else 'field of a record'}"
    checked, value = document.checked, named.value
    text = _SORTS[named.sort]
    if named.sort in ("parameter", "latent", "let", "it") and value.kind != "unknown":
        text += f": {value.shown}{_always(value.constant)}"
    if named.sort in ("let", "it"):
        text += _reads(b.name for b in value.depends)
    made = next(
        (n for n in document.nodes if named.at in (getattr(n, "name", 0), getattr(n, "row", 0))), None
    )
    if isinstance(made, ast.Latent):
        model = checked.spellers.get(named.name)
        text += f", number {named.order} to be drawn" + (f", in the tokens of `{model}`" if model else "")
        text += f"\n\n{_adds(document, made)}"
    if made is None:
        return text
    return f"{_code(made.span.text.partition('{')[0].rstrip() if named.sort == 'row' else made.span.text)}\n{text}"


def _of_word(document: Document, word: Span, path: list[ast.Node]) -> str | None:
    """What a word of the language, or a name that it knows, means where it stands."""
    text = word.text
    for node, inner in pairwise(path):
        if isinstance(inner, ast.Option) and inner.span.start == word.start:
            known = options_of(node).get(text)
            return None if known is None else f"`{text}`: {option_text(known)}"
    statement = next((n for n in reversed(path) if isinstance(n, ast.Statement)), None)
    if statement is not None and statement.span.start == word.start:
        return _adds(document, statement)
    if path and isinstance(path[-1], ast.TypeExpr) and text in VALUE_TYPES:
        form, about, options = VALUE_TYPES[text].form, VALUE_TYPES[text].meant, VALUE_TYPES[text].options
    elif isinstance(statement, ast.Infer) and text in METHODS:
        form, about, options = f"infer {text}", METHODS[text].about, METHODS[text].options
    else:
        entry = builtin(text)
        return None if entry is None else f"{_code(entry[0])}\n{entry[1]}"
    return f"{_code(form)}\n{about}" + "".join(f"\n- `{k}`: {option_text(o)}" for k, o in options.items())


def _adds(document: Document, statement: ast.Statement) -> str:
    """What a statement adds to the log reward, and what that depends on."""
    parts: tuple[ast.Expr, ...]
    match statement:
        case ast.Latent():
            text = f"adds the log-probability of `{statement.name.id}` under its distribution, in nats"
            parts = (statement.dist,)
        case ast.Observe():
            text = f"adds the log-probability of the value under `{_line(statement.dist)}`, in nats"
            parts = (statement.value, statement.dist)
        case ast.Prefer():
            text = f"adds the log-probability of this order under `{_line(statement.dist)}`, in nats"
            parts = (*statement.items, statement.dist)
        case ast.Factor():
            text, parts = "adds this number of nats", (statement.value,)
        case ast.Condition():
            text, parts = "adds 0 where it holds, −∞ where it does not", (statement.value,)
        case ast.Temper():
            text, parts = f"multiplies what is in it by `{_line(statement.exponent)}`", (statement.exponent,)
        case ast.Plate():
            text, parts = f"adds what is in it once for each row of `{_line(statement.table)}`", ()
        case ast.If():
            text, parts = f"adds what is in it where `{_line(statement.test)}`", (statement.test,)
        case ast.Else():
            text, parts = "adds what is in it where the test of the `if` before is false", ()
        case ast.Guide():
            text, parts = f"adds nothing: proposes values of `{statement.name.id}`", (statement.dist,)
        case ast.Let():
            text, parts = "adds nothing: names a value", (statement.value,)
        case ast.Infer():
            text, parts = "adds nothing: says how to draw where the caller does not", ()
    text += _reads(name for part in parts for name in document.checked.depends_on(part))
    for outer in document.path(statement.span.start):
        if isinstance(outer, ast.Temper) and outer is not statement:
            text += f"\n- times `{_line(outer.exponent)}`, by the `temper` around it"
        elif isinstance(outer, ast.Plate) and outer is not statement:
            text += f"\n- once for each row of `{_line(outer.table)}`"
        elif isinstance(outer, ast.If) and outer is not statement:
            text += f"\n- where `{_line(outer.test)}`"
    if isinstance(statement, ast.Condition):
        text += "".join(_tested(document, statement))
    return text


def _tested(document: Document, condition: ast.Condition) -> Iterator[str]:
    """When each part of a condition is tested, as `plm check -v` says it; nothing of a program with errors."""
    try:
        graph = optimize(lower(document.checked.without_errors()))
    except PlmError:  # also of a file that the program names
        return
    for part in conjuncts(graph):
        if part.statement.line == condition.span.line:
            for reading in part.readings:
                yield f"\n- `{reading.kind}` for `{reading.latent}`: {reading.why}"


def _reads(names: Iterable[str]) -> str:
    listed = ", ".join(f"`{name}`" for name in sorted(set(names)))
    return f"; reads {listed}" if listed else ""


def _always(constant: object) -> str:
    return "" if constant is None else f", always `{_spelt(constant)}`"


def _spelt(constant: object) -> str:
    if isinstance(constant, tuple):
        return f"{constant[0]}..{constant[1]}"
    return str(constant).lower() if isinstance(constant, bool) else repr(constant)


def _code(text: str) -> str:
    return f"```plm\n{text}\n```"


def _line(node: ast.Node) -> str:
    return " ".join(node.span.text.split())


def builtin(name: str) -> tuple[str, str] | None:
    """A function, distribution, kind of model or tool: how it is written, and what it is."""
    if (function := FUNCTIONS.get(name)) is not None:
        return f"{name}({', '.join(a for a, _ in function.arguments)}) → {function.result}", function.about
    if (dist := DISTRIBUTIONS.get(name)) is not None:
        return f"{name}({', '.join(a for a, _ in dist.arguments)})", dist.about
    if (made := LMS.get(name) or TOOLS.get(name)) is not None:
        listed = [*(a for a, _ in made.arguments), *(f"{option}=…" for option in made.options)]
        return f"{name}({', '.join(listed)})", made.about
    return None


def options_of(node: ast.Node) -> dict[str, OptionType]:
    """The options that a type, a method, a kind of model or a tool takes."""
    if isinstance(node, ast.TypeExpr):
        return dict(VALUE_TYPES[node.name].options) if node.name in VALUE_TYPES else {}
    name = node.function.id if isinstance(node, ast.Call) else ""
    return dict((METHODS.get(name) or LMS.get(name) or TOOLS.get(name) or USED_TOOL).options)


def option_text(option: OptionType) -> str:
    """What an option is, what it may be, and what it is where it is not given."""
    parts = [option.about or option.kind]
    if option.choices:
        parts.append("one of " + ", ".join(f'"{c}"' for c in option.choices))
    if option.default not in (None, ""):
        parts.append(f"default {_spelt(option.default)}")
    return "; ".join(parts)
