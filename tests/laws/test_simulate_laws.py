"""Laws of simulation: weighted pairs of latents and observation follow the program's own joint distribution.

Everything is listed by a second reading of the language (`tests.brute`) on skewed
tables; simulated shares have to lie within four standard errors of it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from posterior_lm.graph import optimize
from posterior_lm.infer.choosers import Follow
from posterior_lm.infer.rollout import roll_out
from posterior_lm.lm.protocol import Request
from posterior_lm.target.prepared import PreparedProgram
from posterior_lm.target.validate import validate_data
from posterior_lm.target.values import ABSENT
from posterior_lm.train.simulate import Pair, Simulator
from tests.brute import Brute
from tests.strategies import graph_of, table

MODEL = table(("a", "b", ".", "ab", " ", " a"), seed=41, order=2, max_tokens=40)
NUMBERS = table(("0", "1", "2", "a", " ", "."), seed=42, order=2, max_tokens=40)
STOP = 'text(tokens=1..3, stop=".", chars="ab")'
Key = tuple[object, ...]


@dataclass(frozen=True)
class Program:
    """A body over `base` (and `digits`), its rows, and the observations that a row's shape allows."""

    params: str
    body: str
    rows: tuple[Mapping[str, object], ...]
    simulated: tuple[str, ...]
    exact: bool | None
    """None where both answers are right: it may be weighed term by term, or by its mass alone."""
    lead: str = ""
    """Known text before a simulated text."""
    choices: tuple[object, ...] = ()
    """The values of a simulated finite parameter."""
    draws: int = 3000

    @property
    def source(self) -> str:
        return f'lm base = "b"\nlm digits = "d"\nprogram p({self.params}) {{\n{self.body}\n}}'

    def simulator(self) -> Simulator:
        graph = optimize(graph_of(self.source))
        return Simulator(PreparedProgram.of(graph, MODELS), [validate_data(graph, r) for r in self.rows])


MODELS = {"base": MODEL, "digits": NUMBERS}
Z = f'latent z: {STOP} ~ base("a") '
Y = "y: text"
SHORT = ({"y": "b"}, {"y": "ab"}, {"y": "ba"})
"""Texts of one token and of two, in no common sign: a length is drawn, 1 with probability 2/3."""
DOTS = ({"y": "."},)
ONE = 'y: one_of("a", "ab", "b.")'
ONES = ("a", "ab", "b.")

K = 'latent k: one_of("a", "b") ~ categorical([0.3, 0.7]) '

