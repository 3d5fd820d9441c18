"""The types of values: how they are declared, and how their values are read and checked, one class each.

Whoever handles values asks here rather than by the name of a type. A finite type is a class with either
`choices` (strings) or a `range` of whole numbers: its supports, sums, predictions and pages follow from `lang.values`.
The kinds of options are those of `lang.signatures`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from posterior_lm.infer.methods import OptionType
from posterior_lm.lang.diagnostics import Diagnostic, error, nearest, shown
from posterior_lm.lang.source import is_text
from posterior_lm.lang.values import MOST_VALUES, is_number

if TYPE_CHECKING:
    from posterior_lm.graph.graph import ParamSpec

Constants = Sequence[object]
"""The arguments of a declaration, each with its value before data are, a range with both ends, else None."""


class ValueType:
    """One type; a subclass says what differs from a type without arguments that no latent has."""

    name: str
    kind = "unknown"
    """What its values are in expressions: text, int, real, bool or table."""
    takes: Literal["nothing", "range", "choices", "columns", "items", "fields", "names"] = "nothing"
    """What stands in its parentheses beside options."""
    options: ClassVar[Mapping[str, OptionType]] = {}
    no_options = "it has no options"
    """What to say of an option where there is none."""
    latent = False
    """Whether a latent may have it."""
    finite = False
    """Whether it can list its values one by one."""
    form: str
    """How it is written, in short."""
    example: str
    meant: str
    """What a value is, in messages."""
    advice: str | None = None
    """What a value looks like where it is given; None where the declaration says it."""
    elsewhere: tuple[str, ...] = ()
    """What other languages call it."""
    instances: type | tuple[type, ...] = object
    """What its values are in Python; true and false are no numbers."""

    def choices(self, args: Constants) -> tuple[str | bool, ...]:
        """The strings or truth values that are its values, in order; () for a type of numbers."""
        return ()

    def range(self, args: Constants) -> tuple[float, float] | None:
        """The ends of the range of numbers that its values lie in, where they are known."""
        return None

    def read(self, text: str) -> object:
        """The value that a field of CSV or of the command line spells; the text itself where it spells none."""
        return text

    def check(self, param: ParamSpec, value: object, where: str) -> Iterator[Diagnostic]:
        """What is wrong with a value that is given for a parameter or a column: PLM603, PLM608."""
        truth = isinstance(value, bool) and self.instances not in (bool, object)
        if truth or not isinstance(value, self.instances):
            yield mistyped(param, value, where)
            return
        for message, help in self.beyond(param, value):
            yield error("PLM608", message, param.span, where=where, help=help)

    def beyond(self, param: ParamSpec, value: Any) -> Iterator[tuple[str, str]]:
        """What a value of the right kind is that its declaration does not allow, and what to do."""
        yield from ()


class Text(ValueType):
    name = kind = "text"
    options: ClassVar = {
        "tokens": OptionType(kind="range", low=0, about="how many tokens are drawn, the stop included"),
        "stop": OptionType(kind="nonempty", about="the text ends at the first place where this stands"),
        "end": OptionType(kind="choice", choices=("eos", "free"), default="eos",
                          about="what is scored after a text without a stop"),
        "chars": OptionType(kind="nonempty", about="the characters that may occur before the stop"),
        "pattern": OptionType(kind="pattern", about="a regular expression of the whole text, the stop included"),
        "grammar": OptionType(kind="nonempty", about="a file with a grammar of the whole text"),
        "json": OptionType(kind="nonempty", about="a file with a JSON schema of the whole text"),
        "tools": OptionType(kind="tool", about="tools that write parts of the text"),
        "canonical": OptionType(kind="bool", default=False,
                                about="keep only what the tokenizer itself would produce"),
    }  # fmt: skip
    latent = True
    form, example = "text(…)", "text(tokens=1..20)"
    instances = str
    meant, advice = "a text", "put the value in quotes"
    elsewhere = ("str", "string")

    def beyond(self, param: ParamSpec, value: Any) -> Iterator[tuple[str, str]]:
        chars = dict(param.options).get("chars")
        stop = dict(param.options).get("stop")
        body = value.removesuffix(stop) if isinstance(stop, str) else value
        if isinstance(chars, str) and (bad := next((c for c in body if c not in chars), None)) is not None:
            message = f"`{param.name}` holds {bad!r}, which is not among its `chars`"
            yield message, "take it out of the text, or add it to `chars`"
        if not is_text(value):
            message = f"`{param.name}` holds half of a surrogate pair, which is no text"
            yield message, "write the whole character, or U+FFFD where it is lost"


class Int(ValueType):
    name = kind = "int"
    takes = "range"
    options: ClassVar = {
        "lead": OptionType(kind="text", default="", about="spelled before the number"),
    }
    latent = finite = True
    form, example = "int(a..b)", "int(0..9)"
    instances = int
    meant, advice = "a whole number", "give a whole number, such as 3, without quotes"
    elsewhere = ("integer",)

    def range(self, args: Constants) -> tuple[float, float] | None:
        return next((arg for arg in args if isinstance(arg, tuple)), None)

    def read(self, text: str) -> object:
        word = text.strip()
        try:
            return int(word) if word.isascii() and "_" not in word else text
        except ValueError:
            return text

    def beyond(self, param: ParamSpec, value: Any) -> Iterator[tuple[str, str]]:
        if not is_number(value):
            message = f"`{param.name}` is {shown(value)}, beyond every number that can be computed with"
            yield message, "give a number below 1e308"
        elif (param.low is not None and value < param.low) or (param.high is not None and value > param.high):
            message = f"`{param.name}` is {shown(value)}, outside {param.low}..{param.high}"
            yield message, "give a number in that range, or widen it in the program"


class Real(ValueType):
    name = kind = "real"
    takes = "range"
    options: ClassVar = {
        "grid": OptionType(kind="int", low=1, high=MOST_VALUES, about="the number of equal cells that a latent's range is cut into"),
    }  # fmt: skip
    latent = finite = True
    form, example = "real(a..b, grid=n)", "real(0..1, grid=20)"
    instances = (int, float)
    meant, advice = "a number", "give a number, such as 0.5, without quotes"
    elsewhere = ("float", "number")

    def range(self, args: Constants) -> tuple[float, float] | None:
        return next((arg for arg in args if isinstance(arg, tuple)), None)

    def read(self, text: str) -> object:
        word = text.strip()
        try:
            number = float(word) if word.isascii() and "_" not in word else math.nan
        except ValueError:
            return text
        return number if math.isfinite(number) else text

    def beyond(self, param: ParamSpec, value: Any) -> Iterator[tuple[str, str]]:
        if not is_number(value):
            yield f"`{param.name}` must be finite, not {shown(value)}", "give a finite number, such as 1e9"


class Bool(ValueType):
    name = kind = form = example = "bool"
    latent = finite = True
    instances = bool
    meant, advice = "true or false", "write true or false, without quotes"
    elsewhere = ("boolean",)

    def choices(self, args: Constants) -> tuple[bool, ...]:
        return (False, True)

    def read(self, text: str) -> object:
        return {"true": True, "false": False}.get(text.strip().lower(), text)


class OneOf(ValueType):
    name, kind = "one_of", "text"
    takes = "choices"
    latent = finite = True
    form, example = "one_of(…)", 'one_of("yes", "no")'
    no_options = 'it has no options; what stands before a value is a part of it, as in one_of(" yes", " no")'
    instances = str
    meant = "one of the declared choices"
    elsewhere = ("enum",)

    def choices(self, args: Constants) -> tuple[str, ...]:
        return tuple(arg for arg in args if isinstance(arg, str))

    def beyond(self, param: ParamSpec, value: Any) -> Iterator[tuple[str, str]]:
        if value not in param.choices:
            close = nearest(value, map(str, param.choices))
            help = f"did you mean {close!r}?" if close else f"choose from {_quoted(param.choices)}"
            yield f"`{param.name}` is {shown(value)}, which is not one of its choices", help


class Table(ValueType):
    """Its rows are read and checked by `target.validate`, column by column."""

    name = kind = "table"
    takes = "columns"
    form, example = "table(…)", "table(input: text, output: text)"
    meant, advice = "a list of rows", "a table is a list of objects, one per row"
    elsewhere = ("rows",)


class List(ValueType):
    """Its items are checked by `lang.check.declared`, and lowered by `graph.blocks`."""

    name = kind = "list"
    takes = "items"
    options: ClassVar = {
        "end": OptionType(kind="nonempty", about="what stands behind the last item"),
        "depth": OptionType(
            kind="int", low=1, high=8, about="how deep lists stand in lists: each item above has its own"
        ),
    }
    latent = True
    form, example = "list(…)", 'list(text(tokens=1..12, stop="\\n"), 1..4, end="Answer:")'
    meant = "items with an end"
    elsewhere: tuple[str, ...] = ("array", "sequence", "tree")
    places: tuple[int, int] | None = None
    """How many items there are where the type says so itself."""


class Optional(List):
    """A list of one item or none."""

    name = "optional"
    options: ClassVar = {"end": List.options["end"]}
    form, example = "optional(…)", 'optional(text(tokens=1..12, stop="\\n"), end="Answer:")'
    meant = "nothing or an item, with an end"
    elsewhere = ("maybe", "option")
    places = (0, 1)


class Record(ValueType):
    """Its fields are latents of their own, by the names `record.field`; an item of a list may be one."""

    name, takes, latent = "record", "fields", True
    kind = "record"
    form, example = "record(…)", 'record(name: text(tokens=1..4, stop=","), age: int(0..99, lead=" "))'
    meant = "fields, one after the other"
    elsewhere = ("struct", "object", "dict", "tuple")


class Shares(ValueType):
    """Its latents are the pieces that the whole is broken into, one after the other: `lang.values.shares_of`."""

    name, kind, takes, latent = "shares", "list", "names", True
    options: ClassVar = {
        "grid": OptionType(kind="int", low=1, high=MOST_VALUES, about="the number of equal cells for each share of what is left"),
    }  # fmt: skip
    form, example = "shares(…, grid=n)", "shares(news, talk, other, grid=20)"
    meant = "shares of a whole, which sum to 1"
    elsewhere = ("simplex", "probabilities", "weights")


VALUE_TYPES: dict[str, ValueType] = {
    t.name: t
    for t in (Text(), Int(), Real(), Bool(), OneOf(), Table(), List(), Optional(), Record(), Shares())
}


def value_type(name: str) -> ValueType:
    """The type of that name, or one of which nothing is known, as of a program with mistakes."""
    return VALUE_TYPES.get(name) or ValueType()


def finite_forms() -> str:
    """The types that list their values, as they are written."""
    return " and ".join(t.form for t in VALUE_TYPES.values() if t.finite)


_WHOLE = re.compile(r"[+-]?[0-9]{1,15}\.0*")


def mistyped(param: ParamSpec, value: object, where: str, *, help: str | None = None) -> Diagnostic:
    """PLM603: a value of another type than the declared one."""
    type_ = VALUE_TYPES[param.type]
    if isinstance(value, str) and type_.kind != "text":
        if not value.strip():
            help = f"give a value; only where `{param.name}` has a default may its field be empty"
        elif type_.kind == "int" and _WHOLE.fullmatch(value.strip()):
            help = f"write {value.strip().partition('.')[0]}"
    return error(
        "PLM603",
        f"`{param.name}` must be {type_.meant}, not {shown(value)}",
        param.span,
        where=where,
        help=help or type_.advice or f"choose from {_quoted(param.choices)}",
    )


def _quoted(choices: tuple[str | bool, ...]) -> str:
    return ", ".join(map(repr, choices))
