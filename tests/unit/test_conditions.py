"""Sorting conditions into masks, prefix tests and tests at the end; and what each kind then does."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posterior_lm import loads
from posterior_lm.graph import optimize
from posterior_lm.graph.conditions import conjuncts
from posterior_lm.graph.ops import OPS
from posterior_lm.infer.base import run
from posterior_lm.infer.exact import Exact
from posterior_lm.infer.importance import Importance
from posterior_lm.lang.diagnostics import CompileError, InferenceError
from posterior_lm.lm.tabular import TabularModel
from posterior_lm.target.prefix_values import Between, Text, apply, certain, joined
from posterior_lm.target.restrict import PrefixTests, beginning
from posterior_lm.target.target import Target
from tests.cli import ROOT, plm
from tests.strategies import compiled, graph_of, table, values_of

MODEL = table(("a", "b", " ", ".", "ab"), seed=11)
TOKENS = MODEL.tokenizer.tokens


def program(body: str, params: str = "") -> str:
    return f'lm base = "b.json"\nprogram p({params}) {{\n{body}\n}}\n'


def kinds(
    body: str, params: str = "", *, grounded: dict[str, object] | None = None
) -> list[tuple[str, str, str]]:
    """(part, latent, kind) of a program before data is bound, or after."""
    source = program(body, params)
    graph = (
        optimize(graph_of(source)) if grounded is None else compiled(source, grounded, {"base": MODEL}).graph
    )
    return [
        ("not " * part.negated + graph[part.node].span.text, reading.latent, reading.kind)
        for part in conjuncts(graph)
        for reading in part.readings
    ]


Z = "latent z: text(tokens=1..3) ~ base()\n"
N = "latent n: int(0..4) ~ poisson(1)\n"
Y = 'latent y: text(tokens=1..2, end="free") ~ base(z)\n'


def target(body: str, params: str = "", **data: object) -> Target:
    return compiled(program(body, params), data, {"base": MODEL})


def ids(text: str) -> tuple[int, ...]:
    """One token per character."""
    return tuple(TOKENS.index(c) for c in text)


# ------------------------------------------------------------------- kinds


@pytest.mark.parametrize(
    ("condition", "kind"),
    [
        ('contains(z, "ab")', "mask"),
        ("not ends_with(z, w)", "mask"),
        ('starts_with(z, ["a", w])', "mask"),
        ('matches(z, r"a+b?")', "mask"),
        ('z == "ab"', "mask"),
        ('"ab" != z', "mask"),
        ("words(z) <= 2", "prefix"),
        ("2 > words(z)", "prefix"),
        ("words(z) >= 2", "end"),
        ("not chars(z) >= k", "prefix"),
        ("not chars(z) <= 2", "end"),
        ("tokens(z) + 2 * chars(z) <= 6", "prefix"),
        ("3 - chars(z) > 0", "prefix"),
        ("-1 * chars(z) < -2", "end"),
        ("chars(z) == 2", "prefix"),
        ("chars(z) != 2", "end"),
        ('count(z, "a") <= 1 or words(z) < 2', "prefix"),
        ('count(z, "a") <= 1 or words(z) > 2', "end"),
        ("count(w, z) <= 1", "end"),
        ("min(words(z), 7) <= 2", "prefix"),
        ("max(words(z), 1) <= 2", "prefix"),
        ('chars([z, " "]) < 4', "prefix"),
        ('contains([z, " "], "a ")', "end"),
        ('not contains([" ", z], " a")', "prefix"),
        ("similarity(z, w) > 0.5", "end"),
        ("log_prob(z, base()) > -9", "end"),
        ('if k > 2 then contains(z, "a") else true', "end"),
        ("if k > 2 then words(z) < 3 else true", "prefix"),
    ],
)
def test_the_kind_of_a_condition_on_one_text(condition: str, kind: str) -> None:
    found = kinds(f"{Z}condition {condition}", "w: text, k: int = 3")
    assert [k for _, _, k in found] == [kind]


def test_conjunctions_and_negated_disjunctions_are_split() -> None:
    body = f'{Z}condition contains(z, "a") and not (ends_with(z, "b") or not (words(z) < 2 and chars(z) > 1))'
    assert kinds(body) == [
        ('contains(z, "a")', "z", "mask"),
        ('not ends_with(z, "b")', "z", "mask"),
        ("words(z) < 2", "z", "prefix"),
        ("chars(z) > 1", "z", "end"),
    ]
    whole = 'contains(z, "a") or ends_with(z, "b")'
    assert kinds(f"{Z}condition {whole}") == [(whole, "z", "end")]
    split = kinds(f'{Z}condition not (contains(z, "a") and ends_with(z, "b"))')
    assert split == [('not (contains(z, "a") and ends_with(z, "b"))', "z", "end")]


def test_what_reads_two_latents_waits_for_the_later_one() -> None:
    assert kinds(f"{Z}{Y}condition words(z) + words(y) <= 2") == [
        ("words(z) + words(y) <= 2", "z", "prefix"),
        ("words(z) + words(y) <= 2", "y", "prefix"),
    ]
    assert kinds(f"{Z}{Y}condition contains(z, y)") == [
        ("contains(z, y)", "z", "end"), ("contains(z, y)", "y", "end"),
    ]  # fmt: skip
    assert kinds(f"{Z}{Y}condition not contains(y, z)")[1][2] == "prefix"
    assert kinds(f"{N}{Z}condition chars(z) <= n") == [
        ("chars(z) <= n", "n", "end"), ("chars(z) <= n", "z", "prefix"),
    ]  # fmt: skip
    assert kinds(f"{Z}{N}condition chars(z) <= n") == [
        ("chars(z) <= n", "z", "end"), ("chars(z) <= n", "n", "prefix"),
    ]  # fmt: skip


def test_finite_latents_are_masked_by_what_reads_them_alone() -> None:
    assert kinds(f"{N}condition n > k and n != 2", "k: int")[0][2] == "mask"
    assert kinds(f"{N}condition (if n > 2 then n < 4 else true)")[0][2] == "prefix"
    assert kinds(f"{N}condition log_prob(n, poisson(2)) > -1")[0][2] == "prefix"
    assert kinds(f"{N}factor n\nobserve n ~ uniform()") == []


def test_rows_of_a_plate_are_conditions_of_their_own() -> None:
    rows = {"rows": [{"w": "a"}, {"w": "b"}]}
    body = f"{Z}plate r in rows {{ {Y}condition contains(z, r.w) condition starts_with(y, r.w) }}"
    assert kinds(body, "rows: table(w: text)", grounded=rows) == [
        ("contains(z, r.w)", "z", "mask"), ("contains(z, r.w)", "z", "mask"),
        ("starts_with(y, r.w)", "y[0]", "mask"), ("starts_with(y, r.w)", "y[1]", "mask"),
    ]  # fmt: skip
    bound = target(body, "rows: table(w: text)", **rows)
    accepted = {
        n: [c for c in "ab." if bound.latent(n).support.accepts(ids(c))] for n in ("z", "y[0]", "y[1]")
    }
    assert accepted == {"z": [], "y[0]": ["a"], "y[1]": ["b"]}
    assert bound.latent("z").support.accepts(ids("b a"))


# ------------------------------------------------------------------- masks


def allowed(bound: Target, name: str) -> set[str]:
    """The texts of every value of at most three tokens that the narrowed support has."""
    support = bound.latent(name).support
    found = set()
    for n in range(4):
        for value in itertools.product(range(len(TOKENS)), repeat=n):
            if support.accepts(value):
                found.add("".join(TOKENS[i] for i in value))
    return found


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ('contains(z, "b ")', lambda t: "b " in t),
        ('not contains(z, "b")', lambda t: "b" not in t),
        ('ends_with(z, "ab")', lambda t: t[-2:] == "ab"),
        ('not starts_with(z, " ")', lambda t: t[:1] != " "),
        ('matches(z, r"[^ ]*b.?")', lambda t: " " not in t[:-1] and "b" in t[-2:] and t != "b "[::-1] and (t[-1] == "b" or t[-2] == "b")),
        ('z == "abb"', lambda t: t == "abb"),
        ('z != "abb"', lambda t: t != "abb"),
        ('not z != "a.b"', lambda t: t == "a.b"),
    ],
)  # fmt: skip
def test_a_mask_leaves_exactly_what_satisfies_it(condition: str, holds) -> None:
    wide, narrow = target(Z), target(f"{Z}condition {condition}")
    everything = allowed(wide, "z")
    assert allowed(narrow, "z") == {t for t in everything if holds(t)} < everything


def test_finite_values_keep_their_tokens_and_places() -> None:
    bound = target(f"{N}condition n > 0 and n != 3\ncondition 2 * n < k", "k: int", k=8)
    wide = bound.evaluator.supports["n"]
    support = bound.latent("n").support
    assert list(support.values()) == [wide.ids_of(1), wide.ids_of(2)]
    assert [support.datum(v) for v in support.values()] == [1, 2] and support.size == 2
    assert not support.accepts(wide.ids_of(3)) and wide.accepts(wide.ids_of(3))
    with pytest.raises(ValueError, match="0 is no value"):
        support.ids_of(0)
    other = target(f"{N}condition n > 0 and n != 3\ncondition 2 * n < k", "k: int", k=9)
    assert other.latent("n").support.size == 3
    assert target(f"{N}condition n > 0 and n != 3\ncondition 2 * n < 8").latent("n").support is support


def test_kept_values_stay_in_the_order_of_the_declaration() -> None:
    bound = target('latent o: one_of("b", "ab", "a", ".") ~ base()\ncondition chars(["a", o]) < 3')
    support = bound.latent("o").support
    assert [support.datum(v) for v in support.values()] == ["b", "a", "."]


def test_a_number_in_a_text_is_spelled_with_its_lead() -> None:
    bound = target('latent n: int(8..11, lead=" ") ~ poisson(9)\ncondition chars([n, "."]) <= 3 and n != 8')
    assert [bound.latent("n").support.datum(v) for v in bound.latent("n").support.values()] == [9]


def test_a_finite_value_that_gives_no_number_is_kept_so_that_it_is_reported() -> None:
    bound = target(f"{N}condition log(n - 2) > 0")
    assert [bound.latent("n").support.datum(v) for v in bound.latent("n").support.values()] == [0, 1, 2, 4]
    with pytest.raises(InferenceError) as caught:
        bound.log_reward(values_of(bound, [{"n": 0}]))
    assert caught.value.diagnostics[0].code == "PLM701"


def test_a_value_that_breaks_a_mask_is_still_a_value() -> None:
    bound = target(f'{Z}{N}condition contains(z, "b")\ncondition n > 2')
    values = {"z": [bound.value("z", "a.")], "n": [bound.value("n", 1)]}
    terms = bound.terms(values)[0]
    assert np.isneginf(terms).tolist() == [False, False, True, True]


@pytest.mark.parametrize(
    "body",
    [
        'factor if contains(z, "b") then 0 else log(0)',
        'observe [z, "b"] ~ base()',
        'condition if chars(z) > 1 then contains(z, "b") else true',
        'condition contains(z, "b") or chars(z) > 0',
        'condition contains(["b", z], "b")',
    ],
)
def test_what_is_no_mask(body: str) -> None:
    assert target(Z + body).latent("z").support is target(Z).latent("z").support


def test_a_power_around_a_condition_changes_nothing() -> None:
    plain, tempered = (
        target(f"{Z}{s}") for s in ('condition contains(z, "b")', 'temper 0 { condition contains(z, "b") }')
    )
    assert plain.latent("z").support is tempered.latent("z").support is not target(Z).latent("z").support


def test_a_condition_that_leaves_nothing_is_named() -> None:
    with pytest.raises(CompileError) as caught:
        target(f'{Z}condition chars(z) > 1 and not contains(z, "a")\ncondition ends_with(z, "a")')
    (found,) = caught.value.diagnostics
    assert found.code == "PLM340" and found.primary is not None
    assert (
        found.primary.span.text == 'condition ends_with(z, "a")' and "other conditions" in found.primary.text
    )
    assert found.notes == ('`condition chars(z) > 1 and not contains(z, "a")` (line 4) holds too',)
    with pytest.raises(CompileError) as caught:
        target(f"{N}condition n < 3\ncondition n > 9")
    (found,) = caught.value.diagnostics
    assert found.code == "PLM340" and found.primary is not None and not found.notes
    assert found.primary.span.text == "condition n > 9" and found.primary.text == "no value is left"


@pytest.mark.parametrize(("latent", "data"), [(Z, {"w": "q"}), (N, {"w": "q"})])
def test_what_only_these_data_make_impossible_is_found_when_drawing(
    latent: str, data: dict[str, str]
) -> None:
    condition = "contains(z, w)" if latent is Z else 'n > 3 + count(w, "q")'
    bound = target(f"{latent}condition {condition}", "w: text", **data)
    assert bound.latents[0].support is bound.evaluator.supports[bound.names[0]]
    with pytest.raises(InferenceError) as caught:
        run(Exact(values=10**4), bound, n=1, rng=np.random.default_rng(0))
    assert caught.value.diagnostics[0].code == "PLM703"


def test_a_support_narrowed_by_a_long_pattern_falls_back_to_the_declared_one() -> None:
    bound = target(f'{Z}condition matches(z, r"(?s:.*)a(?s:.){{40}}") or false')
    assert bound.latent("z").support is bound.evaluator.supports["z"]


# ------------------------------------------------------------------- prefixes


def alive(bound: Target, name: str, *texts: str, **earlier: str | int) -> list[bool]:
    past = {k: [bound.value(k, v)] * len(texts) for k, v in earlier.items()}
    return PrefixTests.of(bound, name).alive([ids(t) for t in texts], past).tolist()


@pytest.mark.parametrize(
    ("condition", "texts", "wanted"),
    [
        ("words(z) <= 1", ("", "a", "a ", "a b", " ab"), (1, 1, 1, 0, 1)),
        ("not words(z) > 1", ("a ", "a b"), (1, 0)),
        ("chars(z) < 2", ("a", "ab"), (1, 0)),
        ("2 * chars(z) + words(z) <= 4", ("a", "aa", "  "), (1, 0, 1)),
        ("tokens(z) <= 1", ("", "a", "ab"), (1, 1, 0)),
        ('count(z, "aa") < 1', ("a", "aba", "aa"), (1, 1, 0)),
        ('chars(z) <= 1 or words(z) <= 1', ("a", "ab", "a b"), (1, 1, 0)),
        ("chars(z) == 2", ("a", "ab", "aba"), (1, 1, 0)),
        ('not contains([" ", z], " b")', ("a", "b", "a b"), (1, 0, 0)),
        ('min(words(z), 1) * chars(z) <= 1', ("a", "aa", "a."), (1, 1, 1)),
        ("if chars(z) < 3 then true else words(z) <= 1", ("a b", "a "), (0, 1)),
    ],
)  # fmt: skip
def test_a_beginning_is_refused_once_nothing_can_save_it(
    condition: str, texts: tuple[str, ...], wanted: tuple[int, ...]
) -> None:
    bound = target(f"{Z}condition {condition}")
    assert alive(bound, "z", *texts) == [bool(w) for w in wanted]


def test_later_latents_are_unknown_and_earlier_ones_known() -> None:
    bound = target(f"{N}{Z}{Y}condition chars(z) + chars(y) <= n")
    tests = PrefixTests.of(bound, "z")
    assert tests.reads == ("n",) and not tests.empty
    mixed = {"n": [bound.value("n", k) for k in (4, 2)]}
    assert tests.alive([ids("aba")] * 2, mixed).tolist() == [True, False]
    assert alive(bound, "z", "a", "aba", n=2) == [True, False]
    assert alive(bound, "z", "a", "aba", n=4) == [True, True]
    assert alive(bound, "y", "a", "aa", n=3, z="ab") == [True, False]
    assert alive(bound, "n", "", n=3) == [True]
    bound = target(f"{Z}{Y}condition tokens(y) < tokens(z)")
    assert alive(bound, "y", "", "a", z="ab") == [True, False] and alive(bound, "y", "a", z=".a") == [True]


def test_beginnings_of_a_finite_value() -> None:
    model = table(("a", "b", "1", "2"), seed=2)
    body = f"{Z}latent n: int(0..22) ~ base(z)\ncondition n > 10 * chars(z)"
    bound = compiled(program(body.replace("0..22", "1..2")), {}, {"base": model})
    z = {"z": [bound.value("z", "a")]}
    tests = PrefixTests.of(bound, "n")
    assert not tests.empty and tests.alive([()], z).tolist() == [False]
    body = body.replace("0..22", "1..2").replace("10 *", "1 *")
    bound = compiled(program(body), {}, {"base": model})
    tests, two = PrefixTests.of(bound, "n"), {"z": [bound.value("z", "a")] * 3}
    one = bound.value("n", 1).ids
    assert tests.alive([(), one, bound.value("n", 2).ids], two).tolist() == [True, False, True]


def test_masks_that_are_built_in_are_not_tested_again() -> None:
    assert PrefixTests.of(target(f'{Z}condition not contains(z, "b")'), "z").empty
    assert PrefixTests.of(target(f"{Z}condition words(z) >= 2"), "z").empty
    assert not PrefixTests.of(target(f"{Z}condition words(z) < 2"), "z").empty
    with pytest.raises(KeyError):
        PrefixTests.of(target(Z), "y")


def test_exact_enumeration_leaves_out_what_a_beginning_rules_out() -> None:
    """Five tokens of five kinds are many; what is listed and what is certain is as for the short list."""
    long = target('latent z: text(tokens=1..7, end="free") ~ base()\ncondition tokens(z) <= 2')
    short = target('latent z: text(tokens=1..2, end="free") ~ base()')
    draws, wanted = (
        run(Exact(values=10**6, mass=1.0), t, n=1, rng=np.random.default_rng(0)) for t in (long, short)
    )
    assert draws.certificate is not None and draws.certificate.complete and draws.certificate.listed < 1000
    assert draws.log_evidence == pytest.approx(wanted.log_evidence, abs=1e-12) and len(draws) == len(wanted)
    none = target('latent z: text(tokens=2..9, end="free") ~ base()\ncondition tokens(z) + chars(z) < 2')
    with pytest.raises(InferenceError) as caught:
        run(Exact(), none, n=1, rng=np.random.default_rng(0))
    (found,) = caught.value.diagnostics
    assert found.code == "PLM703" and found.primary is not None
    assert found.primary.span.text == "condition tokens(z) + chars(z) < 2"


SPELLED = [
    b"a",
    b" ",
    b"\xc3\xa9",
    b"\xe6\x97\xa5",
    b"\xf0\x9f\x98\x80",
    b"\xc3",
    b"\xa9",
    b"\xf0\x9f",
    b"\xff",
]


@given(st.lists(st.sampled_from(SPELLED), max_size=4).map(b"".join), st.integers(0, 9))
def test_the_beginning_of_broken_bytes_is_the_beginning_of_the_text(whole: bytes, cut: int) -> None:
    pieces = [bytes([i]) for i in range(256)]
    found = beginning(pieces, tuple(whole[:cut]))
    text = whole.decode("utf-8", "replace")
    assert text.startswith(found.text) and len(text) >= len(found.text) + found.more


LETTERS = "ab é\u3000."


@given(st.data())
def test_what_is_certain_of_a_beginning_is_true_of_every_completion(data: st.DataObject) -> None:
    text, more = (data.draw(st.text(LETTERS, max_size=5)) for _ in range(2))
    part = data.draw(st.text(LETTERS, max_size=3))
    begun = Text(text, whole=False)
    for op in ("words", "chars", "count", "contains", "starts_with", "ends_with", "==", "!=", "matches"):
        others = [part] if op not in ("words", "chars") else []
        value = OPS[op](text + more, *others)
        match apply(op, [begun, *map(certain, others)]):
            case Between(low=low, high=high):
                assert low <= value <= high, op
            case bool() as truth:
                assert value is truth, op
    both = joined([certain("x"), begun, certain("y")])
    assert isinstance(both, Text) and not both.whole and ("x" + text + more + "y").startswith(both.text)


@given(st.data())
def test_bounds_hold_whatever_the_numbers_are(data: st.DataObject) -> None:
    numbers = st.integers(-4, 4)
    ranges = [sorted(data.draw(st.tuples(numbers, numbers))) for _ in range(2)]
    points = [data.draw(st.integers(low, high)) for low, high in ranges]
    for op in ("+", "-", "*", "min", "max", "<", "<=", ">", ">=", "==", "!=", "/"):
        value = OPS[op](*points)
        match apply(op, [Between(low, high) for low, high in ranges]):
            case Between(low=low, high=high):
                assert low <= value <= high, op
            case bool() as truth:
                assert value is truth, op
    assert apply("-", [Between(np.inf, np.inf), Between(0, np.inf)]) is None  # ∞ − ∞
    found = apply("unary -", [Between(*ranges[0])])
    assert isinstance(found, Between) and found.low <= -points[0] <= found.high


# ------------------------------------------------------------------- plm check -v


SORTED = """\
lm base = "tiny"

