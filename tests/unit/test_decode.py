"""Decoders as methods: what each says, against enumeration on tables and the library's own on `tiny`."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

import posterior_lm as plm
from posterior_lm.api.posterior import Posterior
from posterior_lm.cli.output import show_posterior
from posterior_lm.decode.decoding import Decoding, beams, decode, narrowed
from posterior_lm.decode.unmasked import clean
from posterior_lm.infer.methods import METHODS
from posterior_lm.lm.hf.transformers import TransformersModel
from posterior_lm.support.base import Ending, Support
from posterior_lm.target.target import Target
from tests.strategies import table

DECODERS = [name for name, one in METHODS.items() if one.decoder]
MODEL = table(("a", "b", ".", " "), seed=61, order=1, max_tokens=40)
PLAIN = 'latent z: text(tokens=1..3) ~ base("a") observe ["b", "."] ~ base(z)'
STORY = """
lm base = "tiny"
program story(opening: text, ending: text) {
  latent middle: text(tokens=1..12, stop=".") ~ base(opening)
  observe [" ", ending] ~ base(opening, middle)
  guide middle ~ base("Beginning: ", opening, "\\nEnding: ", ending, "\\nMiddle:")
}
"""
ASKED = {
    "opening": "Tom played in the park. It was a windy day.",
    "ending": "The doctor took care of it.",
}


def query(body: str, **data: object) -> plm.Query:
    params = ", ".join(f"{name}: text" for name in data)
    return plm.loads(f'lm base = "b"\nprogram p({params}) {{ {body} }}').lm(base=MODEL).given(data)


def story(**data: object) -> plm.Query:
    return plm.loads(STORY).given({**ASKED, **data})


def steps(target: Target, context: tuple[int, ...], ids: tuple[int, ...]) -> list[dict[int, float]]:
    """What may be chosen at each place of a value, −1 for stopping, with the model's probability under the mask."""
    info = target.latents[0]
    state, found = info.support.start(), []
    for t in range(len(ids) + 1):
        logs = MODEL.next_log_probs((*context, *ids[:t]))
        probs = {int(v): math.exp(logs[v]) for v in np.flatnonzero(info.support.allowed(state))}
        if info.support.may_stop(state) and not info.support.must_stop(state):
            probs[-1] = math.exp(logs[MODEL.tokenizer.eos_id])
        total = sum(probs.values())
        found.append({v: p / total for v, p in probs.items()} if total else {})
        if t < len(ids):
            state = info.support.advance(state, ids[t])
    return found


def exact(target: Target, temperature: float = 1.0) -> dict[tuple[int, ...], float]:
    """Every value of one to three tokens, with the probability of drawing it at a token temperature."""
    context = MODEL.tokenizer.encode_start("a")
    found = {}
    for length in (1, 2, 3):
        for ids in itertools.product(range(4), repeat=length):
            p = 1.0
            places = steps(target, context, ids)
            for t, choice in enumerate([*ids, -1]):
                if not places[t]:
                    continue  # a forced stop
                powers = {v: q ** (1 / temperature) for v, q in places[t].items()}
                p *= powers[choice] / sum(powers.values())
            found[ids] = p
    return found


# ------------------------------------------------------------------- on a table


def test_draws_by_chance_have_the_probabilities_of_their_temperature() -> None:
    asked = query(PLAIN)
    for temperature in (1.0, 0.5):
        wanted = exact(asked.target(), temperature)
        assert sum(wanted.values()) == pytest.approx(1)
        draws = asked.using("ancestral", n=6000, temperature=temperature).draw(seed=3).draws
        seen = Counter(v.ids for v in draws.values["z"])
        tv = 0.5 * sum(abs(seen[ids] / 6000 - p) for ids, p in wanted.items())
        assert tv < 0.045  # with 6000 draws of 84 values chance alone makes about 0.03
    other = 0.5 * sum(abs(seen[ids] / 6000 - p) for ids, p in exact(asked.target(), 1.0).items())
    assert other > 0.1  # so the temperature matters here


