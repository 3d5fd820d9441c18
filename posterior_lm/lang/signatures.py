"""What the language knows by name: functions, distributions, options, models, tools.

Data only; methods are a table of their own, `infer/methods.py`. The checker reads argument
and option types here, and whoever implements one of them implements exactly what stands here.

Kinds of argument: `text` (a string), `segments` (what a context is made of: text,
numbers, lists of them, bos and eos), `number` (int or real), `int`, `numbers` (a
list of numbers), `dist` (a distribution), `lm` (a call of a language model).
Kinds of option: `text`, `nonempty` (text of at least one character), `pattern`,
`int`, `number`, `bool`, `range` (two ints), `choice` (one of `choices`), `tool` (the
name of a declared tool, or a list of them).
"""

from __future__ import annotations

from attrs import frozen

from posterior_lm.infer.methods import OptionType


@frozen
class Function:
    """A function of values: kinds of its arguments, kind of its result."""

    name: str
    arguments: tuple[tuple[str, str], ...]  # (name, kind)
    result: str
    about: str


@frozen
class Distribution:
    """A distribution that is not a language model.

    `arities` are the allowed numbers of arguments; `over` says which declared
    types it is a distribution over, "finite" standing for int(a..b) and one_of.
    `bounds` gives the allowed range of each argument that is a plain number.
    """

    name: str
    arguments: tuple[tuple[str, str], ...]
    arities: tuple[int, ...]
    over: str  # "int" | "finite"
    about: str
    bounds: tuple[tuple[float | None, float | None], ...] = ()


@frozen
class Constructor:
    """What may stand after `lm name =` or `tool name =`: plain arguments, then options."""

    name: str
    arguments: tuple[tuple[str, str], ...]
    options: dict[str, OptionType]
    available: bool
    about: str


_TEXT, _NUMBER = ("text", "text"), ("value", "number")
_PART = ("part", "text")

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
        Distribution("choice", (("model", "lm"),), (1,), "finite",
                     "a language model renormalised over the values of the declared type"),
    )
}  # fmt: skip

LMS: dict[str, Constructor] = {
    c.name: c
    for c in (
        Constructor("transformers", (("name", "text"),), {
            "revision": OptionType(kind="nonempty"),
            "dtype": OptionType(kind="choice", choices=("float32", "bfloat16", "float16"),
                                default="float32"),
            "device": OptionType(kind="nonempty", about="the first GPU, else the CPU, where none is named"),
        }, True, "a causal language model by hub name or local folder"),
        Constructor("tabular", (("path", "text"),), {}, True,
                    "a small model whose probabilities stand in a JSON file"),
    )
}  # fmt: skip

_OUTPUT = OptionType(kind="choice", choices=("observe", "intervene"), default="observe",
                     about="whether spliced tokens count in the target")  # fmt: skip
_TRIGGER = OptionType(kind="nonempty", about="the tool writes what follows this")

TOOLS: dict[str, Constructor] = {
    c.name: c
    for c in (
        Constructor("calculator", (), {
            "trigger": OptionType(kind="nonempty", default="=",
                                  about="the tool writes what follows this"),
            "operands": OptionType(kind="int", low=1, default=2, about="numbers in one step"),
            "output": _OUTPUT,
        }, True, "writes the result of a sum"),
        Constructor("lookup", (("file", "text"),), {"trigger": _TRIGGER, "output": _OUTPUT}, True,
                    "writes what a table says of the words before it"),
    )
}  # fmt: skip

USED_TOOL = Constructor("use", (), {
    "trigger": _TRIGGER,
    "output": _OUTPUT,
    "seconds": OptionType(kind="number", low=0.01, high=3600, default=5, about="that one call may take"),
}, True, "a Python function of the text so far, named by `use`")  # fmt: skip

BUILT_IN = frozenset(FUNCTIONS) | frozenset(DISTRIBUTIONS)
"""Names that no declaration may take, since calls look them up."""
