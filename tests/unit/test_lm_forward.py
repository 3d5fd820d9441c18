"""The shortcuts of the transformers model: what it measured, laid out, cached and reused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from posterior_lm.lm.hf.abilities import Abilities
from posterior_lm.lm.hf.kv_cache import PrefixStore, common_length, growing, picked, size_in_bytes
from posterior_lm.lm.hf.packed import lay_out, visible
from posterior_lm.lm.hf.rollout import CachedRollout, GroupedRollout, RecomputedRollout
from posterior_lm.lm.hf.transformers import TransformersModel
from posterior_lm.lm.protocol import Branch, Request
from tests.laws.models import build


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp()


@pytest.mark.parametrize(
    ("name", "cached", "packed"),
    [
        ("gpt2", True, True),
        ("llama", True, True),
        ("neox", True, True),
        ("bloom", True, False),
        ("sliding", True, False),
        ("mamba", False, False),
    ],
)
def test_abilities_are_measured(name: str, cached: bool, packed: bool, scratch: Path) -> None:
    model = build(name, scratch)
    assert model.abilities == Abilities(cached, packed)
    assert model.packed == packed


@pytest.mark.parametrize(
    ("name", "kind"), [("gpt2", CachedRollout), ("bloom", GroupedRollout), ("mamba", RecomputedRollout)]
)
def test_sequences_of_several_lengths_open_the_fastest_way(name: str, kind: type, scratch: Path) -> None:
    assert isinstance(build(name, scratch).open([(3,), (3, 4), (5, 6)]), kind)


def test_a_row_lays_branches_beside_the_trunk() -> None:
    request = Request((10, 11, 12, 13), 2, 2, (Branch(2, (20, 21)), Branch(4, (30,)), Branch(3, ())))
    row = lay_out(request, 1)
    assert row.tokens.tolist() == [11, 12, 13, 20, 21, 30]
    assert row.positions.tolist() == [1, 2, 3, 2, 3, 4]
    assert row.first == 0
    spans = [(columns.tolist(), targets.tolist()) for columns, targets in row.spans]
    assert spans == [([0, 1, 2], [12, 13]), ([0, 3, 4], [20, 21]), ([2, 5], [30]), ([1], [])]
    seen = visible([row, lay_out(Request((10, 11, 12), 2, 2), 1)], torch.device("cpu")).int()
    assert seen[0].tolist() == [
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0],
        [1, 1, 0, 0, 1, 0, 0],
        [1, 1, 0, 0, 1, 1, 0],
        [1, 1, 1, 1, 0, 0, 1],
    ]
    assert seen[1, :2].tolist() == [[1, 1, 0, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0, 0]]
    assert (seen.sum(dim=2) > 0).all()  # no row of attention scores is empty


@pytest.mark.parametrize("past", [0, 1])
@pytest.mark.parametrize("start", [2, 4])
def test_a_row_without_branches_is_the_trunk_of_one_with_them(past: int, start: int) -> None:
    ids = (10, 11, 12, 13)
    plain = lay_out(Request(ids, start, 2), past)
    branched = lay_out(Request(ids, start, 2, (Branch(start, (20,)),)), past)
    width = plain.width
    assert width == 4 - past and plain.first == branched.first
    for name in ("tokens", "positions", "owner", "reach"):
        assert getattr(plain, name).tolist() == getattr(branched, name)[:width].tolist()
    (columns, targets), *_ = branched.spans
    ((own_columns, own_targets),) = plain.spans
    assert own_columns.tolist() == columns.tolist() and own_targets.tolist() == targets.tolist()


class Counting:
    """A forward that counts the columns it is given."""

    def __init__(self, forward) -> None:
        self._forward, self.columns = forward, 0

    def __getattr__(self, name: str):
        return getattr(self._forward, name)

    def __call__(self, ids, **options):
        self.columns += ids.numel()
        return self._forward(ids, **options)

    def fill(self, ids, cache):
        self.columns += ids.numel()
        self._forward.fill(ids, cache)

    def places(self, ids, at, **options):
        self.columns += ids.numel()
        return self._forward.places(ids, at, **options)


class Sizes(TorchDispatchMode):
    """Of all that is computed inside, how many numbers each result has."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        self.seen.update(x.numel() for x in tree_leaves(found) if isinstance(x, torch.Tensor))
        return found


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("keep", [1, 2])
def test_the_last_columns_cost_no_copy_of_the_head_for_each_row(name: str, keep: int, scratch: Path) -> None:
    forward = build(name, scratch)._forward
    ids = torch.tensor([[3, 4, 5, 6, 7], [8, 9, 3, 4, 5], [3, 3, 3, 4, 4]])
    whole = forward(ids)
    head = forward.module.get_output_embeddings().weight.numel()
    with torch.no_grad(), Sizes() as sizes:  # inference mode would not show what a layer is made of
        found = forward.logits(ids, keep=keep)
    assert sizes.seen and len(ids) * head not in sizes.seen
    torch.testing.assert_close(found, whole[:, -keep:], atol=1e-5, rtol=1e-5)