def test_greedy_takes_the_likeliest_token_each_time() -> None:
    asked = query(PLAIN)
    context, ids = MODEL.tokenizer.encode_start("a"), ()
    while True:
        place = steps(asked.target(), context, ids)[-1]
        best = max(place, key=lambda v: place[v]) if place else -1
        if best == -1:
            break
        ids = (*ids, best)
    found = asked.using("greedy").draw(50)
    assert [v.ids for v in found.draws.values["z"]] == [ids]
    assert found.draws.log_reward[0] == pytest.approx(
        asked.score({"z": found.draws.values["z"][0].text}).log_reward
    )


def test_enough_beams_find_the_likeliest_values_in_order() -> None:
    """A beam's score is the model's own log probability, of end-of-text too, without a correction for length."""
    asked = query('latent z: text(tokens=1..3) ~ base("a")')
    scored = {
        ids: asked.target().log_reward({"z": [asked.target().value_of("z", ids)]})[0]
        for ids in exact(asked.target())
    }
    # A forced stop is free for a beam, and is scored by the target.
    eos = MODEL.tokenizer.eos_id
    context = MODEL.tokenizer.encode_start("a")
    for ids in scored:
        if len(ids) == 3:
            scored[ids] -= MODEL.next_log_probs((*context, *ids))[eos]
    ranked = sorted((i for i in scored if scored[i] > -np.inf), key=lambda ids: -scored[ids])
    found = asked.using("beam", n=5, beams=90).draw()
    assert [v.ids for v in found.draws.values["z"]] == ranked[:5]
    assert found.n == 5 and asked.using("beam", n=2, beams=7).draw().n == 2


def test_groups_of_beams_keep_apart() -> None:
    asked = query('latent z: text(tokens=3..3, end="free") ~ base("a")')
    info, context = asked.target().latents[0], MODEL.tokenizer.encode_start("a")
    first = MODEL.next_log_probs(context)[:4]
    one, two = (
        beams(MODEL, [context], info.support, number=2, groups=2, penalty=p, ending="eos")[0]
        for p in (0.0, 50.0)
    )
    assert len(one) == 1 and len(two) == 2
    assert [[one[0]]] == [[two[0]]] == beams(MODEL, [context], info.support, number=1, ending="eos")
    assert all(a != b for a, b in zip(*two, strict=True))
    # The second group's first token is the best of those that the first group did not take.
    left = [v for v in range(4) if v != two[0][0]]
    assert two[1][0] == max(left, key=lambda v: first[v])
    # A penalty smaller than the gap changes nothing.
    gap = np.sort(first)[-1] - np.sort(first)[-2]
    (same,) = beams(MODEL, [context], info.support, number=2, groups=2, penalty=0.01 * gap, ending="eos")
    assert [ids[0] for ids in same] == [one[0][0]] * len(same)


def test_contexts_side_by_side_are_searched_as_each_alone() -> None:
    support = query('latent z: text(tokens=2..4) ~ base("a")').target().latents[0].support
    contexts = [MODEL.tokenizer.encode_start(text) for text in ("a", "b.", " a", "b")]
    for more in ({"number": 3}, {"number": 4, "groups": 2, "penalty": 0.7}):
        alone = [beams(MODEL, [c], support, ending="eos", **more)[0] for c in contexts]  # type: ignore[arg-type]
        assert beams(MODEL, contexts, support, ending="eos", **more) == alone  # type: ignore[arg-type]
        assert len(set(map(tuple, alone))) > 1


def test_later_latents_are_decoded_after_earlier_ones() -> None:
    body = 'latent x: text(tokens=1..2) ~ base("a") latent z: text(tokens=1..2) ~ base("b", x)'
    asked = query(body)
    draws = asked.using("ancestral", n=3000).draw(seed=1).draws
    given: dict[str, Counter[str]] = {}
    for x, z in zip(draws.values["x"], draws.values["z"], strict=True):
        given.setdefault(x.text[-1], Counter())[z.text[0]] += 1
    (_, one), (_, two) = sorted(given.items(), key=lambda item: -item[1].total())[:2]
    for last, seen in given.items():
        if seen.total() < 300:
            continue
        logs = MODEL.next_log_probs(MODEL.tokenizer.encode(last))[:4]
        wanted = np.exp(logs) / np.exp(logs).sum()
        share = np.array([seen[t] for t in ("a", "b", ".", " ")]) / seen.total()
        assert 0.5 * np.abs(share - wanted).sum() < 0.1
    assert one.most_common(1) != two.most_common(1)
    two_beams = asked.using("beam", n=4).draw()
    assert two_beams.n == 4 and len({v.ids for v in two_beams.draws.values["x"]}) == 4
    (z_of_first,) = asked.using("beam", n=1, beams=4).draw().draws.values["z"]
    assert two_beams.draws.values["z"][0] == z_of_first
    told = [m.log_reward for m in two_beams.merged()]
    assert told == sorted(told, reverse=True) and len(set(told)) == 4, (
        "of equal weights, the best comes first"
    )


