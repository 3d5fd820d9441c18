"""Laws that every `LanguageModel` obeys, whatever shortcuts it takes.

Tolerance: 1e-4 nats between two ways of computing a number in float32, which is
what the contract promises; tables are exact.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from posterior_lm.lang.diagnostics import ModelError
from posterior_lm.lm.hf.packed import Limits
from posterior_lm.lm.hf.transformers import TransformersModel
from posterior_lm.lm.protocol import Branch, LanguageModel, Request, Scores, eos_log_probs, unpack_branches
from tests.laws.models import MODELS, build

CLOSE = 1e-4
law = settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="session", name="model", params=list(MODELS))
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return build(request.param, tmp_path_factory.getbasetemp())


def tokens(model: LanguageModel, low: int, high: int) -> st.SearchStrategy[tuple[int, ...]]:
    """Any ids at all, special ones and padding of the vocabulary included."""
    ids = st.integers(0, model.tokenizer.vocabulary_size - 1)
    return st.lists(ids, min_size=low, max_size=high).map(tuple)


@st.composite
def requests(draw: st.DrawFn, model: LanguageModel, prompt: tuple[int, ...]) -> Request:
    """A request that begins with a prompt, and now and then has branches."""
    ids = (*prompt, *draw(tokens(model, 0, 7)))
    start = draw(st.integers(len(prompt), len(ids)))
    at = st.integers(start, len(ids))
    branches = st.lists(st.builds(Branch, at, tokens(model, 0, 5)), max_size=4).map(tuple)
    return Request(ids, start, len(prompt), draw(branches))


def batches(model: LanguageModel, prompt: int = 3) -> st.SearchStrategy[list[Request]]:
    known = tokens(model, prompt, prompt)
    return known.flatmap(lambda p: st.lists(requests(model, p), min_size=1, max_size=5))


def assert_same(a: Scores, b: Scores) -> None:
    assert a.tokens.dtype == a.eos.dtype == np.float64
    np.testing.assert_allclose(a.tokens, b.tokens, atol=CLOSE, rtol=1e-5)
    np.testing.assert_allclose(a.eos, b.eos, atol=CLOSE, rtol=1e-5)
    assert len(a.branches) == len(b.branches)
    for one, other in zip(a.branches, b.branches, strict=True):
        assert_same(one, other)


def by_definition(model: LanguageModel, request: Request) -> Scores:
    """The scores of a request, one fresh next-token distribution after another."""
    if isinstance(model, TransformersModel):
        with torch.inference_mode():
            logits = model._forward.module(input_ids=torch.tensor([request.ids])).logits[0].double()
        table = torch.log_softmax(logits, -1).numpy()[request.start - 1 :]
    else:
        cuts = [request.ids[:t] for t in range(request.start, len(request.ids) + 1)]
        table = np.concatenate([model.open([cut]).log_probs for cut in cuts])
    following = request.ids[request.start :]
    eos = eos_log_probs(table, model.tokenizer.eos_ids)
    tokens = table[np.arange(len(following)), list(following)].astype(np.float64)
    plain = unpack_branches(request)[1:]
    return Scores(tokens, eos, tuple(by_definition(model, p) for p in plain))


def test_it_satisfies_the_protocol(model: LanguageModel) -> None:
    assert isinstance(model, LanguageModel)
    assert len(model.identity.digest) == len(model.tokenizer.digest) == 64
    assert len(model.tokenizer.token_bytes) == model.tokenizer.vocabulary_size
    assert model.open([(0,)]).log_probs.shape == (1, model.tokenizer.vocabulary_size)


@law
@given(data=st.data())
def test_next_token_probabilities_sum_to_one(model: LanguageModel, data: st.DataObject) -> None:
    sequences = data.draw(st.lists(tokens(model, 1, 9), min_size=1, max_size=4))
    log_probs = model.open(sequences).log_probs
    assert log_probs.shape == (len(sequences), model.tokenizer.vocabulary_size)
    np.testing.assert_allclose(np.exp(log_probs.astype(np.float64)).sum(axis=1), 1.0, atol=1e-5)


@law
@given(data=st.data())
def test_a_score_is_what_the_definition_says(model: LanguageModel, data: st.DataObject) -> None:
    for request in (batch := data.draw(batches(model))):
        assert_same(model.score([request])[0], by_definition(model, request))
    assert len(model.score(batch)) == len(batch)


@law
@given(data=st.data())
def test_a_score_is_the_chain_of_a_rollout(model: LanguageModel, data: st.DataObject) -> None:
    ids = data.draw(tokens(model, 4, 12))
    scores = model.score([Request(ids, 2)])[0]
    rollout = model.open([ids[:2]], shared=1)
    for t, token in enumerate(ids[2:]):
        np.testing.assert_allclose(rollout.log_probs[0, token], scores.tokens[t], atol=CLOSE, rtol=1e-5)
        eos = eos_log_probs(rollout.log_probs, model.tokenizer.eos_ids)
        np.testing.assert_allclose(eos[0], scores.eos[t], atol=CLOSE, rtol=1e-5)
        rollout = rollout.extend(np.array([0]), np.array([token]))
    eos = eos_log_probs(rollout.log_probs, model.tokenizer.eos_ids)
    np.testing.assert_allclose(eos[0], scores.eos[-1], atol=CLOSE, rtol=1e-5)


@law
@given(data=st.data())
def test_batched_is_one_by_one_in_any_order(model: LanguageModel, data: st.DataObject) -> None:
    batch = data.draw(batches(model)) + data.draw(batches(model, prompt=1))
    order = data.draw(st.permutations(range(len(batch))))
    together = model.score([batch[i] for i in order] + [batch[order[0]]])
    for i, scores in zip([*order, order[0]], together, strict=True):
        assert_same(scores, model.score([batch[i]])[0])


@law
@given(data=st.data())
def test_a_cached_prompt_changes_nothing(model: LanguageModel, data: st.DataObject) -> None:
    prompt = data.draw(tokens(model, 30, 34))
    other = (*prompt[:17], *data.draw(tokens(model, 14, 14)))  # shares a beginning with the first
    batch = [data.draw(requests(model, p)) for p in (prompt, other) for _ in range(5)]
    for _ in range(2):  # the second time from the cache
        for request, scores in zip(batch, model.score(batch), strict=True):
            assert_same(scores, by_definition(model, request))
    opened = model.open([r.ids for r in batch[:5]], shared=len(prompt)).log_probs
    fresh = np.concatenate([model.open([r.ids]).log_probs for r in batch[:5]])
    np.testing.assert_allclose(opened, fresh, atol=CLOSE, rtol=1e-5)


@law
@given(data=st.data())
def test_branches_are_the_plain_requests_they_stand_for(model: LanguageModel, data: st.DataObject) -> None:
    prompt = data.draw(tokens(model, 6, 6))
    batch = [data.draw(requests(model, prompt)) for _ in range(4)]
    for request, scores in zip(batch, model.score(batch), strict=True):
        trunk, *branches = model.score(unpack_branches(request))
        assert_same(scores, Scores(trunk.tokens, trunk.eos, tuple(branches)))
        for branch, part in zip(request.branches, scores.branches, strict=True):
            assert part.eos[0] == pytest.approx(scores.eos[branch.at - request.start], abs=CLOSE)


@law
@given(data=st.data())
def test_a_rollout_may_be_reordered(model: LanguageModel, data: st.DataObject) -> None:
    sequences = data.draw(st.lists(tokens(model, 1, 8), min_size=2, max_size=5))
    rollout = model.open(sequences)
    for _ in range(3):
        rows = data.draw(st.lists(st.integers(0, len(sequences) - 1), min_size=1, max_size=6))
        added = data.draw(st.lists(tokens(model, 1, 1), min_size=len(rows), max_size=len(rows)))
        sequences = [sequences[r] + t for r, t in zip(rows, added, strict=True)]
        rollout = rollout.extend(np.array(rows), np.array([t[0] for t in added]))
        fresh = np.concatenate([model.open([s]).log_probs for s in sequences])
        np.testing.assert_allclose(rollout.log_probs, fresh, atol=CLOSE, rtol=1e-5)
    assert rollout.extend(np.array([], int), np.array([], int)).log_probs.shape[0] == 0


def test_end_of_text_is_the_sum_over_its_ids(model: LanguageModel) -> None:
    log_probs = model.open([(0, 3)]).log_probs.astype(np.float64)
    total = np.log(np.exp(log_probs[0, list(model.tokenizer.eos_ids)]).sum())
    assert model.score([Request((0, 3), 2)])[0].eos[0] == pytest.approx(total, abs=CLOSE)


def test_the_window_is_kept(model: LanguageModel) -> None:
    if model.max_length is None:
        pytest.skip("the model has no window")
    full = (3,) * model.max_length
    assert len(model.score([Request(full, 1)])[0].eos) == model.max_length
    rollout = model.open([full])
    for attempt in (
        lambda: model.score([Request((*full, 3, 3), 1)]),
        lambda: model.score([Request(full, 1, 0, (Branch(len(full), (3, 3)),))]),
        lambda: model.open([(*full, 3, 3)]),
        lambda: model.open([(3,), (*full, 3, 3)]),
    ):
        with pytest.raises(ModelError) as caught:
            attempt()
        assert caught.value.diagnostics[0].code == "PLM520"
        assert "2 tokens longer" in caught.value.diagnostics[0].message
    with pytest.raises(ModelError) as caught:
        rollout.extend(np.array([0]), np.array([3]))
    assert "1 token longer" in caught.value.diagnostics[0].message


def test_nothing_is_nothing(model: LanguageModel) -> None:
    assert model.score([]) == []
    assert model.open([]).log_probs.shape == (0, model.tokenizer.vocabulary_size)
    whole = model.score([Request((0, 3), 2)])[0]
    assert whole.tokens.shape == (0,) and whole.eos.shape == (1,)


@law
@given(data=st.data())
def test_micro_batches_and_shortcuts_change_nothing(model: LanguageModel, data: st.DataObject) -> None:
    if not isinstance(model, TransformersModel):
        pytest.skip("a table has no shortcuts")
    parts = (model._forward, model.tokenizer, model.identity)
    small = TransformersModel(*parts, limits=Limits(logits=1, columns=20, attention=400))
    bare = TransformersModel(*parts, share_prompts=False, pack=False)
    assert not bare.packed
    prompt = data.draw(tokens(model, 22, 22))
    batch = [data.draw(requests(model, prompt)) for _ in range(6)]
    for many, few, none in zip(model.score(batch), small.score(batch), bare.score(batch), strict=True):
        assert_same(many, few)
        assert_same(many, none)
