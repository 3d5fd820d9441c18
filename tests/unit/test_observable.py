"""Which observed parameters can be simulated: those that one statement draws and nothing else reads."""

from __future__ import annotations

import pytest

from posterior_lm.graph import optimize
from posterior_lm.graph.graph import RewardGraph, verify
from posterior_lm.graph.nodes import Latent
from posterior_lm.train.observable import Observable, observables, simulated
from tests.strategies import graph_of

Z = 'latent z: text(tokens=1..3, stop=".") ~ base("a") '
Y = "y: text"
C = 'y: one_of("a", "b")'


def graph(params: str, body: str) -> RewardGraph:
    return optimize(graph_of(f'lm base = "b"\nlm other = "o"\nprogram p({params}) {{\n{body}\n}}'))


def found(params: str, body: str) -> dict[str, Observable]:
    return {o.name: o for o in observables(graph(params, body))}


DRAWN = {
    "a text": (Y, Z + "observe y ~ base(z)"),
    "a text by another model": (Y, Z + "observe y ~ other(z)"),
    "a text after a space": (Y, Z + 'observe [" ", y] ~ base(z)'),
    "a text after known words": (Y, Z + 'observe ["so ", y] ~ base(z)'),
    "a text without a latent": (Y, Z + 'observe y ~ base("b")'),
    "a text with a power": (Y, Z + "observe y ~ base(z) ^ 2"),
    "a text in temper": (Y, "temper 0.5 { " + Z + "observe y ~ base(z) }"),
    "a text beside a factor": (Y, Z + "observe y ~ base(z) factor chars(z)"),
    "a text that a guide reads": (Y, Z + 'observe y ~ base(z) guide z ~ base(y, "b")'),
    "a text with a default": ('y: text = "a"', Z + "observe y ~ base(z)"),
    "a choice": (C, Z + "observe y ~ choice(base(z))"),
    "a choice as text": (C, Z + "observe y ~ base(z)"),
    "a choice before known text": (C, Z + 'observe [y, " so"] ~ base(z)'),
    "a choice by a table of numbers": (C, Z + "observe y ~ categorical([0.2, 0.8])"),
    "a number": ("y: int(0..3)", "latent k: int(1..2) ~ uniform() observe y ~ poisson(k)"),
    "a number as text": ("y: int(0..3)", Z + "observe y ~ base(z)"),
}
KEPT = {
    "read by a condition": (Y, Z + 'observe y ~ base(z) condition contains(y, "a")'),
    "read by a condition beside a latent": (Y, Z + "observe y ~ base(z) condition contains(z, y)"),
    "read by a factor": (Y, Z + "observe y ~ base(z) factor -1.0 * chars(y)"),
    "read by the prior": (Y, "latent z: text(tokens=1..3) ~ base(y) observe y ~ base(z)"),
    "read by a support": ("y: int(1..3)", "latent z: text(tokens=1..y) ~ base() observe y ~ base(z)"),
    "read by a power": ("y: int(1..3)", "latent z: text(tokens=1..2) ~ base() ^ y observe y ~ base(z)"),
    "observed in two ways": (Y, Z + 'observe y ~ base(z) observe y ~ base("b")'),
    "observed by two models": (Y, Z + "observe y ~ base(z) observe y ~ other(z)"),
    "not the last of its text": (Y, Z + 'observe [y, " so"] ~ base(z)'),
    "before end-of-text": (Y, Z + "observe [y, eos] ~ base(z)"),
    "twice in its text": (Y, Z + "observe [y, y] ~ base(z)"),
    "in its own context": (Y, Z + "observe y ~ base(z, y)"),
    "the context of another": (Y, Z + 'observe "a" ~ base(z, y)'),
    "only in a condition": (Y, Z + "condition contains(z, y)"),
    "an argument of a distribution": ("y: int(1..3)", "latent k: int(0..3) ~ poisson(y)"),
    "a number without a range": ("y: int", "latent k: int(1..2) ~ uniform() observe y ~ poisson(k)"),
    "the test of a text": (Y, Z + 'observe (if y == "a" then "b" else "c") ~ base(z)'),
    "nowhere": (Y, Z + 'observe "a" ~ base(z)'),
}  # fmt: skip