def test_a_cache_is_filled_without_a_look_at_what_comes_next(scratch: Path) -> None:
    forward = build("llama", scratch)._forward
    ids = torch.tensor([[3, 4, 5], [6, 7, 8]])
    looked, filled = forward.new_cache(), forward.new_cache()
    forward(ids, cache=looked, keep=1)
    with Sizes() as sizes:
        forward.fill(ids, filled)
    vocabulary = forward.vocabulary_size
    assert not {size for size in sizes.seen if size in (2 * vocabulary, 6 * vocabulary)}
    for a, b in zip(filled.layers, looked.layers, strict=True):
        assert torch.equal(a.keys, b.keys) and torch.equal(a.values, b.values)


def test_the_store_reuses_the_longest_beginning(scratch: Path) -> None:
    forward = Counting(build("llama", scratch)._forward)
    store = PrefixStore(forward)
    spent = []
    for tokens in [(3, 4, 5, 6), (3, 4, 5, 6), (3, 4, 5, 6, 7, 8), (3, 4, 9), (9, 3)]:
        before = forward.columns
        cache = store.prefill(tokens)
        spent.append(forward.columns - before)
        fresh = PrefixStore(build("llama", scratch)._forward).prefill(tokens)
        assert cache.get_seq_length() == len(tokens)
        for a, b in zip(cache.layers, fresh.layers, strict=True):
            torch.testing.assert_close(a.keys, b.keys, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(a.values, b.values, atol=1e-5, rtol=1e-5)
    assert spent == [4, 0, 2, 1, 2]


def test_the_store_forgets_the_least_recently_used(scratch: Path) -> None:
    forward = Counting(build("llama", scratch)._forward)
    one = size_in_bytes(PrefixStore(forward).prefill((3, 4)))
    store = PrefixStore(forward, limit=2 * one)
    for tokens in [(3, 4), (5, 6), (3, 4), (7, 8)]:
        store.prefill(tokens)
    assert len(store) == 2
    before = forward.columns
    store.prefill((3, 4))
    assert forward.columns == before
    store.prefill((5, 6))
    assert forward.columns > before
    assert len(PrefixStore(forward, limit=0)) == 0


def test_a_prompt_is_prefilled_once_for_all(scratch: Path) -> None:
    parts = build("llama", scratch)
    forward = Counting(parts._forward)
    model = TransformersModel(forward, parts.tokenizer, parts.identity)
    assert model.abilities.cached
    prompt = tuple(range(3, 43))
    batch = [Request((*prompt, 50 + i, 9), 40, 40) for i in range(8)]
    for expected in (39 + 8 * 3, 8 * 3):  # the prompt but its last token, then what each adds
        before = forward.columns
        model.score(batch + batch[:3])
        assert forward.columns - before == expected
    before = forward.columns
    model.open([prompt] * 5, shared=40)
    assert forward.columns - before == 1  # the last token, once for five equal sequences


def test_rows_are_kept_in_place_until_half_are_idle(scratch: Path) -> None:
    model = build("gpt2", scratch)
    rollout = model.open([(3, 4), (5,), (6, 7, 8), (9,)])
    fewer = rollout.extend(np.array([0, 2, 3]), np.array([1, 2, 3]))
    assert fewer.row.tolist() == [0, 2, 3] and len(fewer.lengths) == 4
    single = fewer.extend(np.array([1]), np.array([4]))
    assert single.row.tolist() == [0] and len(single.lengths) == 1
    np.testing.assert_allclose(single.log_probs[0], model.open([(6, 7, 8, 2, 4)]).log_probs[0], atol=1e-4)


def test_an_idle_row_never_leaves_the_window(scratch: Path) -> None:
    model = build("gpt2", scratch)
    rollout = model.open([(3,) * 63, (4,)])
    rollout = rollout.extend(np.array([0, 1]), np.array([5, 6]))
    for token in (7, 8, 9):
        rollout = rollout.extend(np.array([len(rollout.row) - 1]), np.array([token]))
    np.testing.assert_allclose(rollout.log_probs[0], model.open([(4, 6, 7, 8, 9)]).log_probs[0], atol=1e-4)


def test_a_cache_grows_without_touching_what_it_was_made_from(scratch: Path) -> None:
    forward = build("llama", scratch)._forward
    base = PrefixStore(forward).prefill((3, 4, 5))
    before = [la.keys.clone() for la in base.layers]
    cache = growing(base)
    for token in range(40):  # beyond the room of the first buffer
        forward(forward.tensor([[token]]), cache=cache)
        if token == 20:
            cache = picked(cache, forward.tensor([0, 0]))
            cache = picked(cache, forward.tensor([1]))
    fresh = PrefixStore(forward).prefill((3, 4, 5, *range(40)))
    for a, b, c, d in zip(cache.layers, fresh.layers, base.layers, before, strict=True):
        torch.testing.assert_close(a.keys, b.keys, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(c.keys, d)


def test_common_length() -> None:
    assert common_length((1, 2, 3), (1, 2, 4, 5)) == 2
    assert common_length((1, 2), (1, 2, 3)) == 2
    assert common_length((), (1,)) == 0
