"""Draws of a server that tells the likeliest tokens alone: weights that are exact, and what they cost."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import posterior_lm as plm
from posterior_lm.infer import server_draws
from posterior_lm.infer.guide import PriorGuide
from posterior_lm.infer.server_draws import END, choose
from posterior_lm.lang.diagnostics import ModelError
from posterior_lm.lm.protocol import Drawn
from posterior_lm.lm.resolve import load_model, peek_tokenizer
from posterior_lm.lm.served import LIKELIEST, ServedModel, serve
from tests.cli import FOLDER
from tests.serving import Moody, moody

LETTERS = str(FOLDER / "letters.json")
KINDS = {
    "a stop": 'text(tokens=1..3, stop=".")',
    "an end": "text(tokens=1..3)",
    "a pattern": 'text(tokens=1..4, pattern="(a|ba)?b")',
    "free": 'text(tokens=1..2, end="free")',
}


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTERIOR_LM_CACHE", str(tmp_path / "cache"))


def telling(most: int, refuses: bool) -> Any:
    """A server that tells of no more than the `most` likeliest tokens: it refuses requests for more, or tells fewer."""

    def mood(handler: Moody, body: dict[str, Any] | None, answer: dict[str, Any]) -> dict[str, Any] | None:
        if body is not None and (body.get("logprobs") or 0) > most:
            if refuses:
                handler.say(400, '{"error": {"message": "logprobs is too large"}}')
                return None
            for choice in answer["choices"]:
                choice.pop("dense_logprobs", None)
                told = choice["logprobs"]
                for token, row in zip(told["tokens"], told["top_logprobs"], strict=True):
                    first = sorted(row, key=lambda name: -row[name])[:most]
                    for name in [name for name in row if name not in (*first, token)]:
                        del row[name]
        return answer

    return mood


@pytest.fixture(params=[1, 2], ids=["tells none", "tells two"])
def few(request: Any) -> Iterator[ServedModel]:
    """One of the likeliest is what the probe asks for, and 20, 5 and none are tried after it."""
    with moody(load_model(LETTERS), telling(request.param, refuses=request.param == 1)) as server:
        yield serve(server.url, None, lambda name: peek_tokenizer(LETTERS), timeout=5.0)


def program(model: Any, kind: str, last: str = "observe end ~ base(start, z) ^ 2") -> Any:
    text = f'lm base = "tiny"\nprogram p(start: text, end: one_of("a", "b")) {{\n  latent z: {kind} ~ base(start)\n  {last}\n}}\n'
    return plm.loads(text).given(start="a", end="a").lm(base=model)


METHODS = {
    "importance": (500, {}),
    "smc": (500, {"threshold": 0.9}),
    "mcmc": (400, {"steps": 120, "chains": 16}),
}


@pytest.mark.parametrize("few_others", [0, server_draws.FEW], ids=["kept or drawn again", "by a guess"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_drawn_has_the_probability_that_is_said(
    few: ServedModel, kind: str, few_others: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of given texts it is found by what the server tells of prompts, whatever was drawn."""
    monkeypatch.setattr(server_draws, "FEW", few_others)
    target = program(few, KINDS[kind]).target()
    guide = PriorGuide(target)
    proposal = guide.sample(np.random.default_rng(2), 60)
    alive = np.ones(60, bool) if proposal.alive is None else proposal.alive
    again = guide.log_prob({name: column for name, column in proposal.values.items()})
    assert again[alive] == pytest.approx(proposal.log_prob[alive], abs=1e-5)
    support = target.latents[0].support
    letters = range(3)
    texts = [ids for n in range(1, 5) for ids in itertools.product(letters, repeat=n) if support.accepts(ids)]
    log_q = guide.log_prob({"z": tuple(target.value_of("z", ids) for ids in texts)})
    assert np.exp(log_q).sum() == pytest.approx(alive.mean(), abs=0.25) and np.exp(log_q).sum() < 1 + 1e-6
    assert few_others == 0 or np.exp(log_q).sum() == pytest.approx(1.0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("few_others", [0, server_draws.FEW], ids=["kept or drawn again", "by a guess"])
@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_exact(
    few: ServedModel, kind: str, few_others: int, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_draws, "FEW", few_others)
    exact = program(LETTERS, KINDS[kind]).using("exact").draw()
    n, options = METHODS[method]
    found = program(few, KINDS[kind]).using(method, **options).draw(n, seed=3)
    if method == "mcmc":
        shares = {m.values["z"]: m.weight for m in exact.merged()}
        drawn = {m.values["z"]: m.weight for m in found.merged()}
        assert 0.5 * sum(abs(shares.get(v, 0.0) - drawn.get(v, 0.0)) for v in {*shares, *drawn}) < 0.15
        return
    assert found.log_evidence == pytest.approx(exact.log_evidence, abs=4 * found.log_evidence_se)
    assert found.log_evidence_se < 0.3
    shares = {m.values["z"]: m.weight for m in exact.merged()}
    drawn = {m.values["z"]: m.weight for m in found.merged()}
    for value in {*shares, *drawn}:
        share = shares.get(value, 0.0)
        assert drawn.get(value, 0.0) == pytest.approx(share, abs=4 * math.sqrt(share / found.ess) + 1e-3), (
            value
        )


def test_what_it_costs_is_said_and_other_methods_refuse(
    few: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_draws, "FEW", 0)
    query = program(few, KINDS["a stop"])
    found = query.draw(200, seed=1)
    assert found.draws.reason.startswith(
        "importance: what else there is takes whole rows of the vocabulary; the server tells no"
    )
    assert (
        found.draws.left
        and f"{found.draws.left} of 200 draws left what the type allows" in found.draws.reason
    )
    assert np.isneginf(found.draws.log_weights).sum() >= found.draws.left
    with pytest.raises(ModelError) as caught:
        query.using("exact").draw(10)
    [problem] = caught.value.diagnostics
    assert problem.code == "PLM564" and "use importance, smc or mcmc" in str(problem.help)


def test_latents_after_one_another(few: ServedModel) -> None:
    more = 'latent c: one_of("a", "b") ~ base(start, z)\n  latent y: text(tokens=1..2, stop=".") ~ base(z, c)\n  condition y != "."'
    exact = program(LETTERS, KINDS["a stop"], more).using("exact").draw()
    found = program(few, KINDS["a stop"], more).draw(500, seed=5)
    assert found.log_evidence == pytest.approx(exact.log_evidence, abs=4 * found.log_evidence_se)


def test_a_mixture_of_models_takes_whole_rows(few: ServedModel) -> None:
    text = 'lm base = "tiny"\nprogram p() { latent z: text(tokens=1..3, stop=".") ~ mix(0.5, base("a"), base("b")) }'
    with pytest.raises(ModelError) as caught:
        plm.loads(text).lm(base=few).using("importance").draw(5)
    assert caught.value.diagnostics[0].code == "PLM564"


def test_where_all_leave_the_type_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_draws, "FEW", 0)
    with moody(load_model(LETTERS), telling(1, refuses=True)) as server:
        model = serve(server.url, None, lambda name: peek_tokenizer(LETTERS), timeout=5.0)
        with pytest.raises(plm.PlmError) as caught:
            program(model, 'text(tokens=1..9, pattern="[b.]{9}")').draw(10)
    [problem] = caught.value.diagnostics
    assert problem.code == "PLM702" and "left what its type allows" in problem.message


