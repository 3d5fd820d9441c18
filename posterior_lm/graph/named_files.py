"""What a program names by a path, read as it is lowered: tables, grammars and schemas; and tools as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import evolve

from posterior_lm.graph.graph import UseSpec
from posterior_lm.lang import ast
from posterior_lm.lang.diagnostics import CompileError
from posterior_lm.lang.files import allowed_file, read_named
from posterior_lm.lang.signatures import TOOLS, USED_TOOL
from posterior_lm.tools import ToolSpec
from posterior_lm.tools.lookup import Rows, read_table


def tool_spec(
    name: str,
    call: ast.Call,
    given: Mapping[str, object],
    uses: Mapping[str, UseSpec],
    base: Path | None = None,
    allowed: tuple[Path, ...] = (),
) -> ToolSpec:
    """The tool that a call makes with the options `given`.

    Raises CompileError (PLM344) for a table that cannot be read.
    """
    kind = call.function.id
    known = USED_TOOL if kind in uses else TOOLS[kind]
    options: dict[str, Any] = {option: wanted.default for option, wanted in known.options.items()} | dict(
        given
    )
    own: dict[str, Any]
    if kind in uses:
        own = {"where": uses[kind].where, "seconds": float(options["seconds"])}
        kind = "use"
    elif kind == "lookup":
        path = call.args[0]
        assert isinstance(path, ast.Literal)
        own = {"table": table_beside(path, base, allowed)}
    elif kind == "list_functions":
        own = {}
    else:
        own = {"operands": options["operands"]}
    shared = {option: options[option] for option in ("trigger", "output", "whole")}
    return ToolSpec(name=name, kind=kind, **shared, **own)  # type: ignore[arg-type]


def table_beside(path: ast.Literal, base: Path | None = None, allowed: tuple[Path, ...] = ()) -> Rows:
    """The rows of the table that a literal names, found as `text_beside` finds a grammar."""
    try:
        return read_table(text_beside(path, base, allowed).value, str(path.value))  # type: ignore[arg-type]
    except CompileError as problem:
        raise CompileError(
            evolve(d, code="PLM344") if d.code == "PLM336" else d for d in problem.diagnostics
        ) from None
    except ValueError as problem:
        message = f"{str(path.value)!r} is no table: {problem}"
        help = 'two columns with a row of headings, {"key": "text"}, or lines of {"key": …, "text": …}'
        raise CompileError.of("PLM344", message, path.span, "this file", help=help) from None


def tools_of(declared: ast.TypeExpr, tools: Mapping[str, ToolSpec]) -> tuple[ToolSpec, ...]:
    """The tools that write into a text, in the order of their triggers, which all differ."""
    option = next((o.value for o in declared.options if o.name == "tools"), None)
    if option is None:
        return ()
    items = option.items if isinstance(option, ast.ListExpr) else (option,)
    found = [tools[item.id] for item in items if isinstance(item, ast.Name)]
    return tuple(sorted(found, key=lambda tool: tool.trigger))


FILE_OPTIONS = ("grammar", "json")
"""Options of a text latent whose value is the path of a file."""

LARGEST = 2**20
"""Bytes of such a file."""


def text_beside(path: ast.Literal, base: Path | None = None, allowed: tuple[Path, ...] = ()) -> ast.Literal:
    """The text of the file that a literal names, as a literal in the same place.

    A relative path starts at the folder of the file that the literal stands in, so that
    programs from several folders can be put together; where there is no such file at
    `base`, else at the working directory. Raises CompileError PLM336, and PLM347 for one that lies
    neither there nor in the `allowed` folders.
    """
    file = allowed_file(str(path.value), _home(path, base), allowed, path.span)
    try:
        text = read_named(file, LARGEST)
    except OSError as problem:
        looked = f"looked for {file}; a path starts at the folder of the program"
        raise _cannot(path, (problem.strerror or str(problem)).lower(), looked) from None
    except UnicodeDecodeError as problem:
        raise _cannot(path, f"byte {problem.start} is not UTF-8", "save it as UTF-8") from None
    except ValueError as problem:
        smaller = "name a smaller file" if "more than" in str(problem) else "name a text file"
        raise _cannot(path, str(problem), smaller) from None
    return ast.Literal(text, span=path.span)


def _home(path: ast.Literal, base: Path | None) -> Path:
    source = Path(path.span.source.name)
    try:
        if source.is_file():
            return source.parent
    except (OSError, ValueError):  # a name that no file can have
        pass
    return base or Path()


def _cannot(path: ast.Literal, reason: str, help: str) -> CompileError:
    message = f"cannot read {str(path.value)!r}: {reason}"
    return CompileError.of("PLM336", message, path.span, "this file", help=help)
