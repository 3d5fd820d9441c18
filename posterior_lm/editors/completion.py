"""What may be typed at a place of a program, from the tokens before it and the names that are in scope there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from attrs import frozen
from lark.lexer import Token

from posterior_lm.editors.document import Document
from posterior_lm.editors.hover import builtin, option_text
from posterior_lm.infer.methods import METHODS, OptionType
from posterior_lm.lang import ast
from posterior_lm.lang.lexer import STRAY, extent, tokenize
from posterior_lm.lang.signatures import DISTRIBUTIONS, FUNCTIONS, IT, LMS, ROLES, TOOLS, USED_TOOL
from posterior_lm.lang.source import Source
from posterior_lm.lang.syntax_errors import BEGINNINGS
from posterior_lm.lang.typed import Binding
from posterior_lm.lang.value_types import VALUE_TYPES


@frozen
class Item:
    """A word that may stand at a place: its `kind` is a word of LSP's CompletionItemKind."""

    label: str
    kind: str
    detail: str = ""
    about: str = ""
    insert: str | None = None


_ENDS = frozenset(
    ("NAME", "STRING", "RAW_STRING", "INT", "REAL", "TRUE", "FALSE", "BOS", "EOS", "RPAR", "RSQB")
)
_OPEN, _CLOSE = ("LPAR", "LSQB", "LBRACE"), ("RPAR", "RSQB", "RBRACE")
_NEW_NAME = frozenset(("LATENT", "LET", "PLATE", "LM", "TOOL", "USE", "PROGRAM", "FROM"))


def complete(document: Document, offset: int) -> list[Item]:
    """What may stand at a place, whatever of its word is typed already; nothing in strings and comments."""
    text = document.source.text[:offset]
    tokens, comments, _ = tokenize(Source(document.source.name, text))
    if (tokens and tokens[-1].type == STRAY) or (comments and comments[-1].span.end == offset):
        return []
    if tokens and extent(tokens[-1])[1] == offset and (tokens[-1][-1].isalnum() or tokens[-1][-1] == "_"):
        tokens.pop()  # the word that is being typed
    stack: list[int] = []
    for index, token in enumerate(tokens):
        if token.type in _OPEN:
            stack.append(index)
        elif token.type in _CLOSE and stack:
            stack.pop()
    new_line = "\n" in text[extent(tokens[-1])[1] if tokens else 0 :]
    return list(dict.fromkeys(_at(document, offset, tokens, stack, new_line)))


def _at(
    document: Document, offset: int, tokens: list[Token], stack: list[int], new_line: bool
) -> Iterator[Item]:
    kinds = [""] * 3 + [str(t.type) for t in tokens]
    last = kinds[-1]
    opener = tokens[stack[-1]] if stack else None
    scope = _scope(document, offset)
    if last == "DOT":
        row = scope.get(str(tokens[-2])) if len(tokens) > 1 else None
        for name, type_ in row.columns.items() if row is not None else ():
            yield Item(name, "Field", type_.name)
    elif last == "COLON":
        yield from (Item(t.name, "Class", t.form, t.meant) for t in VALUE_TYPES.values())
    elif last in _NEW_NAME or (opener is None and last in _ENDS and not new_line):
        return
    elif opener is None:
        made: Mapping[str, object] = {}
        if last == "EQUAL":
            made = LMS if kinds[-3] == "LM" else TOOLS
            yield from _names(scope, "use")
        yield from _words(made, "Constructor")
        if last != "EQUAL" and "PROGRAM" not in kinds:
            yield from (Item(word, "Keyword") for word in ("lm", "tool", "use", "program"))
    elif last == "INFER":
        yield from (Item(m.name, "Method", "method", m.about) for m in METHODS.values())
    elif last == "GUIDE":
        yield from _names(scope, "latent")
    elif last == "IN":
        rows = (item for item in _names(scope, "parameter", "latent") if scope[item.label].type is not None)
        yield from (item for item in rows if scope[item.label].value.kind in ("table", "list"))
    elif last == "TILDE":
        yield from _distributions(scope)
    elif opener.type == "LBRACE" and (last in ("LBRACE", "RBRACE") or (last in _ENDS and new_line)):
        yield from (Item(word, "Keyword") for word in (*BEGINNINGS, *["else"] * (last == "RBRACE")))
    elif last in _ENDS:
        yield from (Item(word, "Operator") for word in ("and", "or", "then", "else", "over"))
    elif (options := _options(tokens, stack)) is not None:
        yield from _in_call(options, scope, tokens, last)
    elif opener.type != "LPAR" or kinds[stack[-1] + 1] != "PROGRAM":
        called = str(tokens[stack[-1] - 1]) if opener.type == "LPAR" else ""
        if called == "log_prob" and last == "COMMA":
            yield from _distributions(scope)
            return
        yield from _names(scope, "parameter", "latent", "let", "row", "use")
        calls = [str(tokens[k - 1]) for k in stack if tokens[k].type == "LPAR"]
        if any(DISTRIBUTIONS[name].over == "order" for name in calls if name in DISTRIBUTIONS):
            yield Item(IT, "Variable", "each of what is compared")
        yield from _words(FUNCTIONS, "Function")
        if called in scope and scope[called].sort == "lm":
            yield from (Item(role, "Function", "a message of a conversation", insert=role) for role in ROLES)
        yield from (Item(word, "Keyword") for word in ("if", "not", "true", "false", "bos", "eos"))
        if called == "choice":
            yield from _names(scope, "lm")


