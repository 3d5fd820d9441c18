"""Laws of a policy whose latents are not the same in every draw: of branches, of lists, of both in a plate.

A toy transformer with an adapter that changes it a lot; supports small enough to list, so that every sum is
written out, and the posterior is known.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from posterior_lm.api.query import loads
from posterior_lm.infer.base import run
from posterior_lm.infer.drawing import contexts_of
from posterior_lm.infer.draws import Draws
from posterior_lm.infer.exact import Exact
from posterior_lm.infer.guide import PriorGuide
from posterior_lm.infer.importance import Importance
from posterior_lm.infer.mcmc import Mcmc
from posterior_lm.infer.mixture import Mixture
from posterior_lm.infer.smc import Smc
from posterior_lm.lang.diagnostics import DataError, InferenceError
from posterior_lm.target.target import Target
from posterior_lm.target.values import ABSENT, Value, take
from posterior_lm.train.fit import fit
from posterior_lm.train.gflownet_batch import propose, score_draws, walk, walks
from posterior_lm.train.guide import PolicyGuide, readings_of
from posterior_lm.train.policy import load_policy
from posterior_lm.train.rows import Rows, read_inputs
from posterior_lm.train.settings import settings_of
from posterior_lm.train.simulate import Simulator
from tests.laws.test_policy_laws import by_hand, program, stirred

ITEM = 'text(tokens=1..2, stop="b", chars="at")'
BRANCH = f"""latent plan: one_of("he", "a") ~ categorical([0.3, 0.7])
  if plan == "he" {{ latent z: {ITEM} ~ base("the end") observe "he" ~ base(z) ^ 0.3 }}
  else {{ latent y: one_of("at", "t", "hed") ~ choice(base("a")) factor 0.4 * chars(y)
         latent w: text(tokens=0..1, chars="he") ~ base(y) }}"""
LIST = f'latent z: list({ITEM}, 0..2, end="he") ~ base("he the") ^ 0.1 factor len(z)'
ROWS = f"""plate r in rows {{
    latent k: int(0..1) ~ binomial(1, 0.3)
    if k == 1 {{ latent z: {ITEM} ~ base(r.t) ^ 0.2 observe r.t ~ base(z) ^ 0.2 }}
  }}"""
TREE = f'latent z: list({ITEM}, 0..1, depth=2, end="he") ~ base("he the") ^ 0.1 factor len(z)'
INTS = 'latent z: list(int(1..3), 0..2, end="he") ~ base("he the") ^ 0.1 factor len(z)'
STATED = 'guide z ~ base("t he")'
RECORD = f"""latent k: int(0..1) ~ binomial(1, 0.3) if k == 1 {{
    latent z: record("he", a: {ITEM}, n: int(1..3), b: text(tokens=0..1, chars="at")) ~ base("a") ^ 0.1
    factor 0.4 * z.n {STATED}
  }}"""
RECORDS = f"""latent z: list(record("he", name: {ITEM}, "a", age: int(1..2)), 0..2, end=" the") ~ base("he the") ^ 0.1
  factor len(z)"""
BODIES = {
    "branch": BRANCH, "list": LIST, "rows": ROWS, "tree": TREE, "ints": INTS, "guided list": f"{LIST} {STATED}",
    "guided tree": f"{TREE} {STATED}", "guided ints": f"{INTS} {STATED}", "guided record": RECORD,
    "guided records": f"{RECORDS} {STATED}",
}  # fmt: skip
EVERY = pytest.mark.parametrize("name", BODIES)
METHODS = {
    "importance": Importance(2000),
    "smc": Smc(1000),
    "mcmc": Mcmc(steps=400),
    "mixture": Mixture(2000),
}


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("policy")


def scene(name: str, scratch: Path) -> tuple[Target, PolicyGuide, Draws]:
    """The target, a policy that has learnt nothing of use, and every value with its posterior."""
    adapter = stirred("gpt2", scratch)
    rows: dict[str, object] = {"rows": [{"t": "at"}, {"t": "he"}]} if name == "rows" else {}
    target = program(BODIES[name], adapter.base, "rows: table(t: text)" if rows else "", **rows)
    return (
        target,
        PolicyGuide.of(target, adapter),
        run(Exact(10**5, 1.0), target, n=1, rng=np.random.default_rng(0)),
    )


def rows_of(values) -> list[dict[str, Value]]:
    return [dict(zip(values, one, strict=True)) for one in zip(*values.values(), strict=True)]


@EVERY
def test_log_q_is_that_of_the_latents_that_a_draw_has_and_sums_to_one(name: str, scratch: Path) -> None:
    target, guide, exact = scene(name, scratch)
    assert exact.certificate is not None and exact.certificate.complete and 10 < len(exact) < 300
    adapter = stirred("gpt2", scratch)
    log_q = guide.log_prob(exact.values)
    assert np.exp(log_q).sum() == pytest.approx(1, abs=1e-5)
    assert len({sum(v == ABSENT for v in one.values()) for one in rows_of(exact.values)}) > 1
    for one, found in list(zip(rows_of(exact.values), log_q.tolist(), strict=True))[::7]:
        total, before = 0.0, dict[str, tuple[Value, ...]]()
        for info in target.latents:
            value, reading = one[info.name], guide.readings.get(info.name)
            if value != ABSENT and reading is not None:
                context = contexts_of(target, reading.lm, reading.segments, before, 1)[0][0]
                total += by_hand(adapter, context, info.support, value.ids)
            elif value != ABSENT:
                every = [target.value_of(info.name, ids) for ids in info.support.values()]
                scores = PriorGuide(target).prior_scores(info, every, before, 1)[0]
                total += float(scores[every.index(value)] - np.logaddexp.reduce(scores))
            before[info.name] = (value,)
        assert found == pytest.approx(total, abs=1e-4)


@EVERY
def test_what_is_trained_on_is_what_is_drawn(name: str, scratch: Path) -> None:
    target, guide, exact = scene(name, scratch)
    adapter, readings = stirred("gpt2", scratch), readings_of(target)
    log_q = guide.log_prob(exact.values)
    drawn = guide.sample(np.random.default_rng(1), 200)
    assert guide.log_prob(drawn.values) == pytest.approx(drawn.log_prob, abs=1e-4)
    every = rows_of(exact.values)
    with adapter.on(), torch.inference_mode():
        scored = score_draws(adapter.model(), walks(target, readings, every), columns=1 << 12)
    assert scored.log_prob.numpy() == pytest.approx(log_q, abs=1e-4)
    with adapter.on(), torch.inference_mode():
        rngs = np.random.default_rng(2).spawn(400)
        made = propose(adapter.model(), [target] * 400, [readings] * 400, rngs, [1.0] * 400)
    places = {tuple(v.ids for v in one.values()): k for k, one in enumerate(every)}
    counts = np.zeros(len(every))
    for one in made:
        place = places[tuple(one[n].ids for n in target.names)]
        assert {n: one[n] for n in target.names} == every[place]
        counts[place] += 1
    spread = np.sqrt(np.exp(log_q) * (1 - np.exp(log_q)) / 400) + 1 / 400
    assert (np.abs(counts / 400 - np.exp(log_q)) < 4 * spread).all()


WEIGHED = [("importance", name) for name in BODIES]
WEIGHED += [
    (method, name) for method in METHODS if method != "importance" for name in ("branch", "list", "rows")
]


@pytest.mark.parametrize(("method", "name"), WEIGHED)
def test_its_draws_weigh_to_the_posterior(method: str, name: str, scratch: Path) -> None:
    target, guide, exact = scene(name, scratch)
    found = run(METHODS[method], target, n=2000, rng=np.random.default_rng(3), guide=guide)
    if method != "mcmc":
        assert found.log_evidence == pytest.approx(exact.log_evidence, abs=0.15)
    wanted, shares = exact.shares, found.shares
    assert 0.5 * sum(abs(wanted.get(k, 0) - shares.get(k, 0)) for k in {*wanted, *shares}) < 0.15


def test_known_values_of_a_row_are_those_that_its_draw_has(scratch: Path) -> None:
    model = stirred("gpt2", scratch).base
    query = loads(SOURCE.format(more="", body=SEVERAL["branch"])).lm(base=model)

    def known(row: dict[str, object]) -> dict[str, object]:
        ((_, (values,)),) = read_inputs(query.prepared, [{"t": "he", **row}], settings_of({})).known
        return {name: value.datum for name, value in values.items()}

    assert known({"k": "he"}) == known({"k": "he", "z": None}) == {"k": "he", "z": None}
    assert known({"k": "a", "z": "tb"}) == {"k": "a", "z": "tb"}
    for wrong in ({"k": "he", "z": "tb"}, {"k": "a"}):
        with pytest.raises(DataError, match="PLM610"):
            known(wrong)
    query = loads(SOURCE.format(more="", body=SEVERAL["list"])).lm(base=model)
    assert known({"z[0]": "tb", "z[1]": None}) == {"z[0]": "tb", "z[1]": None}
    assert known({"z[0]": "tb", "z[1]": "b"}) == {"z[0]": "tb", "z[1]": "b"}
    with pytest.raises(DataError, match="PLM610"):
        known({"z[1]": "b"})
    with pytest.raises(InferenceError, match=r"PLM624.*`z` is a list"):
        read_inputs(query.prepared, [{"t": "he"}], settings_of({"objective": "subtb"}))


def test_a_draw_and_its_tokens_say_what_it_does_not_have(scratch: Path) -> None:
    """An empty text is a value, and no value is none."""
    target, guide, exact = scene("branch", scratch)
    every = rows_of(exact.values)
    assert any(one["w"] == Value((), "", "") for one in every)
    for one in every:
        assert target.drawn([one[n].ids for n in target.names]) == one
    # What stands in a branch that is not taken, and what is missing in one that is, cannot be drawn.
    missing = [{**one, "w": ABSENT} for one in every if one["w"] != ABSENT]
    beside = [{**one, "w": Value((), "", "")} for one in every if one["w"] == ABSENT]
    for wrong in (missing, beside):
        column = {n: tuple(one[n] for one in wrong) for n in target.names}
        assert np.isneginf(guide.log_prob(column)).all()


def test_draws_without_a_latent_that_the_policy_draws_are_scored_too(scratch: Path) -> None:
    target, guide, exact = scene("rows", scratch)
    none = [d for d, one in enumerate(rows_of(exact.values)) if one["z[0]"] == one["z[1]"] == ABSENT]
    adapter = stirred("gpt2", scratch)
    (one,) = rows_of(take(exact.values, none))
    with adapter.on():
        scored = score_draws(adapter.model(), [walk(target, guide.readings, one)] * 3, columns=64)
    assert scored.log_prob.tolist() == pytest.approx([2 * np.log(0.7)] * 3)
    scored.log_prob.sum().backward()


SOURCE = """lm base = "b"
program p(t: text{more}) {{
  {body}
}}"""
SEVERAL = {
    "branch": f"""latent k: one_of("he", "a") ~ choice(base(t)) ^ 0.1
  if k == "a" {{ latent z: {ITEM} ~ base(t) ^ 0.3 factor 2.0 * chars(z) }} else {{ factor 2.5 }}""",
    "list": f'latent z: list({ITEM}, 0..2, end="he") ~ base(t) ^ 0.1 factor 3.0 * len(z)',
    "records": f'latent z: list(record(name: {ITEM}, " the", age: int(1..2)), 0..1, end="he") ~ base(t) ^ 0.1 factor 3.0 * len(z)',
}
SEVERAL["guided"] = f"""latent z: list({ITEM}, 0..2, end="he") ~ base("the") ^ 0.1
  factor if (len(z) == 2) == (t == "he") then 4 else 0 guide z ~ base("the", t)"""


GUIDED = {
    "every latent": 'latent k: one_of("he", "a") ~ choice(base(t)) guide k ~ base(y) if k == "a"',
    "some latents": "latent k: int(0..1) ~ binomial(1, 0.4) if k == 1",
}


@pytest.mark.parametrize("guided", GUIDED)
def test_simulated_rows_are_read_as_rows_are(guided: str, scratch: Path) -> None:
    """Where guides are stated for every latent they are bound without the rest of the program."""
    model = stirred("gpt2", scratch).base
    body = f"{GUIDED[guided]} {{ latent z: {ITEM} ~ base(t) guide z ~ base(y, k) }} observe y ~ choice(base(t, k))"
    program = loads(SOURCE.format(more=', y: one_of("at", "ta")', body=body)).lm(base=model).prepared
    rows = Rows(program, [{"t": "he", "y": "at"}, {"t": "b", "y": "ta"}])
    pairs = Simulator(program, rows.data).draw(np.random.default_rng(1).spawn(20), [0, 1] * 10)
    assert {pair.values["z"] == ABSENT for pair in pairs} == {True, False}
    for pair in pairs:
        with_reader, whole = (
            walk(target, readings_of(target), pair.values)
            for target in (rows.reader(pair.row, pair.data), program.bind_valid(pair.data))
        )
        assert [(p.context, p.ids) for p in with_reader.paths] == [(p.context, p.ids) for p in whole.paths]
        assert with_reader.rest == whole.rest
        assert len(whole.paths) == (guided == "every latent") + (pair.values["z"] != ABSENT)


def test_simulated_rows_of_a_guided_list_are_read_as_rows_are(scratch: Path) -> None:
    model = stirred("gpt2", scratch).base
    body = f"""latent z: list({ITEM}, 0..2, end="he") ~ base(t) guide z ~ base(y)
      latent c: record(n: int(1..2), "b", m: int(0..1)) ~ base(z) guide c ~ base(y, z) observe y ~ choice(base(c))"""
    program = loads(SOURCE.format(more=', y: one_of("at", "ta")', body=body)).lm(base=model).prepared
    rows = Rows(program, [{"t": "he", "y": "at"}, {"t": "b", "y": "ta"}])
    pairs = Simulator(program, rows.data).draw(np.random.default_rng(1).spawn(20), [0, 1] * 10)
    assert len({sum(v == ABSENT for v in pair.values.values()) for pair in pairs}) > 1
    for pair in pairs:
        alone, whole = (
            walk(target, readings_of(target), pair.values)
            for target in (rows.reader(pair.row, pair.data), program.bind_valid(pair.data))
        )
        assert [(p.context, p.ids) for p in alone.paths] == [(p.context, p.ids) for p in whole.paths]
        begins = model.tokenizer.encode(str(pair.data["y"]))
        assert all(path.context[-len(begins) :] == begins for path in alone.paths[:1])


@pytest.mark.parametrize(("name", "objective"), [*((name, "vargrad") for name in SEVERAL), ("list", "tb")])
def test_training_comes_closer_to_the_posterior(
    name: str, objective: str, scratch: Path, tmp_path: Path
) -> None:
    model = stirred("gpt2", scratch).base
    query = loads(SOURCE.format(more="", body=SEVERAL[name])).lm(base=model)
    rows = [{"t": "he"}, {"t": "at"}]
    settings = settings_of({
        "steps": 12, "rank": 4, "draws": 16, "seeds": 8, "certify_draws": 20, "balance_learning_rate": 0.02,
        "objective": objective,
    })  # fmt: skip
    fit(query.prepared, rows, tmp_path / "p", settings)
    held, apart = load_policy(tmp_path / "p", query.prepared), []
    try:
        for row in rows:
            target = query.given(row).target()
            exact = run(Exact(10**5, 1.0), target, n=1, rng=np.random.default_rng(0))
            own, prior = (divergence(guide, exact) for guide in (held.guide(target), PriorGuide(target)))
            assert own < 0.6 * prior, (own, prior)
            apart.append(own)
        # What reads no row is log 2 away from two posteriors that have little in common.
        assert name != "guided" or np.mean(apart) < 0.6
    finally:
        held.adapter.close()


def divergence(guide, exact: Draws) -> float:
    """KL(q‖posterior) over all values, nats."""
    log_q = guide.log_prob(exact.values)
    assert exact.log_evidence is not None
    return float(np.sum(np.exp(log_q) * (log_q - exact.log_reward + exact.log_evidence)))
