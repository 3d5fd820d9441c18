"""What the language knows by name: functions, distributions, options, models, tools, types.

The checker reads argument and option types here, and whoever implements one of them
implements exactly what stands here; methods are a table of their own, `infer/methods.py`.

Kinds of argument: `text` (a string), `segments` (what a context is made of: text,
numbers, lists of them, bos and eos), `number` (int or real), `int`, `numbers` (a
list of numbers), `some` (a number or such a list), `test` (a truth value), `dist` (a distribution), `lm` (a call of a language model).
Kinds of option: `text`, `nonempty` (text of at least one character), `pattern`,
`int`, `number`, `bool`, `range` (two ints), `choice` (one of `choices`), `tool` (the
name of a declared tool, or a list of them).

The types of values are one class each: how they are declared, and how their values are read
and checked. Whoever handles values asks there rather than by the name of a type. A finite
type is a class with either `choices` (strings) or a `range` of whole numbers: its supports,
sums, predictions and pages follow from `lang.values`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from attrs import frozen

from posterior_lm.infer.methods import OptionType
from posterior_lm.lang.diagnostics import Diagnostic, error, nearest, shown
from posterior_lm.lang.source import is_text
from posterior_lm.lang.values import MOST_VALUES, is_number

if TYPE_CHECKING:
    from posterior_lm.graph.graph import ParamSpec


@frozen
class Function:
    """A function of values: kinds of its arguments, kind of its result.

    One of `many` takes any number of its argument, which may be a list too where it is `some`. A name that is not
    `reserved` may be declared, and then means what was declared. `pools` is the operator that puts together the rows
    of a plate, where names of one stand in the arguments; None of a function of one row.
    """

    name: str
    arguments: tuple[tuple[str, str], ...]  # (name, kind)
    result: str
    about: str
    many: bool = False
    reserved: bool = True
    pools: str | None = None


@frozen
class Distribution:
    """A distribution that is not a language model.

    `arities` are the allowed numbers of arguments; `over` says which declared
    types it is a distribution over: whole numbers ("int"), any type that lists its
    values ("finite"), reals ("real"), truth values and 0 and 1 ("truth"), the orders that
    `prefer` states ("order"), or all ("any").
    `bounds` gives the allowed range of each argument that is a plain number. A name that is not `reserved` may be
    declared, as of a function.
    """

    name: str
    arguments: tuple[tuple[str, str], ...]
    arities: tuple[int, ...]
    over: Literal["int", "finite", "real", "truth", "order", "any"]
    about: str
    bounds: tuple[tuple[float | None, float | None], ...] = ()
    reserved: bool = True


@frozen
class Constructor:
    """What may stand after `lm name =` or `tool name =`: plain arguments, then options."""

    name: str
    arguments: tuple[tuple[str, str], ...]
    options: dict[str, OptionType]
    about: str


_TEXT, _NUMBER = ("text", "text"), ("value", "number")
_PART = ("part", "text")

BEFORE = ("previous", "parent")
"""The functions of what a value was elsewhere in its plate, earlier."""

FUNCTIONS: dict[str, Function] = {
    f.name: f
    for f in (
        Function("log_prob", (("value", "segments"), ("distribution", "dist")), "real",
                 "log-probability of a value under a distribution, in nats"),
        Function("contains", (_TEXT, _PART), "bool", "whether the part occurs in the text"),
        Function("count", (_TEXT, _PART), "int", "how often the part occurs, without overlaps"),
        Function("words", (_TEXT,), "int", "number of words: runs without white space"),
        Function("chars", (_TEXT,), "int", "number of characters"),
        Function("tokens", (_TEXT,), "int", "number of tokens"),
        Function("starts_with", (_TEXT, _PART), "bool", "whether the text begins with the part"),
        Function("ends_with", (_TEXT, _PART), "bool", "whether the text ends with the part"),
        Function("matches", (_TEXT, ("pattern", "pattern")), "bool",
                 "whether the whole text matches a regular expression"),
        Function("similarity", (("a", "text"), ("b", "text")), "real",
                 "how alike two texts are, from 0 to 1"),
        Function("abs", (_NUMBER,), "number", "the number without its sign"),
        Function("min", (("a", "number"), ("b", "number")), "number", "the smaller of two"),
        Function("max", (("a", "number"), ("b", "number")), "number", "the larger of two"),
        Function("log", (_NUMBER,), "real", "natural logarithm"),
        Function("exp", (_NUMBER,), "real", "e to the power of the number"),
        Function("logsumexp", (("values", "some"),), "real", "log of the sum of the exponentials", many=True),
        Function("sigmoid", (_NUMBER,), "real", "1 / (1 + exp(-x))"),
        Function("log_sigmoid", (_NUMBER,), "real", "log of sigmoid(x)"),
        Function("softplus", (_NUMBER,), "real", "log(1 + exp(x))"),
        Function("mean", (("values", "some"),), "real", "the mean of numbers, or over the rows of a plate",
                 many=True, reserved=False, pools="mean"),
        Function("sum", (("values", "some"),), "number", "the sum of numbers, or over the rows of a plate",
                 many=True, reserved=False, pools="+"),
        Function("any", (("tests", "test"),), "bool", "whether one is true, or one of a row of a plate",
                 many=True, reserved=False, pools="or"),
        Function("all", (("tests", "test"),), "bool", "whether every one is true, or that of every row of a plate",
                 many=True, reserved=False, pools="and"),
        Function("join", (("part", "segments"), ("separator", "text")), "list",
                 "the parts of all rows of a plate, one after the other", reserved=False, pools="join"),
        Function("last", (("value", "any"), ("otherwise", "any")), "unknown",
                 "the value in the last row of a plate, and where there is no row the other one", reserved=False, pools="last"),
        Function("previous", (("value", "any"), ("first", "any")), "unknown",
                 "the value in the row before of the plate, and of the first row the other one", reserved=False),
        Function("parent", (("value", "any"), ("first", "any")), "unknown",
                 "the value at the item above in a list of some depth, and at the top the other one", reserved=False),
        Function("len", (("list", "items"),), "int", "how many items a list has", reserved=False),
        Function("item", (("list", "items"), ("place", "place")), "text",
                 "the item at a place, counted from 0; empty, or not a number, where there is none", reserved=False),
        Function("number", (_TEXT,), "real", "the number that a text spells; not a number where it spells none",
                 reserved=False),
        Function("before", (_TEXT, _PART), "text",
                 "what stands in front of the first place where the part occurs; empty where it does not", reserved=False),
        Function("after", (_TEXT, _PART), "text",
                 "what stands behind the first place where the part occurs; empty where it does not", reserved=False),
        Function("replace", (_TEXT, _PART, ("by", "text")), "text", "the text with another one in place of each part",
                 reserved=False),
        Function("field", (_TEXT, ("name", "text")), "text",
                 "a field of the object that a JSON text spells; empty where there is none", reserved=False),
    )
}  # fmt: skip

DISTRIBUTIONS: dict[str, Distribution] = {
    d.name: d
    for d in (
        Distribution("uniform", (("low", "int"), ("high", "int")), (0, 2), "finite",
                     "equal mass on low..high, or on every value of the declared type"),
        Distribution("categorical", (("probabilities", "numbers"),), (1,), "finite",
                     "one probability for each value of the declared type, in its order"),
        Distribution("poisson", (("rate", "number"),), (1,), "int",
                     "counts from 0 with mean rate", ((0.0, None),)),
        Distribution("geometric", (("p", "number"),), (1,), "int",
                     "failures before the first success: 0, 1, 2, …", ((0.0, 1.0),)),
        Distribution("binomial", (("n", "int"), ("p", "number")), (2,), "int",
                     "successes among n", ((0.0, None), (0.0, 1.0))),
        Distribution("normal", (("mean", "number"), ("sd", "number")), (2,), "real",
                     "the normal distribution with this mean and standard deviation", ((None, None), (0.0, None)), reserved=False),
        Distribution("beta", (("a", "number"), ("b", "number")), (2,), "real",
                     "a share between 0 and 1 with mean a / (a + b)", ((0.0, None), (0.0, None)), reserved=False),
        Distribution("bernoulli", (("p", "number"),), (1,), "truth",
                     "true, or 1, with probability p", ((0.0, 1.0),), reserved=False),
        Distribution("bradley_terry", (("score", "number"), ("beta", "number")), (2,), "order",
                     "of two: the one is preferred with probability sigmoid(beta * the difference of their scores); the score reads `it`",
                     reserved=False),
        Distribution("plackett_luce", (("score", "number"), ("beta", "number")), (2,), "order",
                     "of a ranked list: each next one is drawn from what is left, in proportion to exp(beta * score); the score reads `it`",
                     reserved=False),
        Distribution("choice", (("model", "lm"),), (1,), "finite",
                     "a language model renormalised over the values of the declared type"),
        Distribution("mix", (("w", "number"), ("d1", "dist"), ("d2", "dist")), (3,), "any",
                     "d1 with the share w, or else d2: the mixture of two distributions of whole values",
                     ((0.0, 1.0),)),
    )
}  # fmt: skip

LMS: dict[str, Constructor] = {
    c.name: c
    for c in (
        Constructor("transformers", (("name", "text"),), {
            "revision": OptionType(kind="nonempty"),
            "dtype": OptionType(kind="choice", choices=("float32", "bfloat16", "float16"),
                                about="what the weights are stored in, where none is named"),
            "device": OptionType(kind="nonempty", about="the first GPU, else the CPU, where none is named"),
            "quantize": OptionType(kind="choice", choices=("8bit", "4bit"),
                                   about="linear layers kept in so many bits"),
            "adapter": OptionType(kind="nonempty", about="a folder with a LoRA adapter to apply"),
        }, "a causal language model by hub name or local folder"),
        Constructor("tabular", (("path", "text"),), {},
                    "a small model whose probabilities stand in a JSON file"),
        Constructor("server", (("url", "text"),), {
            "model": OptionType(kind="nonempty", about="which of its models, where it has several"),
            "tokenizer": OptionType(kind="nonempty",
                                    about="a folder or a name; that of the model, where none is named"),
            "policy": OptionType(kind="nonempty",
                                 about="by which of its names the adapter of a policy's folder is served"),
        }, "a model of a server that scores prompts: vLLM, SGLang or plm serve"),
        Constructor("masked", (("name", "text"),), {
            "revision": OptionType(kind="nonempty"),
            "dtype": OptionType(kind="choice", choices=("float32", "bfloat16", "float16"),
                                about="what the weights are stored in, where none is named"),
            "device": OptionType(kind="nonempty", about="the first GPU, else the CPU, where none is named"),
        }, "a masked language model, which fills places of a text: for guides to propose with"),
    )
}  # fmt: skip

_OUTPUT = OptionType(kind="choice", choices=("observe", "intervene"), default="observe",
                     about="whether spliced tokens count in the target")  # fmt: skip
_TRIGGER = OptionType(kind="nonempty", about="the tool writes what follows this")
_ENDS_A_WORD = OptionType(kind="bool", default=False, about="no letter or digit goes on with what it wrote")

TOOLS: dict[str, Constructor] = {
    c.name: c
    for c in (
        Constructor("calculator", (), {
            "trigger": OptionType(kind="nonempty", default="=",
                                  about="the tool writes what follows this"),
            "operands": OptionType(kind="int", low=1, default=2, about="numbers in one step"),
            "output": _OUTPUT,
            "whole": _ENDS_A_WORD,
        }, "writes the result of a sum"),
        Constructor("list_functions", (), {
            "trigger": OptionType(kind="nonempty", default="->", about="the tool writes what follows this"),
            "output": _OUTPUT,
            "whole": _ENDS_A_WORD,
        }, "writes what functions make of a list of numbers"),
        Constructor("lookup", (("file", "text"),), {"trigger": _TRIGGER, "output": _OUTPUT, "whole": _ENDS_A_WORD},
                    "writes what a table says of the words before it"),
    )
}  # fmt: skip

USED_TOOL = Constructor("use", (), {
    "trigger": _TRIGGER,
    "output": _OUTPUT,
    "whole": _ENDS_A_WORD,
    "seconds": OptionType(kind="number", low=0.01, high=3600, default=5, about="that one call may take"),
}, "a Python function of the text so far, named by `use`")  # fmt: skip

IT = "it"
"""What the score of a preference reads: each of the things that are compared. It is no reserved name."""

ROLES = ("system", "user", "assistant")
"""Who says a message of a conversation. They are no reserved names: a role stands in a model's context alone."""

