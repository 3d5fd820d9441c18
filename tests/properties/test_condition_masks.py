"""Conditions built into supports change nothing but what is drawn in vain, over random programs.

The slow reading of `tests.brute` knows no masks, so it says which values live.
"""

from __future__ import annotations

import math

import numpy as np
from hypothesis import HealthCheck, assume, given, note, settings
from hypothesis import strategies as st

from posterior_lm.infer.base import run
from posterior_lm.infer.exact import Exact
from posterior_lm.infer.guide import PriorGuide
from posterior_lm.lang.diagnostics import CompileError, InferenceError
from posterior_lm.target.restrict import PrefixTests
from posterior_lm.target.target import Target
from tests.brute import Assigned, add, log_sum
from tests.strategies import Case, cases, values_of

PARTS = ("", "a", "b", "ab", "a.", " ", "0", "ba", "b.")
PATTERNS = ("a.*", ".*b", "(ab?)*", "[^.]*", "(?s:.)*a", ".?.?", "[ab ]+[.]")
COUNTS = ("words({z})", "chars({z})", "tokens({z})", 'count({z}, "{part}")', 'chars(["a", {z}])')
TESTS = ("contains", "starts_with", "ends_with")


@st.composite
def a_test(draw: st.DrawFn, names: dict[str, str], depth: int = 2) -> str:
    """A condition on some of the latents: name to kind."""
    if depth and draw(st.integers(0, 2)) == 0:
        left, right = draw(a_test(names, depth - 1)), draw(a_test(names, depth - 1))
        return f"({left} {draw(st.sampled_from(('and', 'or')))} {right})"
    if depth and draw(st.integers(0, 3)) == 0:
        return f"not {draw(a_test(names, depth - 1))}"
    name, kind = draw(st.sampled_from(sorted(names.items())))
    part = draw(st.sampled_from(PARTS))
    compare = draw(st.sampled_from(("<", "<=", ">", ">=", "==", "!=")))
    if kind == "int":
        return f"{draw(st.sampled_from(('', '2 * ', '3 - ', 'min(1, 1) * ')))}{name} {compare} {draw(st.integers(0, 3))}"
    match draw(st.sampled_from(("test", "test", "matches", "equal", "count", "count", "sum"))):
        case "test":
            return f'{draw(st.sampled_from(TESTS))}({name}, "{part}")'
        case "matches":
            return f'matches({name}, r"{draw(st.sampled_from(PATTERNS))}")'
        case "equal" if kind == "text":
            return f'{name} {draw(st.sampled_from(("==", "!=")))} "{part}"'
    number = draw(st.sampled_from(COUNTS)).format(z=name, part=part)
    limits = [str(draw(st.integers(0, 3)))]
    limits += [n for n, k in names.items() if k == "int" and n != name]
    limits += [f"{draw(st.integers(1, 4))} - chars({n})" for n, k in names.items() if k == "text"]
    return f"{number} {compare} {draw(st.sampled_from(limits))}"


@st.composite
def conditioned(draw: st.DrawFn) -> Case:
    """A small program with conditions on its latents, those of plates inside their plates."""
    case = draw(cases(small=True, latents=2))
    declared = case.brute().declared()
    names = {n: d.kind for n, d in declared.items() if "[" not in n and d.kind in ("text", "int", "one_of")}
    assume(names)
    extra = [f"condition {draw(a_test(names))}" for _ in range(draw(st.integers(1, 3)))]
    if draw(st.booleans()):
        extra = [f"temper 2 {{ {extra[0]} }}", *extra[1:]]
    return case.with_statements(*case.statements, *extra)


def bound(case: Case) -> tuple[Target | None, list[dict[str, Assigned]], np.ndarray]:
    """The target, None where a condition leaves nothing; every assignment and its log reward."""
    brute = case.brute()
    declared = brute.declared()
    assume(math.prod(len(d.values()) for d in declared.values()) <= 300)
    rows = list(brute.assignments())
    try:
        terms = np.array([brute.terms(row) for row in rows])
    except ZeroDivisionError:
        assume(False)
    assume(not np.isnan(terms).any())
    log_reward = np.array([add(row) for row in terms])
    try:
        return case.target(), rows, log_reward
    except CompileError as problem:
        code = problem.diagnostics[0].code
        assume(code != "PLM330")
        assert code == "PLM340"
        return None, rows, log_reward


common = settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=80)


@common
@given(conditioned())
def test_what_lives_is_in_the_support_and_passes_every_prefix_test(case: Case) -> None:
    target, rows, log_reward = bound(case)
    alive = [row for row, r in zip(rows, log_reward, strict=True) if r > -math.inf]
    if target is None:
        assert alive == []
        return
    values = values_of(target, alive)
    for info in target.latents:
        tests = PrefixTests.of(target, info.name)
        for d, value in enumerate(values[info.name]):
            assert info.support.accepts(value.ids), (info.name, value)
            prefixes = [value.ids[:k] for k in range(len(value.ids) + 1)]
            earlier = {n: [values[n][d]] * len(prefixes) for n in target.names}
            assert tests.alive(prefixes, earlier).all(), (info.name, value)


@common
@given(conditioned())
def test_exact_enumeration_and_the_log_reward_are_those_without_masks(case: Case) -> None:
    target, rows, log_reward = bound(case)
    if target is None:
        return
    values = values_of(target, rows)
    np.testing.assert_allclose(target.log_reward(values), log_reward, rtol=1e-9, atol=1e-9)
    wanted = log_sum(log_reward)
    try:
        draws = run(Exact(values=10_000, mass=1.0), target, n=10, rng=np.random.default_rng(0))
    except InferenceError as problem:
        assert problem.diagnostics[0].code == "PLM703" and wanted == -math.inf
        return
    note(f"{draws.log_evidence} {wanted}")
    assert draws.log_evidence is not None and math.isclose(draws.log_evidence, wanted, abs_tol=1e-9)


@common
@given(conditioned(), st.integers(0, 2**32 - 1))
def test_importance_weights_are_those_of_the_narrowed_proposal(case: Case, seed: int) -> None:
    """Σ over the narrowed support of q is 1, and what is drawn obeys every mask."""
    target, rows, _ = bound(case)
    if target is None:
        return
    guide = PriorGuide(target)
    inside = [r for r in rows if all(_accepts(target, n, r[n]) for n in target.names)]
    assert np.isclose(np.exp(guide.log_prob(values_of(target, inside))).sum(), 1.0, atol=1e-6)
    drawn = guide.sample(np.random.default_rng(seed), 4).values
    for info in target.latents:
        assert all(info.support.accepts(v.ids) for v in drawn[info.name])


def _accepts(target: Target, name: str, assigned: Assigned) -> bool:
    ids = assigned if isinstance(assigned, tuple) else target.value(name, assigned).ids
    return target.latent(name).support.accepts(ids)
