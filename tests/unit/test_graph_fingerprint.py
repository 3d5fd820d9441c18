"""The fingerprint changes with what the log reward is, and with nothing else."""

from __future__ import annotations

import re

import pytest

from posterior_lm.graph import PASSES, ground, optimize
from posterior_lm.target.validate import validate_data
from tests.strategies import fingerprint, graph_of

RICH = """lm base = "b.json"
lm other = "o.json"
use score from "pack:fun"
program prog(q: text, n: int(0..5), w: real = 0.5, c: one_of("u", "v"), t: table(a: text, k: one_of("x", "y"))) {
  let y = [q, " and ", n]
  latent z: text(tokens=2..7, stop="!", chars="abc", canonical=true) ~ base(y, "first") ^ 1.5
  latent i: int(0..9, lead="#") ~ binomial(9, 0.25)
  latent o: one_of("red", "blue") ~ choice(other(z, "which"))
  latent f: text(tokens=3..4, end="free") ~ other(o, z)
  observe [q, z, "tail"] ~ base("ctx", i) ^ w
  observe c ~ categorical([0.375, 0.625])
  observe n ~ uniform(1, 5)
  observe o ~ uniform() ^ 3
  factor -0.7 * count(z, "very") + words(f) * n
  factor if contains(z, "cond") and i < 6 then score(z) else log_prob(f, other(eos, "lp"))
  condition words(z) <= 16 or not starts_with(f, "S")
  temper 1.25 { observe "T" ~ base(f) }
  plate r in t {
    latent p: text(tokens=1..6) ~ base(r.a, z)
    observe r.k ~ choice(base(p, "plate"))
  }
  guide z ~ base("guided", 77)
  infer importance(n=88)
}
"""
ASIDE = ("guided", "77", "88", "0.5")  # the default of a parameter is data


def literals() -> list[tuple[int, int]]:
    """Where every string and number of the program stands that another may stand for."""
    found = re.finditer(r'"[^"]*"|(?<![\w.])\d+(\.\d+)?(?![\w])', RICH)
    return [m.span() for m in found if m[0] not in ('"free"', "0.375", "0.625")]


@pytest.mark.parametrize("span", literals(), ids=lambda s: f"{s[0]}-{RICH[slice(*s)]}")
def test_every_constant_counts(span: tuple[int, int]) -> None:
    old = RICH[slice(*span)]
    new = {"0.25": "0.2", '"pack:fun"': '"pack:gun"', '"#"': '"+"'}.get(old)
    if new is None:
        new = (
            f'"{old[1:-1]}s"'
            if old.startswith('"')
            else str(float(old) + 0.25)
            if "." in old
            else str(int(old) + 1)
        )
    if RICH[: span[0]].endswith("n: int(") or RICH[: span[0]].endswith("n: int(0.."):
        return  # the range of an int parameter, which nothing here scores
    before, after = RICH[: span[0]], RICH[span[1] :]
    if RICH[span[0] - 2 : span[0]] == ".." or after.startswith(".."):
        new = str(int(old) + 1)
    changed = fingerprint(before + new + after) != fingerprint(RICH)
    assert changed != (old.strip('"') in ASIDE), (old, new)