def test_latents_that_no_model_draws_keep_their_distribution() -> None:
    asked = query(
        'latent n: int(0..3) ~ categorical([0.1, 0.5, 0.15, 0.25]) observe "b" ~ base(n)'.replace(
            "base(n)", 'base("a")'
        )
    )
    assert asked.using("greedy").draw().draws.values["n"][0].datum == 1
    assert [v.datum for v in asked.using("beam", n=3).draw().draws.values["n"]] == [1, 3, 2]
    draws = asked.using("ancestral", n=8000, temperature=0.5).draw(seed=2).draws
    share = sum(v.datum == 1 for v in draws.values["n"]) / 8000
    assert share == pytest.approx(0.25 / (0.01 + 0.25 + 0.0225 + 0.0625), abs=0.02)
    assert {v.datum for v in asked.using("top_k", n=300, k=2).draw().draws.values["n"]} == {1, 3}
    assert {v.datum for v in asked.using("nucleus", n=300, p=0.7).draw().draws.values["n"]} == {1, 3}


def test_a_prompt_is_what_the_guide_reads() -> None:
    asked = query(f'{PLAIN} guide z ~ base("b")')
    own, told, prompted = (
        asked.using(m, n=4000, **more).draw(seed=4).draws.values["z"]
        for m, more in (("ancestral", {}), ("ancestral", {"proposal": "guide"}), ("prompting", {}))
    )
    shares = [Counter(v.ids[0] for v in column) for column in (own, told, prompted)]
    logs = MODEL.next_log_probs(MODEL.tokenizer.encode_start("b"))[:4]
    wanted = np.exp(logs) / np.exp(logs).sum()
    for k, near in ((0, False), (1, True), (2, True)):
        tv = 0.5 * sum(abs(shares[k][v] / 4000 - wanted[v]) for v in range(4))
        assert tv < 0.03 if near else tv > 0.1


# ------------------------------------------------------------------- what draws of decoders are


def test_decoded_draws_have_no_evidence_and_say_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    posterior = (
        query(f'{PLAIN} condition contains(z, "b")').using("ancestral", n=40, masked=False).draw(seed=1)
    )
    draws = posterior.draws
    assert draws.decoded and draws.log_prob is None
    assert (draws.log_evidence, draws.log_evidence_se, draws.ess, draws.khat) == (None,) * 4
    assert draws.log_weights.tolist() == [0.0] * 40 and posterior.weights == pytest.approx(1 / 40)
    dead = int(np.isneginf(draws.log_reward).sum())
    assert 0 < dead < 40
    assert dead == sum("b" not in v.text or not v.text for v in draws.values["z"])
    assert posterior.verdict.startswith("Not draws from the posterior: what `ancestral` decodes")
    assert f"{dead} of them with posterior probability zero" in posterior.verdict
    found = posterior.prob(lambda row: "b" in str(row["z"]))
    assert found.value == pytest.approx(1 - dead / 40) and 0 < found.high - found.low < 0.4
    posterior.save(tmp_path)
    again = Posterior.load(tmp_path)
    assert again.draws.decoded and again.log_evidence is None and again.verdict == posterior.verdict
    assert json.dumps(posterior.to_json(), allow_nan=False)
    show_posterior(posterior, None)
    out = capsys.readouterr().out
    alive = draws.log_reward[np.isfinite(draws.log_reward)]
    assert "log evidence: not known to ancestral" in out and f"of the {40 - dead} of 40 that have one" in out
    assert f"best {alive.max():.3f}, mean {alive.mean():.3f}" in out


