"""A chat template as a function from messages to text, in a sandbox with limits.

A template is a program that came with a model from anywhere. It runs in jinja's immutable
sandbox, set up as transformers sets it up (v5, `utils/chat_template_utils.py`), so that it writes
the same text; beyond that it may neither run for long nor make large values, and the date is
always `DATE`, since a program means the same tomorrow.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import wraps
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from posterior_lm.lm.protocol import Refused, Unusable

DATE = datetime(2024, 7, 26)
"""What `strftime_now` formats: the date that Llama 3's templates fall back on."""

SIZE = 1 << 22
"""Characters of one value, and of what a template writes."""
ITEMS = 1 << 18
"""Values inside one value."""
STEPS = 200_000
"""Rounds of loops and calls of macros."""
SECONDS = 10.0
_DIGITS = 4096
"""Bits of a whole number."""
_WIDE = frozenset({"expandtabs", "indent", "center", "ljust", "rjust", "zfill", "batch", "slice", "wordwrap"})
"""What may repeat a filler as often as a number says."""


class _Raised(TemplateError):
    """Of `raise_exception`, told from jinja's own errors."""


class _Limit(SecurityError):
    pass


def measured(*values: object) -> int:
    """Characters and items in values, inside each other too. Raises `_Limit` above `SIZE` and `ITEMS`."""
    total, items, stack = 0, 0, list(values)
    while stack:
        value = stack.pop()
        items += 1
        total += len(value) if isinstance(value, str) else 1
        if isinstance(value, Mapping):
            stack += [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple):
            stack += value
        elif isinstance(value, int) and value.bit_length() > _DIGITS:
            raise _Limit("it computes with numbers beyond every limit")
        if total > SIZE or items + len(stack) > ITEMS:
            raise _Limit(f"it makes a value of more than {SIZE:,} characters")
    return total


def _grown(name: str, args: Sequence[object]) -> None:
    """Refuses a call that makes much of little, before it does."""
    size = measured(*args)
    if name in _WIDE:
        wide = max((a for a in args if isinstance(a, int)), default=0)
        lines = size if name in ("expandtabs", "indent") else 1
        repeated = wide * lines * max((len(a) for a in args[1:] if isinstance(a, str)), default=1)
    elif name == "replace" and len(args) > 2 and isinstance(args[0], str):
        repeated = (args[0].count(str(args[1])) if args[1] else len(args[0]) + 1) * len(str(args[2]))
    elif name == "join":
        apart = args[1:2] if not isinstance(args[0], str) else args[:1]
        repeated = size * sum(len(str(a)) for a in apart)
    elif name in ("format", "format_map", "%"):
        repeated = SIZE + 1 if any(re.search(r"\d{5}|%\S*\*", a) for a in args if isinstance(a, str)) else 0
    else:
        return
    if repeated > SIZE:
        raise _Limit(f"it makes a value of more than {SIZE:,} characters")


class _Limited(NodeTransformer):
    """Counts rounds of loops and calls of macros, and sends `~` through the limits."""

    def _counted(self, node: Any) -> Any:
        self.generic_visit(node)
        tick = nodes.Call(nodes.EnvironmentAttribute("tick"), [], [], None, None)
        node.body.insert(0, nodes.ExprStmt(tick).set_lineno(node.lineno))
        return node

    visit_For = visit_Macro = visit_CallBlock = _counted

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        call = nodes.Call(nodes.EnvironmentAttribute("joined"), node.nodes, [], None, None)
        return call.set_lineno(node.lineno)


