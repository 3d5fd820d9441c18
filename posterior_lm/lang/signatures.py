"""What the language knows by name: functions, distributions, options, models, tools; its types stand in `value_types`.

The checker reads argument and option types here, and whoever implements one of them
implements exactly what stands here; methods are a table of their own, `infer/methods.py`.

Kinds of argument: `text` (a string), `segments` (what a context is made of: text,
numbers, lists of them, bos and eos), `number` (int or real), `int`, `numbers` (a
list of numbers), `some` (a number or such a list), `test` (a truth value), `dist` (a distribution), `lm` (a call of a language model).
Kinds of option: `text`, `nonempty` (text of at least one character), `pattern`,
`int`, `number`, `bool`, `range` (two ints), `choice` (one of `choices`), `tool` (the
name of a declared tool, or a list of them).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from attrs import evolve, frozen

from posterior_lm.infer.methods import OptionType

if TYPE_CHECKING:
    pass


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
    `prefer` states ("order"), shares of a whole ("shares", which have one argument each), or all ("any").
    `bounds` gives the allowed range of each argument that is a plain number. A name that is not `reserved` may be
    declared, as of a function.
    """

    name: str
    arguments: tuple[tuple[str, str], ...]
    arities: tuple[int, ...]
    over: Literal["int", "finite", "real", "truth", "order", "shares", "any"]
    about: str
    bounds: tuple[tuple[float | None, float | None], ...] = ()
    reserved: bool = True

    def of(self, n: int) -> Distribution:
        """What n arguments are given to: of shares there may be any number."""
        return evolve(self, arguments=self.arguments * n, arities=(n,)) if self.over == "shares" else self


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
        Distribution("dirichlet", (("concentration", "number"),), (), "shares",
                     "shares of a whole, one concentration each, with means in proportion to them", reserved=False),
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
