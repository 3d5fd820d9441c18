"""What a policy that has learnt nothing begins as, by draws, beside the exact answer."""

from __future__ import annotations

import pytest

from posterior_lm.infer.weights import normalize
from posterior_lm.lm.hf.transformers import TransformersModel
from posterior_lm.target.prepared import PreparedProgram
from posterior_lm.target.target import Target
from posterior_lm.train import beginning
from posterior_lm.train.beginning import begin, nearer
from posterior_lm.train.course import Course
from posterior_lm.train.guide import PolicyGuide, own_readings
from posterior_lm.train.rows import Rows
from tests.laws.models import MODELS
from tests.laws.test_policy_laws import listed, values_in
from tests.strategies import compiled, graph_of

TEXTS = {
    "stop": 'text(tokens=1..4, stop="b", chars="abt")',
    "free": 'text(tokens=1..3, end="free", chars="he")',
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TransformersModel:
    return MODELS["gpt2"](tmp_path_factory.mktemp("beginning") / "gpt2")


def exact(target: Target, stop: dict[bool, float | None]) -> float:
    """KL(posterior‖q at the power 1) − KL(posterior‖q at that of the prior), by listing."""
    every = values_in(target, listed(target.latents[0].support))
    share = normalize(target.log_reward(every))
    log_q = [
        PolicyGuide(
            target, model=target.models["base"], readings=own_readings(target, stop[powered], powered)
        ).log_prob(every)
        for powered in (False, True)
    ]
    return float(share @ (log_q[1] - log_q[0]))


@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize("power", [0.4, 2.5])
def test_the_nearer_beginning_is_found_by_draws_of_both(
    kind: str, power: float, model: TransformersModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = f"""lm base = "b"
    program p() {{
      latent z: {TEXTS[kind]} ~ base("the end") ^ {power}
      observe "the" ~ base(z)
    }}"""
    target = compiled(source, {}, {"base": model})
    stops = {False: None, True: 1.5 if kind == "free" else None}
    wanted = exact(target, stops)
    assert abs(wanted) > 0.02
    monkeypatch.setattr(beginning, "ROUND", 400)
    rows = Rows(target.prepared, [{}, {}])
    found, draws = nearer(rows, [0], stops, 3, None)
    assert draws == 2 * 400 * beginning.ROUNDS and found == pytest.approx(wanted, abs=0.25 * abs(wanted))
    assert nearer(rows, [0, 1], stops, 3, None)[1] == 2 * draws
    assert nearer(rows, [0, 1], stops, 3, lambda: True)[1] == 2 * 400, "late, so one round of one row"


def test_it_begins_at_the_power_only_where_that_is_nearer(
    model: TransformersModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = 'lm base = "b"\nprogram p() {\n latent z: text(tokens=1..3, end="free", chars="he") ~ base("the end") POWER\n}'

    def begun(power: str, *, choose: bool = True) -> tuple[Rows, str]:
        rows = Rows(PreparedProgram.of(graph_of(source.replace("POWER", power)), {"base": model}), [{}])
        return rows, begin(rows, [0], "base", 0, Course(), choose=choose)

    monkeypatch.setattr(beginning, "NEARER", 0.0)
    flat, said = begun("^ 0.3")
    assert flat.powered and said.startswith("the policy draws at the power of the prior: ")
    assert said.endswith(f"by {2 * beginning.ROUND * beginning.ROUNDS} draws")
    plain, said = begun("^ 0.3", choose=False)
    assert not plain.powered and not said and plain.stop is not None and plain.stop != flat.stop
    monkeypatch.setattr(beginning, "NEARER", 50.0)
    far, said = begun("^ 0.3")
    assert not far.powered and not said and far.stop == plain.stop
    monkeypatch.setattr(beginning, "nearer", None)
    one, said = begun("")
    assert not one.powered and not said, "without a power there is nothing to find"