PROGRAMS = {
    "generative": Program(Y, Z + "observe y ~ base(z)", SHORT, ("y",), True),
    "generative, ending in a sign": Program(
        Y, 'latent z: one_of("a", "0", "1 ") ~ choice(digits("a")) observe y ~ digits(z)',
        DOTS, ("y",), True,
    ),
    "after a space": Program(Y, Z + 'observe [" ", y] ~ base(z)', SHORT, ("y",), True, lead=" ", draws=9000),
    "after known text": Program(Y, Z + 'observe ["b", y] ~ base(z)', SHORT, ("y",), False, lead="b"),
    "after known text and a space": Program(
        Y, Z + 'observe ["b ", y] ~ base(z)', SHORT, ("y",), False, lead="b ", draws=9000
    ),
    "before known text": Program(Y, Z + 'observe [y, "b"] ~ base(z)', SHORT, (), False),
    "a power of the observation": Program(Y, Z + "observe y ~ base(z) ^ 2", SHORT, ("y",), False),
    "a power of the prior": Program(
        Y, f'latent z: {STOP} ~ base("a") ^ 0.5 observe y ~ base(z)', SHORT, ("y",), False
    ),
    "a negative power of the prior": Program(
        Y, 'latent z: one_of("a", "ab", "b.") ~ choice(base("b")) ^ -0.5 observe y ~ base(z)', SHORT, ("y",), False
    ),
    "tempered": Program(Y, "temper 1.6 { " + Z + "observe y ~ base(z) }", SHORT, ("y",), False),
    "observed twice alike": Program(Y, Z + "observe y ~ base(z) observe y ~ base(z)", SHORT, ("y",), False),
    "observed twice": Program(Y, Z + 'observe y ~ base(z) observe y ~ base("b")', SHORT, (), False),
    "the latent observed once more": Program(
        Y, Z + 'observe z ~ base("b") observe y ~ base(z)', SHORT, ("y",), False
    ),
    "a factor": Program(
        Y, Z + "factor -0.7 * chars(z) + (if contains(z, \"b\") then 1.0 else 0.0) observe y ~ base(z)",
        SHORT, ("y",), False,
    ),
    "a condition": Program(Y, Z + 'condition contains(z, "a") observe y ~ base(z)', SHORT, ("y",), False),
    "a condition on the observation": Program(
        Y, Z + "observe y ~ base(z) condition chars(z) > chars(y)", SHORT, (), False
    ),
    "another observation that is known": Program(
        Y, Z + 'observe "ab" ~ base(z) observe y ~ base(z)', SHORT, ("y",), False
    ),
    "a finite choice": Program(
        ONE, Z + "observe y ~ choice(base(z))", ({"y": "a"},), ("y",), True, choices=ONES
    ),
    "a finite choice without renormalising": Program(
        ONE, Z + "observe y ~ base(z)", ({"y": "a"},), ("y",), False, choices=ONES
    ),
    "a finite choice with a power": Program(
        ONE, Z + "observe y ~ choice(base(z)) ^ 0.4", ({"y": "a"},), ("y",), False, choices=ONES
    ),
    "a number": Program(
        "y: int(0..3)", 'latent k: int(1..3) ~ categorical([0.6, 0.1, 0.3]) observe y ~ poisson(k)',
        ({"y": 1},), ("y",), True, choices=(0, 1, 2, 3),
    ),
    "a number of an odd range": Program(
        "y: int(1..4)", 'latent k: int(1..4) ~ categorical([0.5, 0.1, 0.1, 0.3]) observe y ~ uniform(0, k)',
        ({"y": 1},), ("y",), True, choices=(1, 2, 3, 4),
    ),
    "a latent of a finite type": Program(
        Y, 'latent z: one_of("a", "ab", "b.") ~ choice(base("b")) observe y ~ base(z)', SHORT, ("y",), True
    ),
    "an int by a model": Program(
        "y: text", 'latent z: int(0..2, lead=" ") ~ digits("a") observe y ~ digits(z)',
        ({"y": "1"}, {"y": "00"}), ("y",), True,
    ),
    "end of text": Program(
        Y, 'latent z: text(tokens=0..2, chars="ab") ~ base("a") observe y ~ base("b", z)', SHORT, ("y",), None
    ),
    "free, one length": Program(
        Y, 'latent z: text(tokens=2..2, end="free") ~ base("a") observe y ~ base(z)', SHORT, ("y",), None
    ),
    "free": Program(
        Y, 'latent z: text(tokens=1..3, end="free", chars="ab") ~ base("a") observe y ~ base(z)',
        SHORT, ("y",), False,
    ),
    "canonical": Program(
        Y, 'latent z: text(tokens=1..3, stop=".", canonical=true, chars="ab") ~ base("a") observe y ~ base(z)',
        SHORT, ("y",), True,
    ),
    "two latents": Program(
        Y, """latent x: text(tokens=1..2, stop=".", chars="ab") ~ base("b")
        latent z: one_of("a", "b") ~ choice(base(x)) observe y ~ base(x, z)""",
        SHORT, ("y",), True,
    ),
    "rows that differ": Program(
        "x: text, y: text", f"latent z: {STOP} ~ base(x) observe y ~ base(x, z)",
        ({"x": "a", "y": "b"}, {"x": "b.", "y": "ab"}, {"x": "ab", "y": "ba"}), ("y",), True,
    ),
    "rows that differ, with a power": Program(
        "x: text, y: text", f"latent z: {STOP} ~ base(x) observe y ~ base(x, z) ^ 0.5",
        ({"x": "a", "y": "b"}, {"x": "b.", "y": "ab"}, {"x": "ab", "y": "ba"}), ("y",), False,
    ),
    "observed in either branch": Program(
        Y, K + 'if k == "a" { ' + Z + 'observe y ~ base(z) } else { observe y ~ base("b") ^ 1 }', SHORT, ("y",), True,
        draws=6000,
    ),
    "observed alike in either branch": Program(
        Y, K + 'if k == "a" { ' + Z + 'observe y ~ base("ab") } else { observe y ~ base("ab") factor 0.7 }',
        SHORT, ("y",), False,
    ),
    "observed in each of three branches": Program(
        Y, K + 'if k == "a" { ' + Z + 'observe y ~ base(z) } '
        'else { latent n: int(0..1) ~ categorical([0.2, 0.8]) '
        'if n == 1 and k == "b" { observe y ~ base("ab") } else { observe y ~ base("b.") } }',
        SHORT, ("y",), True, draws=6000,
    ),
    "observed in one branch": Program(
        Y, K + 'if k == "a" { ' + Z + 'observe y ~ base(z) }', SHORT, (), False
    ),
    "observed behind a branch": Program(
        Y, K + 'if k == "a" { ' + Z + '} observe y ~ base("a", k)', SHORT, ("y",), True
    ),
    "observed in two branches that do not exclude each other": Program(
        Y, K + Z + 'if k == "a" { observe y ~ base("a") } if contains(z, "b") { observe y ~ base("b") }',
        SHORT, (), False,
    ),
    "a number in either branch": Program(
        "y: int(0..3)", K + 'if k == "a" { latent n: int(1..3) ~ categorical([0.6, 0.1, 0.3]) observe y ~ poisson(n) }'
        " else { observe y ~ categorical([0.1, 0.2, 0.3, 0.4]) }", ({"y": 1},), ("y",), True, choices=(0, 1, 2, 3),
    ),
}  # fmt: skip


