"""An adapter folded into the weights, W + s·BA, for drawing alone (Hu et al. 2022, LoRA, section 4.1).

A rollout is many calls on few columns, and an adapter that is on makes two more products in
every layer of every call. Folded in it makes none. The module's own weights are swapped out for
the time of one call and are back, bit for bit, when it ends, so the reward never sees a guide.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from attrs import evolve, field, frozen
from torch import Tensor, nn

from posterior_lm.lm.forward import Forward
from posterior_lm.lm.transformers import TransformersModel

if TYPE_CHECKING:
    from posterior_lm.amortize.adapter import Adapter

MOST = 2**29
"""Bytes of folded weights: for a larger model a second copy costs more than the products."""

Swap = tuple[nn.Parameter, Tensor]
"""A weight of the module, and what stands there while an adapter is folded in."""


@frozen(eq=False)
class MergedForward(Forward):
    """The same module with other weights while it computes; without gradients."""

    swaps: Sequence[Swap] = field(kw_only=True, repr=False)

    def logits(self, ids: Tensor, **options: object) -> Tensor:
        with _swapped(self.swaps):
            return Forward.logits(self, ids, **options)  # type: ignore[arg-type]


def drawing_model(adapter: Adapter) -> TransformersModel:
    """The adapted model as it is now, for draws: ask again after the weights have changed.

    Its numbers are those of `adapter.model()` up to rounding, which it is where the weights are not
    float32 (a small change would be rounded away), not plain matrices, used in more places than one,
    or more than `MOST` bytes.
    """
    swaps = _folded(adapter)
    plain = adapter.model()
    if swaps is None:
        return plain
    base = adapter.base._forward
    forward = MergedForward(base.module, base.vocabulary_size, base.max_length, swaps=swaps)
    identity = evolve(plain.identity, name=f"{plain.identity.name} folded in")
    merged = TransformersModel(forward, plain.tokenizer, identity, limits=plain._limits)
    merged.__dict__["abilities"] = plain.abilities
    return merged


def _folded(adapter: Adapter) -> list[Swap] | None:
    from peft.tuners.lora import Linear

    layers: list[Any] = adapter._layers
    weights: list[nn.Parameter] = []
    for layer in layers:
        weight = getattr(layer.get_base_layer(), "weight", None)
        if type(layer) is not Linear or weight is None or weight.dtype != torch.float32:
            return None
        weights.append(weight)
    places = Counter(id(w) for _, w in adapter.base._forward.module.named_parameters(remove_duplicate=False))
    if any(places[id(w)] != 1 for w in weights) or sum(w.nbytes for w in weights) > MOST:
        return None
    with torch.no_grad():
        return [
            (w, w.detach() + layer.get_delta_weight(adapter._name))
            for layer, w in zip(layers, weights, strict=True)
        ]


@contextmanager
def _swapped(swaps: Sequence[Swap]) -> Iterator[None]:
    before = [weight.data for weight, _ in swaps]
    try:
        for weight, other in swaps:
            weight.data = other
        yield
    finally:
        for (weight, _), own in zip(swaps, before, strict=True):
            weight.data = own
