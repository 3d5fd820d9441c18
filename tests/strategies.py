"""Hypothesis strategies: skewed tables, well-formed programs over them, data and values.

A `Case` is a program as source text with everything it needs to run. Names are made
so that no name occurs inside a string: latents `z0`, lets `y0`, rows `r0`, parameters
`q0`, models `base` and `other`. Every text is spelled with the tokens of the tables.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from posterior_lm.graph import lower, optimize
from posterior_lm.graph.graph import RewardGraph
from posterior_lm.lang.diagnostics import PlmError
from posterior_lm.lang.driver import check
from posterior_lm.lang.parser import parse
from posterior_lm.lang.source import Source
from posterior_lm.lm.masked_table import MaskedTable
from posterior_lm.lm.protocol import MaskedModel
from posterior_lm.lm.tabular import TabularModel
from posterior_lm.target.prepared import PreparedProgram
from posterior_lm.target.target import Target
from posterior_lm.target.validate import validate_data
from posterior_lm.target.values import Value
from tests.brute import Assigned, Brute, add

SINGLE = ("a", "b", "0", "1", "2", " ", ".")
LONGER = ("ab", "ba", " a", "10", "b.", "a.b", "bab")
TEXTS = ("", "a", "b", "ab", "ba", " a", "1", "b.", "a b", "abab", "bba.", "0")
POWERS = ("0.5", "1", "1.5", "2", "3", "0", "-0.5")


def table(
    tokens: tuple[str, ...],
    *,
    seed: int,
    order: int = 1,
    max_tokens: int = 12,
    bos: bool = False,
    zeros: float = 0.0,
) -> TabularModel:
    """A table with skewed rows; each token but the end is impossible with probability `zeros` in a row."""
    rng = np.random.default_rng(seed)
    names = [*tokens, "<eos>"]
    contexts: list[tuple[str, ...]] = [()]
    for depth in range(order):
        contexts += [(*c, t) for c in contexts if len(c) == depth for t in tokens]
    contexts += [("<bos>",)] if bos and order else []
    entries = []
    for context in contexts:
        probs = rng.dirichlet(np.full(len(names), 0.6)) + 0.002
        probs[:-1] *= rng.random(len(tokens)) >= zeros
        probs /= probs.sum()
        entries.append({"after": list(context), "next": dict(zip(names, probs.tolist(), strict=True))})
    return TabularModel.from_dict(
        {"tokens": list(tokens), "order": order, "max_tokens": max_tokens, "bos": bos, "contexts": entries}
    )


@st.composite
def tables(draw: st.DrawFn, tokens: tuple[str, ...] | None = None) -> TabularModel:
    """A random table; with `tokens`, over those, else over all single characters and some longer ones."""
    if tokens is None:
        longer = draw(st.lists(st.sampled_from(LONGER), max_size=3, unique=True))
        tokens = tuple(draw(st.permutations([*SINGLE, *longer])))
    return table(
        tokens,
        seed=draw(st.integers(0, 2**32 - 1)),
        order=draw(st.integers(0, 2 if len(tokens) < 6 else 1)),
        max_tokens=draw(st.sampled_from((3, 8, 30))),
        bos=draw(st.booleans()),
        zeros=draw(st.sampled_from((0.0, 0.0, 0.3))),
    )


@dataclass(frozen=True, repr=False)
class Case:
    """A program: `head` declares, `statements` stand in its body, `asides` (guide, infer) after them."""

    head: str
    params: tuple[tuple[str, str], ...]  # (name, type and default)
    statements: tuple[str, ...]
    data: Mapping[str, object]
    models: Mapping[str, TabularModel]
    asides: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"{self.source}# {self.data}"

    def _repr_pretty_(self, printer, cycle: bool) -> None:  # how hypothesis shows a failing case
        printer.text(repr(self))

    @property
    def source(self) -> str:
        params = ", ".join(f"{name}: {type_}" for name, type_ in self.params)
        body = "\n  ".join((*self.statements, *self.asides))
        return f"{self.head}\nprogram prog({params}) {{\n  {body}\n}}\n"

    def target(self) -> Target:
        return compiled(self.source, self.data, self.models)

    def brute(self) -> Brute:
        return Brute(self.source, self.data, self.models)

    def with_statements(self, *statements: str) -> Case:
        return replace(self, statements=statements)


def graph_of(source: str) -> RewardGraph:
    """The lowered graph of a program that must be without errors."""
    module, found = parse(Source("test.plm", source))
    assert module is not None and not found, (source, found)
    checked = check(module)
    assert not checked.diagnostics, (source, checked.diagnostics)
    return lower(checked)


def fingerprint(source: str) -> str:
    return optimize(graph_of(source)).fingerprint


def compiled(source: str, data: Mapping[str, object], models: Mapping[str, object]) -> Target:
    """Parsed, checked, lowered, optimised and bound."""
    graph = optimize(graph_of(source))
    masked = {alias: model for alias, model in models.items() if isinstance(model, MaskedModel)}
    scoring = {alias: model for alias, model in models.items() if alias not in masked}
    return PreparedProgram.of(graph, scoring, masked=masked).bind_valid(validate_data(graph, data))  # type: ignore[arg-type]


def masked_table(model: TabularModel, *, seed: int, longest: int) -> MaskedTable:
    """A masked model over the tokens of a table, of very unequal texts of at most so many tokens; not those of the table."""
    rng = np.random.default_rng(seed)
    ids = range(len(model.tokenizer.tokens))
    texts = [text for n in range(1, longest + 1) for text in itertools.product(ids, repeat=n)]
    return MaskedTable.of(
        model.tokenizer, dict(zip(texts, rng.random(len(texts)) ** 6, strict=True)), flat=0.05
    )


def values_of(target: Target, rows: list[Mapping[str, Assigned]]) -> dict[str, list]:
    """Assignments, tokens of texts and data of finite types, as the values that a target takes."""

    def one(name: str, assigned: Assigned) -> Value:
        return (
            target.value_of(name, assigned) if isinstance(assigned, tuple) else target.value(name, assigned)
        )

    return {name: [one(name, row[name]) for row in rows] for name in target.names}


def assigned(target: Target, values: Mapping[str, Sequence[Value]], draw: int) -> tuple[Assigned, ...]:
    """One draw as an assignment, in the order of the target's latents."""
    text = {info.name: info.type == "text" for info in target.latents}
    return tuple(v.ids if text[n] else v.datum for n in target.names for v in (values[n][draw],))