# ---------------------------------------------------------------- one choice

ROW = (0.4, 0.25, 0.15, 0.1, 0.06, 0.04)


class Every:
    """A generator whose one choice is each in turn; `prob` is that of the choice made."""

    def __init__(self, place: int) -> None:
        self.place, self.prob, self.asked = place, 1.0, False

    def choice(self, n: int, p: np.ndarray) -> int:
        self.asked, self.prob = True, float(p[self.place]) if self.place < n else 0.0
        return min(self.place, n - 1)


def made(
    allowed: Sequence[int], ends: Sequence[int], k: int
) -> tuple[Mapping[Any, float], Mapping[Any, float]]:
    """With what probability each token is chosen, summed over all that may be drawn, and what `choose` says of it."""
    mask = np.array([i in allowed for i in range(len(ROW))])
    likeliest = {i: math.log(ROW[i]) for i in range(k)}
    chosen: dict[Any, float] = {}
    told: dict[Any, float] = {}
    for x, place in itertools.product(range(len(ROW)), range(len(ROW) + 1)):
        rng = Every(place)
        token, log_q, _, end = choose(Drawn(x, math.log(ROW[x]), likeliest), mask, ends, rng)  # type: ignore[arg-type]
        if place and not rng.asked:
            continue
        chosen[token] = chosen.get(token, 0.0) + ROW[x] * rng.prob
        told[token] = math.exp(log_q)
        if end is not None:
            told[token] = end[0] * end[1] + sum(ROW[e] for e in ends) - end[0]
    assert sum(chosen.values()) == pytest.approx(1.0)
    return {t: p for t, p in chosen.items() if t is not None}, {t: told[t] for t in chosen if t is not None}


@pytest.mark.parametrize("few_others", [0, server_draws.FEW])
@pytest.mark.parametrize("k", [0, 2, 4])
@pytest.mark.parametrize("ends", [(), (5,), (1,), (1, 5), (4, 5)])
@pytest.mark.parametrize("allowed", [(0, 2, 4), (2, 3), (3,)])
def test_a_choice_has_the_probability_that_is_said(
    allowed: Sequence[int], ends: tuple[int, ...], k: int, few_others: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_draws, "FEW", few_others)
    allowed = [i for i in allowed if i not in ends]
    chosen, told = made(allowed, ends, k)
    assert chosen == pytest.approx(told)
    reached = {*allowed, *([END] if ends else [])}
    assert set(chosen) <= reached
    assert few_others == 0 or set(chosen) == reached


def test_the_likeliest_are_asked_for_as_the_server_takes_it(few: ServedModel) -> None:
    assert few.told in (0, 2) and few.told < LIKELIEST[0]
    assert not few.whole_rows
    [[text, _]] = few.sample([((0, 1), 2)], 3, np.random.default_rng(0))
    assert all(len(place.likeliest) == few.told for place in text)