def _options(tokens: list[Token], stack: list[int]) -> Mapping[str, OptionType] | None:
    """The options of the type, method, model or tool in whose parentheses a place is; None of other calls."""
    at = stack[-1]
    if tokens[at].type != "LPAR" or at < 2:
        return None
    name, before = str(tokens[at - 1]), tokens[at - 2].type
    if before == "COLON" and name in VALUE_TYPES:
        return VALUE_TYPES[name].options
    if before == "INFER" and name in METHODS:
        return METHODS[name].options
    if before == "EQUAL" and at > 3 and tokens[at - 4].type in ("LM", "TOOL"):
        table = LMS if tokens[at - 4].type == "LM" else TOOLS
        return (table.get(name) or USED_TOOL).options
    return None


def _in_call(
    options: Mapping[str, OptionType], scope: Mapping[str, Binding], tokens: list[Token], last: str
) -> Iterator[Item]:
    if last in ("LPAR", "COMMA"):
        for name, option in options.items():
            yield Item(name, "Property", option.kind, option_text(option), insert=f"{name}=")
    elif last == "EQUAL" and (option_ := options.get(str(tokens[-2]))) is not None:
        yield from (Item(f'"{choice}"', "EnumMember") for choice in option_.choices)
        if option_.kind == "bool":
            yield from (Item(word, "Keyword") for word in ("true", "false"))
        if option_.kind == "tool":
            yield from _names(scope, "tool")
    if last in ("EQUAL", "RANGE"):
        yield from _names(scope, "parameter")


def _scope(document: Document, offset: int) -> dict[str, Binding]:
    """The names that are known at a place, of the text as it is and as it was when it could last be parsed."""
    found: dict[str, Binding] = {}
    for version in (document.earlier, document) if document.earlier else (document,):
        plates = {id(n) for n in version.path(offset) if isinstance(n, ast.Plate)}
        for span, named in version.names:
            if isinstance(named, Binding) and span == named.span and named.block in (0, *plates):
                drawn = named.sort in ("latent", "let", "row")
                if not drawn or span.end < offset:
                    found[named.name] = named
    return found


def _names(scope: Mapping[str, Binding], *sorts: str) -> Iterator[Item]:
    for name, binding in scope.items():
        if binding.sort in sorts:
            kind = "Function" if binding.sort in ("lm", "tool", "use") else "Variable"
            yield Item(name, kind, f"{binding.sort}, {binding.value.shown}")


def _words(table: Iterable[str], kind: str) -> Iterator[Item]:
    for name in table:
        written, about = builtin(name) or (name, "")
        yield Item(name, kind, written, about)


def _distributions(scope: Mapping[str, Binding]) -> Iterator[Item]:
    yield from _names(scope, "lm", "use")
    yield from _words(DISTRIBUTIONS, "Function")