# ------------------------------------------------------------------- programs


@dataclass
class _Names:
    """What may be mentioned at one place, by kind; `steady` holds numbers that no latent touches."""

    texts: list[str] = field(default_factory=list)
    lists: list[str] = field(default_factory=list)
    special: list[str] = field(default_factory=list)  # lists that hold a special token
    digits: list[str] = field(default_factory=list)  # ints that the tables can spell
    numbers: list[str] = field(default_factory=list)
    steady: list[str] = field(default_factory=list)
    bools: list[str] = field(default_factory=list)
    written: list[str] = field(default_factory=list)  # latents whose tokens can be counted
    finite: dict[str, int] = field(default_factory=dict)  # names of finite types, with their size
    ints: list[str] = field(default_factory=list)
    tables: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def copy(self) -> _Names:
        return _Names(**{k: type(v)(v) for k, v in vars(self).items()})


class _Writer:
    """Draws a program piece by piece."""

    def __init__(self, draw: st.DrawFn, bos: bool, lms: tuple[str, ...], small: bool, room: int) -> None:
        self.draw, self.bos, self.lms, self.small = draw, bos, lms, small
        self.room = room  # latents that may still be added
        self.made = 0
        self.asides: list[str] = []

    def pick(self, *choices: object) -> object:
        return self.draw(st.sampled_from(choices))

    def name(self, letter: str) -> str:
        self.made += 1
        return f"{letter}{self.made}"

    # ------------------------------------------------------------- texts

    def literal(self) -> str:
        return f'"{self.pick(*TEXTS)}"'

    def item(self, names: _Names, depth: int = 1) -> str:
        kinds = ["literal", "if"] if depth else ["literal"]
        kinds += (
            ["text"] * 3 * bool(names.texts) + ["digit"] * bool(names.digits) + ["list"] * bool(names.lists)
        )
        kinds += ["nested"] if depth else []
        match self.pick(*kinds):
            case "text":
                return str(self.pick(*names.texts))
            case "digit":
                digit = self.pick(*names.digits)
                return str(self.pick(digit, f"min({digit}, 1)"))
            case "list":
                return str(self.pick(*names.lists))
            case "if":
                then = str(self.pick(self.literal(), *names.texts))
                return f"if {self.test(names, 0)} then {then} else {self.literal()}"
            case "nested":
                return f"[{self.literal()}, {self.item(names, 0)}]"
        return self.literal()

    def segments(self, names: _Names, most: int = 3) -> str:
        items = [self.item(names) for _ in range(self.draw(st.integers(0, most)))]
        if self.draw(st.integers(0, 9)) == 0:
            items = ["bos", *items] if self.bos else [*items, "eos"]
        return ", ".join(items)

    def lm(self, names: _Names) -> str:
        return f"{self.pick(*self.lms)}({self.segments(names)})"

    def dist(self, names: _Names, one: str = "") -> str:
        """A model, mostly, or something put together of two, whose models are `one` where that is said."""

        def part() -> str:
            called = self.lm(names)
            return (f"{one}({called.partition('(')[2]}" if one else called) + self.power(names)

        match self.pick("lm", "lm", "lm", "if", "mix", "product"):
            case "if":
                return f"if {self.test(names, 0)} then {part()} else {part()}"
            case "mix":
                share = self.pick("0.3", "0.75", f"sigmoid({self.number(names, 0)})", "1", "0")
                return f"mix({share}, {part()}, {part()})"
            case "product":
                return f"{part()} * {part()}"
        return part()

    def value(self, names: _Names) -> str:
        """Something a language model scores."""
        kinds = ["literal", "list"] + ["name"] * 2 * bool(names.texts)
        match self.pick(*kinds):
            case "name":
                return str(self.pick(*names.texts, *names.ints))
            case "list":
                items = [self.item(names), self.item(names), *self.draw(st.sampled_from(([], ["eos"])))]
                return f"[{', '.join(items)}]"
        return self.literal()

    # ------------------------------------------------------------- numbers and tests

    def text(self, names: _Names) -> str:
        if names.texts and self.draw(st.integers(0, 3)):
            return str(self.pick(*names.texts))
        item = self.item(names)
        # Functions of texts refuse special tokens, and a list may hold one.
        return self.literal() if any(name in item for name in names.special) else f"[{item}]"

    def number(self, names: _Names, depth: int = 2) -> str:
        kinds = ["constant", "count", "words", "chars", "similarity"] + ["name"] * bool(names.numbers)
        kinds += ["tokens"] * bool(names.written) + (
            ["sum", "product", "min", "if", "log_prob", "exp"] if depth else []
        )
        match self.pick(*kinds):
            case "name":
                return str(self.pick(*names.numbers))
            case "count":
                part = self.pick('"a"', '"ab"', '" "', '""')
                return f"count({self.text(names)}, {part})"
            case "words" | "chars" as f:
                return f"{f}({self.text(names)})"
            case "tokens":
                return f"tokens({self.pick(*names.written)})"
            case "similarity":
                return f"similarity({self.text(names)}, {self.literal()})"
            case "sum":
                return f"({self.number(names, 0)} {self.pick('+', '-')} {self.number(names, 0)})"
            case "product":
                return f"{self.number(names, 0)} * -{self.number(names, 0)} / 4"
            case "min":
                return f"{self.pick('min', 'max')}({self.number(names, 0)}, {self.number(names, 0)})"
            case "if":
                return f"(if {self.test(names, 0)} then {self.number(names, 0)} else {self.number(names, 0)})"
            case "log_prob":
                return f"max(log_prob({self.value(names)}, {self.lm(names)}), -20)"
            case "exp":
                return f"log(1 + exp(-abs({self.number(names, 0)})))"
        return str(self.pick("0", "1", "2", "0.25", "1.75", "3.5"))

    def test(self, names: _Names, depth: int = 1) -> str:
        kinds = ["compare", "contains", "ends", "equal", "matches"] + ["name"] * bool(names.bools)
        match self.pick(*kinds, *(["and", "not"] if depth else [])):
            case "name":
                return str(self.pick(*names.bools))
            case "contains":
                return f"contains({self.text(names)}, {self.literal()})"
            case "ends":
                return f"{self.pick('starts_with', 'ends_with')}({self.text(names)}, {self.literal()})"
            case "equal" if free := [t for t in names.texts if t not in names.finite]:
                return f"{self.pick(*free)} {self.pick('==', '!=')} {self.literal()}"
            case "matches":
                pattern = self.pick("a.*", ".*b", "(ab?)*", "[^.]*")
                return f'matches({self.text(names)}, r"{pattern}")'
            case "and":
                return f"({self.test(names, 0)} {self.pick('and', 'or')} {self.test(names, 0)})"
            case "not":
                return f"not {self.test(names, 0)}"
        return f"{self.number(names, 0)} {self.pick('<', '<=', '>', '>=')} {self.number(names, 0)}"

    def exponent(self, names: _Names) -> str:
        return str(self.pick(*POWERS, *names.steady))

    def power(self, names: _Names) -> str:
        raised = "".join(f" ^ {self.exponent(names)}" for _ in range(self.pick(0, 0, 0, 1, 1, 2)))
        return raised

    # ------------------------------------------------------------- statements

    def latent(self, names: _Names, *, prefix: str = "z") -> str:
        self.room -= 1
        kind = self.pick("text", "text", "int", "one_of", "real", "bool")
        name = self.name(prefix)
        before = names.copy()
        if kind == "text":
            low, high = (
                self.pick((1, 2), (0, 2), (2, 2), (1, 1)) if self.small else self.pick((1, 3), (0, 2), (2, 3))
            )
            options = [f"tokens={low}..{high}"]
            end = self.pick("stop", "eos", "free")
            options += [f'stop="{self.pick(".", "b", "ab")}"'] if end == "stop" and high > 1 else []
            options += ['end="free"'] if end == "free" else []
            options += ['chars="ab.0"'] if self.draw(st.integers(0, 4)) == 0 else []
            options += ["canonical=true"] if self.draw(st.integers(0, 6)) == 0 else []
            statement = (
                f"latent {name}: text({', '.join(options)}) ~ {self.dist(names, str(self.pick(*self.lms)))}"
            )
            names.texts.append(name)
            if self.draw(st.integers(0, 2)) == 0:
                self.asides_of(name, before)
        elif kind == "real":
            low, high, grid = self.pick(("0", "1", 2), ("-1", "2", 3), ("0.2", "0.7", 1))
            dist = self.pick(
                "normal(0.4, 0.8)",
                "beta(2, 3)",
                "beta(1, 4)",
                "uniform()",
                f"normal({self.number(names, 0)}, 2)",
            )
            statement = f"latent {name}: real({low}..{high}, grid={grid}) ~ {dist}{self.power(names)}"
            names.numbers.append(name)
        elif kind == "bool":
            dist = self.pick("bernoulli(0.2)", "uniform()", f"bernoulli(sigmoid({self.number(names, 0)}))")
            statement = f"latent {name}: bool ~ {dist}{self.power(names)}"
            names.bools.append(name)
        elif kind == "int":
            low, high = self.pick((0, 1), (0, 2), (1, 2), (2, 2))
            lead = self.pick("", "", ', lead=" "')
            size = high - low + 1
            dist = self.finite_dist(names, size, "int", (low, high))
            statement = f"latent {name}: int({low}..{high}{lead}) ~ {dist}{self.power(names)}"
            names.digits.append(name)
            names.numbers.append(name)
            names.ints.append(name)
            names.finite[name] = size
        else:
            choices = self.draw(
                st.lists(
                    st.sampled_from(("a", "b", "ab", "1", " a", "ba")), min_size=2, max_size=3, unique=True
                )
            )
            dist = self.finite_dist(names, len(choices), "one_of", None)
            shown = ", ".join(f'"{c}"' for c in choices)
            statement = f"latent {name}: one_of({shown}) ~ {dist}{self.power(names)}"
            names.texts.append(name)
            names.finite[name] = len(choices)
        if kind in ("text", "one_of"):
            names.written.append(name)
        return statement

    def asides_of(self, name: str, before: _Names) -> None:
        """A guide next to a latent; it may read what the latent's own context may."""
        self.asides.append(f"guide {name} ~ {self.lm(before)}")

    def finite_dist(self, names: _Names, size: int, kind: str, bounds: tuple[int, int] | None) -> str:
        probs = {1: "1", 2: "0.8, 0.2", 3: "0.6, 0.1, 0.3"}[size]
        kinds = ["lm", "choice", "uniform", "categorical"] + ["numbers"] * 2 * (kind == "int")
        match self.pick(*kinds):
            case "choice":
                return f"choice({self.lm(names)}{self.power(names)})"
            case "uniform":
                return "uniform()"
            case "categorical":
                return f"categorical([{probs}])"
            case "numbers":
                return str(
                    self.pick(
                        "poisson(0.7)",
                        "geometric(0.3)",
                        "binomial(3, 0.2)",
                        "uniform(0, 2)",
                        "binomial(1, 0.9)",
                    )
                )
        return self.lm(names)

    def statement(self, names: _Names, depth: int) -> str:
        kinds = ["observe", "observe", "factor", "condition", "let", "number", "truth", "prefer"] + [
            "latent"
        ] * 2 * (self.room > 0)
        kinds += ["finite"] * bool(names.finite)
        kinds += (["temper"] + ["plate"] * 2 * bool(names.tables)) if depth else []
        match self.pick(*kinds):
            case "latent":
                return self.latent(names)
            case "observe":
                return f"observe {self.value(names)} ~ {self.dist(names)}"
            case "number":
                dist = self.pick(
                    "normal(0.4, 1.5)", f"normal({self.number(names, 0)}, 2) ^ {self.exponent(names)}"
                )
                return f"observe {self.number(names)} ~ {dist}"
            case "prefer":
                items = [self.text(names) for _ in range(self.pick(2, 2, 3))]
                score = self.pick(
                    "chars(it)",
                    f"{self.number(names, 0)} * words(it)",
                    f"max(log_prob(it, {self.lm(names)}), -9)",
                )
                beta = self.pick("0.5", "2", f"min(3, {self.number(names, 0)})")
                order = f"{'bradley_terry' if len(items) == 2 else 'plackett_luce'}({score}, {beta}){self.power(names)}"
                return f"prefer {' over '.join(items)} ~ {order}"
            case "truth":
                return f"observe {self.test(names)} ~ bernoulli({self.pick('0.3', f'sigmoid({self.number(names, 0)})')})"
            case "finite":
                name, size = self.pick(*names.finite.items())
                kind = "int" if name in names.ints else "one_of"
                return f"observe {name} ~ {self.finite_dist(names, size, kind, None)}{self.power(names)}"
            case "condition":
                return f"condition {self.test(names)}"
            case "let":
                name = self.name("y")
                if self.draw(st.booleans()):
                    inside = self.segments(names, 2)
                    statement = f"let {name} = [{inside}]"
                    names.lists.append(name)
                    if any(word in inside for word in ("bos", "eos", *names.special)):
                        names.special.append(name)
                else:
                    statement = f"let {name} = {self.number(names, 1)}"
                    names.numbers.append(name)
                return statement
            case "temper":
                body = [self.statement(names, depth - 1) for _ in range(self.pick(1, 2))]
                return f"temper {self.exponent(names)} {{ {' '.join(body)} }}"
            case "plate":
                return self.plate(names, depth)
        sign = self.pick("", "-0.5 * ")
        return f"factor {sign}{self.number(names)}"

    def plate(self, names: _Names, depth: int) -> str:
        rows, columns = self.pick(*names.tables.items())
        row, inner = self.name("r"), names.copy()
        kinds = {"qt": inner.texts, "qn": inner.digits, "qw": inner.steady}
        for column in columns:
            kinds[column].append(f"{row}.{column}")
        inner.numbers += [f"{row}.{c}" for c in columns if c in ("qn", "qw")]
        before, self.asides = self.asides, []
        body = [self.statement(inner, depth - 1) for _ in range(self.pick(1, 2, 2))]
        body += self.asides
        self.asides = before
        return f"plate {row} in {rows} {{ {' '.join(body)} }}"