def test_a_file_without_the_mark_is_of_no_decoder(tmp_path: Path) -> None:
    path = query(PLAIN).using("importance", n=20).draw().save(tmp_path)
    whole = json.loads(path.read_text())
    assert whole.pop("decoded") is False
    path.write_text(json.dumps(whole))
    assert not Posterior.load(tmp_path).draws.decoded


@pytest.mark.parametrize("method", [m for m in DECODERS if m != "few_shot"])
def test_the_same_seed_gives_the_same_draws(method: str) -> None:
    asked = query(PLAIN).using(method)
    one, two, other = (asked.draw(9, seed=s) for s in (5, 5, 6))
    assert one.draws.values == two.draws.values and one.method == method and one.n <= 9
    if method in ("greedy", "beam", "diverse_beam"):
        assert one.draws.values == other.draws.values and one.draws.distinct == one.n
    else:
        assert one.n == 9 and one.draws.values != other.draws.values


def test_a_program_states_a_decoder_and_its_options() -> None:
    found = query(f"{PLAIN} infer beam(n=3, beams=6)").draw()
    assert (found.method, found.n) == ("beam", 3)
    assert query(PLAIN).using("beam").draw().n == 10  # and not as many beams as other methods make draws
    assert query(PLAIN).using("greedy", masked=False).options == {"masked": False}


def test_compare_leaves_decoders_out_unless_one_is_asked_for() -> None:
    quick = query(f"{PLAIN} infer mcmc(steps=20, chains=2)")
    plain = {m.method for m in quick.compare(draws=20).methods}
    assert not plain & set(DECODERS) and "importance" in plain
    asked = quick.using("top_k", k=2).compare(draws=20)
    (one,) = [m for m in asked.methods if m.method in DECODERS]
    assert one.method == "top_k" and one.log_evidence is None and one.tv is not None and one.tv > 0.1
    assert one.tokens > 0


# ------------------------------------------------------------------- without the mask


def test_values_are_read_from_plain_texts() -> None:
    from posterior_lm.decode.unmasked import said

    source = 'lm base = "tiny"\nprogram p() {{ latent z: {} ~ base("A") }}'
    for type, text, wanted in (
        ("int(0..100, lead=\" \")", " 42 and more", " 42"),
        ("int(0..100, lead=\" \")", " 100.", " 100"),
        ("int(0..100, lead=\" \")", " 1000", None),
        ("int(0..100, lead=\" \")", " many", None),
        ('one_of(" good", " bad")', " good\nand", " good"),
        ('one_of(" good", " bad")', " goods", None),
        ('one_of(" so", " so far")', " so far.", " so far"),
        ('text(tokens=1..6, stop=".")', " She ran. He", " She ran."),
        ('text(tokens=1..6, stop=".")', " She ran", None),
        ('text(tokens=3..6, stop=".")', ".", None),
    ):  # fmt: skip
        target = plm.loads(source.format(type)).target()
        ids = target.models["base"].tokenizer.encode(text)
        value, fits = said(target, target.latents[0], ids)
        assert (value.text if fits else None) == wanted, (type, text)
        assert fits or value.text == text


def test_without_the_mask_texts_end_at_the_stop_and_some_are_invalid() -> None:
    asked = query('latent z: text(tokens=2..6, stop=".") ~ base("a")')
    draws = asked.using("ancestral", n=300, masked=False).draw(seed=2).draws
    texts, valid = [v.text for v in draws.values["z"]], np.isfinite(draws.log_reward)
    assert [bool(t.endswith(".") and len(t) >= 2) for t in texts] == valid.tolist()
    assert 0.1 < valid.mean() < 0.9 and all(t.count(".") <= 1 and len(t) <= 6 for t in texts)
    masked = asked.using("ancestral", n=300).draw(seed=2).draws
    assert np.isfinite(masked.log_reward).all()


def test_one_invalid_latent_is_enough() -> None:
    body = 'latent x: text(tokens=2..4, stop=".") ~ base("a") latent z: text(tokens=1..4) ~ base("b", x)'
    draws = query(body).using("ancestral", n=200, masked=False).draw(seed=1).draws
    first = [v.text.endswith(".") and len(v.text) >= 2 for v in draws.values["x"]]
    both = [ok and len(v.text) >= 1 for ok, v in zip(first, draws.values["z"], strict=True)]
    assert np.isfinite(draws.log_reward).tolist() == both and 0.1 < np.mean(both) < np.mean(first) < 0.9