BUILT_IN = frozenset(f.name for f in FUNCTIONS.values() if f.reserved) | frozenset(
    d.name for d in DISTRIBUTIONS.values() if d.reserved
)
"""Names that no declaration may take, since calls look them up."""

# ---------------------------------------------------------------- types of values

Constants = Sequence[object]
"""The arguments of a declaration, each with its value before data are, a range with both ends, else None."""


class ValueType:
    """One type; a subclass says what differs from a type without arguments that no latent has."""

    name: str
    kind = "unknown"
    """What its values are in expressions: text, int, real, bool or table."""
    takes: Literal["nothing", "range", "choices", "columns", "items", "fields"] = "nothing"
    """What stands in its parentheses beside options."""
    options: ClassVar[Mapping[str, OptionType]] = {}
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
    elsewhere = ("array", "sequence")


class Record(ValueType):
    """Its fields are latents of their own, by the names `record.field`."""

    name, kind, takes, latent = "record", "list", "fields", True
    form, example = "record(…)", 'record(name: text(tokens=1..4, stop=","), age: int(0..99, lead=" "))'
    meant = "fields, one after the other"
    elsewhere = ("struct", "object", "dict", "tuple")


VALUE_TYPES: dict[str, ValueType] = {
    t.name: t for t in (Text(), Int(), Real(), Bool(), OneOf(), Table(), List(), Record())
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
