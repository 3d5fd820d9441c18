"""Latents that are reals and truth values: their cells, what distributions say of them, and what is drawn."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

import posterior_lm as plm
from posterior_lm.lang.diagnostics import DataError, InferenceError
from posterior_lm.lang.driver import compile_source
from posterior_lm.lang.source import Source
from posterior_lm.lang.values import GridSpec
from posterior_lm.report.facts import gather
from posterior_lm.report.page import page
from posterior_lm.target.densities import Beta, Normal, Real, log_mass
from tests.brute import Brute, log_sum
from tests.strategies import table

MODEL = table(("a", "b", ".", "0", "5", "2", "7"), seed=5, order=1, max_tokens=9)
HEAT = """lm base = "b"
program heat(rows: table(y: real, ok: bool)) {
  latent p: real(0..1, grid=5) ~ beta(3, 2)
  latent t: real(-1..3, grid=6) ~ normal(p, 1.5)
  latent odd: bool ~ bernoulli(0.3)
  latent z: text(tokens=1..1, end="free") ~ base(if odd then "a" else "b")
  plate r in rows {
    observe r.y ~ if odd then normal(t, 2) else normal(t, 0.5)
    observe r.ok ~ bernoulli(p)
  }
  observe (t > 1) ~ bernoulli(p) ^ 0.5
  observe t ~ normal(2, 3)
  factor if z == "a" then t else 0
}"""
ROWS = {"rows": [{"y": 1.5, "ok": True}, {"y": -0.2, "ok": False}, {"y": 2, "ok": True}]}


def heat() -> plm.Query:
    return plm.loads(HEAT).lm(base=MODEL).given(ROWS)


# ---------------------------------------------------------------- cells and densities


def test_cells_have_short_midpoints_that_are_found_again() -> None:
    grid = GridSpec(0.1, 0.7, 3)
    assert list(grid.values) == [0.2, 0.4, 0.6] and [grid.spelling(k) for k in range(3)] == [
        "0.2",
        "0.4",
        "0.6",
    ]
    assert [grid.number(x) for x in (0.2, 0.6, 0.3, True, "0.2")] == [0, 2, None, None, None]
    assert grid.cell(1) == pytest.approx((0.3, 0.5))
    for odd in (GridSpec(-1, 2, 7), GridSpec(1e6, 1e6 + 1e-3, 11), GridSpec(-1e-9, 1e-9, 5)):
        assert [odd.number(x) for x in odd.values] == list(range(odd.size)), odd
        assert len(set(odd.values)) == odd.size


@pytest.mark.parametrize(
    "of", [Normal(0.3, 1.7), Beta(2.5, 0.6), Beta(0.4, 0.7), Beta(40, 3), Beta(1, 1)], ids=str
)
def test_a_mass_is_the_integral_of_the_density(of: Real) -> None:
    nodes, weights = np.polynomial.legendre.leggauss(60)
    for low, high in ((0.05, 0.1), (0.3, 0.35), (0.6, 0.7), (0.9, 0.99)):
        xs = low + (high - low) * (nodes + 1) / 2
        area = (
            (high - low) / 2 * sum(w * math.exp(of.log_density(x)) for w, x in zip(weights, xs, strict=True))
        )
        assert log_mass(of, low, high) == pytest.approx(math.log(area), abs=1e-9)


@pytest.mark.parametrize(
    "of", [Normal(0.3, 0.02), Normal(-4, 9), Beta(0.4, 0.7), Beta(300, 200), Beta(5, 1)], ids=str
)
def test_masses_of_all_cells_sum_to_one_and_none_underflows(of: Real) -> None:
    low, high = (0.0, 1.0) if isinstance(of, Beta) else (-90.0, 90.0)
    logs = [log_mass(of, low + (high - low) * k / 90, low + (high - low) * (k + 1) / 90) for k in range(90)]
    assert math.fsum(map(math.exp, logs)) == pytest.approx(1, abs=1e-12)
    assert min(logs) > -math.inf and max(logs) <= 0


def test_far_tails_follow_their_leading_term() -> None:
    assert log_mass(Normal(0, 1), 40, math.inf) == pytest.approx(
        -804.6084420137538, abs=1e-8
    )  # scipy's norm.logsf
    assert log_mass(Normal(0, 1), 29.99, 30.01) == pytest.approx(math.log(
        0.5 * (math.erfc(29.99 / math.sqrt(2)) - math.erfc(30.01 / math.sqrt(2)))), abs=1e-6)  # fmt: skip
    assert log_mass(Beta(2, 3), -1, 0) == -math.inf and log_mass(Beta(2, 3), 1, 1.5) == -math.inf


# ---------------------------------------------------------------- programs


def test_the_posterior_is_the_written_out_one_by_every_method() -> None:
    brute = Brute(HEAT, ROWS, {"base": MODEL})
    rows = list(brute.assignments())
    logs = [brute.log_reward(row) for row in rows]
    whole = log_sum(logs)
    exact = heat().using("exact").draw()
    assert exact.log_evidence == pytest.approx(whole, abs=1e-9)
    wanted = sum(math.exp(x - whole) * row["t"] for x, row in zip(logs, rows, strict=True))
    assert exact.expect("t").value == pytest.approx(wanted, abs=1e-9)
    assert exact.prob("odd and t > 0.5").value == pytest.approx(
        sum(math.exp(x - whole) for x, row in zip(logs, rows, strict=True) if row["odd"] and row["t"] > 0.5)
    )
    for method in ("importance", "smc", "mcmc"):
        fewer = {"steps": 300, "chains": 4} if method == "mcmc" else {}
        found = heat().using(method, **fewer).draw(1000, seed=3)
        spread = found.spread("t")
        assert abs(spread.mean - wanted) < 4 * max(spread.se, 0.01), method


def test_a_grid_comes_near_the_conjugate_posterior() -> None:
    source = """program p(n: int, k: int) {
      latent r: real(0..1, grid=400) ~ beta(2, 5)
      observe k ~ binomial(n, r)
    }"""
    found = plm.loads(source).given(n=12, k=9).draw()
    exact = math.log(math.comb(12, 9)) + sum(s * (math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b))
                                             for s, a, b in ((1, 11, 8), (-1, 2, 5)))  # fmt: skip
    assert found.log_evidence == pytest.approx(exact, abs=1e-4)
    spread = found.spread("r")
    assert spread.mean == pytest.approx(11 / 19, abs=1e-5) and spread.se == 0
    assert spread.sd == pytest.approx(math.sqrt(11 * 8 / 19**2 / 20), abs=1e-4)
    assert (spread.low, spread.high) == pytest.approx((0.3925, 0.7577), abs=2e-3)


def test_what_lies_outside_the_range_is_missing_from_the_evidence() -> None:
    found = plm.loads("program p() { latent x: real(0..1, grid=7) ~ normal(0, 1) }").draw()
    assert found.log_evidence == pytest.approx(math.log(0.5 * math.erf(1 / math.sqrt(2))), abs=1e-12)


def test_predictions_given_values_and_files(tmp_path: Path) -> None:
    query = heat().using("exact")
    drawn = query.draw()
    prediction = query.predict("odd")
    assert dict(prediction.probs) == pytest.approx(dict(drawn.marginal("odd"))) and set(
        dict(prediction.probs)
    ) == {True, False}
    assert query.predict("t").best == drawn.marginal("t")[0][0]
    value = {"p": 0.1, "t": "1.33333333333", "odd": "true", "z": "a"}
    score = query.score(value)
    assert score.log_reward == pytest.approx(Brute(HEAT, ROWS, {"base": MODEL}).log_reward(
        {"p": 0.1, "t": 1.333333333, "odd": True, "z": MODEL.tokenizer.encode("a")}), abs=1e-6)  # fmt: skip
    with pytest.raises(DataError, match="PLM610") as caught:
        query.score({**value, "p": 0.15})
    assert caught.value.diagnostics[0].help == "the nearest value is 0.1"
    drawn.save(tmp_path)
    back = plm.Posterior.load(tmp_path)
    assert back.spread("t") == drawn.spread("t") and back.marginal("odd") == drawn.marginal("odd")
    assert back.types == {"p": "real", "t": "real", "odd": "bool", "z": "text"}
    shown = json.loads(json.dumps(back.to_json(top=1)))
    assert shown["draws"][0]["values"]["odd"] in ("true", "false") and set(shown["spreads"]) == {"p", "t"}
    with pytest.raises(DataError, match="PLM602"):
        back.spread("z")


def test_a_bool_that_is_left_out_is_predicted() -> None:
    source = "program p(ok: bool) { latent r: real(0..1, grid=50) ~ beta(3, 1) observe ok ~ bernoulli(r) }"
    found = dict(plm.loads(source).predict("ok").probs)
    assert found[True] == pytest.approx(0.75, abs=1e-4)


def test_its_page_has_bars_of_cells() -> None:
    html = page([gather(heat().target(), heat().using("exact").draw())])
    assert "standard deviation" in html and "-1 to -0.333333: " in html and 'class="type">real' in html
    fine = plm.loads("program p() { latent x: real(0..1, grid=1000) ~ beta(2, 2) }")
    assert page([gather(fine.target(), fine.draw())]).count("<rect><title>") <= 120


def test_a_real_is_read_by_its_decimals() -> None:
    source = 'lm base = "b"\nprogram p() { latent r: real(0..1, grid=2) ~ uniform() observe "a" ~ base(r) }'
    found = plm.loads(source).lm(base=MODEL).draw()
    terms = [MODEL.next_log_probs(MODEL.tokenizer.encode("5"))[MODEL.tokenizer.encode("a")[0]]] * 2
    assert found.log_evidence == pytest.approx(float(np.logaddexp(*terms)) - math.log(2))


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("latent x: real(0..1, grid=4) ~ normal(0, s)", "PLM705"),
        ("latent x: real(0..1, grid=4) ~ beta(s, 1)", "PLM705"),
        ("latent x: real(s..0, grid=4) ~ uniform()", "PLM330"),
        ("observe true ~ bernoulli(s + 2)", "PLM705"),
        ("observe 0 ~ beta(0.5, s + 1)", "PLM704"),
    ],
)
def test_what_data_make_wrong(body: str, code: str) -> None:
    with pytest.raises(plm.PlmError, match=code):
        plm.loads(f"program p(s: real) {{ {body} }}").given(s=0).draw()


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("latent x: real ~ normal(0, 1)", "PLM308"),
        ("latent x: real(0..1) ~ normal(0, 1)", "PLM308"),
        ("latent x: real(1..1, grid=3) ~ uniform()", "PLM302"),
        ("latent x: real(0..1, grid=3) ~ base()", "PLM311"),
        ("latent x: bool ~ choice(base())", "PLM311"),
        ("latent x: int(0..4) ~ normal(2, 1)", "PLM311"),
        ("latent x: real(0..1, grid=3) ~ bernoulli(0.5)", "PLM311"),
        ("observe b ~ base()", "PLM306"),
        ("factor log_prob(b, base())", "PLM306"),
        ('observe "x" ~ normal(0, 1)', "PLM311"),
        ("observe 0.3 ~ bernoulli(0.5)", "PLM311"),
    ],
)
def test_what_the_checker_refuses(body: str, code: str) -> None:
    source = Source("t.plm", f'lm base = "tiny"\nprogram p(b: bool) {{ {body} }}')
    assert [d.code for d in compile_source(source).errors] == [code]


def test_a_parameter_is_the_number_that_is_given() -> None:
    source = Source("t.plm", "program p(x: real(0..1, grid=3)) { factor x }")
    assert [d.code for d in compile_source(source).errors] == ["PLM322"]


def test_a_density_has_no_bound_and_exact_says_so() -> None:
    """What is not listed may be worth anything where a density is a term."""
    source = 'lm base = "b"\nprogram p() {{ latent z: text(tokens=0..3) ~ base() observe words(z) ~ normal(0, {sd}) }}'
    for sd in (0.01, 5):
        found = plm.loads(source.format(sd=sd)).lm(base=MODEL).using("exact", values=2).draw()
        assert found.draws.certificate is not None and found.draws.certificate.missing_share == 1
    with pytest.raises(InferenceError):
        plm.loads(source.format(sd=1)).lm(base=MODEL).predict("nothing")


def test_names_such_as_beta_are_free() -> None:
    program = "program p(beta: real = 0.5) { latent x: real(0..1, grid=2) ~ normal(beta, 1) }"
    assert not compile_source(Source("t.plm", program)).diagnostics
    (found,) = compile_source(Source("t.plm", program.replace("normal(beta, 1)", "beta(1, 2)"))).errors
    assert found.code == "PLM305"
