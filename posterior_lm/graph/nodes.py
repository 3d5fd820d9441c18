"""The closed set of node kinds of a log-reward graph.

A node refers to its inputs by their ids, in order. Spans are left out of
equality and of the fingerprint. Some kinds exist only before a graph is bound
to data (`Input`, `RowField`, `PlateSum`, `Pool` and `Previous` too).
"""

from __future__ import annotations

from typing import ClassVar

from attrs import field, frozen

from posterior_lm.lang.source import NOWHERE, Span
from posterior_lm.tools import ToolSpec


@frozen(kw_only=True)
class Node:
    """What every node has: ordered input ids and the source text it came from."""

    KIND: ClassVar[str] = "node"
    DETAIL: ClassVar[str] = ""
    inputs: tuple[int, ...] = ()
    span: Span = field(default=NOWHERE, eq=False, repr=False)

    @property
    def detail(self) -> str:
        """What the dump prints besides kind and inputs: DETAIL with the node's fields."""
        return self.DETAIL.format(self)


# ------------------------------------------------------------------- values


@frozen(kw_only=True)
class Input(Node):
    """A parameter of the program, known once data is bound."""

    KIND = "input"
    DETAIL = "{0.name}"
    name: str


@frozen(kw_only=True)
class Constant(Node):
    KIND = "constant"
    DETAIL = "{0.value!r}"
    value: str | int | float | bool | tuple

    def __eq__(self, other: object) -> bool:  # 1, 1.0 and True are different constants
        return (
            isinstance(other, Constant)
            and type(self.value) is type(other.value)
            and self.value == other.value
        )

    def __hash__(self) -> int:
        return hash((type(self.value), self.value))


@frozen(kw_only=True)
class Marker(Node):
    """The segment `bos` or `eos`."""

    KIND = "marker"
    DETAIL = "{0.kind}"
    kind: str


@frozen(kw_only=True)
class Role(Node):
    """The beginning of a message in the context of a conversation: what follows is of this role."""

    KIND = "role"
    DETAIL = "{0.role}"
    role: str


@frozen(kw_only=True)
class RowField(Node):
    """A column of the current row of a plate."""

    KIND = "row"
    DETAIL = "plate={0.plate} .{0.column}"
    plate: int
    column: str


WHEN, MARK = "when", "mark"
"""Options of latents: of one in a branch whether it exists, of one of a list the list's end."""


@frozen(kw_only=True)
class Latent(Node):
    """An unknown. `options` names what the inputs are: (`low`, `high`, `lead`, `tokens`…, and `when` it exists).

    `choices` holds the values of a type that lists strings or truth values; `lm` the model whose tokens spell the
    value (None in a program without one); `plates` the plates it stands in; `tools`
    write parts of a text, in the order of their triggers. `spans` says where its `type`
    and the values of its options stand.
    """

    KIND = "latent"
    name: str
    type: str  # a name in `lang.signatures`
    options: tuple[str, ...] = ()
    choices: tuple[str | bool, ...] = ()
    lm: str | None = None
    plates: tuple[int, ...] = ()
    tools: tuple[ToolSpec, ...] = ()
    spans: tuple[tuple[str, Span], ...] = field(default=(), eq=False, repr=False)

    @property
    def when(self) -> int | None:
        """The node that says whether it exists; None where it always does."""
        return self.inputs[self.options.index(WHEN)] if WHEN in self.options else None

    @property
    def detail(self) -> str:
        parts = [f"{self.name}: {self.type}"]
        if self.choices:
            parts.append(f"choices={list(self.choices)!r}")
        if self.options:
            parts.append(f"options={','.join(self.options)}")
        if self.lm is not None:
            parts.append(f"lm={self.lm}")
        if self.plates:
            parts.append(f"plates={list(self.plates)!r}")
        if self.tools:
            shown = (f"{t.kind}({t.trigger!r}, {t.output})" for t in self.tools)
            parts.append(f"tools=[{', '.join(shown)}]")
        return " ".join(parts)


@frozen(kw_only=True)
class Segments(Node):
    """Text: known neighbours joined as strings, latents spliced in as their tokens."""

    KIND = "segments"


@frozen(kw_only=True)
class Pool(Node):
    """One value of all rows of a plate, put together by `op`. Inputs (table, value of a row), and what `join` puts between."""

    KIND = "pool"
    DETAIL = "{0.plate} {0.op}"
    plate: int
    op: str


@frozen(kw_only=True)
class Previous(Node):
    """A value in the row before of a plate. Inputs (value, what it is in the first row)."""

    KIND = "previous"
    DETAIL = "{0.plate}"
    plate: int


