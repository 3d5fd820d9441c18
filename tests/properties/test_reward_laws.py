"""What a program means, as laws of its log reward (language.md §4), over random programs and values."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import posterior_lm as plm
from posterior_lm.lang.diagnostics import CompileError, InferenceError, PlmError
from tests.brute import leaves
from tests.strategies import Bound, Case, bound_cases, compiled, fingerprint, table, tables, values_of

FEW = settings(max_examples=25)
TABLE = table(("a", "b", ".", "ab"), seed=5, order=2, max_tokens=7)


def program(body: str, params: str = "", lms: str = "base") -> str:
    head = "\n".join(f'lm {name} = "{name[0]}.json"' for name in lms.split())
    return f"{head}\nprogram prog({params}) {{\n{body}\n}}\n"


def rewards(body: str, rows: list[dict], params: str = "", **data: object) -> np.ndarray:
    target = compiled(program(body, params), data, {"base": TABLE})
    return target.log_reward(values_of(target, rows))


def all_values(body: str, params: str = "", **data: object) -> list[dict]:
    from tests.brute import Brute

    return list(Brute(program(body, params), data, {"base": TABLE}).assignments())


# ------------------------------------------------------------------- against the slow reading


@settings(max_examples=150)
@given(bound_cases())
def test_terms_are_what_the_slow_reading_says(bound: Bound) -> None:
    terms = bound.target.terms(bound.values)
    assert list(bound.target.names) == list(bound.brute.declared())
    assert terms.dtype == np.float64 and terms.shape == bound.wanted.shape
    assert terms.shape[1] == leaves(bound.brute.module.program.body) == len(bound.target.statements)
    np.testing.assert_allclose(terms, bound.wanted, rtol=1e-9, atol=1e-9, err_msg=bound.case.source)
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(
            bound.target.log_reward(bound.values), terms.sum(axis=1), rtol=1e-12, atol=1e-12
        )


@FEW
@given(bound_cases(n=4), st.randoms())
def test_batched_is_one_by_one_whatever_the_order(bound: Bound, random) -> None:
    places = [random.randrange(4) for _ in range(7)]
    batch = bound.target.terms(values_of(bound.target, [bound.rows[p] for p in places]))
    alone = [bound.target.terms(values_of(bound.target, [row]))[0] for row in bound.rows]
    np.testing.assert_array_equal(batch, np.array([alone[p] for p in places]))


# ------------------------------------------------------------------- order and names


@FEW
@given(bound_cases(), st.randoms())
def test_statements_that_declare_nothing_commute(bound: Bound, random) -> None:
    fixed = [s for s in bound.case.statements if re.search(r"\b(latent|let)\b", s)]
    loose = [s for s in bound.case.statements if s not in fixed]
    random.shuffle(loose)
    moved = bound.case.with_statements(*fixed, *loose).target()
    wanted = bound.target.log_reward(bound.values)
    np.testing.assert_allclose(moved.log_reward(values_of(moved, bound.rows)), wanted, rtol=1e-12, atol=1e-12)


def renamed(case: Case) -> Case:
    """New names for latents, lets, rows, models and the program; parameters keep theirs."""
    names = {"base": "b2", "other": "o2", "prog": "zzz"}

    def change(text: str) -> str:
        text = re.sub(r"\b([zyr])(\d+)\b", lambda m: f"new_{m[1]}{90 - int(m[2])}", text)
        return re.sub(r"\b(base|other|prog)\b", lambda m: names[m[1]], text)

    return replace(
        case,
        head=change(case.head),
        statements=tuple(map(change, case.statements)),
        asides=tuple(map(change, case.asides)),
        models={names[alias]: model for alias, model in case.models.items()},
    )


@FEW
@given(bound_cases())
def test_renaming_changes_nothing(bound: Bound) -> None:
    case = renamed(bound.case)
    source = case.source.replace("program prog", "program another")
    target = compiled(source, case.data, case.models)
    assert target.program.fingerprint == bound.target.program.fingerprint
    old = dict(zip(target.names, bound.target.names, strict=True))
    rows = [{new: row[old[new]] for new in target.names} for row in bound.rows]
    np.testing.assert_array_equal(target.terms(values_of(target, rows)), bound.target.terms(bound.values))


@FEW
@given(bound_cases())
def test_guide_and_infer_change_nothing(bound: Bound) -> None:
    without = replace(bound.case, asides=())
    without = without.with_statements(*(re.sub(r"guide z\d+ ~ \w+\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)", "", s)
                                        for s in without.statements))  # fmt: skip
    target = without.target()
    assert "guide" not in without.source
    assert target.program.fingerprint == bound.target.program.fingerprint
    np.testing.assert_array_equal(target.terms(bound.values), bound.target.terms(bound.values))


# ------------------------------------------------------------------- powers


@FEW
@given(bound_cases(), st.sampled_from(("0.5", "1", "2", "-1.5", "0", "q9")))
def test_temper_is_a_power_of_each_statement_but_conditions(bound: Bound, b: str) -> None:
    value = 0.75 if b == "q9" else float(b)
    case = replace(
        bound.case, params=(*bound.case.params, ("q9", "real")), data={**bound.case.data, "q9": 0.75}
    )
    tempered = case.with_statements(f"temper {b} {{ {' '.join(case.statements)} }}").target()
    one_by_one = case.with_statements(
        *(s if s.startswith("let") else f"temper {b} {{ {s} }}" for s in case.statements)
    ).target()
    wanted = bound.target.terms(bound.values)
    finite = np.isfinite(wanted)
    for k, info in enumerate(bound.target.statements):
        if info.keyword != "condition":
            wanted[:, k] = np.where(finite[:, k], value * wanted[:, k].clip(-1e300), -np.inf)
    for target in (tempered, one_by_one):
        np.testing.assert_allclose(target.terms(bound.values), wanted, rtol=1e-9, atol=1e-9)
    assert tempered.program.fingerprint == one_by_one.program.fingerprint


SCORED = {
    "latent": 'latent z: text(tokens=1..2) ~ base("a"){power}',
    "observe": 'latent z: text(tokens=1..2) ~ base()\nobserve [z, "b"] ~ base("a"){power}',
    "log_prob": 'latent z: text(tokens=1..2) ~ base()\nfactor log_prob(z, base("a"){power})',
    "uniform": 'latent z: one_of("a", "ab") ~ uniform(){power}',
    "choice": 'latent z: one_of("a", "ab") ~ choice(base()){power}',
}


@pytest.mark.parametrize("kind", SCORED)
@given(st.sampled_from((0.5, 1, 1.5, 2, 3, -0.5)), st.sampled_from((0.5, 1, 2, -2.5)))
@settings(max_examples=12)
def test_powers_multiply(kind: str, a: float, b: float) -> None:
    body = SCORED[kind]
    rows = all_values(body.format(power=""))
    plain, twice, once = (body.format(power=p) for p in ("", f" ^ {a} ^ {b}", f" ^ ({a} * {b})"))
    terms = [compiled(program(x), {}, {"base": TABLE}) for x in (plain, twice, once)]
    got = [t.terms(values_of(t, rows))[:, -1] for t in terms]
    dead = np.isneginf(got[0])
    assert not dead.all()
    np.testing.assert_array_equal(np.isneginf(got[1]), dead)
    np.testing.assert_allclose(got[1][~dead], a * b * got[0][~dead], rtol=1e-12)
    np.testing.assert_allclose(got[2], got[1], rtol=1e-12)
    assert fingerprint(program(twice)) == fingerprint(program(once))
    assert fingerprint(program(body.format(power=" ^ 1"))) == fingerprint(program(plain))
    assert (fingerprint(program(once)) == fingerprint(program(plain))) == (a * b == 1)


@pytest.mark.parametrize("b", (-2, -1, 0, 0.5, 3))
def test_zero_stays_zero_under_any_power(b: float) -> None:
    impossible = 'observe "aaaaaaaaa" ~ base()'  # longer than the table's texts
    for body in (f"{impossible} ^ {b}", f"temper {b} {{ {impossible} }}", f"temper {b} {{ condition contains(z, \"b\") }}",
                 f"temper {b} {{ factor log(0) }}"):  # fmt: skip
        assert rewards(f"latent z: text(tokens=1..1) ~ base() {body}", [{"z": (0,)}]) == [-np.inf]
    outside = [{"z": (0, 0)}]
    assert rewards(f"latent z: text(tokens=1..1) ~ base() ^ {b}", outside) == [-np.inf]
    assert rewards(f"temper {b} {{ latent z: text(tokens=1..1) ~ base() }}", outside) == [-np.inf]


def test_a_power_written_as_a_whole_number_or_as_a_real_is_one_power() -> None:
    a, b = (program(f"latent z: text(tokens=1..2) ~ base() ^ {p}") for p in ("2", "2.0"))
    assert fingerprint(a) == fingerprint(b)


# ------------------------------------------------------------------- probability


@settings(max_examples=12)
@given(st.integers(0, 99), st.integers(0, 2), st.booleans(), st.sampled_from(("", "a", "ab")), st.booleans())
def test_an_observed_term_with_end_of_text_sums_to_one(
    seed: int, order: int, bos: bool, context: str, through_latent: bool
) -> None:
    model = table(("a", "b"), seed=seed, order=order, max_tokens=5, bos=bos, zeros=0.2)
    reads = "base(z, q1)" if through_latent else "base(q1)"
    source = program(f"latent z: text(tokens=1..1) ~ base()\nobserve [s, eos] ~ {reads}", "s: text, q1: text")
    total = 0.0
    for n in range(6):
        for s in itertools.product("ab", repeat=n):
            target = compiled(source, {"s": "".join(s), "q1": context}, {"base": model})
            total += np.exp(target.terms(values_of(target, [{"z": (0,)}]))[0, 1])
    assert total == pytest.approx(1, abs=1e-9)


FINITE = ['base("b")', 'choice(base("b"))', "uniform()"]
TYPES = [(f"text(tokens={t}{end})", "base(\"b\")") for t in ("1..2", "0..2", "2..2")
         for end in ("", ', stop="."', ', stop="ab"', ', end="free"', ', chars="ab"', ", canonical=true")]  # fmt: skip
TYPES += [('one_of("a", "ab", "b.")', d) for d in (*FINITE, "categorical([0.7, 0.1, 0.2])")]
DIGITS = table(("0", "1", "2", "3", " ", "-", "10"), seed=2, order=1, max_tokens=9)
NUMBERS = [("int(0..3)", d) for d in
           ("base(\"1\")", "choice(base())", "uniform()", "uniform(1, 2)", "categorical([0.1, 0.2, 0.3, 0.4])",
            "poisson(1.5)", "geometric(0.25)", "binomial(3, 0.3)")]  # fmt: skip
NUMBERS += [('int(-1..2, lead=" ")', d) for d in ("base()", 'choice(base("1"))', "poisson(0.5)")]


@pytest.mark.parametrize(
    ("type_", "dist", "model"), [(*t, TABLE) for t in TYPES] + [(*t, DIGITS) for t in NUMBERS]
)
def test_a_second_look_at_a_latent_is_a_square(type_: str, dist: str, model) -> None:
    from tests.brute import Brute

    once = program(f"latent z: {type_} ~ {dist} observe z ~ {dist}")
    square = program(f"latent z: {type_} ~ {dist} ^ 2")
    name = (
        "y" if dist.startswith("base") else "z"
    )  # the other distributions look up the latent's type by its name
    seen = program(f"latent z: {type_} ~ {dist} let y = z factor log_prob({name}, {dist})")
    targets = [compiled(p, {}, {"base": model}) for p in (once, square, seen)]
    rows = list(Brute(square, {}, {"base": model}).assignments())
    first, *others = (t.log_reward(values_of(t, rows)) for t in targets)
    assert np.isfinite(first).any()
    for other in others:
        np.testing.assert_allclose(other, first, rtol=1e-12)


def test_a_list_around_a_latent_scores_its_tokens_alone() -> None:
    model = TABLE
    body = 'latent z: text(tokens=1..2) ~ base() observe {} ~ base("b")'
    rows = all_values(body.format("z"))
    bare, listed, beside = (
        compiled(program(body.format(e), "q: text"), {"q": ""}, {"base": model})
        for e in ("z", "[z]", "[q, z]")
    )
    eos = [model.next_log_probs((1, *row["z"]))[model.tokenizer.eos_id] for row in rows]
    got = [t.terms(values_of(t, rows))[:, 1] for t in (bare, listed, beside)]
    np.testing.assert_allclose(got[1], got[2])
    np.testing.assert_allclose(got[0], got[1] + eos)


@settings(max_examples=15)
@given(tables(("a", "b", "0", "1", "2")), st.sampled_from(("int(0..2)", 'one_of("a", "ab", "b0")')))
def test_choice_is_the_model_renormalised(model, type_: str) -> None:
    from tests.brute import Brute, log_sum

    chosen, plain = (program(f"latent z: {type_} ~ {d}") for d in ('choice(base("a"))', 'base("a")'))
    brute = Brute(plain, {}, {"base": model})
    rows = list(brute.assignments())
    scores = [brute.log_reward(row) for row in rows]
    target = compiled(chosen, {}, {"base": model})
    if max(scores) == -np.inf:
        return
    np.testing.assert_allclose(target.log_reward(values_of(target, rows)), np.array(scores) - log_sum(scores))


# ------------------------------------------------------------------- how a sequence begins


@pytest.mark.parametrize("bos", (False, True))
def test_how_a_sequence_begins(bos: bool) -> None:
    """An empty context, a bos by hand in front (not doubled) and further on, an eos by hand. Tokens: a b eos bos"""
    model = table(("a", "b"), seed=6, order=2, max_tokens=9, bos=bos)
    start = (3,) if bos else ()
    cases = {
        "base()": start or (2,),
        'base("")': start or (2,),
        'base("", "")': start or (2,),
        'base("b")': (*start, 1),
        "base(eos)": (*start, 2),
        'base("b", eos, "a")': (*start, 1, 2, 0),
        "base(z)": (*start, 0),
        'base("b", z, z)': (*start, 1, 0, 0),
    }
    if bos:
        cases |= {"base(bos)": (3,), 'base(bos, "b")': (3, 1), 'base("", bos, "b")': (3, 1),
                  'base("b", bos)': (3, 1, 3), "base(bos, bos, z)": (3, 3, 0), "base(z, bos)": (3, 0, 3)}  # fmt: skip
    for dist, context in cases.items():
        body = f'latent z: text(tokens=1..1) ~ base() observe "ab" ~ {dist}'
        target = compiled(program(body), {}, {"base": model})
        got = target.terms(values_of(target, [{"z": (0,)}]))[0, 1]
        wanted = model.next_log_probs(context)[0] + model.next_log_probs((*context, 0))[1]
        assert got == pytest.approx(float(wanted), abs=1e-12), dist


# ------------------------------------------------------------------- conditions


@FEW
@given(bound_cases(), st.sampled_from(('contains({z}, "a")', "chars({z}) > 1", 'not ends_with({z}, "b")')),
       st.sampled_from(('{z} == "b"', "words({z}) < 1 or true", "chars({z}) < 2")))  # fmt: skip
def test_conditions_are_idempotent_commute_with_and_and_add_nothing_when_true(
    bound: Bound, a: str, b: str
) -> None:
    text = next(
        (
            n
            for n in ("z1", "z2", "z3", "z4", "z5")
            if re.search(rf"^latent {n}: text", "\n".join(bound.case.statements), re.M)
        ),
        None,
    )
    z = text or '["a"]'
    a, b = a.format(z=z), b.format(z=text or '"b"')

    def reward(*conditions: str) -> np.ndarray:
        case = bound.case.with_statements(*bound.case.statements, *(f"condition {c}" for c in conditions))
        try:
            return case.target().log_reward(bound.values)
        except CompileError as problem:  # no value satisfies them, which is the same as −∞ everywhere
            assert problem.diagnostics[0].code == "PLM340"
            return np.full(len(bound.rows), -np.inf)

    np.testing.assert_array_equal(reward(a), reward(a, a))
    np.testing.assert_array_equal(reward(f"({a}) and ({b})"), reward(a, b))
    np.testing.assert_array_equal(reward(b, a), reward(a, b))
    np.testing.assert_allclose(reward("true"), bound.target.log_reward(bound.values), rtol=1e-12)
    assert np.isneginf(reward("false")).all()
    alive, both = reward(a), reward(a, f"not ({a})")
    assert np.isneginf(both).all()
    kept = ~np.isneginf(alive)
    np.testing.assert_allclose(alive[kept], bound.target.log_reward(bound.values)[kept], rtol=1e-12)


# ------------------------------------------------------------------- parameters


def literal(value: object) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    return str(value).lower() if isinstance(value, bool) else f"({value})"


@FEW
@given(bound_cases())
def test_a_bound_parameter_is_a_literal_in_its_place(bound: Bound) -> None:
    plain = {n: t for n, t in bound.case.params if t in ("text", "real", "bool")}

    def put(text: str) -> str:
        return re.sub(r"\bq\d+\b", lambda m: literal(bound.case.data[m[0]]) if m[0] in plain else m[0], text)

    case = replace(
        bound.case,
        params=tuple(p for p in bound.case.params if p[0] not in plain),
        data={k: v for k, v in bound.case.data.items() if k not in plain},
        statements=tuple(map(put, bound.case.statements)),
        asides=tuple(map(put, bound.case.asides)),
    )
    target = case.target()
    np.testing.assert_allclose(
        target.terms(bound.values), bound.target.terms(bound.values), rtol=1e-12, atol=1e-12
    )


# ------------------------------------------------------------------- what is no number


NOT_NUMBERS = [
    ("factor log(-chars(z))", "PLM701", "factor log(-chars(z))"),
    ("observe \"a\" ~ base()\nfactor log_prob(\"aaaaaaaaa\", base()) - log_prob(\"aaaaaaaaa\", base(z))", "PLM701", "factor"),
    ("condition log(-chars(z)) < 1", "PLM701", "condition"),
    ("condition not (log(-chars(z)) < 1)", "PLM701", "condition"),
    ("condition 0 / (chars(z) - 1) > 1 or false", "PLM701", "condition"),
    ("factor max(0, log(-chars(z)))", "PLM701", "factor"),
    ("factor if log(-chars(z)) > 0 then 1 else 2", "PLM701", "factor"),
    ("temper 0 { factor -log(0 * chars(z)) }", "PLM701", "factor"),
    ("factor -log(0 * chars(z))", "PLM704", "factor"),
    ("factor 1 / (chars(z) - 1)", "PLM704", "factor"),
    ("factor -0.5 * log_prob(\"aaaaaaaaa\", base(z))", "PLM704", "factor"),
    ("factor exp(1000 * chars(z))", "PLM704", "factor"),
    ("temper -1 { factor log_prob(chars(z) - 2, geometric(0.5)) }\nfactor exp(800 * chars(z))", "PLM704", "factor exp"),
    ("factor chars(z)" + " * 9007199254740992" * 25, "PLM704", "factor"),
    ("factor log_prob(chars(z), poisson(0 - chars(z)))", "PLM705", ""),
    ("factor log_prob(chars(z), geometric(chars(z) + 0.5))", "PLM705", ""),
    ("factor log_prob(chars(z), binomial(3, 1.5 * chars(z)))", "PLM705", ""),
    ("factor log_prob(chars(z), uniform(chars(z) + 1, 0))", "PLM705", ""),
]  # fmt: skip


@pytest.mark.parametrize(("statement", "code", "named"), NOT_NUMBERS)
def test_what_is_no_number_is_an_error_that_names_the_statement(
    statement: str, code: str, named: str
) -> None:
    with pytest.raises(InferenceError) as caught:
        rewards(f"latent z: text(tokens=1..1) ~ base()\n{statement}", [{"z": (0,)}, {"z": (1,)}])
    (found,) = caught.value.diagnostics
    assert found.code == code and named in found.message
    assert found.primary is not None and found.primary.span.line == 4 + statement.count("\n")


GUARDED = [
    "factor if chars(z) > 9 then log(-1) else 0",
    "condition chars(z) < 9 or log(-chars(z)) > 1",
    "condition not (chars(z) > 9 and log(-chars(z)) > 1)",
    "factor if chars(z) > 9 then 1 / (chars(z) - 1) else 0",
]


@pytest.mark.parametrize("statement", GUARDED)
def test_what_is_not_chosen_may_be_no_number(statement: str) -> None:
    rows = [{"z": (0,)}, {"z": (1,)}]
    plain = rewards("latent z: text(tokens=1..1) ~ base()", rows)
    np.testing.assert_array_equal(rewards(f"latent z: text(tokens=1..1) ~ base()\n{statement}", rows), plain)


def test_a_pattern_that_comes_with_the_data_may_be_wrong() -> None:
    body = "latent z: text(tokens=1..1) ~ base() condition matches(z, q)"
    with pytest.raises(InferenceError) as caught:
        rewards(body, [{"z": (0,)}], "q: text", q="(a")
    assert caught.value.diagnostics[0].code == "PLM317"
    assert np.isfinite(rewards(body, [{"z": (0,)}], "q: text", q="(a)"))


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        ('observe [if contains(z, "a") then eos else "b"] ~ base(z)', "PLM306"),
        ('let end = [eos] observe [if contains(z, "a") then end else "b"] ~ base(z)', "PLM306"),
        ('factor count([z, eos], "a")', "PLM301"),
    ],
)
def test_what_has_no_meaning_is_refused(statement: str, code: str) -> None:
    """A marker is a token, so no expression can hold it."""
    source = 'lm base = "m"\nprogram p() { latent z: text(tokens=1..1) ~ base() ' + statement + " }"
    with pytest.raises(PlmError) as caught:
        plm.loads(source).lm(base=TABLE).target()
    assert caught.value.diagnostics[0].code == code


def test_a_power_inside_choice_is_renormalised_and_one_outside_is_not() -> None:
    body = 'latent z: one_of("a", "b") ~ choice(base(){}){}'
    rows = [{"z": "a"}, {"z": "b"}]
    plain = rewards(body.format("", ""), rows)
    inside = rewards(body.format(" ^ 2 ^ 0.75", ""), rows)
    assert np.exp(inside).sum() == pytest.approx(1)
    np.testing.assert_allclose(inside[0] - inside[1], 1.5 * (plain[0] - plain[1]))
    np.testing.assert_allclose(rewards(body.format("", " ^ 1.5"), rows), 1.5 * plain)