program p(prompt: text) {
  latent z: text(tokens=1..9, stop=".") ~ base(prompt)
  condition contains(z, "dog") and not (words(z) > 4 or similarity(z, prompt) > 0.5)
  condition words(prompt) < 5
}
"""


def test_check_says_which_is_which(tmp_path: Path) -> None:
    path = tmp_path / "p.plm"
    path.write_text(SORTED, encoding="utf-8")
    result = plm("check", "-v", path)
    assert result.exit_code == 0 and result.stdout.splitlines() == [
        str(path),
        "  line  condition                        latent  kind    why",
        '     5  contains(z, "dog")               z       mask    an automaton follows the text',
        "     5  not words(z) > 4                 z       prefix  its first tokens can settle it",
        "     5  not similarity(z, prompt) > 0.5  z       end     only the whole text settles it",
        "     6  words(prompt) < 5                -       known   no latent changes it",
        "1 program checked: no errors",
    ]
    found = json.loads(plm("check", "-v", path, "--format", "json").stdout)
    assert found["diagnostics"] == [] and [c["kind"] for c in found["conditions"]] == [
        "mask", "prefix", "end", "known",
    ]  # fmt: skip
    assert found["conditions"][1] == {
        "file": str(path), "line": 5, "condition": "not words(z) > 4", "latent": "z", "kind": "prefix",
        "why": "its first tokens can settle it",
    }  # fmt: skip
    assert json.loads(plm("check", path, "--format", "json").stdout) == []


def test_a_program_without_conditions_says_so(tmp_path: Path) -> None:
    path = tmp_path / "p.plm"
    path.write_text("\n".join(SORTED.splitlines()[:4]) + "\n}\n", encoding="utf-8")
    assert plm("check", "-v", path).stdout.startswith(f"{path}: no conditions\n")


def test_check_finds_finite_conditions_that_nothing_satisfies(tmp_path: Path) -> None:
    path = tmp_path / "p.plm"
    body = "program p(k: int = 2) {\n  latent n: int(0..9) ~ poisson(3)\n  condition n %s 7 and n < 6\n}\n"
    path.write_text(body % ">", encoding="utf-8")
    result = plm("check", path)
    assert (
        result.exit_code == 1 and "error[PLM340]: no value of `n` satisfies this condition" in result.stderr
    )
    path.write_text(body % "<", encoding="utf-8")
    assert plm("check", path).exit_code == 0
    path.write_text(body.replace("7", "k + 99") % ">", encoding="utf-8")  # data decides
    assert plm("check", path).exit_code == 0
    assert "PLM703" in plm("run", path).stderr


def test_predict_gives_what_its_own_value_makes_impossible_no_probability(tmp_path: Path) -> None:
    path = tmp_path / "p.plm"
    model = ROOT / "tests" / "golden" / "cli" / "letters.json"
    path.write_text(
        f'lm base = "{model}"\nprogram p(label: one_of("a", "b", "q")) {{\n'
        '  latent z: text(tokens=1..3, stop=".") ~ base("a")\n  condition contains(z, label)\n}\n',
        encoding="utf-8",
    )
    result = plm("predict", path, "label", "--format", "json")
    assert result.exit_code == 0, result.stderr
    probs = {v["value"]: v["prob"] for v in json.loads(result.stdout)["predictions"]}
    assert probs["q"] == 0 and 0 < probs["b"] < 1


def test_dead_draws_tell_of_the_conditions_that_are_built_in() -> None:
    bound = target(
        'latent o: one_of("a", "b") ~ categorical([0, 1])\ncondition o == "a"\ncondition chars(o) < 9'
    )
    with pytest.raises(InferenceError) as caught:
        run(Importance(), bound, n=5, rng=np.random.default_rng(0))
    (found,) = caught.value.diagnostics
    assert found.code == "PLM702"
    assert found.notes[0] == '`condition o == "a"` (line 4) is built into what is drawn'
    bound = target(f'{Z}condition similarity(z, "q") > 0')
    with pytest.raises(InferenceError) as caught:
        run(Importance(), bound, n=5, rng=np.random.default_rng(0))
    assert not caught.value.diagnostics[0].notes


def test_texts_that_come_to_no_end_are_told_to_be_shorter() -> None:
    endless = TabularModel.from_dict(
        {"tokens": ["a", "b"], "order": 0, "max_tokens": 9, "rows": {"": {"a": 0.5, "b": 0.5}}}
    )
    query = loads('lm base = "unused"\nprogram p() { latent z: text(tokens=1..3) ~ base() }').lm(base=endless)
    with pytest.raises(InferenceError) as caught:
        query.using("importance").draw(8, seed=0)
    (found,) = caught.value.diagnostics
    assert found.code == "PLM702" and "allow more tokens, or bound what repeats" in (found.help or "")