def test_numbers_without_the_mask_may_be_none() -> None:
    source = """lm base = "tiny"
    program p() { latent n: int(0..60, lead=" ") ~ choice(base("A random number between 0 and 99:")) factor 0 - n / 4 }"""
    posterior = plm.loads(source).using("ancestral", n=60, masked=False).draw(seed=1)
    values, log_reward = posterior.draws.values["n"], posterior.draws.log_reward
    assert np.isfinite(log_reward).tolist() == [isinstance(v.datum, int) for v in values]
    assert 0 < np.isfinite(log_reward).sum() < 60
    assert len(posterior.merged()) > 3 and json.dumps(posterior.to_json(), allow_nan=False)


def test_cleaning_is_one_rule() -> None:
    assert clean("  She\n ran.  He", ".") == "She ran."
    assert clean("She ran") == clean("She\ufffd ran \n", ".") == "She ran"


# ------------------------------------------------------------------- on tiny, against the library's own generate


@pytest.fixture(scope="module")
def tiny() -> tuple[Target, TransformersModel, tuple[int, ...]]:
    asked = story()
    model = asked.prepared.models["base"]
    assert isinstance(model, TransformersModel)
    return asked.target(), model, model.tokenizer.start_ids + model.tokenizer.encode_start(ASKED["opening"])