EDITS = [
    ("-0.7 *", "0.7 *"),
    ("[0.375, 0.625]", "[0.625, 0.375]"),
    ("+ words(f)", "- words(f)"),
    ("words(f) * n", "words(f) + n"),
    ("words(f) * n", "chars(f) * n"),
    ("words(f)", "words(z)"),
    ("<= 16", "< 16"),
    ("or not starts", "and not starts"),
    ("or not starts", "or starts"),
    ("starts_with(f", "ends_with(f"),
    ("contains(z", "contains(f"),
    ("and i < 6", "and i > 6"),
    ("then score(z) else log_prob(f, other(eos, \"lp\"))", "then log_prob(f, other(eos, \"lp\")) else score(z)"),
    ("other(eos,", "other(bos,"),
    ("other(eos, \"lp\")", "other(\"lp\", eos)"),
    ("other(o, z)", "other(z, o)"),
    ("other(o, z)", "base(o, z)"),
    ("base(y, \"first\")", "base(\"first\", y)"),
    ("[q, \" and \", n]", "[n, \" and \", q]"),
    ("[q, z, \"tail\"]", "[q, \"tail\", z]"),
    ("[q, z, \"tail\"]", "[q, z, \"tail\", eos]"),
    ("choice(other(z, \"which\"))", "other(z, \"which\")"),
    ("uniform() ^ 3", "choice(base()) ^ 3"),
    ("uniform(1, 5)", "poisson(1.5)"),
    ("binomial(9, 0.25)", "geometric(0.25)"),
    (", end=\"free\"", ""),
    (", stop=\"!\"", ""),
    (", canonical=true", ""),
    (", chars=\"abc\"", ""),
    (", lead=\"#\"", ""),
    (" ^ 1.5", ""),
    (" ^ w", " ^ n"),
    (" ^ w", ""),
    ("one_of(\"red\", \"blue\")", "one_of(\"blue\", \"red\")"),
    ("one_of(\"red\", \"blue\")", "one_of(\"red\", \"blue\", \"tan\")"),
    ("condition words", "condition true condition words"),
    ("temper 1.25 { observe \"T\" ~ base(f) }", "observe \"T\" ~ base(f)"),
    ("temper 1.25 { observe \"T\" ~ base(f) }", ""),
    ("base(r.a, z)", "base(r.k, z)"),
    ("base(r.a, z)", "base(z, r.a)"),
    ("base(p, \"plate\")", "base(z, \"plate\")"),
    ("k: one_of(\"x\", \"y\")", "k: one_of(\"y\", \"x\")"),
    ("observe n ~ uniform(1, 5)", "observe [n] ~ base()"),
    ("lm other = \"o.json\"", "lm other = \"b.json\""),
    ("lm other = \"o.json\"", "lm other = tabular(\"o.json\")"),
    ("lm other = \"o.json\"", "lm other = transformers(\"o.json\", revision=\"x\")"),
    ("c: one_of(\"u\", \"v\")", "c: one_of(\"v\", \"u\")"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new"), EDITS)
def test_what_changes_the_reward_changes_the_fingerprint(old: str, new: str) -> None:
    assert RICH.count(old) == 1, old
    changed = RICH.replace(old, new)
    if "temper 1.25" in old and not new:
        assert len(optimize(graph_of(changed)).sink.inputs) == len(optimize(graph_of(RICH)).sink.inputs) - 1
    assert fingerprint(changed) != fingerprint(RICH)


PAIRS = [
    ('latent z: text(tokens=1..2, stop="a") ~ base()', 'latent z: text(tokens=1..2, chars="a") ~ base()'),
    ('latent z: one_of("a", "b") ~ base()', 'latent z: one_of("a", "c") ~ base()'),
    ('latent z: one_of("a", "b") ~ base()', 'latent z: one_of("b", "a") ~ base()'),
    ('latent z: text(tokens=1..2) ~ base("a") observe z ~ base()', 'latent z: text(tokens=1..2) ~ base("a") observe [z] ~ base()'),
    ("latent z: int(0..3) ~ choice(base())", 'latent z: int(0..3, lead=" ") ~ choice(base())'),
    ("latent z: int(0..3) ~ choice(base())", "latent z: int(0..3) ~ choice(base() ^ 2)"),
    ("latent z: int(0..3) ~ choice(base() ^ 2)", "latent z: int(0..3) ~ choice(base()) ^ 2"),
    ("observe n ~ choice(base())", "observe m ~ choice(base())"),
    ("observe n ~ uniform()", "observe n ~ uniform(0, 4)"),
    ('observe "a" ~ base() observe "b" ~ base()', 'observe "a" ~ base() observe "b" ~ same()'),
    ('observe "a" ~ base() observe "a" ~ base()', 'observe "a" ~ base() ^ 2'),
    ("plate r in t { observe r.a ~ base() }", "plate r in u { observe r.a ~ base() }"),
    ("plate r in t { plate s in t { observe [r.a, s.a] ~ base() } }", "plate r in t { plate s in t { observe [s.a, r.a] ~ base() } }"),
    ("plate r in t { observe r.a ~ base() observe r.b ~ base() }", "plate r in t { observe r.b ~ base() observe r.a ~ base() }"),
    ("factor 1 factor w", "factor 1.5 factor w"),
    ("factor w + 1", "factor w + 1.0 * 2"),
    ("factor w - 2", "factor 2 - w"),
    ('condition "x" == c', 'condition "x" != c'),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_two_programs_that_differ(one: str, other: str) -> None:
    head = """lm base = "b"
    lm same = "b"
    program p(w: real, n: int(0..3), m: int(0..3, lead=" "), c: one_of("x", "y"), t: table(a: text, b: text), u: table(a: text)) {"""
    assert fingerprint(f"{head} {one} }}") != fingerprint(f"{head} {other} }}")


SIGNATURES = [
    ("q: text", "q: int"),
    ("q: text", 'q: one_of("x", "y")'),
    ('q: one_of("x", "y")', 'q: one_of("x", "z")'),
    ("n: int(0..3)", "n: int(0..4)"),
    ("n: int(0..3)", 'n: int(0..3, lead=" ")'),
    ("t: table(a: text)", "t: table(a: int)"),
    ("t: table(a: text)", "t: table(a: text, b: text)"),
]


@pytest.mark.parametrize(("one", "other"), SIGNATURES)
def test_the_types_of_parameters_that_are_read_count(one: str, other: str) -> None:
    body = {
        "q": "observe q ~ base()",
        "n": "observe n ~ choice(base())",
        "t": "plate r in t { observe r.a ~ base() }",
    }[one[0]]
    a, b = (fingerprint(f'lm base = "b"\nprogram p({p}) {{ {body} }}') for p in (one, other))
    assert a != b
    assert fingerprint(f'lm base = "b"\nprogram p({one}, unread: text) {{ {body} }}') == a


def test_a_parameters_name_counts_because_data_is_bound_by_it() -> None:
    changed = re.sub(r"\bq\b", "qq", RICH)
    assert fingerprint(changed) != fingerprint(RICH)


SAME = [
    ("base", "model_a"), ("other", "model_b"), ("prog", "another"), ("z", "z_"), ("i", "i_"), ("o", "o_"), ("f", "f_"),
    ("y", "y_"), ("r", "r_"), ("p", "p_"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "new"), SAME)
def test_bound_names_do_not_count(name: str, new: str) -> None:
    outside = re.split(r'("[^"]*")', RICH)
    changed = "".join(s if s.startswith('"') else re.sub(rf"\b{name}\b", new, s) for s in outside)
    assert changed != RICH and fingerprint(changed) == fingerprint(RICH)


def test_swapped_names_do_not_count() -> None:
    one = 'lm base = "b" program p() {{ latent {a}: text(tokens=1..2) ~ base() latent {b}: text(tokens=1..3) ~ base({a}, {b2}) observe {a} ~ base({b}) }}'
    assert fingerprint(one.format(a="u", b="v", b2='"x"')) == fingerprint(one.format(a="v", b="u", b2='"x"'))
    assert fingerprint(one.format(a="u", b="v", b2='"x"')) != fingerprint(one.format(a="u", b="v", b2="u"))


SPELLED_ANOTHER_WAY = [
    ('let y = [q, " and ", n]\n', ""),
    ("guide z ~ base(\"guided\", 77)", ""),
    ("guide z ~ base(\"guided\", 77)", "guide z ~ other(q)"),
    ("infer importance(n=88)", "infer exact(mass=0.5)"),
    ("w: real = 0.5", "w: real"),
    ("  temper 1.25 { observe \"T\" ~ base(f) }", "\n\n observe \"T\" ~ base(f) ^ 1.25   # a comment"),
    ("uniform() ^ 3", "uniform() ^ 1.5 ^ 2"),
    ("uniform() ^ 3", "uniform() ^ 3.0"),
    ("uniform() ^ 3", "uniform() ^ (4 - 1) ^ 1"),
    ("\"first\"", "[\"fi\", [\"rst\"]]"),
    ("tokens=2..7", "tokens=(1+1)..7"),
    ("condition words", "condition words"),
    ("(z, \"very\")", "(z, if 1 < 2 then \"very\" else \"much\")"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new"), SPELLED_ANOTHER_WAY)
def test_what_means_the_same_after_folding_has_one_fingerprint(old: str, new: str) -> None:
    assert RICH.count(old) == 1
    changed = RICH.replace(old, new)
    if "let y" in old:
        changed = changed.replace("base(y, ", 'base([q, " and ", n], ')
    assert fingerprint(changed) == fingerprint(RICH)


def test_folding_may_change_it_and_later_passes_may_not() -> None:
    graph = PASSES[0].run(graph_of(RICH))
    for step in PASSES[1:]:
        graph = step.run(graph)
        assert graph.fingerprint == PASSES[0].run(graph_of(RICH)).fingerprint


def test_it_is_that_of_the_program_not_of_the_data() -> None:
    graph = optimize(graph_of('lm base = "b" program p(q: text) { latent z: text(tokens=1..2) ~ base(q) }'))
    a, b = (optimize(ground(graph, validate_data(graph, {"q": q}))) for q in "ab")
    assert a.fingerprint != b.fingerprint != graph.fingerprint
    assert re.fullmatch("[0-9a-f]{64}", graph.fingerprint)
