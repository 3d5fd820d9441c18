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

from posterior_lm.lm.hf.forward import Forward

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
    """A layer with room for columns and rows: a step, and a row that is copied, write only what is new."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys, values
        self._buffers: tuple[Tensor, Tensor] | None = None  # what lies beyond keys and values holds nothing

    def _room(self, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        """This layer's own buffers, with at least so much room."""
        if self._buffers is None or rows > self._buffers[0].shape[0] or columns > self._buffers[0].shape[2]:
            if rows > self.keys.shape[0]:
                rows *= 2
            columns += max(32, columns // 2)  # the next step wants one more
            self._buffers = _with_room(self.keys, rows, columns), _with_room(self.values, rows, columns)
        return self._buffers

    def _shrunk_to(self, rows: int, columns: int) -> None:
        assert self._buffers is not None
        self.keys, self.values = (b[:rows, :, :columns] for b in self._buffers)

    def update(self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object):
        """The keys and values with the new columns."""
        rows, _, used, _ = self.keys.shape
        total = used + key_states.shape[-2]
        for buffer, added in zip(self._room(rows, total), (key_states, value_states), strict=True):
            buffer[:rows, :, used:total] = added
        self._shrunk_to(rows, total)
        return self.keys, self.values

    def copy_rows(self, source: Tensor, target: Tensor, rows: int) -> None:
        """Write rows `source` (M,) over rows `target` (M,), of then `rows` in all."""
        have, _, used, _ = self.keys.shape
        old = int((target < have).sum())  # these come first; the others are new rows, in order
        for buffer in self._room(rows, used):
            copied = buffer[:, :, :used].index_select(0, source)
            if old:
                buffer[target[:old], :, :used] = copied[:old]
            buffer[have:rows, :, :used] = copied[old:]
        self._shrunk_to(rows, used)

    def picked(self, rows: Tensor) -> GrowingLayer:
        """The rows (M,) as a layer of its own."""
        return GrowingLayer(self.keys.index_select(0, rows), self.values.index_select(0, rows))


def _with_room(tensor: Tensor, rows: int, columns: int) -> Tensor:
    have, heads, used, size = tensor.shape
    buffer = tensor.new_empty((max(rows, have), heads, max(columns, used), size))
    buffer[:have, :, :used] = tensor
    return buffer


@torch.inference_mode()
def copy_rows(cache: Cache, source: Tensor, target: Tensor, rows: int) -> bool:
    """Copy rows within a cache, in place; False, and nothing done, where a layer has no room for that."""
    layers = [la for la in cache.layers if isinstance(la, GrowingLayer)]
    if len(layers) < len(cache.layers):
        return False
    for layer in layers:
        layer.copy_rows(source, target, rows)
    return True


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
            self._forward.fill(self._forward.tensor([tokens[at : at + CHUNK]]), cache)
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
