"""Laws of the policy: what it draws with, what it says of given values and what a step-by-step sum gives agree.

Toy transformers with an adapter that changes them a lot; supports small enough to
list, over a few characters, so that every sum is written out.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from attrs import evolve
from scipy import stats

from posterior_lm.infer.base import run
from posterior_lm.infer.guide import PriorGuide, contexts_of
from posterior_lm.infer.importance import Importance
from posterior_lm.infer.mcmc import Mcmc
from posterior_lm.infer.smc import Smc
from posterior_lm.lm.hf.transformers import TransformersModel
from posterior_lm.support.base import Support
from posterior_lm.target.target import Target
from posterior_lm.target.values import Value
from posterior_lm.train.adapter import Adapter
from posterior_lm.train.gflownet_batch import propose
from posterior_lm.train.guide import PolicyGuide, own_readings, paths_of, readings_of
from posterior_lm.train.scoring import Path, PathScores, has_end_points, path_maker, score_paths, stop_level
from tests.laws.models import MODELS
from tests.strategies import compiled

Ids = tuple[int, ...]
P_VALUE = 1e-4
CLOSE = {"rtol": 0, "atol": 1e-4}

LATENTS = {
    "stop": 'text(tokens=1..4, stop="b", chars="at")',
    "stop in two spellings": 'text(tokens=1..4, stop="ed", chars="hed")',
    "stop after two tokens": 'text(tokens=3..4, stop=".", chars="he")',
    "stop of two tokens": 'text(tokens=2..5, stop="ba", chars="abt")',
    "end of text": 'text(tokens=0..3, chars="he")',
    "end of text after two tokens": 'text(tokens=2..4, chars="he")',
    "free": 'text(tokens=1..3, end="free", chars="he")',
    "free, one length": 'text(tokens=3..3, end="free", chars="he")',
    "canonical": 'text(tokens=0..4, chars="he", canonical=true)',
    "canonical stop": 'text(tokens=1..4, stop=".", chars="he", canonical=true)',
    "int": "int(0..30)",
    "int with a lead": 'int(8..25, lead=" ")',
    "one_of": 'one_of("he", "hed", "a", "ed", "heh", "hehe")',
}
"""Types of one latent; in some, values begin other values."""
CASES = [("gpt2", kind) for kind in LATENTS] + [
    (name, kind)
    for name in ("llama", "bloom", "neox", "sliding")
    for kind in ("stop", "end of text after two tokens", "free", "int with a lead")
]
WALKED = pytest.mark.parametrize(("name", "kind"), CASES)

_adapters: dict[str, Adapter] = {}


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory):
    return tmp_path_factory.mktemp("policy")


def stirred(name: str, scratch) -> Adapter:
    """The toy of that name with an adapter of large random weights; built once."""
    if name not in _adapters:
        adapter = Adapter.new(MODELS[name](scratch / name), rank=3, seed=1)
        rng = torch.Generator().manual_seed(5)
        adapter.restore({k: 0.15 * torch.randn(v.shape, generator=rng) for k, v in adapter.tensors().items()})
        _adapters[name] = adapter
    return _adapters[name]


def program(body: str, model: TransformersModel, params: str = "", **data: object) -> Target:
    return compiled(f'lm base = "b"\nprogram p({params}) {{\n{body}\n}}', data, {"base": model})


def target_of(kind: str, adapter: Adapter) -> Target:
    return program(f'latent z: {LATENTS[kind]} ~ base("the end")', adapter.base)


def listed(support: Support) -> list[Ids]:
    """Every value of a small support, by walking it."""
    found: list[Ids] = []
    open_ = [(support.start(), ())]
    while open_:
        state, ids = open_.pop()
        if support.may_stop(state):
            found.append(ids)
        assert len(found) < 500
        for token in np.flatnonzero(support.allowed(state)):
            open_.append((support.advance(state, int(token)), (*ids, int(token))))
    return sorted(found)


def next_logits(adapter: Adapter, ids: Ids) -> np.ndarray:
    with adapter.on(), torch.inference_mode():
        return adapter.base._forward.module(input_ids=torch.tensor([ids])).logits[0, -1].double().numpy()


def log_sum(numbers: Sequence[float]) -> float:
    return float(np.logaddexp.reduce(numbers)) if len(numbers) else -math.inf


def by_hand(
    adapter: Adapter, context: Ids, support: Support, ids: Ids, exponent: float = 1.0,
    stop: float | None = None,
) -> float:  # fmt: skip
    """log q of a value, one forward pass a token, with nothing but the support's answers."""
    eos = list(adapter.base.tokenizer.eos_ids)
    state, total = support.start(), 0.0
    for t, token in enumerate((*ids, None)):
        if support.must_stop(state):
            assert token is None
            break
        logits = next_logits(adapter, context + ids[:t])
        logits = logits - log_sum(logits)
        choices = {int(v): exponent * logits[v] for v in np.flatnonzero(support.allowed(state))}
        if support.may_stop(state) and support.ending != "stop":
            choices[-1] = exponent * log_sum(logits[eos])
            if (
                stop is not None
            ):  # a quarter by chance, and of what is left by how far end-of-text is beside the tokens
                left, tokens = 3 - t, log_sum([choices[v] for v in choices if v >= 0])
                said = 1 / (1 + math.exp(tokens - choices[-1] - exponent * (stop - math.log(left))))
                stops = 0.25 / (left + 1) + 0.75 * said
                choices = {v: x - tokens + math.log(1 - stops) for v, x in choices.items()}
                choices[-1] = math.log(stops)
        total += choices[-1 if token is None else token] - log_sum(list(choices.values()))
        state = state if token is None else support.advance(state, token)
    return total


