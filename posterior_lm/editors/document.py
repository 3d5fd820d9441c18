"""A program as an editor has it, half typed: its names, where they are declared and used, and its layout.

Offsets are code points of the text. No text makes anything here raise, but a name that cannot be changed.
"""

from __future__ import annotations

import re
from functools import cached_property

from posterior_lm.lang import ast
from posterior_lm.lang.diagnostics import PlmError
from posterior_lm.lang.driver import compile_source
from posterior_lm.lang.format import format_module
from posterior_lm.lang.lexer import KEYWORDS
from posterior_lm.lang.signatures import BUILT_IN, IT
from posterior_lm.lang.source import Source, Span
from posterior_lm.lang.typed import Binding, CheckedModule

Named = Binding | ast.Column
"""What a name stands for: whatever is declared, or a column of a table."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Document:
    """One version of a text; `earlier` is the last one before it that could be parsed."""

    def __init__(self, name: str, text: str, earlier: Document | None = None) -> None:
        self.source = Source(name, text)
        self.earlier = earlier

    def then(self, text: str) -> Document:
        """The version after this one."""
        known = "checked" in self.__dict__ and self.readable
        return Document(self.source.name, text, self if known else self.earlier)

    @cached_property
    def checked(self) -> CheckedModule:
        return compile_source(self.source, lint=True)

    @property
    def readable(self) -> bool:
        """Whether all of the text could be parsed."""
        syntax = any(d.code.startswith("PLM1") for d in self.checked.errors)
        return not syntax and self.checked.module.program.span.source is self.source

    @cached_property
    def nodes(self) -> list[ast.Node]:
        """What stands in the text, parents first."""
        found = ast.nodes((*self.checked.module.declarations, self.checked.module.program))
        return [node for node in found if node.span.source is self.source]

    # ---------------------------------------------------------------- names

    def path(self, offset: int) -> list[ast.Node]:
        """The nodes around a place, outermost first."""
        return [n for n in self.nodes if n.span.start <= offset <= n.span.end]

    def word(self, offset: int) -> Span | None:
        """The name or word of the language at a place, also just behind it."""
        for match in _NAME.finditer(self.source.text, max(0, offset - 200), offset + 200):
            if match.start() <= offset <= match.end():
                return Span(self.source, *match.span())
        return None

    def named(self, offset: int) -> tuple[Span, Named] | None:
        """The name at a place, and what it stands for; None of words of the language and of unknown names."""
        for span, named in self.names:
            if span.start <= offset <= span.end:
                return span, named
        return None

    @cached_property
    def names(self) -> list[tuple[Span, Named]]:
        """Every name in the text that stands for something, where it is declared and where it is used."""
        columns: dict[int, ast.Column] = {id(n.type): n for n in self.nodes if isinstance(n, ast.Column)}
        found: list[tuple[Span, Named]] = []
        for node in self.nodes:
            if isinstance(node, ast.Column):
                found.append((node.name.span, node))
            elif isinstance(node, ast.Field):
                row = self.checked.binding(node.row)
                type_ = None if row is None else row.columns.get(node.column)
                if type_ is not None and (column := columns.get(id(type_.at))) is not None:
                    end = node.span.end
                    found.append((Span(self.source, end - len(node.column), end), column))
            elif isinstance(node, ast.Name) and (binding := self.checked.binding(node)) is not None:
                found.append((node.span, binding))
        return found

    def uses(self, named: Named) -> list[Span]:
        """Every place of a name, its declaration among them."""
        return list(dict.fromkeys(span for span, other in self.names if other is named))

    def rename(self, offset: int, new: str) -> list[Span]:
        """The places that a new name goes to. Raises PlmError PLM202 or PLM203 where it cannot have that name."""
        found = self.named(offset)
        if found is None or not self.readable or getattr(found[1], "sort", "") == IT:
            help = (
                "name a parameter, latent, let, row, column, model or tool, in a text without syntax errors"
            )
            raise PlmError.of("PLM201", "there is no name to change here", help=help)
        if not _NAME.fullmatch(new) or new in KEYWORDS or new in BUILT_IN:
            what = "a word of the language" if new in KEYWORDS | BUILT_IN else "no name"
            raise PlmError.of("PLM203", f"'{new}' is {what}", help=f"choose another name, such as '{new}_'")
        taken = {named.name if isinstance(named, Binding) else named.name.id for _, named in self.names}
        if new in taken and new != found[0].text:
            raise PlmError.of("PLM202", f"'{new}' is declared already", help="choose another name")
        return self.uses(found[1])

    # ---------------------------------------------------------------- the whole text

    def formatted(self) -> str | None:
        """The canonical layout; None of a text with syntax errors."""
        return format_module(self.checked.module) if self.readable else None