# ------------------------------------------------------------------- the truth, listed


def texts_of(program: Program) -> dict[str, float]:
    """Every text of the rows' shape, and the probability of its length."""
    texts = [str(row["y"]) for row in program.rows]
    tokenizer = (NUMBERS if "digits" in program.body else MODEL).tokenizer
    last = {t[-1] for t in texts}
    lead = program.lead
    head = lead.rstrip(" ")
    counts = [len(tokenizer.encode(lead[len(head) :] + t)) for t in texts]
    found: dict[str, float] = {}
    stop = last.pop() if len(last) == 1 else ""
    if stop == ".":
        lengths = {n: 1.0 for n in range(1, max(counts) + max(counts) // 4 + 3)}
    else:
        lengths = {n: counts.count(n) / len(counts) for n in set(counts)}
    ids = range(len(tokenizer.tokens))
    for n, share in lengths.items():
        usable = [i for i in ids if stop != "." or "." not in tokenizer.tokens[i]]
        for one in itertools.product(usable, repeat=n if stop != "." else n - 1):
            own = (*one, tokenizer.encode(".")[0]) if stop == "." else one
            text = tokenizer.decode(own)
            whole = tokenizer.encode(head + text)
            space = lead[len(head) :]
            if whole == (*tokenizer.encode(head), *own) and text.startswith(space) and text != space:
                found[text[len(space) :]] = share
    return found


def joint(program: Program, row: int) -> dict[Key, float]:
    """p(latents, observation | the rest of the row), by listing both."""
    data = dict(program.rows[row])
    if not program.simulated:
        observed: dict[object, float] = {data["y"]: 1.0}
    elif program.choices:
        observed = dict.fromkeys(program.choices, 1.0)
    else:
        observed = dict(texts_of(program))
    weights: dict[Key, float] = {}
    brute = Brute(program.source, data, MODELS)
    for y, share in observed.items():
        brute.env.params["y"] = y  # type: ignore[index]
        for assignment in brute.assignments():
            weights[(y, *assignment.values())] = share * math.exp(brute.log_reward(assignment))
    total = sum(weights.values())
    return {k: w / total for k, w in weights.items()}


def key_of(program: Program, pair: Pair) -> Key:
    assigned = [v.datum if v == ABSENT or isinstance(v.datum, int) or "one_of" in _type(program, n) else v.ids
                for n, v in pair.values.items()]  # fmt: skip
    return (pair.data["y"], *assigned)


def _type(program: Program, name: str) -> str:
    return program.body.split(f"latent {name}: ")[1].split("~")[0]


def drawn(program: Program, seed: int = 1) -> list[Pair]:
    rows = len(program.rows)
    numbers = [k % rows for k in range(program.draws)]
    rngs = [np.random.default_rng([seed, k]) for k in range(program.draws)]
    return program.simulator().draw(rngs, numbers)


def shares(program: Program, pairs: Sequence[Pair], exact: Mapping[Key, float]) -> Iterator[tuple]:
    return weighted([key_of(program, p) for p in pairs], [p.log_weight for p in pairs], exact)


def weighted(
    keys: Sequence[Key], log_weights: Sequence[float], exact: Mapping[Key, float]
) -> Iterator[tuple]:
    """(cell, exact share, weighted share, its standard error), rare cells as one."""
    log_w = np.array(log_weights)
    assert not np.isnan(log_w).any()
    weights = np.exp(log_w - log_w.max())
    strangers = [k for k, w in zip(keys, weights, strict=True) if w > 0 and exact.get(k, 0.0) <= 0]
    assert not strangers, strangers[:3]
    total, heaviest = weights.sum(), weights.max()
    for part in (slice(None), slice(0, 1), slice(1, None)):  # pairs, observations, latents
        probs: dict[Key, float] = {}
        for k, p in exact.items():
            probs[k[part]] = probs.get(k[part], 0.0) + p
        # Five draws are expected in a cell at the least, whatever its weight: else no error is normal.
        common = [k for k, p in probs.items() if p * total / heaviest >= 5]
        cells = {k: i for i, k in enumerate(common)}
        at = np.array([cells.get(k[part], len(common)) for k in keys])
        for i, p in enumerate([*(probs[k] for k in common), 1 - sum(probs[k] for k in common)]):
            mine = weights[at == i]
            share = mine.sum() / total
            # The variance that share p would have, not the one seen: a cell that few drew hides its own.
            heavy = (mine**2).sum() / mine.sum() if share > 0 else heaviest
            spread = p * (1 - 2 * p) * heavy / total + p**2 * (weights**2).sum() / total**2
            error = math.sqrt(max(spread, 0.0)) + 1e-6
            yield (common[i] if i < len(common) else f"rest of {part}"), p, share, error
    assert common


@pytest.mark.parametrize("name", PROGRAMS)
def test_weighted_pairs_follow_the_joint_distribution(name: str) -> None:
    program = PROGRAMS[name]
    pairs = drawn(program)
    for row in range(len(program.rows)):
        if (
            row
            and len({tuple(sorted({**r, "y": 0}.items())) for r in program.rows}) == 1
            and program.simulated
        ):
            break
        same = program.simulated and "x" not in program.rows[0]
        mine = pairs if same else [p for p in pairs if p.row == row]
        assert len(mine) > program.draws / 60
        for cell, p, share, error in shares(program, mine, joint(program, row)):
            assert abs(share - p) <= 4 * error, f"seed 1, row {row}: {cell} has {share:.4f}, not {p:.4f}"


MASSES = {
    "stop": 'text(tokens=1..3, stop=".", chars="ab")',
    "end of text": 'text(tokens=0..2, chars="ab")',
    "end of text, one length": 'text(tokens=2..2, chars="ab")',
    "canonical": 'text(tokens=1..3, canonical=true, chars="ab")',
}


@pytest.mark.parametrize("kind", MASSES)
def test_mass_and_log_q_make_the_models_own_log_prob(kind: str) -> None:
    program = Program("", f'latent z: {MASSES[kind]} ~ base("b")', ({},), (), None)
    target = program.simulator().target(0)
    brute = Brute(program.source, {}, MODELS)
    every = list(brute.assignments())
    context = MODEL.tokenizer.encode("b")
    follow = Follow([a["z"] for a in every])
    walk = roll_out(MODEL, [context] * len(every), target.latents[0].support, follow, late=True)
    log_q, log_mass, last = walk.log_q, walk.log_mass, walk.last
    assert walk.values == [a["z"] for a in every]
    assert np.exp(log_q).sum() == pytest.approx(1, abs=1e-9)
    assert (log_mass < 0).any()
    np.testing.assert_allclose(log_q + log_mass, [brute.log_reward(a) for a in every], atol=1e-9)
    assert (last >= log_q + log_mass - 1e-9).all()
    if kind == "stop":
        begun = [MODEL.score([Request(context + a["z"], len(context))])[0].tokens[-1] for a in every]
        np.testing.assert_allclose(last, begun, atol=1e-9)


# ------------------------------------------------------------------- pairs one by one


@pytest.mark.parametrize("name", ["generative", "a factor", "a finite choice", "rows that differ"])
def test_a_pair_depends_on_its_own_generator_alone(name: str) -> None:
    program = PROGRAMS[name]
    rows = len(program.rows)
    numbers = [k % rows for k in range(40)]

    def some(picked: Sequence[int]) -> dict[int, Pair]:
        rngs = [np.random.default_rng([7, k]) for k in picked]
        alone = [program.simulator().draw([rng], [numbers[k]]) for rng, k in zip(rngs, picked, strict=True)]
        return {k: pairs[0] for k, pairs in zip(picked, alone, strict=True) if pairs}

    apart = some(range(40))
    together = program.simulator().draw([np.random.default_rng([7, k]) for k in range(40)], numbers)
    backwards = program.simulator().draw(
        [np.random.default_rng([7, k]) for k in range(39, -1, -1)], numbers[::-1]
    )
    assert len(apart) == len(together) == len(backwards) > 5
    for one, two, three in zip(apart.values(), together, backwards[::-1], strict=True):
        for other in (two, three):
            assert (one.row, one.data, one.values) == (other.row, other.data, other.values)
            assert one.log_weight == pytest.approx(other.log_weight, abs=1e-9)
    assert len({str(p.values) for p in together}) > 1


def test_what_is_not_simulated_stays_as_the_row_has_it() -> None:
    program = PROGRAMS["rows that differ"]
    for pair in drawn(program)[:50]:
        assert pair.data.keys() == program.rows[pair.row].keys()
        assert pair.data["x"] == program.rows[pair.row]["x"]
    for pair in drawn(PROGRAMS["before known text"])[:20]:
        assert pair.data == PROGRAMS["before known text"].rows[pair.row]


PLATE = Program(
    "rows: table(x: text, y: text)",
    Z + 'plate r in rows { observe r.y ~ base(z, r.x) }',
    (
        {"rows": ({"x": "a", "y": "b"}, {"x": "b", "y": "a"})},
        {"rows": ({"x": " ", "y": "b"},)},
        {"rows": ()},
    ),
    ("rows.y",), True, draws=9000,
)  # fmt: skip


def test_columns_of_tables_follow_the_joint_distribution() -> None:
    """Rows of two, one and no line; every text has one token."""
    assert PLATE.simulator().exact
    pairs = drawn(PLATE, seed=2)
    texts = [t for t in MODEL.tokenizer.tokens]
    for number, row in enumerate(PLATE.rows):
        lines = row["rows"]
        weights: dict[Key, float] = {}
        for seen in itertools.product(texts, repeat=len(lines)):  # type: ignore[arg-type]
            data = {"rows": tuple({**line, "y": y} for line, y in zip(lines, seen, strict=True))}  # type: ignore[call-overload]
            brute = Brute(PLATE.source, data, MODELS)
            for assignment in brute.assignments():
                weights[(*seen, assignment["z"])] = math.exp(brute.log_reward(assignment))
        total = sum(weights.values())
        exact = {k: w / total for k, w in weights.items()}
        mine = [p for p in pairs if p.row == number]
        assert all([line["x"] for line in p.data["rows"]] == [line["x"] for line in lines] for p in mine)
        keys = [(*(line["y"] for line in p.data["rows"]), p.values["z"].ids) for p in mine]
        for cell, p, share, error in weighted(keys, [m.log_weight for m in mine], exact):
            assert abs(share - p) <= 4 * error, f"seed 2, row {number}: {cell} has {share:.4f}, not {p:.4f}"


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_is_simulated_and_whether_exactly(name: str) -> None:
    program = PROGRAMS[name]
    simulator = program.simulator()
    assert tuple(o.name for o in simulator.observed) == program.simulated
    if program.exact is not None:
        assert simulator.exact is program.exact


def test_the_joint_is_skewed() -> None:
    """A symmetric target would hide a swapped row or a flipped sign."""
    for name in ("generative", "a finite choice", "a number"):
        found = sorted(joint(PROGRAMS[name], 0).values())
        assert found[-1] > 3 * found[len(found) // 2]