def context_of(target: Target, name: str = "z", drawn: dict | None = None) -> Ids:
    reading = readings_of(target)[name]
    return contexts_of(target, reading.lm, reading.segments, drawn or {}, 1)[0][0]


def values_in(target: Target, ids: Sequence[Ids], name: str = "z") -> dict[str, list[Value]]:
    return {name: [target.value_of(name, one) for one in ids]}


def paths_in(target: Target, ids: Sequence[Ids]) -> list[Path]:
    make = path_maker(target.latents[0].support)
    return [make(context_of(target), one) for one in ids]


def unpacked(model: TransformersModel) -> TransformersModel:
    model._pack = False
    assert not model.packed
    return model


# ------------------------------------------------------------------- one latent


@WALKED
def test_given_values_sum_to_one_and_agree_with_a_walk_by_hand(name: str, kind: str, scratch) -> None:
    adapter = stirred(name, scratch)
    target = target_of(kind, adapter)
    guide = PolicyGuide.of(target, adapter)
    support = target.latents[0].support
    every = listed(support)
    log_q = guide.log_prob(values_in(target, every))
    assert log_q.dtype == np.float64
    assert np.exp(log_q).sum() == pytest.approx(1, abs=1e-4)
    assert log_q.std() > 0.3  # skewed: no symmetry to hide behind
    stride = slice(None, None, max(1, len(every) // 7))
    wanted = [by_hand(adapter, context_of(target), support, ids) for ids in every[stride]]
    np.testing.assert_allclose(log_q[stride], wanted, **CLOSE)


@WALKED
def test_draws_are_as_likely_as_is_said_of_them(name: str, kind: str, scratch) -> None:
    adapter = stirred(name, scratch)
    target = target_of(kind, adapter)
    guide = PolicyGuide.of(target, adapter)
    drawn = guide.sample(np.random.default_rng(3), 200)
    np.testing.assert_allclose(drawn.log_prob, guide.log_prob(drawn.values), **CLOSE)
    np.testing.assert_allclose(drawn.log_prob, PriorGuide.log_prob(guide, drawn.values), **CLOSE)
    again = guide.sample(np.random.default_rng(3), 200)
    assert again.values == drawn.values and np.array_equal(again.log_prob, drawn.log_prob)
    base = PriorGuide(target).log_prob(drawn.values)
    assert np.abs(base - drawn.log_prob).max() > 0.1  # it is the adapter that speaks


def test_the_end_of_a_free_text_is_raised(scratch) -> None:
    """By `stop` less the log of how many tokens are left, in one pass, step by step and in draws."""
    adapter = stirred("gpt2", scratch)
    target = target_of("free", adapter)
    support = target.latents[0].support
    every = listed(support)
    plain = PolicyGuide.of(target, adapter).log_prob(values_in(target, every))
    adapter.stop = 2.5
    try:
        guide = PolicyGuide.of(target, adapter)
        log_q = guide.log_prob(values_in(target, every))
        assert np.exp(log_q).sum() == pytest.approx(1, abs=1e-4) and np.abs(log_q - plain).max() > 0.5
        wanted = [by_hand(adapter, context_of(target), support, ids, stop=2.5) for ids in every[::3]]
        np.testing.assert_allclose(log_q[::3], wanted, **CLOSE)
        for exponent in (1.0, 0.6):
            drawn = evolve(guide, exponent=exponent).sample(np.random.default_rng(3), 200)
            said = evolve(guide, exponent=exponent).log_prob(drawn.values)
            np.testing.assert_allclose(drawn.log_prob, said, **CLOSE)
        longest = [ids for ids in every if len(ids) == 3]
        assert (
            np.exp(log_q[[every.index(ids) for ids in longest]]).sum() < 1 - 0.25 / 3
        )  # even so never less often
    finally:
        adapter.stop = None
    with torch.enable_grad():  # where no end is chosen there is nothing that could make a gradient NaN
        read = readings_of(target, stop=2.5)["z"]
        scores = score_paths(
            adapter.model(), paths_of(target, read, target.latents[0], values_in(target, every), len(every))
        )
        parameters = list(adapter.parameters.values())
        gradient = torch.autograd.grad(scores.log_prob.sum(), parameters, allow_unused=True)
        assert all(g is None or bool(g.isfinite().all()) for g in gradient)


@pytest.mark.parametrize("power", [0.5, 2.0])
@pytest.mark.parametrize(
    "kind", ["stop in two spellings", "end of text after two tokens", "free", "canonical", "int"]
)
def test_a_powered_guide_is_as_flat_or_sharp_as_the_prior(kind: str, power: float, scratch) -> None:
    """In one pass, step by step and in draws, with free ends raised; without weights of its own it is the prior."""
    adapter = stirred("gpt2", scratch)
    target = program(f'latent z: {LATENTS[kind]} ~ base("the end") ^ {power}', adapter.base)
    info = target.latents[0]
    every = values_in(target, listed(info.support))
    stop = 2.5 if info.support.ending == "free" else None
    plain = PolicyGuide.of(target, adapter).log_prob(every)
    adapter.powered, adapter.stop = True, stop
    try:
        guide = PolicyGuide.of(target, adapter)
    finally:
        adapter.powered, adapter.stop = False, None
    log_q = guide.log_prob(every)
    assert np.exp(log_q).sum() == pytest.approx(1, abs=1e-4) and np.abs(log_q - plain).max() > 0.2
    ids = [value.ids for value in every["z"]]
    some = slice(None, None, max(1, len(ids) // 7))
    wanted = [by_hand(adapter, context_of(target), info.support, one, power, stop) for one in ids[some]]
    np.testing.assert_allclose(log_q[some], wanted, **CLOSE)
    for exponent in (1.0, 0.6):
        drawn = evolve(guide, exponent=exponent).sample(np.random.default_rng(3), 100)
        said = evolve(guide, exponent=exponent).log_prob(drawn.values)
        np.testing.assert_allclose(drawn.log_prob, said, **CLOSE)
    read = readings_of(target, "own", stop, powered=True)["z"]
    assert read == own_readings(target, stop, powered=True)["z"] and read.power == power
    n = 400
    drawn = propose(
        adapter.base, [target] * n, [{"z": read}] * n, np.random.default_rng(5).spawn(n), [1.0] * n
    )
    values = tuple(one["z"] for one in drawn)
    mine = score_paths(adapter.base, paths_of(target, read, info, {"z": values}, n)).log_prob.detach().numpy()
    fresh = PolicyGuide(target, model=adapter.base, readings={"z": read})
    np.testing.assert_allclose(mine, walked := fresh.log_prob({"z": values}), **CLOSE)
    every_q = fresh.log_prob(every)
    mean, square = np.exp(every_q) @ every_q, np.exp(every_q) @ every_q**2
    error = ((square - mean**2) / n) ** 0.5
    assert abs(mine.mean() - mean) < 4.5 * error, "draws come as often as is said of them"
    # A number is one choice of the prior, and several tokens here.
    if info.support.ending != "free" and kind != "int":
        np.testing.assert_allclose(walked, PriorGuide(target).log_prob({"z": values}), **CLOSE)


@pytest.mark.parametrize("power", [1.0, 0.5, 2.0])
def test_a_guide_that_has_learnt_nothing_ends_as_often_as_a_free_end_does(power: float, scratch) -> None:
    """On a model that hardly ever ends a text there, as a real one in the middle of a sentence."""
    adapter = stirred("gpt2", scratch)
    target = program(f'latent z: {LATENTS["free"]} ~ base("the end") ^ {power}', adapter.base)
    info, prior = target.latents[0], PriorGuide(target)
    every = values_in(target, listed(info.support))
    reading = readings_of(target, stop=0.0, powered=True)["z"]
    paths = paths_of(target, reading, info, prior.sample(np.random.default_rng(0), 8).values, 8)

    def distance(stop: float | None) -> float:
        read = readings_of(target, stop=stop, powered=True)["z"]
        log_q = score_paths(
            adapter.base, paths_of(target, read, info, every, len(every["z"]))
        ).log_prob.numpy()
        log_p = prior.log_prob({"z": tuple(every["z"])})
        return float(np.exp(log_p) @ (log_p - log_q))

    level = stop_level(adapter.base, paths)
    assert level is not None
    best = min(distance(level + by) for by in (-6.0, -3.0, 0.0, 3.0, 6.0))
    assert distance(level) == best < min(0.3, distance(None) / 2)
    said, wanted = 0.0, 0.0
    for path in paths:
        for t, left in enumerate(path.left):
            if left:
                with torch.inference_mode():
                    ids = torch.tensor([path.context + path.ids[:t]])
                    logits = adapter.base._forward.module(input_ids=ids).logits[0, -1].double().numpy()
                ending = log_sum(logits[list(adapter.base.tokenizer.eos_ids)]) + level - math.log(left)
                tokens = log_sum(power * logits[: len(path.masks[t])][path.masks[t]])
                said += 1 / (1 + math.exp(tokens - power * ending))
                wanted += 1 / (left + 1)
    assert said == pytest.approx(wanted, rel=1e-3)
    lone = target_of("free, one length", adapter)
    path = paths_of(
        lone, readings_of(lone)["z"], lone.latents[0], values_in(lone, listed(lone.latents[0].support)[:1]), 1
    )
    assert stop_level(adapter.base, path) is None, "nothing is chosen"


@pytest.mark.parametrize(
    "kind", ["stop in two spellings", "end of text after two tokens", "free", "canonical", "int"]
)
def test_draws_come_as_often_as_is_said(kind: str, scratch) -> None:
    adapter = stirred("gpt2", scratch)
    target = target_of(kind, adapter)
    guide = PolicyGuide.of(target, adapter)
    every = listed(target.latents[0].support)
    n = 4000
    expected = n * np.exp(guide.log_prob(values_in(target, every)))
    seen = Counter(v.ids for v in guide.sample(np.random.default_rng(11), n).values["z"])
    observed = np.array([seen[ids] for ids in every])
    assert observed.sum() == n
    rare = expected < 5
    cells = np.append(observed[~rare], observed[rare].sum()), np.append(expected[~rare], expected[rare].sum())
    kept = cells[1] > 0
    statistic = ((cells[0] - cells[1])[kept] ** 2 / cells[1][kept]).sum()
    assert stats.chi2.sf(statistic, kept.sum() - 1) > P_VALUE, f"seed 11, {kind}"


@WALKED
def test_outside_the_support_is_minus_infinity(name: str, kind: str, scratch) -> None:
    adapter = stirred(name, scratch)
    target = target_of(kind, adapter)
    guide = PolicyGuide.of(target, adapter)
    support = target.latents[0].support
    every = listed(support)
    tokens = sorted({i for ids in every for i in ids})
    short = (ids for n in range(4) for ids in itertools.product(tokens, repeat=n))
    outside = [ids for ids in short if not support.accepts(ids)][:20]
    outside += [(*max(every, key=len), tokens[0]), (0,)]
    mixed = [every[0], *outside, every[-1]]
    values = {"z": [Value(ids, "", "") for ids in mixed]}
    log_q = guide.log_prob(values)
    assert np.isneginf(log_q[1:-1]).all()
    np.testing.assert_allclose(
        log_q[[0, -1]], guide.log_prob(values_in(target, [every[0], every[-1]])), **CLOSE
    )
    make = path_maker(support)
    for ids in outside:
        with pytest.raises(ValueError, match="no value of the support"):
            make(context_of(target), ids)


FORCED = {
    "one value": 'one_of("hed")',
    "one text": 'text(tokens=3..3, end="free", chars="x")',
    "only the stop": 'text(tokens=1..1, stop=".")',
    "as many as there may be": 'text(tokens=2..2, chars="q")',
}


@pytest.mark.parametrize("name", ["gpt2", "bloom"])
@pytest.mark.parametrize("kind", FORCED)
def test_what_is_forced_is_exactly_certain(name: str, kind: str, scratch) -> None:
    adapter = stirred(name, scratch)
    target = program(f'latent z: {FORCED[kind]} ~ base("the end")', adapter.base)
    guide = PolicyGuide.of(target, adapter)
    (ids,) = listed(target.latents[0].support)
    assert guide.log_prob(values_in(target, [ids, ids])).tolist() == [0.0, 0.0]
    drawn = guide.sample(np.random.default_rng(0), 3)
    assert [v.ids for v in drawn.values["z"]] == [ids] * 3
    assert drawn.log_prob.tolist() == [0.0] * 3
    scores = score_paths(guide.model, paths_in(target, [ids]), ends=True)
    assert scores.log_prob.tolist() == [0.0]
    assert scores.end_log_prob is not None and scores.end_log_prob.abs().max() == 0.0
    assert scores.is_end is not None and scores.is_end.sum() == 1
    scores.log_prob.sum().backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in adapter.parameters.values())
    for p in adapter.parameters.values():
        assert p.grad is None or torch.count_nonzero(p.grad) == 0
        p.grad = None


def test_forced_tokens_cost_nothing_between_choices(scratch) -> None:
    """The first digit of 10 to 19 is known, and so is that nothing follows the second."""
    adapter = stirred("gpt2", scratch)
    target = program('latent z: int(10..19, lead="") ~ base("the end")', adapter.base)
    context = context_of(target)
    digits = [adapter.base.tokenizer.encode(str(d))[0] for d in range(10)]
    logits = next_logits(adapter, (*context, digits[1]))[digits]
    values = {"z": [target.value("z", 10 + d) for d in range(10)]}
    np.testing.assert_allclose(
        PolicyGuide.of(target, adapter).log_prob(values), logits - log_sum(logits), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("exponent", [0.6, 1.7])
@pytest.mark.parametrize("kind", ["stop", "end of text after two tokens", "free", "int"])
def test_an_exponent_acts_on_every_step(kind: str, exponent: float, scratch) -> None:
    adapter = stirred("gpt2", scratch)
    target = target_of(kind, adapter)
    guide = PolicyGuide.of(target, adapter, exponent=exponent)
    every = listed(target.latents[0].support)
    log_q = guide.log_prob(values_in(target, every))
    assert np.exp(log_q).sum() == pytest.approx(1, abs=1e-4)
    some = slice(None, None, max(1, len(every) // 8))
    wanted = [
        by_hand(adapter, context_of(target), target.latents[0].support, i, exponent) for i in every[some]
    ]
    np.testing.assert_allclose(log_q[some], wanted, **CLOSE)
    drawn = guide.sample(np.random.default_rng(3), 100)
    np.testing.assert_allclose(drawn.log_prob, guide.log_prob(drawn.values), **CLOSE)
    plain = PolicyGuide.of(target, adapter).log_prob(values_in(target, every))
    assert np.abs(log_q - plain).max() > 0.1


# ------------------------------------------------------------------- several latents

SEVERAL = {
    "the second reads the first": """latent x: text(tokens=1..2, stop="b", chars="at") ~ base("the")
        latent z: text(tokens=0..2, chars="he") ~ base("so ", x)""",
    "different lengths before": """latent x: text(tokens=0..3, chars="ab", end="free") ~ base("the")
        latent z: one_of("he", "hed", "a") ~ base(x)""",
    "one that no model draws": """latent k: int(1..3, lead=" ") ~ categorical([0.7, 0.1, 0.2])
        latent z: text(tokens=1..2, stop=".", chars="he") ~ base("the", k)""",
    "no model draws, after a text": """latent z: text(tokens=1..2, stop=".", chars="he") ~ base("the")
        latent k: int(0..2) ~ binomial(2, if contains(z, "h") then 0.2 else 0.6)""",
    "a guide draws what another model may not": """latent k: int(1..12, lead=" ") ~ uniform()
        latent z: one_of("he", "a") ~ base(k)
        guide k ~ base("the number")""",
}


@pytest.mark.parametrize("name", ["gpt2", "bloom"])
@pytest.mark.parametrize("kind", SEVERAL)
def test_several_latents_multiply(name: str, kind: str, scratch) -> None:
    adapter = stirred(name, scratch)
    target = program(SEVERAL[kind], adapter.base)
    guide = PolicyGuide.of(target, adapter)
    supports = [info.support for info in target.latents]
    every = list(itertools.product(*(listed(s) for s in supports)))
    values = {n: [target.value_of(n, v[k]) for v in every] for k, n in enumerate(target.names)}
    log_q = guide.log_prob(values)
    assert np.exp(log_q).sum() == pytest.approx(1, abs=1e-4)
    drawn = guide.sample(np.random.default_rng(4), 150)
    np.testing.assert_allclose(drawn.log_prob, guide.log_prob(drawn.values), **CLOSE)
    np.testing.assert_allclose(drawn.log_prob, PriorGuide.log_prob(guide, drawn.values), **CLOSE)
    rng = np.random.default_rng(5)
    for k in rng.choice(len(every), 6, replace=False):
        total = 0.0
        for j, info in enumerate(target.latents):
            past = {n: [values[n][k]] for n in target.names[:j]}
            if info.name in guide.readings:
                total += by_hand(adapter, context_of(target, info.name, past), info.support, every[k][j])
            elif kind == "one that no model draws":
                total += math.log([0.7, 0.1, 0.2][values["k"][k].datum - 1])
            else:
                p = 0.2 if "h" in values["z"][k].text else 0.6
                d = values["k"][k].datum
                total += math.log(math.comb(2, d) * p**d * (1 - p) ** (2 - d))
        assert log_q[k] == pytest.approx(total, abs=1e-4)
    outside = {n: list(column[:2]) for n, column in values.items()}
    outside["z"] = [Value((0, 0, 0, 0, 0), "", ""), outside["z"][1]]
    found = guide.log_prob(outside)
    assert np.isneginf(found[0]) and found[1] == pytest.approx(log_q[1], abs=1e-4)


# ------------------------------------------------------------------- how it is computed


def same(a: PathScores, b: PathScores) -> None:
    torch.testing.assert_close(a.log_prob, b.log_prob, **CLOSE)
    assert a.end_log_prob is not None and b.end_log_prob is not None
    torch.testing.assert_close(a.end_log_prob, b.end_log_prob, **CLOSE)
    assert a.is_end is not None and b.is_end is not None and torch.equal(a.is_end, b.is_end)


def mixed_paths(adapter: Adapter) -> list[Path]:
    """Values of several lengths after several contexts, shuffled, some of them twice."""
    body = SEVERAL["different lengths before"].replace(
        'one_of("he", "hed", "a")', 'text(tokens=0..3, chars="he")'
    )
    target = program(body, adapter.base)
    guide = PolicyGuide.of(target, adapter)
    rng = np.random.default_rng(8)
    values = {}
    for info in target.latents:
        every = listed(info.support)
        values[info.name] = [target.value_of(info.name, every[k]) for k in rng.choice(len(every), 40)]
    read = [(info, guide.readings[info.name]) for info in target.latents if info.name in guide.readings]
    paths = [p for info, own in read for p in paths_of(target, own, info, values, 40)]
    assert len({p.context for p in paths}) > 5 and len({p.ids for p in paths}) > 5
    order = np.random.default_rng(9).permutation(len(paths))
    return [paths[i] for i in order]


@pytest.mark.parametrize("name", ["gpt2", "llama", "neox"])
def test_shared_contexts_change_no_number(name: str, scratch) -> None:
    adapter = stirred(name, scratch)
    paths = mixed_paths(adapter)
    packed, plain = adapter.model(), unpacked(adapter.model())
    assert packed.packed
    same(score_paths(packed, paths, ends=True), score_paths(plain, paths, ends=True))


def test_shared_contexts_are_shared(scratch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty values after one long context take fewer columns than twenty sequences."""
    adapter = stirred("gpt2", scratch)
    target = program(
        'latent z: text(tokens=2..3, chars="he") ~ base("the end of the whole of it")', adapter.base
    )
    paths = paths_in(target, listed(target.latents[0].support)[:20])
    columns = []
    trunk = adapter.base._forward.module.base_model
    forward = trunk.forward

    def counted(input_ids: torch.Tensor, **options: object) -> object:
        columns.append(input_ids.numel())
        return forward(input_ids=input_ids, **options)

    monkeypatch.setattr(trunk, "forward", counted)
    score_paths(adapter.model(), paths)
    shared = sum(columns)
    columns.clear()
    score_paths(unpacked(adapter.model()), paths)
    assert 0 < shared < sum(columns) / 3


@pytest.mark.parametrize("columns", [1, 13, 60, 200])
@pytest.mark.parametrize("name", ["gpt2", "bloom"])
def test_micro_batches_change_no_number(name: str, columns: int, scratch) -> None:
    adapter = stirred(name, scratch)
    paths = mixed_paths(adapter)
    whole = score_paths(adapter.model(), paths, ends=True)
    same(whole, score_paths(adapter.model(), paths, ends=True, columns=columns))
    torch.testing.assert_close(
        score_paths(adapter.model(), paths, columns=columns).log_prob, whole.log_prob, **CLOSE
    )


def test_micro_batches_are_small(scratch, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = stirred("gpt2", scratch)
    paths = mixed_paths(adapter)
    sizes = []
    trunk = adapter.base._forward.module.base_model
    forward = trunk.forward

    def counted(input_ids: torch.Tensor, **options: object) -> object:
        sizes.append(input_ids.numel())
        return forward(input_ids=input_ids, **options)

    monkeypatch.setattr(trunk, "forward", counted)
    score_paths(adapter.model(), paths, columns=60)
    assert len(sizes) > 1 and max(sizes) <= 60


# ------------------------------------------------------------------- stopping early


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("kind", LATENTS)
def test_ends_are_the_log_q_of_the_cut_values(kind: str, packed: bool, scratch) -> None:
    adapter = stirred("gpt2", scratch)
    target = target_of(kind, adapter)
    support = target.latents[0].support
    every = listed(support)
    log_q = dict(zip(every, PolicyGuide.of(target, adapter).log_prob(values_in(target, every)), strict=True))
    rng = np.random.default_rng(6)
    some = [every[k] for k in rng.permutation(len(every))[:30]]
    model = adapter.model() if packed else unpacked(adapter.model())
    scores = score_paths(model, paths_in(target, some), ends=True)
    assert scores.end_log_prob is not None and scores.is_end is not None
    ends, is_end = scores.end_log_prob.detach(), scores.is_end
    longest = max(map(len, some))
    assert ends.shape == is_end.shape == (len(some), longest + 1)
    for n, ids in enumerate(some):
        marked = [t for t in range(longest + 1) if is_end[n, t]]
        assert all(t <= len(ids) for t in marked)
        cuts = {t: support.cut(ids, t) for t in range(len(ids) + 1)}
        found = [cuts[t] for t in marked]
        assert None not in found and len(set(found)) == len(found)  # each value once
        assert ids in found
        if has_end_points(support):
            assert set(found) == {c for c in cuts.values() if c is not None}
        for t, cut in zip(marked, found, strict=True):
            assert float(ends[n, t]) == pytest.approx(log_q[cut], abs=1e-4)
        assert all(float(ends[n, t]) == 0.0 for t in range(longest + 1) if t not in marked)


def test_what_has_end_points(scratch) -> None:
    adapter = stirred("gpt2", scratch)
    found = {kind: has_end_points(target_of(kind, adapter).latents[0].support) for kind in LATENTS}
    assert [kind for kind, has in found.items() if not has] == ["stop of two tokens"]


def test_ends_are_left_out_unless_asked_for(scratch) -> None:
    adapter = stirred("gpt2", scratch)
    target = target_of("stop", adapter)
    scores = score_paths(adapter.model(), paths_in(target, listed(target.latents[0].support)[:3]))
    assert scores.end_log_prob is None and scores.is_end is None


# ------------------------------------------------------------------- gradients


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("kind", ["stop", "end of text after two tokens", "int", "free"])
def test_gradients_are_the_finite_differences(kind: str, packed: bool, tmp_path) -> None:
    model = MODELS["gpt2"](tmp_path)
    adapter = Adapter.new(model, rank=2, seed=2)
    model._forward.module.double()
    rng = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in adapter.parameters.values():
            p.copy_(0.15 * torch.randn(p.shape, generator=rng))
    target = target_of(kind, adapter)
    every = listed(target.latents[0].support)
    paths = paths_in(target, every[:: max(1, len(every) // 7)])
    weights = torch.as_tensor(np.random.default_rng(2).normal(size=(2, len(paths))))
    slopes = torch.as_tensor(np.random.default_rng(3).normal(size=max(len(p.ids) for p in paths) + 1))

    def loss() -> torch.Tensor:
        adapted = adapter.model() if packed else unpacked(adapter.model())
        scores = score_paths(adapted, paths, ends=True, columns=40)
        assert scores.end_log_prob is not None and scores.log_prob.dtype == torch.float64
        return (weights[0] * scores.log_prob).sum() + (
            weights[1][:, None] * slopes * scores.end_log_prob
        ).sum()

    loss().backward()
    checked = list(adapter.parameters.items())
    step = 1e-5
    for n, p in (checked[0], checked[1], checked[-2], checked[-1]):
        assert p.grad is not None and torch.isfinite(p.grad).all()
        at = int(p.grad.abs().flatten().argmax())
        flat = p.data.view(-1)
        kept = float(flat[at])
        ends = []
        for sign in (1, -1):
            flat[at] = kept + sign * step
            with torch.no_grad():
                ends.append(float(loss()))
        flat[at] = kept
        assert float(p.grad.view(-1)[at]) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5), n


def test_maximum_likelihood_raises_the_given_value(tmp_path) -> None:
    """A few steps up the gradient make one value certain: signs and the switch are right end to end."""
    adapter = Adapter.new(MODELS["gpt2"](tmp_path), rank=4, seed=2)
    target = target_of("end of text", adapter)
    every = listed(target.latents[0].support)
    values = values_in(target, every)
    before = PolicyGuide.of(target, adapter).log_prob(values)
    worst = int(before.argmin())
    optimizer = torch.optim.Adam(list(adapter.parameters.values()), lr=0.03)
    for _ in range(40):
        optimizer.zero_grad()
        (-score_paths(adapter.model(), paths_in(target, [every[worst]])).log_prob.sum()).backward()
        optimizer.step()
    after = PolicyGuide.of(target, adapter).log_prob(values)
    assert before[worst] < -3 and after[worst] > -0.2
    assert np.exp(after).sum() == pytest.approx(1, abs=1e-4)


# ------------------------------------------------------------------- weights


def test_a_raised_free_end_leaves_every_answer_exact(scratch) -> None:
    adapter = stirred("gpt2", scratch)
    body = 'latent z: text(tokens=1..3, end="free", chars="he") ~ base("the end")\n  observe "a" ~ base(z)'
    target = program(body, adapter.base)
    every = values_in(target, listed(target.latents[0].support))
    rewards = target.log_reward({"z": tuple(every["z"])})
    exact = log_sum(rewards)
    adapter.stop = 2.0
    try:
        guide = PolicyGuide.of(target, adapter)
        for backend in (Importance(), Smc()):
            found = [
                run(backend, target, n=60, rng=np.random.default_rng(k), guide=guide).log_evidence
                for k in range(30)
            ]
            ratios = np.exp(np.array(found) - exact)
            assert ratios.mean() == pytest.approx(1, abs=4 * ratios.std() / math.sqrt(30)), backend
        draws = run(Mcmc(), target, n=2000, rng=np.random.default_rng(1), guide=guide)
        seen = Counter(v.ids for v in draws.values["z"])
        shares = np.exp(rewards - exact)
        assert 0.5 * sum(abs(seen[v.ids] / 2000 - p) for v, p in zip(every["z"], shares, strict=True)) < 0.1
    finally:
        adapter.stop = None
