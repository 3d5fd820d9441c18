"""From the last hidden states to what is read of the logits, in chunks: no table of places x vocabulary is ever whole.

A vocabulary is a hundred times wider than what is read of a place, two numbers. So the trunk
gives hidden states, and the module's own last lines, whatever they do (a bias, a scale, a soft
cap), turn a chunk of them into logits, which are gone before the next. With gradients, the
slope of each number with respect to its own hidden state is found in the same breath, as in
fused linear cross-entropy (Hsu et al., 2024, Liger Kernel): a backward pass then needs no
logits, and nothing is computed twice.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from attrs import field, frozen
from torch import Tensor, nn
from transformers import PreTrainedModel

CHUNK = 2**23
"""Logits at a time: 32 MB in float32."""

PROBE = (1, 2, 3, 2, 1)
"""Token ids for the trial."""

Read = Callable[[Tensor, slice], tuple[Tensor, ...]]
"""What is read of (n, V) logits, float32 or better: K columns (n,), row by row; the slice says which of the P places."""


class _Given(nn.Module):
    """In place of a trunk: hands on the hidden states that it is given."""

    def __init__(self, output: type) -> None:
        super().__init__()
        self.output = output

    def forward(self, *args: object, inputs_embeds: Tensor, **options: object) -> Any:
        return self.output(last_hidden_state=inputs_embeds)


@frozen(eq=False)
class Split:
    """A module in two: its trunk, and the module again with a trunk that hands on hidden states."""

    trunk: nn.Module
    last: nn.Module

    def is_frozen(self) -> bool:
        """Whether no weight behind the trunk is trained."""
        return not any(p.requires_grad for p in self.last.parameters())


_splits: WeakKeyDictionary[nn.Module, tuple[Split | None]] = WeakKeyDictionary()


def split(module: PreTrainedModel) -> Split | None:
    """The two parts; None where they do not give the module's own logits, which is tried once."""
    if module not in _splits:
        _splits[module] = (_tried(module),)
    return _splits[module][0]


@torch.inference_mode()
def _tried(module: PreTrainedModel) -> Split | None:
    name, trunk = module.base_model_prefix, module.base_model
    if trunk is module:
        return None
    ids = torch.tensor([PROBE], device=module.device) % module.config.get_text_config(decoder=True).vocab_size
    try:
        plain = module(input_ids=ids, use_cache=False).logits
        found = trunk(input_ids=ids, use_cache=False)
        # A copy shares every weight; only what its own lines call by the trunk's name is another.
        last = copy.copy(module)
        last.__dict__["_modules"] = {**module._modules, name: _Given(type(found))}
        same = last(inputs_embeds=found.last_hidden_state, use_cache=False).logits
        near = same.shape == plain.shape and (same - plain).abs().max() <= 1e-3 * plain.abs().max()
    except Exception:  # a model's code may refuse in any way; whole logits never need this
        return None
    return Split(trunk, last) if near else None


@frozen(eq=False)
class Places:
    """P places of some texts, in front of the head: `states` (P, H), which `logits_of` turns into logits."""

    states: Tensor = field(repr=False)
    logits_of: Callable[[Tensor], Tensor]
    size: int
    """Places in a chunk."""

    def __len__(self) -> int:
        return len(self.states)

    def read(self, read: Read) -> tuple[Tensor, ...]:
        """The K columns (P,) that `read` finds, with gradients where the states have them."""
        if torch.is_grad_enabled() and self.states.requires_grad:
            found: Tensor = _Chunked.apply(self.states, self.logits_of, read, self.size)
            return found.unbind()
        parts = [
            torch.stack(read(self.logits_of(self.states[part]), part)) for part in self._parts(len(self))
        ]
        return torch.cat(parts, dim=1).unbind()

    def logits(self) -> Tensor:
        """(P, V) all of them, for what needs each."""
        return torch.cat([self.logits_of(self.states[part]) for part in self._parts(len(self))])

    def _parts(self, count: int) -> list[slice]:
        return _parts(count, self.size)


def _parts(count: int, size: int) -> list[slice]:
    return [slice(at, min(at + size, count)) for at in range(0, max(count, 1), size)]


class _Chunked(torch.autograd.Function):
    """(K, P) numbers of (P, H) states; each depends on its own state alone, so its slope is all there is to keep."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, logits_of: Callable[[Tensor], Tensor], read: Read, size: int
    ) -> Tensor:
        found, slopes = [], []
        for part in _parts(len(states), size):
            with torch.enable_grad():
                mine = states[part].detach().requires_grad_()
                columns = read(logits_of(mine), part)
                slopes.append([
                    torch.autograd.grad(c.sum(), mine, retain_graph=c is not columns[-1])[0]
                    if c.requires_grad else torch.zeros_like(mine)
                    for c in columns
                ])  # fmt: skip
            found.append(torch.stack([c.detach() for c in columns]))
        ctx.save_for_backward(*(torch.cat(column) for column in zip(*slopes, strict=True)))
        return torch.cat(found, dim=1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        total = None
        for column, slope in zip(grad, ctx.saved_tensors, strict=True):
            part = column[:, None] * slope.to(column.dtype)
            total = part if total is None else total + part
        assert total is not None
        return total.to(ctx.saved_tensors[0].dtype), None, None, None
