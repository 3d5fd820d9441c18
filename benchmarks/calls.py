"""Every forward call of a model while something runs, and the seconds of the same calls with nothing around them.

A call is seen where the trunk begins and where the head does, so it does not matter whether the module
was called whole. Bare, it is the trunk on as many rows and columns after as many cached ones, the head on as
many places as were read, and where gradients were on, a backward pass through the log-probs of some token there.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from attrs import define, field
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import DynamicCache

from posterior_lm.lm.hf.transformers import TransformersModel
from posterior_lm.train.adapter import Adapter


@define
class Call:
    """One forward call."""

    rows: int
    columns: int
    past: int
    mask: torch.dtype | None
    gradients: bool
    adapted: bool
    cached: bool
    places: int = 0

    @property
    def positions(self) -> int:
        return self.rows * self.columns


@define
class Recorder:
    """The calls of a model while `on`."""

    on: bool = True
    calls: list[Call] = field(factory=list)
    layer: BaseTunerLayer | None = None
    """One that an adapter is on in, once there is one."""
    cache_name: str | None = None
    """What the model that is watched calls its cache."""

    @property
    def positions(self) -> int:
        """Token columns of all calls, padding too."""
        return sum(call.positions for call in self.calls)

    @contextmanager
    def watching(self, model: TransformersModel) -> Iterator[Recorder]:
        """Calls are recorded inside this block."""
        module, self.cache_name = model._forward.module, model._forward.cache_name
        head = module.get_output_embeddings()
        handles = [
            module.base_model.register_forward_pre_hook(self._trunk, with_kwargs=True),
            head.register_forward_pre_hook(self._head),
        ]
        try:
            yield self
        finally:
            for handle in handles:
                handle.remove()

    def _trunk(self, trunk: nn.Module, args: tuple, options: dict) -> None:
        if not self.on:
            return
        if self.layer is None:
            self.layer = next((m for m in trunk.modules() if isinstance(m, BaseTunerLayer)), None)
        ids = args[0] if args else options["input_ids"]
        cache, mask = options.get(self.cache_name), options.get("attention_mask")
        self.calls.append(Call(
            *ids.shape, 0 if cache is None else cache.get_seq_length(), None if mask is None else mask.dtype,
            torch.is_grad_enabled(),
            self.layer is not None and not self.layer._disable_adapters,
            cache is not None,
        ))  # fmt: skip

    def _head(self, _module: object, args: tuple) -> None:
        if self.on and self.calls:
            self.calls[-1].places += args[0].numel() // args[0].shape[-1]


def bare_seconds(model: TransformersModel, calls: Sequence[Call], adapter: Adapter | None = None) -> float:
    """Seconds of the calls alone."""
    module, config = model._forward.module, model._forward.module.config
    trunk, head = module.base_model, module.get_output_embeddings()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    like = {"device": model._forward.device, "dtype": model._forward.dtype}
    spent = 0.0
    for call in calls:
        ids = torch.randint(10, config.vocab_size, (call.rows, call.columns), device=like["device"])
        options: dict[str, object] = {"use_cache": call.cached}
        if call.cached:
            cache = DynamicCache(config=config)
            for layer in range(config.num_hidden_layers if call.past else 0):
                cache.update(*(torch.randn(call.rows, heads, call.past, width, **like) for _ in "kv"), layer)
            options[str(model._forward.cache_name)] = cache
        if call.mask is not None:
            # Nothing is hidden, whether the mask is added or says what is seen.
            full = torch.ones if call.mask == torch.bool else torch.zeros
            shape = (call.rows, 1, call.columns, call.past + call.columns)
            options["attention_mask"] = full(shape, device=like["device"], dtype=call.mask)
        synchronize(model)
        began = time.perf_counter()
        forward = adapter.model()._forward if adapter is not None and call.adapted else model._forward
        with torch.inference_mode() if not call.gradients else nullcontext():
            states = forward.call(trunk, input_ids=ids, **options).last_hidden_state.flatten(0, 1)
            logits = head(states[-call.places :] if call.places else states[:0])
            if call.gradients and call.adapted:
                picked = torch.log_softmax(logits.float(), dim=-1)[:, 7]
                picked.sum().backward()
        synchronize(model)
        spent += time.perf_counter() - began
    for parameter in () if adapter is None else adapter.parameters.values():
        parameter.grad = None
    return spent


def synchronize(model: TransformersModel) -> None:
    """Until the device has done what it was told."""
    if model._forward.device.type == "cuda":
        torch.cuda.synchronize(model._forward.device)