@pytest.mark.parametrize("name", DRAWN)
def test_what_one_statement_draws_is_simulated(name: str) -> None:
    one = found(*DRAWN[name])
    assert list(one) == ["y"]
    assert (one["y"].table, one["y"].spec.name) == (None, "y")


@pytest.mark.parametrize("name", KEPT)
def test_what_anything_else_reads_is_not(name: str) -> None:
    assert found(*KEPT[name]) == {}


def test_each_parameter_is_judged_by_itself() -> None:
    body = Z + "observe x ~ base(z) observe y ~ base(z, w) observe w ~ base(z) observe v ~ other(z)"
    assert set(found("x: text, y: text, w: text, v: text", body)) == {"x", "y", "v"}


def test_one_score_draws_one_parameter() -> None:
    """Of two texts in one list the last one is drawn, after the first as it is."""
    assert set(found("x: text, y: text", Z + "observe [x, y] ~ base(z)")) == {"y"}
    assert set(found("x: text, y: text", Z + "observe [y, x] ~ base(z)")) == {"x"}


TABLE = "rows: table(x: text, y: text, n: int(0..2))"


@pytest.mark.parametrize(
    ("inside", "outside", "names"),
    [
        ("observe r.y ~ base(z, r.x)", "", {"rows.y"}),
        ("observe r.x ~ base(z) observe r.y ~ base(z, r.x)", "", {"rows.y"}),
        ("observe r.x ~ base(z) observe r.y ~ base(z)", "", {"rows.x", "rows.y"}),
        ('observe r.y ~ base(z) condition contains(r.y, "a")', "", set()),
        ("observe r.n ~ choice(base(z)) observe r.y ~ base(z)", "", {"rows.n", "rows.y"}),
        ("observe r.y ~ base(z)", "factor -1.0 * chars(z)", {"rows.y"}),
    ],
)
def test_columns_of_tables(inside: str, outside: str, names: set[str]) -> None:
    one = found(TABLE, f"{Z} plate r in rows {{ {inside} }} {outside}")
    assert set(one) == names
    assert all(o.table == "rows" and o.name == f"rows.{o.spec.name}" for o in one.values())


def test_a_table_that_two_plates_read() -> None:
    body = f"{Z} plate r in rows {{ observe r.y ~ base(z) }} plate s in rows {{ observe s.y ~ other(z) }}"
    assert found(TABLE, body) == {}


# ------------------------------------------------------------------- the simulation's graph


def test_the_simulations_graph_has_them_as_latents() -> None:
    params = 'a: text, c: one_of("u", "v"), n: int(1..4, lead=" "), k: text'
    body = Z + "observe a ~ base(z) observe c ~ choice(other(z)) observe n ~ base(z, k) observe z ~ base(k)"
    program = graph(params, body)
    seen = observables(program)
    assert {o.name for o in seen} == {"a", "c", "n"}
    made = simulated(program, seen)
    verify(made)
    latents = {n.name: n for n in made.nodes.values() if isinstance(n, Latent)}
    assert set(latents) == {"z", "a", "c", "n"}
    assert (latents["a"].type, latents["a"].lm) == ("text", "base")
    assert (latents["c"].type, latents["c"].choices, latents["c"].lm) == ("one_of", ("u", "v"), "other")
    options = {o: made[i].value for o, i in zip(latents["n"].options, latents["n"].inputs, strict=True)}
    assert options == {"low": 1, "high": 4, "lead": " "}
    assert latents["n"].lm == "base"
    assert {n.name for n in program.nodes.values() if isinstance(n, Latent)} == {"z"}  # a new graph


def test_without_observables_the_graph_stays() -> None:
    program = graph("", Z)
    assert observables(program) == ()
    assert simulated(program, ()).fingerprint == program.fingerprint
