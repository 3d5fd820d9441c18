"""An adapter folded into the weights, W + s·BA (Hu et al. 2022, LoRA, section 4.1).

A rollout is many calls on few columns, and an adapter that is on makes two more products in
every layer of every call. Folded in it makes none. A training pass over a small model gains too:
its rank is not small beside its width. The module's own weights are swapped out for the time of
one call and are back, bit for bit, when it ends, so the reward never sees a guide.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from attrs import evolve, field, frozen
from torch import Tensor, nn
from torch.func import functional_call

from posterior_lm.lm.forward import Forward
from posterior_lm.lm.transformers import TransformersModel

if TYPE_CHECKING:
    from posterior_lm.amortize.adapter import Adapter

MOST = 2**29
"""Bytes of folded weights: for a larger model a second copy costs more than the products."""

DEARER = 3
"""Products of a column with an adapter's matrices that a training pass makes: forward, and backward for
its input and for the matrices. Folded in, it makes one with a gradient of the layer's whole weight."""

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

    Its numbers are those of `adapter.model()` up to rounding, which it is where the weights are in
    half precision (a small change would be rounded away), not plain matrices, used in more places than one,
    or more than `MOST` bytes.
    """
    swaps = _folded(adapter)
    plain = adapter.model()
    if swaps is None:
        return plain
    base = adapter.base._forward
    return _like(plain, MergedForward(base.module, base.vocabulary_size, base.max_length, swaps=swaps))


@frozen(eq=False)
class TrainedForward(Forward):
    """The same module with the folded weights in place of its own, and the gradients of the adapter's."""

    adapter: Adapter = field(kw_only=True, repr=False)
    layers: Mapping[str, tuple[Any, nn.Parameter]] = field(kw_only=True, repr=False)

    def call(self, **options: object) -> Any:
        name = self.adapter._name
        folded = {
            place: weight.detach() + layer.get_delta_weight(name)
            for place, (layer, weight) in self.layers.items()
        }
        return functional_call(self.module, folded, args=(), kwargs=options)


def training_model(adapter: Adapter) -> TransformersModel:
    """The adapted model for passes with gradients, by whichever way has fewer products.

    The same numbers and gradients as `adapter.model()` up to rounding, which it is where
    `drawing_model` would be or where the ranks are small beside the layers.
    """
    layers = _layers(adapter)
    plain = adapter.model()
    if layers is None:
        return plain
    rank = adapter.config.r
    whole = sum(weight.numel() for _, weight in layers.values())
    if whole >= DEARER * rank * sum(sum(weight.shape) for _, weight in layers.values()):
        return plain
    base = adapter.base._forward
    return _like(
        plain,
        TrainedForward(base.module, base.vocabulary_size, base.max_length, adapter=adapter, layers=layers),
    )


def _like(plain: TransformersModel, forward: Forward) -> TransformersModel:
    identity = evolve(plain.identity, name=f"{plain.identity.name} folded in")
    found = TransformersModel(forward, plain.tokenizer, identity, limits=plain._limits)
    found.__dict__["abilities"] = plain.abilities
    return found


def _layers(adapter: Adapter) -> dict[str, tuple[Any, nn.Parameter]] | None:
    """Every adapted layer and its own weight, by the weight's name in the module; None where it cannot be folded."""
    from peft.tuners.lora import Linear

    named = list(adapter.base._forward.module.named_parameters(remove_duplicate=False))
    places = Counter(id(w) for _, w in named)
    names = {id(w): n for n, w in named}
    found: dict[str, tuple[Any, nn.Parameter]] = {}
    for layer in adapter._layers:
        weight = getattr(layer.get_base_layer(), "weight", None)
        if type(layer) is not Linear or weight is None or weight.dtype not in (torch.float32, torch.float64):
            return None
        if places[id(weight)] != 1:
            return None
        found[names[id(weight)]] = (layer, weight)
    return found if sum(w.nbytes for _, w in found.values()) <= MOST else None


def _folded(adapter: Adapter) -> list[Swap] | None:
    layers = _layers(adapter)
    if layers is None:
        return None
    with torch.no_grad():
        return [(w, w.detach() + layer.get_delta_weight(adapter._name)) for layer, w in layers.values()]


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