@frozen(kw_only=True)
class Running(Node):
    """A value that reads itself, as `Carried`, in the row before. Input (value,)."""

    KIND = "running"
    DETAIL = "{0.number}"
    number: int


@frozen(kw_only=True)
class Carried(Node):
    """What a running value is in the current row of these plates; it has no inputs, as a graph has no circles."""

    KIND = "carried"
    DETAIL = "{0.number}"
    number: int
    plates: tuple[int, ...]


@frozen(kw_only=True)
class Apply(Node):
    """A function or operator on values."""

    KIND = "apply"
    op: str
    tool: ToolSpec | None = None
    """Of the op `tool`: which one says what it would write behind the text."""

    @property
    def detail(self) -> str:
        return self.op if self.tool is None else f"{self.op} {self.tool.kind}({self.tool.trigger!r})"


# ------------------------------------------------------------------- log scores


@frozen(kw_only=True)
class LmScore(Node):
    """log p(text | context) of a language model; inputs (context, text), both `Segments`.

    `rides` is set by the pass that shares prefixes: the id of a longer `LmScore`
    whose token sequence begins with this one's, so one forward pass serves both.
    """

    KIND = "lm_score"
    lm: str
    bare: bool = False
    """Whether the text is written as the name of one latent, whose terminator then counts."""
    rides: int | None = field(default=None, eq=False)

    @property
    def detail(self) -> str:
        parts = [self.lm] + ["bare"] * self.bare + [f"rides=%{self.rides}"] * (self.rides is not None)
        return " ".join(parts)


@frozen(kw_only=True)
class ChoiceScore(Node):
    """log of a language model's probability renormalised over a finite type.

    Inputs (context, value), then (low, high) where the type is an int, then the
    power of the model where `powered`.
    """

    KIND = "choice_score"
    lm: str
    choices: tuple[str | bool, ...] = ()
    lead: str = ""
    powered: bool = False

    @property
    def detail(self) -> str:
        parts = [self.lm, "over", str(list(self.choices)) if self.choices else "int"]
        parts += [f"lead={self.lead!r}"] * bool(self.lead) + ["powered"] * self.powered
        return " ".join(parts)


@frozen(kw_only=True)
class DistScore(Node):
    """log pmf of a distribution that is not a language model; of a real that is not cut into cells its log density.

    Inputs: value, the arguments, then (low, high) where `bounded` (an int type, or a real one of `grid` cells).
    """

    KIND = "dist_score"
    dist: str
    choices: tuple[str | bool, ...] = ()
    bounded: bool = False
    grid: int = 0

    @property
    def detail(self) -> str:
        over = f" over {list(self.choices)}" if self.choices else ""
        return self.dist + over + (f" over {self.grid} cells" if self.grid else "")


@frozen(kw_only=True)
class Test(Node):
    """0 where the input is true, -inf where it is false."""

    KIND = "test"
    __test__ = False  # not a test case, whatever its name


@frozen(kw_only=True)
class Power(Node):
    """exponent × term; a term of -inf stays -inf. Inputs (exponent, term)."""

    KIND = "power"


@frozen(kw_only=True)
class Mix(Node):
    """log(w exp a + (1 - w) exp b). Inputs (w, a, b); a truth value w is 1 or 0, and picks a branch."""

    KIND = "mix"


@frozen(kw_only=True)
class PlateSum(Node):
    """The sum of a term over the rows of a table. Inputs (table, term)."""

    KIND = "plate"
    DETAIL = "{0.plate}"
    plate: int


@frozen(kw_only=True)
class Sum(Node):
    """A plate's sum written out, or the factors of a product of distributions."""

    KIND = "sum"


@frozen
class TermInfo:
    """The statement a term came from: its keyword, what it is about, its span."""

    keyword: str  # latent | observe | factor | condition
    about: str
    span: Span = field(eq=False, repr=False)

    @property
    def label(self) -> str:
        return f"{self.keyword} {self.about}".strip()

    def draws(self, latent: str) -> bool:
        """Whether it is the statement of that latent, or of what the latent is a place or a field of."""
        base = latent.split("[", 1)[0]
        return self.keyword == "latent" and self.about in (base, base.split(".", 1)[0])


@frozen(kw_only=True)
class Total(Node):
    """The log reward: the sum of its inputs, one per statement."""

    KIND = "total"
    terms: tuple[TermInfo, ...] = field(default=(), eq=False)


NODE_KINDS: tuple[type[Node], ...] = (
    Input, Constant, Marker, Role, RowField, Latent, Segments, Pool, Previous, Running, Carried, Apply,
    LmScore, ChoiceScore, DistScore, Test, Power, Mix, PlateSum, Sum, Total,
)  # fmt: skip
