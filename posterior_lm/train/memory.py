"""How many token columns of a training pass fit in memory: measured on two small passes, before the first step.

What a backward pass needs is what autograd keeps, so that is what is counted: the same on every
machine, and known before anything is full. On a CPU there is no second chance, since the system ends
the process. Where not even the draws of one row fit, every layer keeps its input alone and is computed
again in the backward pass (Chen et al. 2016, sublinear memory cost), for about a third more time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from weakref import WeakSet

import torch
from attrs import define, frozen
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from posterior_lm.lang.diagnostics import InferenceError
from posterior_lm.train.adapter import Adapter

SHARE = 0.5
"""Of the free memory for what autograd keeps; gradients, the optimiser, caches and one chunk have the rest."""

LEAST = 64
"""Columns below which parts are not made smaller."""


@frozen
class Fit:
    """Token columns of a pass, and whether its layers are computed again."""

    columns: int
    recomputed: bool = False


def fitting(
    score: Callable[[Sequence[int], bool], Tensor], few: Sequence[int], more: Sequence[int],
    width: Callable[[Sequence[int]], int], widest: int, most: int, free: int | None,
) -> Fit:  # fmt: skip
    """At most `most` columns, of which the `widest` part that cannot be divided has so many.

    `score` gives log q of some draws, by recomputation or not; `few` and `more` are two such, `width`
    their columns, `free` bytes. Raises InferenceError PLM626 where the widest part does not fit.
    """
    if free is None or not few:
        return Fit(most)
    need = _need(score, few, more, width, recomputed=False)
    if need(widest) > free * SHARE and _can_recompute(score, few):
        again = _need(score, few, more, width, recomputed=True)
        if again(widest) < need(widest):
            return Fit(_largest(again, widest, most, free), recomputed=True)
    return Fit(_largest(need, widest, most, free))


def _need(
    score: Callable[[Sequence[int], bool], Tensor], few: Sequence[int], more: Sequence[int],
    width: Callable[[Sequence[int]], int], *, recomputed: bool,
) -> Callable[[int], float]:  # fmt: skip
    """Bytes by columns: a line through two passes, since some of it is there once."""
    first, second = (kept_bytes(partial(score, some, recomputed)) for some in (few, more))
    apart = width(more) - width(few)
    slope = (second - first) / apart if apart > 0 else first / width(few)
    once = max(0.0, first - slope * width(few))
    return lambda columns: once + slope * columns


def _largest(need: Callable[[int], float], widest: int, most: int, free: int) -> int:
    if need(min(widest, most)) > free:
        wanted = need(min(widest, most))
        raise InferenceError.of(
            "PLM626",
            f"training needs about {wanted / 2**30:.1f} GiB for the draws of one row, and {free / 2**30:.1f} are free",
            help="take fewer draws a row, shorter rows, or a smaller model",
        )
    columns = most
    while columns > LEAST and need(columns) > free * SHARE:
        columns //= 2
    return columns


@define(eq=False)
class _Kept:
    tensor: Tensor


def kept_bytes(work: Callable[[], object]) -> int:
    """Bytes that autograd still keeps when `work` is done, each memory once, weights aside."""
    kept: WeakSet[_Kept] = WeakSet()

    def keep(tensor: Tensor) -> _Kept:
        one = _Kept(tensor)  # which lives as long as what it is kept for
        kept.add(one)
        return one

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda one: one.tensor):
        found = work()
    own = [k.tensor if k.tensor._base is None else k.tensor._base for k in kept]
    memories = [t.untyped_storage() for t in own if not isinstance(t, torch.nn.Parameter)]
    del found
    return sum({m.data_ptr(): m.nbytes() for m in memories}.values())


def _can_recompute(score: Callable[[Sequence[int], bool], Tensor], few: Sequence[int]) -> bool:
    """Whether the model's code can, and gives the same numbers."""
    try:
        with torch.no_grad():
            plain = score(few, False)
        return torch.allclose(score(few, True), plain, atol=1e-3, rtol=1e-3)
    except Exception:  # a model's code may refuse in any way
        return False


@contextmanager
def recomputing(adapter: Adapter) -> Iterator[None]:
    """Layers called inside keep their input alone; a backward pass computes them again, wherever it runs."""
    module = adapter.base._forward.module
    layers = [m for m in module.modules() if isinstance(m, GradientCheckpointingLayer)]
    again = partial(checkpoint, use_reentrant=False, context_fn=lambda: (nullcontext(), adapter.on()))
    for layer in layers:
        # `training` of this layer alone: its dropout and all else below stays as it is.
        layer.__dict__.update(gradient_checkpointing=True, _gradient_checkpointing_func=again, training=True)
    try:
        yield
    finally:
        for layer in layers:
            layer.__dict__.update(training=False)
            for name in ("gradient_checkpointing", "_gradient_checkpointing_func"):
                del layer.__dict__[name]
