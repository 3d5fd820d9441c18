"""`shares(a, b, …, grid=n) ~ dirichlet(…)`: the program that breaks the whole, and what a Dirichlet is without a grid."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest

import posterior_lm as plm
from posterior_lm.lang.diagnostics import CompileError, DataError, InferenceError
from posterior_lm.target.densities import Beta, log_mass
from tests.brute import Brute, log_sum
from tests.strategies import fingerprint, table

T = table(("a", "b", "."), seed=3, order=1, max_tokens=8)
WHOLE = "latent w: shares(a, b, c, grid=6) ~ dirichlet(2, n, 1)"
BROKEN = """latent x: real(0..1, grid=6) ~ beta(2, n + 1) latent y: real(0..1, grid=6) ~ beta(n, 1)"""
LETS = "let b = (1 - x) * y let c = (1 - x) * (1 - y)"
READ = """observe 1 ~ bernoulli({b}) factor {c} - 2 * {a} * {b}
  latent k: int(0..2) ~ categorical({w})
  latent z: text(tokens=1..1) ~ mix({a}, base("a"), base("b"))"""
ONE = {"a": "w.a", "b": "w.b", "c": "w.c", "w": "w"}
OTHER = {"a": "x", "b": "b", "c": "c", "w": "[x, b, c]"}
BLOCKS = {
    "alone": "{}",
    "temper": "temper 0.7 {{ {} }}",
    "branch": "latent m: bool ~ bernoulli(0.4) if m {{ {} }}",
    "plate": "plate r in rows {{ {} observe r.t ~ base() }}",
    "list": 'latent s: list(one_of("a", "b"), 0..1, end=".") ~ base() plate i in s {{ {} }}',
}


def source(body: str, params: str = "n: int = 3, rows: table(t: text)") -> str:
    return f'lm base = "b" program p({params}) {{ {body} }}'


def query(body: str, **given) -> plm.Query:
    return plm.loads(source(body)).lm(base=T).given(rows=[], **given)


def exact(body: str, **given) -> plm.Posterior:
    return query(body, **given).using("exact", mass=1.0).draw()


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("power", ["", " ^ 1.5"])
def test_it_is_the_program_that_breaks_the_whole(block: str, power: str) -> None:
    broken = BROKEN.replace(" latent y", f"{power} latent y") + power
    both = [
        source(BLOCKS[block].format(body))
        for body in (f"{WHOLE}{power} {READ.format(**ONE)}", f"{broken} {LETS} {READ.format(**OTHER)}")
    ]
    assert len(set(map(fingerprint, both))) == 1


def test_the_posterior_is_the_written_out_one_by_every_method() -> None:
    data = {"n": 3, "rows": []}
    brute = Brute(source(f"{BROKEN} {LETS} {READ.format(**OTHER)}"), data, {"base": T})
    rows = list(brute.assignments())
    logs = [brute.log_reward(row) for row in rows]
    whole = log_sum(logs)
    wanted = {
        "w.a": sum(math.exp(x - whole) * row["x"] for x, row in zip(logs, rows, strict=True)),
        "w.c": sum(
            math.exp(x - whole) * (1 - row["x"]) * (1 - row["y"]) for x, row in zip(logs, rows, strict=True)
        ),
    }
    asked = query(f"{WHOLE} {READ.format(**ONE)}")
    found = asked.using("exact", mass=1.0).draw()
    assert found.log_evidence == pytest.approx(whole, abs=1e-8)
    for name, mean in wanted.items():
        assert found.expect(name).value == pytest.approx(mean, abs=1e-8)
    for method in ("importance", "smc", "mcmc"):
        fewer = {"steps": 400, "chains": 4} if method == "mcmc" else {}
        drawn = asked.using(method, **fewer).draw(1500, seed=3)
        for name, mean in wanted.items():
            assert abs(drawn.expect(name).value - mean) < 4 * max(drawn.expect(name).se, 0.01), (method, name)
        if method != "mcmc":
            assert drawn.log_evidence == pytest.approx(whole, abs=0.1)


def test_cells_have_the_mass_that_a_dirichlet_gives_them() -> None:
    """The middle of a cell stands for all of it, whose mass is exact: it sums to one on any grid."""
    for n, concentrations in ((1, "1, 2, 3"), (3, "0.4, 2, 1"), (5, "2, 1, 1, 0.7")):
        names = "a, b, c, d"[: 3 * concentrations.count(",") + 1]
        body = f"latent w: shares({names}, grid={n}) ~ dirichlet({concentrations})"
        assert exact(body).log_evidence == pytest.approx(0, abs=1e-12)
    found = exact("latent w: shares(a, b, c, grid=3) ~ dirichlet(0.4, 2, 1)")
    for draw in found:
        x, y = (round(3 * float(draw.values[name]) - 0.5) / 3 for name in ("w.a:b:c", "w.b:c"))
        mass = log_mass(Beta(0.4, 3), x, x + 1 / 3) + log_mass(Beta(2, 1), y, y + 1 / 3)
        assert draw.log_reward == pytest.approx(mass, abs=1e-12)


@pytest.mark.parametrize("seen", [(), (0, 2, 2, 1, 2)])
def test_finer_grids_come_near_the_conjugate_posterior(seen: tuple[int, ...]) -> None:
    start = np.array([2.0, 1.0, 1.5])
    counts = start + np.bincount(np.array(seen, dtype=int), minlength=3)
    log_beta = [sum(map(math.lgamma, a)) - math.lgamma(sum(a)) for a in (counts, start)]
    errors = []
    for n in (10, 20, 40):
        terms = " ".join(f"factor log(w.{'abc'[k]})" for k in seen)
        found = exact(f"latent w: shares(a, b, c, grid={n}) ~ dirichlet(2, 1, 1.5) {terms}")
        means = np.array([found.spread(f"w.{share}").mean for share in "abc"])
        assert means.sum() == pytest.approx(1, abs=1e-12)
        evidence = abs(found.log_evidence - (log_beta[0] - log_beta[1]))
        errors.append((np.abs(means - counts / counts.sum()).max(), evidence))
    for early, late in itertools.pairwise(errors):
        assert late[0] < 0.3 * early[0] and late[1] <= 0.3 * early[1]
    assert max(errors[-1]) < 1e-3


def test_questions_and_views(tmp_path: Path) -> None:
    found = exact(f"{WHOLE} {READ.format(**ONE)}")
    rows = [(d.values["w.a:b:c"], d.values["w.b:c"], d.weight) for d in found]
    b = sum(w * (1 - x) * y for x, y, w in rows)
    assert found.spread("w.b").mean == pytest.approx(b) == found.expect("w.b").value
    assert found.prob("w.b > w.c").value == pytest.approx(sum(w for _, y, w in rows if y > 1 - y))
    assert found.expect("w.a + w.b + w.c").value == pytest.approx(1)
    assert [*found.reals] == ["w.a", "w.b", "w.c"] == [*found.to_json()["spreads"]]
    assert found["w.c"] == [pytest.approx((1 - x) * (1 - y)) for x, y, _ in rows]
    assert {*found.columns()} >= {"w.a:b:c", "w.b:c", "w.a", "w.b", "w.c"}
    assert sum(p for _, p in found.marginal("w.b")) == pytest.approx(1)
    again = plm.Posterior.load(found.save(tmp_path))
    assert again.to_json() == found.to_json() and again.expect("w.b") == found.expect("w.b")
    with pytest.raises(CompileError, match="w"):
        found.expect("w.d")
    with pytest.raises(DataError, match="PLM602"):
        found.spread("w.d")
    score = query(WHOLE).score({"w.a:b:c": 0.25, "w.b:c": 0.75})
    assert len(score.terms) == 2 and math.isfinite(score.log_reward)


def test_shares_of_rows_and_of_branches() -> None:
    two = "latent w: shares(a, b, grid=3) ~ dirichlet(2, 1)"
    body = f'plate r in rows {{ {two} observe 1 ~ bernoulli(if r.t == "a" then w.a else w.b) }}'
    found = (
        plm.loads(source(body))
        .lm(base=T)
        .given(rows=[{"t": "a"}, {"t": "b"}])
        .using("exact", mass=1.0)
        .draw()
    )
    one, other = (exact(f"{two} observe 1 ~ bernoulli(w.{share})") for share in "ab")
    assert found.spread("w.b[1]").mean == pytest.approx(other.spread("w.b").mean)
    assert found.expect("sum(w.a)").value == pytest.approx(
        one.expect("w.a").value + other.expect("w.a").value
    )
    found = exact(f"latent m: bool ~ bernoulli(0.4) if m {{ {two} }}")
    assert {x is None for x, m in zip(found["w.b"], found["m"], strict=True) if not m} == {True}
    assert found.expect("if m then w.b else 0").value == pytest.approx(0.4 * exact(two).expect("w.b").value)


def test_concentrations_are_computed_and_have_to_be_positive() -> None:
    body = "latent k: int(0..1) ~ binomial(1, 0.3) latent w: shares(a, b, grid=8) ~ dirichlet(k + n, 1) observe 1 ~ bernoulli(w.a)"
    parts = [
        math.log(p) + exact(f"latent w: shares(a, b, grid=8) ~ dirichlet({k} + n, 1) observe 1 ~ bernoulli(w.a)").log_evidence
        for k, p in ((0, 0.7), (1, 0.3))
    ]  # fmt: skip
    assert exact(body).log_evidence == pytest.approx(np.logaddexp(*parts), abs=1e-12)
    with pytest.raises(InferenceError, match="PLM705"):
        exact(WHOLE, n=0)


def test_text_python_and_composition() -> None:
    asked = plm.loads(source(f"{WHOLE} factor w.a"))
    assert plm.loads(str(asked)).module == asked.module
    assert fingerprint(source(f"{WHOLE} factor w.a")) == fingerprint(
        source(f"{WHOLE} factor v.x".replace("w: shares(a,", "v: shares(x,"))
    )
    built = plm.loads(source("factor 1", "n: int = 3")).latent(
        "w", "shares(a, b, c, grid=6)", "dirichlet(2, n, 1)"
    )
    assert built.fingerprint == plm.loads(source(f"factor 1 {WHOLE}", "n: int = 3")).fingerprint
    # A name of its own stands beside a share of that name, and is renamed without it.
    one = plm.loads(source("let a = 1 factor a"))
    other = plm.loads(
        source(f"let a = 2 {WHOLE} latent b: bool ~ bernoulli(w.b) factor if b then w.a * a else 0")
    )
    alone = plm.loads(
        source(f"factor 1 {WHOLE} latent m: bool ~ bernoulli(w.b) factor if m then w.a * 2 else 0")
    )
    assert (one * other).fingerprint == alone.fingerprint
    with pytest.raises(CompileError, match="PLM490"):
        asked * plm.loads(source(f"{WHOLE} factor w.b"))


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("latent w: shares(a, b, grid=4) ~ dirichlet(1)", "PLM307"),
        ("latent w: shares(a, b, grid=4) ~ dirichlet()", "PLM307"),
        ("latent w: shares(a, b, grid=4) ~ dirichlet([1, 1])", "PLM301"),
        ("latent w: shares(a, b, grid=4) ~ dirichlet(1, 0)", "PLM313"),
        ("latent w: shares(a, b, grid=4) ~ dirichlet(-1.5, 1)", "PLM313"),
        ("latent w: shares(a, grid=4) ~ dirichlet(1)", "PLM322"),
        ("latent w: shares(grid=4) ~ dirichlet()", "PLM322"),
        ("latent w: shares(a, a, grid=4) ~ dirichlet(1, 1)", "PLM202"),
        ('latent w: shares("a", "b", grid=4) ~ dirichlet(1, 1)', "PLM322"),
        ("latent w: shares(a, b) ~ dirichlet(1, 1)", "PLM308"),
        ("latent w: shares(a, b, grid=0) ~ dirichlet(1, 1)", "PLM309"),
        ("latent w: shares(a, b, grid=4) ~ uniform()", "PLM311"),
        ("latent w: shares(a, b, grid=4) ~ base()", "PLM311"),
        ("latent w: shares(a, b, grid=4) ~ mix(0.5, dirichlet(1, 1), dirichlet(2, 1))", "PLM311"),
        ("latent w: real(0..1, grid=4) ~ dirichlet(1, 1)", "PLM311"),
        ("latent w: shares(a, b, grid=4) ~ dirichlet(1, 1) observe w ~ dirichlet(1, 1)", "PLM311"),
        ("latent w: shares(a, b, grid=4) ~ dirichlet(1, 1) factor log_prob(0.5, dirichlet(1, 1))", "PLM311"),
        ("latent w: shares(a, b, grid=4) ~ dirichlet(1, 1) factor w.c", "PLM204"),
        ("latent w: shares(a, b, grid=4) ~ dirichlet(1, 1) factor w", "PLM304"),
        ("latent w: shares(a, b, grid=4) ~ dirichlet(1, 1) guide w ~ base()", "PLM409"),
        ("latent w: shares(a, b, grid=4) ~ dirichlet(1, w.a)", "PLM403"),
        ("latent w: record(a: shares(b, c, grid=4)) ~ base()", "PLM351"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_once(body: str, code: str) -> None:
    with pytest.raises(CompileError) as caught:
        plm.loads(source(body))
    assert [d.code for d in caught.value.diagnostics] == [code]


def test_shares_are_not_given() -> None:
    with pytest.raises(CompileError, match="PLM352"):
        plm.loads(source("factor 1", "w: shares(a, b, grid=4)"))