@st.composite
def cases(draw: st.DrawFn, *, small: bool = False, latents: int = 3) -> Case:
    """A well-formed program with at least one latent; `small` keeps its values few enough to list."""
    tokens = tuple(draw(st.permutations(("a", "b", "0", "1", "2", " ", ".")))) if small else None
    base = draw(tables(tokens))
    models = {"base": base}
    if draw(st.integers(0, 2)) == 0:
        same = base.tokenizer.tokens if draw(st.booleans()) else None
        other = draw(tables(same))
        if base.tokenizer.bos == other.tokenizer.bos:
            models["other"] = other
    writer = _Writer(draw, base.tokenizer.bos, tuple(models), small, latents)
    names, params, data = _Names(), [], {}
    for kind in draw(
        st.lists(st.sampled_from(("text", "int", "real", "bool", "one_of", "table", "table")), max_size=4)
    ):
        name = writer.name("q")
        type_, data[name] = _parameter(draw, writer, names, name, kind)
        params.append((name, type_))
    statements = [writer.latent(names)]
    statements += [writer.statement(names, 2) for _ in range(draw(st.integers(0, 4)))]
    head = "\n".join(f'lm {alias} = "{alias[0]}.json"' for alias in models)
    asides = writer.asides + draw(st.sampled_from(([], ["infer importance(n=10)"])))
    return Case(head, tuple(params), tuple(statements), data, models, tuple(asides))


