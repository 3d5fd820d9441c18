"""Declared tools as plain data, their defaults filled in and their files read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from attrs import evolve

from posterior_lm.graph.beside import text_beside
from posterior_lm.graph.graph import UseSpec
from posterior_lm.lang import ast
from posterior_lm.lang.diagnostics import CompileError, InternalError, error
from posterior_lm.lang.signatures import TOOLS, USED_TOOL
from posterior_lm.tools.base import ToolSpec
from posterior_lm.tools.lookup import Rows, read_table


def tool_spec(
    name: str,
    call: ast.Call,
    given: Mapping[str, object],
    uses: Mapping[str, UseSpec],
    base: Path | None = None,
) -> ToolSpec:
    """The tool that a call makes with the options `given`.

    Raises CompileError (PLM344) for a table that cannot be read.
    """
    known = USED_TOOL if call.function.id in uses else TOOLS[call.function.id]
    options = {option: wanted.default for option, wanted in known.options.items()} | dict(given)
    trigger, output = str(options["trigger"]), str(options["output"])
    if call.function.id in uses:
        where, seconds = uses[call.function.id].where, float(str(options["seconds"]))
        return ToolSpec(
            name=name, kind="use", trigger=trigger, output=output, where=where, seconds=seconds  # type: ignore[arg-type]
        )  # fmt: skip
    if call.function.id == "lookup":
        path = call.args[0]
        assert isinstance(path, ast.Literal)
        table = table_beside(path, base)
        return ToolSpec(name=name, kind="lookup", trigger=trigger, output=output, table=table)  # type: ignore[arg-type]
    if call.function.id == "calculator":
        operands = int(str(options["operands"]))
        return ToolSpec(name=name, kind="calculator", trigger=trigger, output=output, operands=operands)  # type: ignore[arg-type]
    raise InternalError(f"cannot lower the tool {call.function.id}")


def table_beside(path: ast.Literal, base: Path | None = None) -> Rows:
    """The rows of the table that a literal names, found as `beside.text_beside` finds a grammar."""
    try:
        return read_table(text_beside(path, base).value, str(path.value))  # type: ignore[arg-type]
    except CompileError as problem:
        raise CompileError(evolve(d, code="PLM344") for d in problem.diagnostics) from None
    except ValueError as problem:
        message = f"{str(path.value)!r} is no table: {problem}"
        help = 'two columns with a row of headings, {"key": "text"}, or lines of {"key": …, "text": …}'
        raise CompileError(error("PLM344", message, path.span, "this file", help=help)) from None


def tools_of(declared: ast.TypeExpr, tools: Mapping[str, ToolSpec]) -> tuple[ToolSpec, ...]:
    """The tools that write into a text, in the order of their triggers, which all differ."""
    option = next((o.value for o in declared.options if o.name == "tools"), None)
    if option is None:
        return ()
    items = option.items if isinstance(option, ast.ListExpr) else (option,)
    found = [tools[item.id] for item in items if isinstance(item, ast.Name)]
    return tuple(sorted(found, key=lambda tool: tool.trigger))