class _Generation(Extension):
    """`{% generation %} … {% endgeneration %}`, which marks an answer and writes what is inside."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_inside"), [], [], body).set_lineno(line)

    def _inside(self, caller: Callable[[], str]) -> str:
        return caller()


class _Sandbox(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"*", "+", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols], finalize=_final
        )
        self.filters = {name: _guarded(name, made) for name, made in self.filters.items()}
        self.filters["tojson"] = _tojson
        self.globals |= {
            "raise_exception": _raise, "strftime_now": DATE.strftime, "dict": _Dict(), "namespace": _Names,
        }  # fmt: skip
        del self.globals["lipsum"]  # writes as much as it is asked for
        self.steps, self.deadline = 0, 0.0

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree: nodes.Template = _Limited().visit(super()._parse(source, name, filename))
        return tree

    def begin(self) -> None:
        self.steps, self.deadline = 0, time.monotonic() + SECONDS

    def tick(self) -> None:
        self.steps += 1
        if self.steps > STEPS or time.monotonic() > self.deadline:
            raise _Limit(f"it goes on after {STEPS:,} rounds or {SECONDS:g} seconds")

    def joined(self, *parts: object) -> str:
        measured(*parts)
        return "".join(map(str, parts))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        measured(left, right)
        if operator == "*":
            for many, times in ((left, right), (right, left)):
                repeats = isinstance(many, str | list | tuple) and isinstance(times, int)
                if repeats and measured(many) * max(times, 0) > SIZE:
                    raise _Limit(f"it makes a value of more than {SIZE:,} characters")
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            if left.bit_length() * max(right, 0) > _DIGITS:
                raise _Limit("it computes with numbers beyond every limit")
        elif operator == "%" and isinstance(left, str):
            _grown("%", (left,))
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        made = super().wrap_str_format(value)
        if made is not None:
            _grown("format", (value.__self__,))
        return made

    def call(self, context: Any, function: Any, /, *args: Any, **more: Any) -> Any:
        owner = getattr(function, "__self__", None)
        if isinstance(owner, str | list | tuple | dict):
            _grown(function.__name__, (owner, *args, *more.values()))
        return super().call(context, function, *args, **more)


def _guarded(name: str, made: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(made)  # keeps the mark that says whether jinja hands in its context
    def guarded(*args: Any, **more: Any) -> Any:
        values = args[1:] if hasattr(made, "jinja_pass_arg") else args
        _grown(name, (*values, *more.values()))
        return made(*args, **more)

    return guarded


def _final(value: Any) -> Any:
    measured(value)
    return value


def _raise(message: object) -> None:
    raise _Raised(str(message))


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None,
    sort_keys: bool = False,
) -> str:  # fmt: skip
    if measured(value) * max(indent if isinstance(indent, int) else 0, 1) > SIZE:
        raise _Limit(f"it makes a value of more than {SIZE:,} characters")
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


class _Dict:
    """`dict` without the attributes of the class."""

    def __call__(self, *args: Any, **more: Any) -> dict[Any, Any]:
        return dict(*args, **more)


class _Names(Namespace):
    """`namespace` without names that Python keeps for itself."""

    def __init__(*args: Any, **more: Any) -> None:
        self, given = args[0], dict(*args[1:], **more)
        for name in given:
            _Names._checked(name)
        Namespace.__init__(self, given)

    def __setitem__(self, name: str, value: Any) -> None:
        _Names._checked(name)
        measured(value)
        Namespace.__setitem__(self, name, value)

    @staticmethod
    def _checked(name: object) -> None:
        if isinstance(name, str) and name.startswith("_"):
            raise SecurityError(f"it stores the name {name!r}")


# ------------------------------------------------------------------------------- a template


class Compiled:
    """A template that can be asked for the text of messages. Raises `Unusable` where it is none."""

    def __init__(self, source: str) -> None:
        self._sandbox, self._lock = _Sandbox(), threading.Lock()
        try:
            self._template = self._sandbox.from_string(source)
        except TemplateSyntaxError as problem:
            raise Unusable(f"line {problem.lineno} is wrong: {_said(problem)}") from None
        except (TemplateError, RecursionError, ValueError, SyntaxError, MemoryError) as problem:
            raise Unusable(f"it is no template: {_said(problem)}") from None

    def __call__(
        self, messages: Sequence[Mapping[str, str]], prompt: bool, variables: Mapping[str, Any]
    ) -> str:
        """What it writes of messages, with its generation prompt where `prompt`.

        Raises `Refused` with what it says of messages it does not write, `Unusable` where it fails.
        """
        written: list[str] = []
        size = 0
        own = {"messages": [dict(m) for m in messages], "tools": None, "documents": None}
        with self._lock:
            self._sandbox.begin()
            try:
                for part in self._template.generate(**{**variables, **own, "add_generation_prompt": prompt}):
                    size += len(part)
                    if size > SIZE:
                        raise _Limit(f"it writes more than {SIZE:,} characters")
                    written.append(part)
            except _Raised as problem:
                raise Refused(str(problem)) from None
            except _Limit as problem:
                raise Unusable(str(problem)) from None
            except SecurityError as problem:
                raise Unusable(f"it reaches outside its sandbox: {_said(problem)}") from None
            except Exception as problem:  # a stranger's program may fail in any way
                raise Unusable(f"it fails: {_said(problem)}") from None
        return "".join(written)


def _said(problem: BaseException) -> str:
    text = str(problem).splitlines()
    return (text[0] if text and text[0] else type(problem).__name__)[:200].rstrip(".")