def _parameter(draw: st.DrawFn, writer: _Writer, names: _Names, name: str, kind: str) -> tuple[str, object]:
    match kind:
        case "text":
            names.texts.append(name)
            return "text", draw(st.sampled_from(TEXTS))
        case "int":
            for where in (names.digits, names.numbers, names.steady, names.ints):
                where.append(name)
            names.finite[name] = 3
            return "int(0..2)", draw(st.integers(0, 2))
        case "real":
            names.numbers.append(name)
            names.steady.append(name)
            return "real", draw(st.sampled_from((0.5, 2.0, 1, -1.25)))
        case "bool":
            names.bools.append(name)
            return "bool", draw(st.booleans())
        case "one_of":
            names.texts.append(name)
            names.finite[name] = 2
            return 'one_of("ab", "b")', draw(st.sampled_from(("ab", "b")))
    names.tables[name] = ("qt", "qn", "qw")
    row = st.fixed_dictionaries(
        {"qt": st.sampled_from(TEXTS), "qn": st.integers(0, 2), "qw": st.sampled_from((0.5, 1.5, 2.0))}
    )
    return "table(qt: text, qn: int, qw: real)", draw(st.lists(row, max_size=2 if writer.small else 3))


@st.composite
def assignments(draw: st.DrawFn, brute: Brute, *, inside: bool = False) -> dict[str, Assigned]:
    """Tokens for every latent; text values are now and then outside the support, unless `inside`."""
    found: dict[str, Assigned] = {}
    for name, declared in brute.declared().items():
        values = declared.values()
        if declared.kind == "text" and not values and inside:
            raise AssertionError("an empty support")
        if not inside and declared.kind == "text" and draw(st.integers(0, 7)) == 0:
            ids = st.lists(st.integers(0, len(declared.model.tokenizer.tokens) - 1), max_size=4)
            found[name] = tuple(draw(ids))
        else:
            found[name] = values[draw(st.integers(0, len(values) - 1))]
    return found


