"""An adapter folded into the weights: the same numbers, and the module's own weights back bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from posterior_lm.lm.hf.transformers import TransformersModel
from posterior_lm.train import adapter as merging
from posterior_lm.train.adapter import Adapter, MergedForward, TrainedForward, drawing_model, training_model
from tests.laws.models import WIDE, byte_level_tokenizer, write_model
from tests.unit.test_adapter import IDS, far, logits, stir

KINDS = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, **WIDE},
    "llama": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4},
}


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Toys whose linear layers lie both ways round."""
    where = tmp_path_factory.mktemp(request.param)
    return write_model(where, request.param, byte_level_tokenizer(), eos=0, **KINDS[request.param])


@pytest.fixture
def base(folder: Path) -> TransformersModel:
    return TransformersModel.from_folder(folder)


def folded(model: TransformersModel) -> bool:
    return isinstance(model._forward, MergedForward)


def test_it_has_the_numbers_of_the_adapted_model(base: TransformersModel) -> None:
    before = logits(base)
    first, second = stir(Adapter.new(base, rank=3), 1), stir(Adapter.new(base, rank=2), 2)
    merged = drawing_model(first)
    assert folded(merged)
    torch.testing.assert_close(logits(merged), logits(first.model()), atol=2e-4, rtol=1e-4)
    assert far(logits(merged), before) and far(logits(merged), logits(drawing_model(second)))


def test_the_base_is_itself_bit_for_bit_while_a_rollout_is_under_way(base: TransformersModel) -> None:
    before = logits(base)
    weights = {n: p.detach().clone() for n, p in base._forward.module.named_parameters()}
    adapter = stir(Adapter.new(base, rank=3))
    with adapter.on():
        on = logits(base)
    rollout = drawing_model(adapter).open([IDS[:3], IDS[:4]])
    assert torch.equal(logits(base), before)
    ahead = rollout.extend(np.array([0, 1]), np.array([IDS[3], IDS[4]])).log_probs
    with adapter.on():
        assert torch.equal(logits(base), on)
    wanted = adapter.model().open([IDS[:4], IDS[:5]]).log_probs
    np.testing.assert_allclose(ahead, wanted, atol=5e-4)
    kept = {n.replace(".base_layer", ""): p for n, p in base._forward.module.named_parameters()}
    assert all(torch.equal(weights[n], kept[n]) for n in weights)


def test_the_base_is_itself_again_after_a_failure(base: TransformersModel) -> None:
    before = logits(base)
    merged = drawing_model(stir(Adapter.new(base, rank=3)))

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    handle = base._forward.module.get_output_embeddings().register_forward_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        logits(merged)
    handle.remove()
    assert torch.equal(logits(base), before)


def test_it_stays_as_it_was_when_the_weights_change(base: TransformersModel) -> None:
    adapter = stir(Adapter.new(base, rank=3), 1)
    merged = drawing_model(adapter)
    before = logits(merged)
    stir(adapter, 2)
    assert torch.equal(logits(merged), before)
    assert far(logits(drawing_model(adapter)), before)


def test_gradients_reach_the_adapter_after_a_draw(base: TransformersModel) -> None:
    adapter = stir(Adapter.new(base, rank=3))
    logits(drawing_model(adapter))
    with adapter.on():
        base._forward.logits(torch.tensor([IDS])).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in adapter.parameters.values())


def test_what_cannot_be_folded_in_is_left_on(
    folder: Path, base: TransformersModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = stir(Adapter.new(TransformersModel.from_folder(folder, dtype="bfloat16"), rank=3))
    assert not folded(drawing_model(half)), "a small change of a rounded weight would be rounded away"
    adapter = stir(Adapter.new(base, rank=3))
    assert folded(drawing_model(adapter))
    monkeypatch.setattr(merging, "MOST", 100)
    assert not folded(drawing_model(adapter))


def test_a_weight_that_stands_in_two_places_is_not_folded_into(base: TransformersModel) -> None:
    adapter = stir(Adapter.new(base, rank=3))
    layer = adapter._layers[0].get_base_layer()
    base._forward.module.register_module("again", nn.Linear(1, 1))
    base._forward.module.again.weight = layer.weight
    assert not folded(drawing_model(adapter))


def gradients(model: TransformersModel, adapter: Adapter) -> tuple[torch.Tensor, list[torch.Tensor]]:
    for parameter in adapter.parameters.values():
        parameter.grad = None
    found = model._forward.logits(torch.tensor([IDS]))
    (found.log_softmax(-1)[..., 5] * torch.linspace(1, 2, len(IDS))).sum().backward()
    return found.detach(), [p.grad.clone() for p in adapter.parameters.values() if p.grad is not None]


def trained(model: TransformersModel) -> bool:
    return isinstance(model._forward, TrainedForward)


def test_a_training_pass_has_the_numbers_and_the_gradients_of_the_adapted_model(
    base: TransformersModel,
) -> None:
    before = logits(base)
    adapter, other = stir(Adapter.new(base, rank=12), 1), stir(Adapter.new(base, rank=12), 2)
    model = training_model(adapter)
    assert trained(model)
    wanted, slopes = gradients(adapter.model(), adapter)
    found, own = gradients(model, adapter)
    torch.testing.assert_close(found, wanted, atol=2e-4, rtol=1e-4)
    assert len(own) == len(slopes) == len(adapter.parameters)
    for a, b in zip(own, slopes, strict=True):
        torch.testing.assert_close(a, b, atol=2e-4, rtol=1e-3)
    assert any(float(b.abs().max()) > 1e-2 for b in slopes)
    assert far(found, gradients(training_model(other), other)[0])
    assert torch.equal(logits(base), before)
    assert all(p.grad is None for p in base._forward.module.parameters() if not p.requires_grad)


def test_a_training_pass_reads_the_weights_as_they_are_by_then(base: TransformersModel) -> None:
    adapter = stir(Adapter.new(base, rank=12))
    model = training_model(adapter)
    before = gradients(model, adapter)[0]
    stir(adapter, 3)
    assert far(gradients(model, adapter)[0], before)


def test_a_training_pass_is_folded_where_that_makes_fewer_products(base: TransformersModel) -> None:
    assert not trained(training_model(Adapter.new(base, rank=1))), "two thin products cost less than one"
    half = Adapter.new(base, rank=12)
    base._forward.module.to(torch.bfloat16)
    assert not trained(training_model(half))
    base._forward.module.to(torch.float64)
    assert trained(training_model(half))
