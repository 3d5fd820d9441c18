"""The laws of the log reward where the model is a small random transformer or the packaged one."""

from __future__ import annotations

import numpy as np
import pytest

from posterior_lm.infer.guide import PriorGuide
from posterior_lm.lm.protocol import LanguageModel, Request
from posterior_lm.target.target import Target
from tests.laws.models import build
from tests.strategies import compiled

MODELS = ("gpt2", "llama", "mamba", "tiny")
CLOSE = {"atol": 1e-4, "rtol": 1e-5}


@pytest.fixture(scope="module", params=MODELS)
def lm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return build(request.param, tmp_path_factory.getbasetemp())


def target_of(lm: LanguageModel, body: str) -> Target:
    return compiled(f'lm base = "m"\nprogram prog(q: text) {{ {body} }}', {"q": "the a"}, {"base": lm})


def draws(target: Target, n: int) -> dict:
    return dict(PriorGuide(target).sample(np.random.default_rng(3), n).values)


def scored(lm: LanguageModel, context: tuple[int, ...], text: tuple[int, ...], *, ends: bool) -> float:
    """The model's own numbers, one sequence by itself."""
    (found,) = lm.score([Request(context + text, len(context))])
    return float(found.tokens.sum()) + (float(found.eos[-1]) if ends else 0.0)


def begun(lm: LanguageModel, text: str) -> tuple[int, ...]:
    return lm.tokenizer.start_ids + lm.tokenizer.encode_start(text)


def test_a_program_by_hand(lm: LanguageModel) -> None:
    """Known text joined, latents as they are, what follows them by itself, end-of-text where it counts."""
    body = """latent z: text(tokens=1..4) ~ base("the", " a")
              observe [" a", q] ~ base(z, "ed")
              observe z ~ base(q) ^ 2
              observe [z, "e"] ~ base(q, q)"""
    target = target_of(lm, body)
    values = draws(target, 5)
    encode = lm.tokenizer.encode
    wanted = [
        [
            scored(lm, begun(lm, "the a"), z, ends=True),
            scored(lm, lm.tokenizer.start_ids + z + encode("ed"), encode(" athe a"), ends=False),
            2 * scored(lm, begun(lm, "the a"), z, ends=True),
            scored(lm, begun(lm, "the athe a"), z + encode("e"), ends=False),
        ]
        for z in (v.ids for v in values["z"])
    ]
    np.testing.assert_allclose(target.terms(values), wanted, **CLOSE)


def test_batched_is_one_by_one(lm: LanguageModel) -> None:
    body = """latent x: text(tokens=1..5, stop="e") ~ base(q)
              latent z: text(tokens=0..6) ~ base(x, q)
              observe ["the", x] ~ base(z)
              factor 0.1 * log_prob(z, base())"""
    target = target_of(lm, body)
    values = draws(target, 12)
    alone = np.concatenate([target.terms({k: [v[d]] for k, v in values.items()}) for d in range(12)])
    np.testing.assert_allclose(target.terms(values), alone, **CLOSE)
    order = np.array([7, 3, 3, 11, 0, 7])
    np.testing.assert_allclose(
        target.terms({k: [v[d] for d in order] for k, v in values.items()}), alone[order], **CLOSE
    )


@pytest.mark.parametrize("end", ("", ', stop="e"', ', end="free"'))
def test_a_second_look_is_a_square(lm: LanguageModel, end: str) -> None:
    square = target_of(lm, f"latent z: text(tokens=1..4{end}) ~ base(q) ^ 2")
    twice = target_of(lm, f"latent z: text(tokens=1..4{end}) ~ base(q) observe z ~ base(q)")
    values = draws(square, 6)
    np.testing.assert_allclose(square.log_reward(values), twice.log_reward(values), **CLOSE)


def test_end_of_text_by_hand_is_the_terminator(lm: LanguageModel) -> None:
    """Also where several tokens end a text: their probabilities are added."""
    body = 'latent z: text(tokens=1..4) ~ base(q) observe [z, eos] ~ base(q) observe ["", eos] ~ base(q, z)'
    target = target_of(lm, body)
    terms = target.terms(draws(target, 6))
    np.testing.assert_allclose(terms[:, 1], terms[:, 0], **CLOSE)
    alone = target_of(lm, 'latent z: text(tokens=1..4, end="free") ~ base(q)').log_reward(draws(target, 6))
    np.testing.assert_allclose(alone + terms[:, 2], terms[:, 0], **CLOSE)


@pytest.mark.parametrize("context", ("", '"the"'))
def test_choice_is_the_model_renormalised_over_the_values_tokens(lm: LanguageModel, context: str) -> None:
    """Also at the very start, where a tokenizer may begin a text in another way."""
    type_ = 'one_of("the", "a", "ed a")'
    chosen = target_of(lm, f"latent z: {type_} ~ choice(base({context}))")
    plain = target_of(lm, f"latent z: {type_} ~ base({context})")
    values = {"z": [plain.value("z", c) for c in ("the", "a", "ed a")]}
    scores = plain.log_reward(values)
    np.testing.assert_allclose(chosen.log_reward(values), scores - np.logaddexp.reduce(scores), **CLOSE)


@pytest.mark.parametrize("dist", ("uniform()", "categorical([0.5, 0.3, 0.2])", "choice(base())", "base()"))
def test_a_guide_changes_no_number(lm: LanguageModel, dist: str) -> None:
    """Also where it alone says which model spells a latent, and the latent opens a context."""
    body = f'latent z: one_of("the", "a", "ed a") ~ {dist} observe "ed" ~ base(z) observe z ~ base()'
    plain, guided = target_of(lm, body), target_of(lm, body + " guide z ~ base(q)")
    assert plain.program.fingerprint == guided.program.fingerprint
    found = [t.terms({"z": [t.value("z", c) for c in ("the", "a", "ed a")]}) for t in (plain, guided)]
    np.testing.assert_allclose(*found, **CLOSE)