@dataclass(frozen=True, repr=False)
class Bound:
    """A case that is ready to be evaluated, and some assignments; none of its terms is NaN."""

    case: Case
    brute: Brute
    target: Target
    rows: list[dict[str, Assigned]]
    wanted: np.ndarray
    """(N, K) the terms by the slow reading."""

    def __repr__(self) -> str:
        return f"{self.case!r}\n# {self.rows}"

    def _repr_pretty_(self, printer, cycle: bool) -> None:  # how hypothesis shows a failing case
        printer.text(repr(self))

    @property
    def values(self) -> dict[str, list]:
        return values_of(self.target, self.rows)


def listed(bound: Bound, most: int = 400) -> tuple[list[dict[str, Assigned]], np.ndarray]:
    """Every assignment of a small case, and its log reward by the slow reading.

    Discards a case with too many, and one with a term that is no number.
    """
    assume(math.prod(len(d.values()) for d in bound.brute.declared().values()) <= most)
    rows = list(bound.brute.assignments())
    terms = np.array([bound.brute.terms(row) for row in rows])
    assume(not np.isnan(terms).any())
    return rows, np.array([add(row) for row in terms])


@st.composite
def bound_cases(
    draw: st.DrawFn, *, n: int = 3, inside: bool = False, small: bool = False, latents: int = 3
) -> Bound:
    """A random case with data and n assignments, without those whose terms are 0 / 0 (a `choice` of nothing)."""
    case = draw(cases(small=small, latents=latents))
    try:
        target = case.target()
    except PlmError as problem:
        # A support that the table cannot fill, or a condition that leaves nothing of one.
        assert problem.diagnostics[0].code in ("PLM330", "PLM340")
        assume(False)
    brute = case.brute()
    rows = [draw(assignments(brute, inside=inside)) for _ in range(n)]
    wanted = np.array([brute.terms(row) for row in rows])
    assume(not np.isnan(wanted).any())
    return Bound(case, brute, target, rows, wanted)
