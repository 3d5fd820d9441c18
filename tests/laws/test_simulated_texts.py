"""Laws of leaving simulated pairs out: lines that the model ends, texts of another kind, latents that lead nowhere.

Whatever rule shortens the simulation, the latents of what is left are exact draws
given the observation: weighted shares against a second reading of the language.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from attrs import evolve

from posterior_lm.graph import optimize
from posterior_lm.support.build import build_support
from posterior_lm.support.spec import TextSpec
from posterior_lm.target.prepared import PreparedProgram
from posterior_lm.target.validate import validate_data
from posterior_lm.train.simulate import SPARED, Pair, Simulator
from posterior_lm.train.simulated_texts import Shape, TruncatedSupport, low_yield_tokens, unlike
from tests.brute import Brute
from tests.laws.test_simulate_laws import Key, weighted
from tests.strategies import graph_of, table

TOKENS = ("a", "b", "\n", "ab", ".", "b\n")
LINES = table(TOKENS, seed=48, order=2, max_tokens=40)
BODY = 'latent z: text(tokens=1..3, stop=".", chars="ab") ~ base("a") observe y ~ base(z)'
SOURCE = f'lm base = "b"\nprogram p(y: text) {{\n{BODY}\n}}'
ROWS = ({"y": "b"}, {"y": "aa"}, {"y": "ab"})
A, B, AB = (TOKENS.index(t) for t in ("a", "b", "ab"))


def simulator(body: str = BODY) -> Simulator:
    graph = optimize(graph_of(SOURCE.replace(BODY, body)))
    return Simulator(PreparedProgram.of(graph, {"base": LINES}), [validate_data(graph, r) for r in ROWS])


def drawn(one: Simulator, count: int, seed: int = 3) -> list[Pair]:
    rngs = [np.random.default_rng([seed, k]) for k in range(count)]
    return one.draw(rngs, [k % len(ROWS) for k in range(count)])


def joint(usable: tuple[int, ...], longest: int, source: str = SOURCE) -> dict[Key, float]:
    """p(z) p(y | z) over every text of up to `longest` of the usable tokens that is its own spelling, normalised."""
    texts = set()
    for n in range(1, longest + 1):
        for ids in itertools.product(usable, repeat=n):
            text = LINES.tokenizer.decode(ids)
            if tuple(LINES.tokenizer.encode(text)) == ids:
                texts.add(text)
    found: dict[Key, float] = {}
    for y in texts:
        brute = Brute(source, {"y": y}, {"base": LINES})
        for assignment in brute.assignments():
            found[(y, assignment["z"])] = math.exp(brute.log_reward(assignment))
    total = sum(found.values())
    return {k: p / total for k, p in found.items()}


def check(pairs: list[Pair], exact: dict[Key, float]) -> None:
    keys = [(p.data["y"], p.values["z"].ids) for p in pairs]
    for cell, p, share, error in weighted(keys, [p.log_weight for p in pairs], exact):
        assert abs(share - p) <= 4 * error, f"{cell} has {share:.4f}, not {p:.4f}"


def test_a_line_that_the_model_ends_is_made_up_for() -> None:
    one = simulator()
    assert one.exact and one._shapes["y"].by == "line"
    longest = one._shapes["y"].longest - 1
    pairs = drawn(one, 6000)
    assert len(pairs) > 1500
    assert any(abs(p.log_weight) > 0.3 for p in pairs)
    check(pairs, joint((A, B, TOKENS.index("ab"), TOKENS.index(".")), longest))


def test_the_line_s_end_is_made_up_for_where_pairs_are_weighed_by_their_log_reward() -> None:
    body = BODY.replace("base(z)", "base(z) ^ 1.2")
    one = simulator(body)
    assert not one.exact and one._shapes["y"].by == "line"
    pairs = drawn(one, 6000)
    check(
        pairs,
        joint((A, B, AB, TOKENS.index(".")), one._shapes["y"].longest - 1, SOURCE.replace(BODY, body)),
    )


def test_texts_of_another_kind_are_left_out_and_the_rest_stays_exact() -> None:
    one = simulator()
    shape = one._shapes["y"]
    mark = np.arange(len(TOKENS)) == AB
    one._shapes["y"] = evolve(shape, unlike=mark)
    pairs = drawn(one, 6000)
    assert not any("ab" in str(p.data["y"]) for p in pairs)
    check(pairs, joint((A, B, TOKENS.index(".")), shape.longest - 1))


def test_latents_that_lead_nowhere_are_given_up_and_the_spared_count_for_them() -> None:
    one = simulator()
    one._low_yield = {"z": np.arange(len(TOKENS)) == B}
    pairs = drawn(one, 12000)
    spared = [B in p.values["z"].ids for p in pairs]
    assert 0 < sum(spared) < 0.3 * len(pairs)
    check(pairs, joint((A, B, AB, TOKENS.index(".")), one._shapes["y"].longest - 1))
    everyone = drawn(simulator(), 12000)
    share = np.mean([B in p.values["z"].ids for p in everyone])
    assert sum(spared) == pytest.approx(SPARED * share * len(everyone), rel=0.25)


def test_where_the_model_ends_no_lines_lengths_are_the_rows() -> None:
    never = table(("a", "b", "\n", "ab", ".", "b\n"), seed=48, order=2, max_tokens=40)
    graph = optimize(graph_of(SOURCE))
    rows = [validate_data(graph, {"y": "ab" * 2 + "a"}), validate_data(graph, {"y": "b"})]
    shape = Simulator(PreparedProgram.of(graph, {"base": never}), rows)._shapes["y"]
    assert shape.by == "line"
    lone = [evolve_mass(shape, m) for m in (0.0, -3.0, -4.0, -5.0, -6.0)]
    assert shape.learnt(lone, alike=False).by == "tokens"
    assert shape.learnt(lone, alike=False).stop is None
    assert shape.learnt([*lone, evolve_mass(shape, -0.1)], alike=False).by == "line"


def evolve_mass(shape: Shape, log_mass: float):
    from posterior_lm.train.simulated_texts import Drawn

    return Drawn("a", (A, TOKENS.index("\n")), len(TOKENS), -1.0, log_mass)


def test_which_tokens_mark_another_kind_and_which_lead_nowhere() -> None:
    rows = [(0, 1), (0,), (0, 0, 1)] * 10
    simulated = [(0, 2, 2), (2,), (3, 1), (0,)] * 25
    found = unlike(rows, simulated, 5)
    assert found.tolist() == [False, False, True, False, False]  # 3 occurs in 26 of 101, rows: 1 of 31
    latents = [(0, 1)] * 40 + [(2,)] * 60
    alive = [True] * 30 + [False] * 70
    assert low_yield_tokens(latents, alive, 4).tolist() == [False, False, True, False]


def test_until_ends_a_value_at_the_first_mark() -> None:
    support = build_support(TextSpec(1, 3, stop=".", end="stop"), LINES.tokenizer)
    until = TruncatedSupport(support, np.arange(len(TOKENS)) == B)
    state = until.advance(until.start(), A)
    assert not until.may_stop(state) and until.allowed(state)[B]
    then = until.advance(state, B)
    assert until.may_stop(then) and until.must_stop(then) and not until.allowed(then).any()
    assert until.accepts((A, TOKENS.index("."))) and not until.accepts((B, TOKENS.index(".")))
