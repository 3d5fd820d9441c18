"""Key-value caches as values: copied, cut, expanded and joined; and the store of known prompts.

A cache is a transformers `Cache` with one layer per model layer. `forward` grows a
cache by assigning longer tensors to its layers, so a shallow copy of the layers
shares memory with the original and never changes it.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer

from posterior_lm.lm.forward import Forward

CHUNK = 2048
"""Columns prefilled at a time, so that activations of a long prompt stay small."""

STORE_BYTES = 2**29
"""Half a gibibyte of prompts: 7,000 tokens of GPT-2's keys and values in float32."""


def is_expandable(cache: Cache) -> bool:
    """Whether rows can be repeated and picked: every layer holds plain keys and values."""
    known = (DynamicLayer, DynamicSlidingWindowLayer)
    return bool(cache.layers) and all(
        type(layer) in known and layer.keys is not None for layer in cache.layers
    )


def is_cuttable(cache: Cache) -> bool:
    """Whether columns can be cut off too: no layer forgets old columns."""
    return bool(cache.layers) and all(
        type(layer) is DynamicLayer and layer.keys is not None for layer in cache.layers
    )


class GrowingLayer(DynamicLayer):
    """A layer with room to grow: a step writes its columns instead of copying all earlier ones."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys, values
        self._buffers: tuple[Tensor, Tensor] | None = None  # columns beyond the used ones hold nothing

    def update(self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object):
        """The keys and values with the new columns; the buffers are this layer's own."""
        used = self.keys.shape[-2]
        total = used + key_states.shape[-2]
        if self._buffers is None or total > self._buffers[0].shape[-2]:
            room = total + max(32, total // 2)
            self._buffers = tuple(_with_room(t, room) for t in (self.keys, self.values))  # type: ignore[assignment]
        for buffer, added in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, used:total] = added
        self.keys, self.values = (b[:, :, :total] for b in self._buffers)
        return self.keys, self.values

    def picked(self, rows: Tensor) -> GrowingLayer:
        """The rows (M,) as a layer of its own."""
        used = self.keys.shape[-2]
        if self._buffers is None:
            return GrowingLayer(self.keys.index_select(0, rows), self.values.index_select(0, rows))
        buffers = tuple(b.index_select(0, rows) for b in self._buffers)
        made = GrowingLayer(*(b[:, :, :used] for b in buffers))
        made._buffers = buffers  # type: ignore[assignment]
        return made


def _with_room(tensor: Tensor, columns: int) -> Tensor:
    rows, heads, used, size = tensor.shape
    buffer = tensor.new_empty((rows, heads, columns, size))
    buffer[:, :, :used] = tensor
    return buffer


def growing(cache: Cache) -> Cache:
    """The same cache for many single steps; only layers that forget columns stay as they are."""
    made = copy.copy(cache)
    made.layers = [
        GrowingLayer(la.keys, la.values) if type(la) is DynamicLayer and la.is_initialized else la
        for la in cache.layers
    ]
    return made


def _mapped(cache: Cache, keys_and_values: Iterable[tuple[Tensor, Tensor]]) -> Cache:
    made = copy.copy(cache)
    made.layers = [copy.copy(layer) for layer in cache.layers]
    for layer, (keys, values) in zip(made.layers, keys_and_values, strict=True):
        layer.keys, layer.values = keys, values
    return made


def expanded(cache: Cache, rows: int) -> Cache:
    """The one row of a cache as `rows` rows; no memory is copied until it grows."""
    return _mapped(
        cache, [(la.keys.expand(rows, -1, -1, -1), la.values.expand(rows, -1, -1, -1)) for la in cache.layers]
    )


def cut(cache: Cache, columns: int) -> Cache:
    """The first columns of a cuttable cache, as a view."""
    return _mapped(cache, [(la.keys[:, :, :columns], la.values[:, :, :columns]) for la in cache.layers])


def picked(cache: Cache, rows: Tensor) -> Cache:
    """The rows (M,) of a cache, in that order, possibly repeated."""
    made = copy.copy(cache)
    made.layers = [copy.copy(layer) for layer in cache.layers]
    for i, layer in enumerate(made.layers):
        if isinstance(layer, GrowingLayer):
            made.layers[i] = layer.picked(rows)
        elif layer.is_initialized:
            layer.reorder_cache(rows)
    return made


def joined(caches: Sequence[Cache]) -> Cache:
    """Caches of equally many columns, one below the other."""
    if len(caches) == 1:
        return caches[0]
    layers = zip(*(c.layers for c in caches), strict=True)
    return _mapped(
        caches[0],
        [(torch.cat([la.keys for la in each]), torch.cat([la.values for la in each])) for each in layers],
    )


def size_in_bytes(cache: Cache) -> int:
    return sum(t.numel() * t.element_size() for la in cache.layers for t in (la.keys, la.values))


class PrefixStore:
    """Prefilled prompts by their tokens, one row each; the least recently used go first."""

    def __init__(self, forward: Forward, limit: int = STORE_BYTES) -> None:
        self._forward = forward
        self._limit = limit
        self._caches: OrderedDict[tuple[int, ...], Cache] = OrderedDict()

    def __len__(self) -> int:
        return len(self._caches)

    def prefill(self, tokens: tuple[int, ...]) -> Cache:
        """The cache of a prompt (at least one token). The longest stored beginning of it is reused."""
        known, length = self._nearest(tokens)
        if known is not None:
            self._caches.move_to_end(known)
            if known == tokens:
                return self._caches[known]
        cache = self._forward.new_cache()
        if known is not None and length:
            whole = self._caches[known]
            cache = _mapped(whole, [(la.keys, la.values) for la in whole.layers])
            if length < len(known):
                cache = cut(cache, length)
        for at in range(length, len(tokens), CHUNK):
            self._forward(self._forward.tensor([tokens[at : at + CHUNK]]), cache=cache, keep=1)
        self._caches[tokens] = cache
        self._shrink()
        return cache

    def _nearest(self, tokens: tuple[int, ...]) -> tuple[tuple[int, ...] | None, int]:
        """The stored prompt that shares most with `tokens`, and how many tokens that is."""
        if tokens in self._caches:
            return tokens, len(tokens)
        best: tuple[int, ...] | None = None
        shared = 0
        for key, cache in self._caches.items():
            length = common_length(key, tokens)
            if length > shared and (length == len(key) or is_cuttable(cache)):
                best, shared = key, length
        return best, shared

    def _shrink(self) -> None:
        total = sum(map(size_in_bytes, self._caches.values()))
        while total > self._limit and len(self._caches) > 1:
            _, dropped = self._caches.popitem(last=False)
            total -= size_in_bytes(dropped)


def common_length(a: Sequence[int], b: Sequence[int]) -> int:
    """How many leading tokens two sequences share."""
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))
