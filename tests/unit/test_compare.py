"""Comparison: distances to the exact posterior, what each method costs, and what the command shows."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posterior_lm.api.query import loads
from posterior_lm.infer import importance, smc
from posterior_lm.infer.draws import Draws, EnumerationBound
from posterior_lm.lang.diagnostics import InferenceError, error
from posterior_lm.lm.counting import Count, CountingModel
from posterior_lm.lm.protocol import Branch, Request
from posterior_lm.target.values import Value
from posterior_lm.validate.comparison import Comparison, Listing, Measured, total_variation
from tests.cli import plm
from tests.statistical.test_calibration_catches_faults import MODEL, query

NUMBER = """program number(seen: int(0..9)) {
  latent n: int(0..7) ~ categorical([0.3, 0.05, 0.2, 0.02, 0.25, 0.08, 0.06, 0.04])
  observe seen ~ binomial(9, 0.1 + 0.1 * n)
  infer mcmc(steps=100, chains=2)
}
"""
KEYS = ["method", "tv", "log_evidence", "error", "ess", "ancestors", "khat", "tokens", "seconds"]


# ------------------------------------------------------------------------------- counting


def test_a_counting_model_hands_everything_through_and_counts() -> None:
    model = CountingModel(MODEL)
    assert model.identity is MODEL.identity and model.tokenizer is MODEL.tokenizer
    assert model.max_length is None and model.packed is False
    requests = [
        Request((0, 1, 2, 0), 3, 2, (Branch(3, (1, 1)),)),
        Request((0, 1, 3), 2, 2),
        Request((1, 1), 1, 1),
    ]
    found, plain = model.score(requests), MODEL.score(requests)
    for a, b in zip(found, plain, strict=True):
        np.testing.assert_array_equal(a.tokens, b.tokens)
        np.testing.assert_array_equal(a.eos, b.eos)
    # Own tokens 2 + 2 (a branch), 1, 1; the prompts (0, 1), once for two requests, and (1,).
    assert (model.tokens, model.calls) == (2 + 2 + 1 + 1 + 2 + 1, 1)
    rollout = model.open([(0, 1, 2), (0, 1)], shared=2)
    assert (model.tokens, model.calls) == (9 + 1 + 0 + 2, 2)
    step = rollout.extend(np.array([0, 0, 1]), np.array([1, 2, 1]))
    assert (model.tokens, model.calls) == (12 + 3, 3)
    direct = MODEL.open([(0, 1, 2), (0, 1)], shared=2).extend(np.array([0, 0, 1]), np.array([1, 2, 1]))
    np.testing.assert_array_equal(step.log_probs, direct.log_probs)
    step.extend(np.array([2]), np.array([0]))
    assert model.tokens == 16


def test_two_models_share_a_count() -> None:
    count = Count()
    for _ in range(2):
        CountingModel(MODEL, count).open([(0,)])
    assert (count.tokens, count.calls) == (2, 2)


# ------------------------------------------------------------------------------- distances


def draws_of(log_weights: list[float], ids: list[int], certificate: EnumerationBound | None = None) -> Draws:
    values = tuple(Value((i,), str(i), str(i)) for i in ids)
    weights = np.array(log_weights)
    return Draws({"z": values}, weights, weights, "m", None, certificate)


def test_total_variation() -> None:
    p, q = np.array([0.5, 0.2, 0.1]), np.array([0.2, 0.2, 0.3])
    assert total_variation(p, q, 0.2) == pytest.approx(0.5 * (0.3 + 0.0 + 0.2 + 0.1))
    assert total_variation(p, p, 0.2) == pytest.approx(0.0)


def test_a_listing_and_draws() -> None:
    logs = np.log([0.6, 0.2])  # of a whole of 1, a fifth of which is not listed
    certificate = EnumerationBound(math.log(0.8), 0.0, False, 2, estimate=0.25, estimate_se=0.0)
    assert Listing.of(draws_of(logs.tolist(), [1, 2], certificate)) is None  # a fifth is too much
    small = EnumerationBound(math.log(0.8), 0.0, False, 2, estimate=0.025, estimate_se=0.0)
    listing = Listing.of(draws_of(logs.tolist(), [1, 2], small))
    assert listing is not None
    assert listing.rest == pytest.approx(0.025 / 1.025)
    assert listing.log_evidence == pytest.approx(math.log(0.8 * 1.025))
    np.testing.assert_allclose(listing.probs, np.array([0.75, 0.25]) / 1.025)
    draws = draws_of(np.log([3.0, 1.0, 1.0, 5.0]).tolist(), [2, 1, 2, 7])
    p = np.array([0.75, 0.25]) / 1.025
    expected = 0.5 * (abs(p[0] - 0.1) + abs(p[1] - 0.4) + abs(0.025 / 1.025 - 0.5))
    assert listing.distance(draws) == pytest.approx(expected)
    assert Listing.of(draws_of([0.0, -1.0], [1, 2])) is None


def test_noise_is_the_distance_of_exact_draws() -> None:
    probs = np.array([0.5, 0.3, 0.15, 0.05])
    listing = Listing({}, probs, 0.0, 0.0)
    # E|binomial share − p| ≈ √(2 p (1 − p) / (π n)).
    for n in (100, 400):
        expected = 0.5 * np.sqrt(2 * probs * (1 - probs) / (math.pi * n)).sum()
        assert listing.noise(n, np.random.default_rng(0)) == pytest.approx(expected, rel=0.25)


# ------------------------------------------------------------------------------- comparing


@pytest.fixture(scope="module")
def text() -> Comparison:
    return query("two latents").given(seen="ab").compare(draws=400, seed=1)


def test_methods_beside_the_exact_posterior(text: Comparison) -> None:
    by_name = {m.method: m for m in text.methods}
    assert list(by_name) == ["importance", "smc", "mcmc"]
    exact = query("two latents").given(seen="ab").using("exact", values=10_000, mass=1.0).draw()
    assert text.log_evidence == pytest.approx(exact.log_evidence) and "all there are" in text.listed
    assert text.noise is not None and text.noise > 0.01
    for name, one in by_name.items():
        assert one.tv is not None and 0 < one.tv < 4 * text.noise, name
        assert one.tokens > 0 and one.seconds > 0 and not one.failed
        if name == "mcmc":
            assert one.log_evidence is None and one.error is None
        else:
            assert one.log_evidence is not None and text.log_evidence is not None
            assert one.error == pytest.approx(one.log_evidence - text.log_evidence) and abs(one.error) < 0.3
    assert (by_name["importance"].ancestors, by_name["mcmc"].ancestors) == (None, None)
    assert by_name["smc"].ancestors is not None and 10 < by_name["smc"].ancestors <= 400


def test_draws_are_those_of_the_method(text: Comparison) -> None:
    """Counting models change nothing: the same seed gives what `draw` gives."""
    own = query("two latents").given(seen="ab").using("importance").draw(400, seed=1)
    assert text.methods[0].log_evidence == own.log_evidence and text.methods[0].ess == own.ess


def test_a_biased_method_is_seen(monkeypatch: pytest.MonkeyPatch, text: Comparison) -> None:
    right = importance.log_weights

    def wrong(*arguments):  # type: ignore[no-untyped-def]
        weights, log_reward = right(*arguments)
        return -weights, log_reward

    monkeypatch.setattr(importance, "log_weights", wrong)
    found = query("two latents").given(seen="ab").compare(draws=400, seed=1).methods[0]
    assert found.tv is not None and text.noise is not None and found.tv > 5 * text.noise
    assert found.error is not None and abs(found.error) > 0.5


def test_without_an_exact_posterior() -> None:
    one = loads("""lm base = "b"
    program long() {
      latent z: text(tokens=20..24, end="free") ~ base("a") ^ 0.4
      infer mcmc(steps=10, chains=2)
      infer exact(values=50)
    }""").lm(base=MODEL)
    found = one.compare(draws=40)
    assert found.log_evidence is None and found.noise is None
    assert found.to_json()["exact"] is None and found.listed.startswith("the exact posterior is not known")
    assert all(m.tv is None and m.error is None for m in found.methods)
    assert found.methods[0].log_evidence is not None


def test_a_method_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def dead(*arguments):  # type: ignore[no-untyped-def]
        raise InferenceError(error("PLM702", "every draw has weight zero"))

    monkeypatch.setattr(importance, "log_weights", dead)
    found = loads(NUMBER).given(seen=5).compare(draws=40)
    first = found.methods[0]
    assert (first.method, first.tv, first.ess, first.failed) == (
        "importance",
        None,
        None,
        "every draw has weight zero",
    )
    assert "importance: every draw has weight zero" in found.notes()
    assert found.methods[1].tv is not None


def test_a_swarm_that_dies_while_a_latent_is_drawn_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def dead(*arguments, **more):  # type: ignore[no-untyped-def]
        raise InferenceError(error("PLM710", "all 40 particles died while `n` was drawn"))

    monkeypatch.setattr(smc.Smc, "_advanced", dead)
    found = loads(NUMBER).given(seen=5).compare(draws=40)
    assert [m.method for m in found.methods if not m.failed] == ["importance", "mcmc"]
    assert "smc: all 40 particles died while `n` was drawn" in found.notes()


def test_other_errors_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    def nonsense(*arguments):  # type: ignore[no-untyped-def]
        raise InferenceError(error("PLM701", "not a number"))

    monkeypatch.setattr(importance, "log_weights", nonsense)
    with pytest.raises(InferenceError, match="PLM701"):
        loads(NUMBER).given(seen=5).compare(draws=40)


def test_too_few_draws() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        loads(NUMBER).given(seen=5).compare(draws=1)


def test_numbers_that_are_not_finite() -> None:
    one = Measured("importance", 5, 0.1, tv=0.2, log_evidence=-math.inf, error=-math.inf, khat=math.inf)
    found = Comparison("p", 10, 0, (one,), -1.0, "listed", 0.1)
    shown = found.to_json()["methods"][0]
    assert shown["log_evidence"] is None and shown["khat"] is None and shown["tv"] == 0.2
    assert "-inf" in found.cells()[1][0]


@pytest.mark.parametrize("tokens", [0, 40])
def test_a_picture_leaves_out_what_nothing_used(
    tokens: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from posterior_lm.validate import plots

    drawn: list[Any] = []
    monkeypatch.setattr(plots, "save", lambda figure, png: drawn.append(figure))
    one = Measured("smc", tokens, 0.1, tv=0.2, ess=3.0)
    plots.plot_comparison(Comparison("p", 10, 0, (one,), None, "", None), tmp_path / "c.png")
    titles = [axis.get_title(loc="left") for axis in drawn[0].axes]
    assert titles == ["total variation", "ESS", *["model tokens"] * bool(tokens), "seconds"]


# ------------------------------------------------------------------------------- the command


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "number.plm").write_text(NUMBER)
    (tmp_path / "rows.jsonl").write_text('{"seen": 2}\n{"seen": 7}\n')
    return tmp_path


def test_the_command(file: Path) -> None:
    shown = plm("compare", "number.plm", "-g", "seen=5", "-n", 60, "--plot", "c.png")
    assert shown.exit_code == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert lines[0] == "number  60 draws of each method  seed 0"
    assert lines[2].split() == [
        "method",
        "TV",
        "log",
        "evidence",
        "error",
        "ESS",
        "ancestors",
        "k-hat",
        "tokens",
        "seconds",
    ]
    assert [line.split()[0] for line in lines[3:6]] == ["importance", "smc", "mcmc"]
    assert lines[7].startswith("exact log evidence -2.175 nats: 8 values, all there are")
    assert "by chance alone" in lines[8]
    assert (file / "c.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_as_json(file: Path) -> None:
    one = json.loads(plm("compare", "number.plm", "-g", "seen=5", "-n", 60, "--format", "json").stdout)
    assert list(one) == ["exact", "methods"] and list(one["exact"]) == ["log_evidence"]
    assert all(list(m) == KEYS for m in one["methods"])
    both = json.loads(
        plm("compare", "number.plm", "--data", "rows.jsonl", "-n", 60, "--format", "json").stdout
    )
    assert len(both) == 2 and both[0]["exact"] != both[1]["exact"]
    wrong = plm("compare", "number.plm", "--data", "rows.jsonl", "--plot", "c.png")
    assert wrong.exit_code == 2 and "--row" in wrong.stderr


def test_a_policy_takes_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it draws and weighs is what `draw` does with it, and its model's tokens count too."""
    from posterior_lm.train.policy import Manifest, read_manifest
    from tests.unit.test_fit import DIGIT, fitted

    folder = fitted(tmp_path / "p").folder
    one = loads(DIGIT).given(x=2).policy(folder)
    if read_manifest(folder).is_prior:  # six steps end below the prior on some machines
        same = {
            m.method: m.tokens
            for m in one.using("mcmc", steps=20, chains=2).compare(draws=50, seed=3).methods
        }
        assert same["gflownet"] == same["importance"]
    monkeypatch.setattr(Manifest, "is_prior", False)
    found = one.using("mcmc", steps=20, chains=2).compare(draws=50, seed=3)
    by_name = {m.method: m for m in found.methods}
    own = one.using("gflownet").draw(50, seed=3)
    assert by_name["gflownet"].log_evidence == pytest.approx(own.log_evidence)
    prior = loads(DIGIT).given(x=2).using("importance").draw(50, seed=3)
    assert by_name["importance"].log_evidence == pytest.approx(prior.log_evidence)
    assert by_name["gflownet"].tokens > by_name["importance"].tokens
    shown = one.using("gflownet").calibrate([{"x": 2}, {"x": 5}], simulate=16, draws=20)
    assert shown.method == "gflownet" and shown.weighed is not None and shown.jeffreys is not None
    assert shown.missed == 0 and shown.assumed.startswith("not every term")