def generated(
    model: TransformersModel, context: tuple[int, ...], support: Support, ending: Ending, number: int = 0
) -> list[tuple[int, ...]]:
    """What `generate` finds under the support: its `number` beams, best first, or the greedy value."""
    from transformers import GenerationConfig, LogitsProcessorList
    from transformers.generation import StoppingCriteriaList

    eos_ids = model.tokenizer.eos_ids if ending == "eos" else ()

    def state(ids: list[int]) -> object | None:
        """None behind the end of a value."""
        found = support.start()
        for token in ids:
            if support.must_stop(found) or not support.allowed(found)[token]:
                return None
            found = support.advance(found, token)
        return found

    def masked(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        out = torch.full_like(scores, -torch.inf)
        for row, ids in enumerate(input_ids[:, len(context) :].tolist()):
            here = state(ids)
            if here is None or support.must_stop(here):
                out[row, 0] = 0.0
                continue
            allowed = np.flatnonzero(support.allowed(here))
            out[row, allowed] = scores[row, allowed]
            if eos_ids and support.may_stop(here):
                out[row, eos_ids[0]] = torch.logsumexp(scores[row, list(eos_ids)], dim=0)
        return out

    def done(input_ids: torch.Tensor, scores: torch.Tensor, **_: object) -> torch.Tensor:
        rows = input_ids[:, len(context) :].tolist()
        return torch.tensor([(here := state(r)) is None or support.must_stop(here) for r in rows])

    config = GenerationConfig(
        max_new_tokens=support.max_tokens + 1, do_sample=False, num_beams=max(1, number),
        num_return_sequences=max(1, number), pad_token_id=0, use_cache=True,
        length_penalty=0.0 if number > 1 else None, early_stopping=False if number > 1 else None,
    )  # fmt: skip
    with torch.inference_mode():
        out = model._forward.module.generate(  # type: ignore[operator]
            input_ids=torch.tensor([context]), attention_mask=torch.ones((1, len(context)), dtype=torch.long),
            generation_config=config, logits_processor=LogitsProcessorList([masked]),
            stopping_criteria=StoppingCriteriaList([done]),
        )  # fmt: skip
    found = []
    for row in out[:, len(context) :].tolist():
        for t in range(len(row) + 1):
            if support.must_stop(state(row[:t])) or (t < len(row) and row[t] in eos_ids):
                found.append(tuple(row[:t]))
                break
    return list(dict.fromkeys(found))


def test_beams_are_those_of_the_library(tiny: tuple[Target, TransformersModel, tuple[int, ...]]) -> None:
    target, model, context = tiny
    support = target.latents[0].support
    (mine,) = decode(model, [context], support, Decoding(beams=5), keep=5, rng=np.random.default_rng(0), ending="stop")  # fmt: skip
    assert mine == generated(model, context, support, "stop", 5) and len(mine) == 5
    for type in ('int(0..30, lead=" ")', "text(tokens=1..4)", 'text(tokens=2..5, end="free")'):
        info = (
            plm.loads(f'lm base = "tiny"\nprogram p() {{ latent z: {type} ~ base("A") }}').target().latents[0]
        )
        for text, number in (("Tom played in the park.", 2), ("One day, Mia", 3), ("There are", 6)):
            start = model.tokenizer.start_ids + model.tokenizer.encode_start(text)
            (mine,) = beams(model, [start], info.support, number=number, ending="eos")
            assert mine == generated(model, start, info.support, "eos", number), (type, text)
            assert len(mine) == number


def test_greedy_is_that_of_the_library(tiny: tuple[Target, TransformersModel, tuple[int, ...]]) -> None:
    target, model, context = tiny
    support = target.latents[0].support
    contexts = [context, context[:-1], context]
    found = decode(model, contexts, support, Decoding(), keep=1, rng=np.random.default_rng(0), ending="stop")
    assert found == [generated(model, one, support, "stop") for one in contexts] and found[0] != found[1]


def test_narrowing_is_that_of_the_library() -> None:
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    logits = torch.as_tensor(np.random.default_rng(0).normal(0, 2.5, (40, 30)))
    ids = torch.zeros((40, 1), dtype=torch.long)
    for temperature, p, k in ((1.0, 0.8, 0), (0.6, 0.5, 0), (1.7, 1.0, 4), (1.3, 0.9, 7)):
        scores = TemperatureLogitsWarper(temperature)(ids, logits)
        scores = TopKLogitsWarper(k)(ids, scores) if k else scores
        scores = TopPLogitsWarper(p)(ids, scores) if p < 1 else scores
        mine = narrowed(torch.softmax(logits, 1).numpy(), Decoding(temperature=temperature, p=p, k=k))
        wanted = torch.softmax(scores, 1).numpy()
        np.testing.assert_allclose(mine / mine.sum(axis=1, keepdims=True), wanted, atol=1e-12)


def test_decoding_obeys_the_support_and_no_settings_of_the_model() -> None:
    asked = story()
    model = asked.prepared.models["base"]
    assert isinstance(model, TransformersModel)
    own = model._forward.module.generation_config
    before = asked.using("ancestral", n=30).draw(seed=7)
    assert all(v.text.count(".") == 1 and v.text.endswith(".") for v in before.draws.values["middle"])
    assert before.draws.distinct > 10
    state = torch.get_rng_state()
    own.repetition_penalty, own.top_k = 5.0, 1
    try:
        after = asked.using("ancestral", n=30).draw(seed=7)
    finally:
        own.repetition_penalty = own.top_k = None
    assert after.draws.values == before.draws.values
    assert model._forward.module.generation_config is own and torch.equal(state, torch.get_rng_state())
    few = asked.using("top_k", n=30, k=1).draw(seed=7)
    assert few.draws.distinct == 1 and few.draws.values["middle"][0] == asked.using("greedy").draw().draws.values["middle"][0]  # fmt: skip
    assert asked.using("nucleus", n=30, p=0.05).draw().draws.distinct == 1
    cold = asked.using("ancestral", n=30, temperature=0.2).draw(seed=7)
    assert cold.draws.distinct < before.draws.distinct / 2


def test_log_rewards_are_those_of_the_frozen_model() -> None:
    asked = story()
    draws = asked.using("nucleus", n=3).draw(seed=1).draws
    for value, log_reward in zip(draws.values["middle"], draws.log_reward, strict=True):
        assert log_reward == pytest.approx(asked.score({"middle": value.text}).log_reward, abs=1e-4)


def test_only_texts_that_run_out_of_the_window_are_refused() -> None:
    """The limit of a type may be far above what its texts need."""
    source = """lm base = "tiny"
    program p(opening: text) { latent z: text(tokens=1..600, stop=".") ~ base(opening) }"""
    asked = plm.loads(source).using("greedy")
    (found,) = asked.given(opening="Tom played in the park.").draw().draws.values["z"]
    assert found.text.endswith(".") and len(found.ids) < 20
    with pytest.raises(plm.ModelError, match="PLM520"):
        asked.given(opening="Tom" + " ran" * 507).draw()
    with pytest.raises(plm.ModelError, match="PLM520"):
        asked.given(opening="Tom" + " ran" * 520).draw()


def test_decoded_texts_hold_what_their_tools_write() -> None:
    source = """lm base = "tiny"
    tool calc = calculator(trigger="=")
    program p() {
      latent z: text(tokens=1..9, chars="0123456789+-= ", stop=".", tools=calc) ~ base("Question: 9 + 4 = ? Answer:")
    }"""
    asked = plm.loads(source)
    support = asked.target().latents[0].support
    for method, more in (("ancestral", {"n": 20, "temperature": 2.0}), ("beam", {"n": 3})):
        draws = asked.using(method, **more).draw(seed=1).draws
        written = 0
        for value in draws.values["z"]:
            assert support.accepts(value.ids) and value.text.endswith(".")
            for left, right in re.findall(r"(?=\b(\d+ [+-] \d+) =\s*(-?\d+))", value.text):
                a, sign, b = left.split()
                written += int(right) == int(a) + (int(b) if sign == "+" else -int(b))
        assert written > 0
    with pytest.raises(plm.InferenceError, match="PLM775"):
        asked.using("ancestral", masked=False).draw(3)


# ------------------------------------------------------------------- examples


EXAMPLES: list[Mapping[str, object]] = [
    {"opening": "Tom was sad.", "ending": "He went home.", "middle": " He lost his ball."},
    {"opening": "Ben had a dog.", "ending": "They slept.", "middle": " They ran all day."},
    {"opening": "No one knows.", "ending": "It is not known."},
]


def test_few_shot_shows_solved_rows_before_the_prompt(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from posterior_lm.decode import decoders

    read: list[str] = []
    real = decoders.decode

    def spy(model, contexts, *rest, **more):  # type: ignore[no-untyped-def]
        read.extend(model.tokenizer.decode(c) for c in contexts)
        return real(model, contexts, *rest, **more)

    monkeypatch.setattr(decoders, "decode", spy)
    asked_row = {**ASKED, "middle": " It broke his arm."}
    rows = [*EXAMPLES, asked_row]
    story().using("few_shot", n=1, shots=2, examples=rows).draw(seed=1)
    prompt = "Beginning: {opening}\nEnding: {ending}\nMiddle:"
    blocks = [prompt.format(**row) + str(row["middle"]) + "\n\n" for row in EXAMPLES[:2]]
    last = prompt.format(**ASKED)
    orders = ["".join(blocks) + last, "".join(blocks[::-1]) + last]
    assert read[0] in orders and "broke" not in read[0]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for seed in range(1, 7):
        story().using("few_shot", n=1, shots=2, examples=str(file)).draw(seed=seed)
    assert read[0] == read[1] and set(read) == set(orders)


@pytest.mark.parametrize(
    ("method", "options", "code"),
    [("few_shot", {}, "PLM771"), ("few_shot", {"examples": 3}, "PLM771"),
     ("few_shot", {"examples": EXAMPLES, "shots": 3}, "PLM774"),
     ("few_shot", {"examples": "absent.jsonl"}, "PLM801"),
     ("few_shot", {"examples": [{**EXAMPLES[0], "middle": " no stop"}], "shots": 1}, "PLM610"),
     ("few_shot", {"examples": [{"opening": "A", "middle": " B."}], "shots": 1}, "PLM601"),
     ("beam", {"n": 4, "beams": 3}, "PLM770"), ("diverse_beam", {"n": 2, "beams": 4, "groups": 3}, "PLM770"),
     ("greedy", {"masked": "no"}, "PLM802"), ("nucleus", {"p": 0}, "PLM802"), ("top_k", {"k": 0}, "PLM802"),
     ("ancestral", {"temperature": 0}, "PLM802")],
)  # fmt: skip
def test_wrong_options_have_a_code(method: str, options: dict[str, object], code: str) -> None:
    with pytest.raises(plm.PlmError, match=code):
        story().using(method, **options).draw(1 if method == "few_shot" else None)
