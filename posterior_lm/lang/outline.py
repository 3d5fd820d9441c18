"""A program in short, as text: what a policy for many programs reads of the one that it draws for.

Its statements, each on a line of its own as `plm fmt` would write it, but for line breaks. What changes
nothing of what is asked is left out or written alike: there are no comments, declarations, `guide` and `infer`
statements, and names are numbered by what they name in the order of their use, `z` a latent, `x` a parameter, `y` a let,
`r` a row, `m` a model, `t` a tool. Parameters that the data give stand there as their values; texts only where they are asked
for, in conditions, factors and types: those in contexts a guide reads anyway.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from posterior_lm.lang import ast
from posterior_lm.lang.format import on_one_line

MOST = 256
"""Characters of an outline, so that it leaves room in a small model's window; what is longer ends in `CUT`."""
LONGEST = 24
"""Characters of a string in it."""
CUT = "…"
_LETTERS: Mapping[type[ast.Node], str] = {
    ast.Param: "x",
    ast.Latent: "z",
    ast.Let: "y",
    ast.Plate: "r",
    ast.LmDecl: "m",
    ast.ToolDecl: "t",
}


def outline(module: ast.Module, data: Mapping[str, object]) -> str:
    """The outline of a program for one row of data, whose values are of its parameters; at most `MOST` characters."""
    asked = _Writer(module, data).written(module.program.body)
    return _cut("\n".join(map(on_one_line, asked)), MOST)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - len(CUT)] + CUT


class _Writer:
    """Statements with other names, and with values in place of parameters."""

    def __init__(self, module: ast.Module, data: Mapping[str, object]) -> None:
        self.letters: dict[str, str] = {}
        for s in (*module.declarations, *module.program.params, *ast.statements(module.program.body)):
            if type(s) in _LETTERS:
                name: ast.Name = getattr(s, "row" if isinstance(s, ast.Plate) else "name")
                self.letters[name.id] = _LETTERS[type(s)]
        self.data = {
            p.name.id: (value, p.type.name == "text")
            for p in module.program.params
            if isinstance(value := data.get(p.name.id), str | int | float)
        }
        self.names: dict[str, str] = {}

    def written(self, node: Any, texts: bool = True) -> Any:
        """The node; with `texts` also parameters that are texts have their values."""
        match node:
            case tuple():
                asked = (one for one in node if not isinstance(one, ast.Guide | ast.Infer))
                return tuple(self.written(one, texts) for one in asked)
            case ast.Literal(value=str(text)):
                return ast.Literal(_cut(text, LONGEST))
            case ast.Name(id=name):
                value, is_text = self.data.get(name, (None, False))
                if value is None or (is_text and not texts):
                    return ast.Name(self._named(name))
                return ast.Literal(_cut(value, LONGEST) if isinstance(value, str) else value)
            case ast.Latent() | ast.Observe() | ast.Let():
                kept = {"type": self.written(node.type)} if isinstance(node, ast.Latent) else {}
                return self._evolved(node, False, kept)
            case ast.Node():
                return self._evolved(node, texts, {})
        return node

    def _evolved(self, node: ast.Node, texts: bool, done: Mapping[str, Any]) -> ast.Node:
        fields = [f.name for f in attrs.fields(type(node)) if f.name != "span" and f.name not in done]
        new: dict[str, Any] = {f: self.written(getattr(node, f), texts) for f in fields}
        return attrs.evolve(node, **new, **done)

    def _named(self, name: str) -> str:
        letter = self.letters.get(name)
        if letter is None:  # a function
            return name
        if name not in self.names:
            number = sum(known[0] == letter for known in self.names.values()) + 1
            self.names[name] = letter if number == 1 else f"{letter}{number}"
        return self.names[name]
