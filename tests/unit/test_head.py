"""Numbers read of logits chunk by chunk: the same as of whole logits, in memory that knows nothing of the length."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from posterior_lm.lm.hf import forward as forwards
from posterior_lm.lm.hf.forward import Forward
from posterior_lm.lm.hf.head import Places, split

TOY = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "pad_token_id": 0, "initializer_range": 0.3,
}  # fmt: skip
ODD = {
    "gemma2": {"final_logit_softcapping": 2.0, "head_dim": 8},
    "cohere": {"logit_scale": 0.3},
    "granite": {"logits_scaling": 8.0},
    "phi": {},  # its head has a bias
    "mamba": {"state_size": 4},
    "gpt2": {},
    "llama": {},
}
WHOLE = {"opt": {"ffn_dim": 64, "word_embed_proj_dim": 32}}
"""Its trunk is called by another name than the one it goes by."""


def module_of(kind: str, vocabulary: int = 300, **options: object) -> PreTrainedModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, vocab_size=vocabulary, **{**TOY, **options})
    module: PreTrainedModel = AutoModelForCausalLM.from_config(config).eval()
    if module.get_output_embeddings().bias is not None:
        torch.nn.init.normal_(module.get_output_embeddings().bias)
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    return module


def some(logits: Tensor, part: slice) -> tuple[Tensor, Tensor]:
    """Two numbers of a row, unlike each other."""
    log_probs = torch.log_softmax(logits, dim=1)
    tokens = torch.arange(7, 1000)[part]
    return log_probs.gather(1, tokens[:, None])[:, 0], torch.logsumexp(log_probs[:, [2, 5]], dim=1)


def gradient(places: Places, states: Tensor) -> tuple[Tensor, Tensor]:
    found = torch.stack(places.read(some))
    weights = torch.linspace(-1, 2, found.numel()).view_as(found)
    (slope,) = torch.autograd.grad((weights * found).sum(), states)
    return found.detach(), slope


@pytest.mark.parametrize("kind", [*ODD, *WHOLE])
def test_chunks_give_the_numbers_and_the_gradient_of_whole_logits(kind: str) -> None:
    module = module_of(kind, **{**ODD, **WHOLE}[kind])
    parts = split(module)
    assert (parts is None) == (kind in WHOLE)
    ids = torch.arange(20).view(2, 10)
    at = torch.tensor([1, 2, 8, 8, 11, 19, 12])  # one of them twice
    plain = module(input_ids=ids).logits.flatten(0, 1).index_select(0, at)
    expected = torch.stack(some(plain, slice(0, 7)))
    with torch.inference_mode():
        found = torch.stack(Forward(module, 300, None).places(ids, at).read(some))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    if parts is not None:
        states = parts.trunk(input_ids=ids).last_hidden_state.flatten(0, 1).index_select(0, at)
        states = states.detach().requires_grad_()
        logits_of: Callable[[Tensor], Tensor] = lambda s: parts.last(inputs_embeds=s[None]).logits[0]  # noqa: E731
        whole = torch.stack(some(logits_of(states), slice(0, 7)))
        weights = torch.linspace(-1, 2, whole.numel()).view_as(whole)
        (slope,) = torch.autograd.grad((weights * whole).sum(), states)
        for size in (1, 3, 7, 100):
            numbers, mine = gradient(Places(states, logits_of, size), states)
            torch.testing.assert_close(numbers, whole.detach(), atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(mine, slope, atol=1e-5, rtol=1e-5)


def test_a_head_that_is_trained_is_not_passed_by() -> None:
    """Its weights need a gradient, which slopes by hidden states have none of."""
    module = module_of("llama")
    forward = Forward(module, 300, None)
    assert forward.split is not None
    module.get_output_embeddings().weight.requires_grad_(True)
    assert forward.split is None
    ids = torch.arange(10)[None]
    sum(c.sum() for c in forward.places(ids, torch.tensor([3, 4])).read(some)).backward()  # type: ignore[union-attr]
    slope = module.get_output_embeddings().weight.grad
    assert slope is not None and float(slope.abs().sum()) > 0


@pytest.mark.parametrize("gradients", [False, True])
def test_no_table_of_places_and_vocabulary_is_made(gradients: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Peak of all allocations: hidden states, what backward needs of them, and a few tables of one chunk."""
    vocabulary, places = 50_000, 600
    module = module_of("llama", vocabulary)
    monkeypatch.setattr(forwards, "CHUNK", 20 * vocabulary)
    forward = Forward(module, vocabulary, None)
    assert forward.split is not None
    ids = torch.randint(10, vocabulary, (6, 100), generator=torch.Generator().manual_seed(0))
    if gradients:
        module.get_input_embeddings().register_forward_hook(lambda _m, _i, out: out.requires_grad_())

    def work() -> Any:
        with torch.set_grad_enabled(gradients):
            columns = forward.places(ids, torch.arange(places)).read(some)
            if gradients:
                sum(c.sum() for c in columns).backward()  # type: ignore[union-attr]

    chunk = 20 * vocabulary * 4
    assert peak(work) < 7 * chunk < places * vocabulary * 4 / 4


def peak(work: Callable[[], object]) -> int:
    """Most bytes of tensors alive at once while `work` runs, beside what was there before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        work()
    assert seen.profiler is not None
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    total = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        total += event.nbytes()
        most = max(most, total)
    assert most > 0
    return most
