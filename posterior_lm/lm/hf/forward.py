"""The one place that calls a transformers model, and what it hands back."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import torch
from attrs import field, frozen
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import Cache

from posterior_lm.lang.diagnostics import ModelError
from posterior_lm.lm.hf.head import CHUNK, Places, Split, split
from posterior_lm.lm.hf.threads import threads

CACHE_NAMES = ("cache", "past_key_values")
_cache_names: WeakKeyDictionary[type[PreTrainedModel], str | None] = WeakKeyDictionary()


@frozen(eq=False)
class Forward:
    """A frozen model behind one call. Letters: B rows, L columns, P cached columns, V vocabulary."""

    module: PreTrainedModel = field(repr=False)
    vocabulary_size: int
    max_length: int | None

    @cached_property
    def parameters(self) -> frozenset[str]:
        return frozenset(inspect.signature(self.module.forward).parameters)

    @cached_property
    def cache_name(self) -> str | None:
        """What the module's code calls its cache, which libraries rename: found by calling it; None: it fills none."""
        kind = type(self.module)
        if kind not in _cache_names:
            likely = [n for n in self.parameters if "cache" in n or "past" in n]
            _cache_names[kind] = next(filter(self._fills, dict.fromkeys([*likely, *CACHE_NAMES])), None)
        return _cache_names[kind]

    @torch.inference_mode()
    def _fills(self, name: str) -> bool:
        try:
            cache = self.new_cache()
            self.call(self.module, input_ids=self.tensor([[0]]), **{"use_cache": True, name: cache})
        except Exception:  # code may refuse an argument in any way
            return False
        return any(getattr(layer, "keys", None) is not None for layer in cache.layers)

    @property
    def device(self) -> torch.device:
        return self.module.device

    @property
    def dtype(self) -> torch.dtype:
        return self.module.dtype

    def new_cache(self) -> Cache:
        return DynamicCache(config=self.module.config)

    @torch.inference_mode()
    def __call__(self, ids: Tensor, **options: Any) -> Tensor:
        """`logits` without gradients, by as many threads as suit such a call."""
        with threads(self, ids.numel()):
            return self.logits(ids, **options)

    def logits(
        self,
        ids: Tensor,
        *,
        cache: Cache | None = None,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
        keep: int = 0,
    ) -> Tensor:
        """(B, K, V) logits, float32 or better, of the last `keep` columns (0: of all L).

        `ids` (B, L) continue the `cache`, which grows by L columns in place. Without
        `mask` attention is causal; `mask` (B, 1, L, P + L) is added to the scores.
        `positions` (B, L) where they are not simply those that follow the cache.
        """
        options = self._options(cache, mask, positions)
        if keep and ids.shape[1] > keep and (parts := self.split) is not None:
            states = self.call(parts.trunk, input_ids=ids, **options).last_hidden_state[:, -keep:]
            # Of rows that do not lie side by side a linear layer multiplies each with a copy of its weights.
            return _precise(parts.last(inputs_embeds=states.contiguous(), use_cache=False).logits)
        if keep and "logits_to_keep" in self.parameters:
            options["logits_to_keep"] = keep
        logits = self.call(self.module, input_ids=ids, **options).logits
        if keep and logits.shape[1] > keep:
            logits = logits[:, -keep:]
        return _precise(logits)

    @torch.inference_mode()
    def fill(self, ids: Tensor, cache: Cache) -> None:
        """Let the cache grow by the columns of `ids` (B, L), without a look at what comes next."""
        with threads(self, ids.numel()):
            if (parts := self.split) is None:
                self.logits(ids, cache=cache, keep=1)
            else:
                self.call(parts.trunk, input_ids=ids, **self._options(cache, None, None))

    def places(
        self,
        ids: Tensor,
        at: Tensor,
        *,
        cache: Cache | None = None,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Places:
        """What is predicted at the places `at` (P,) of `ids` (B, L), numbered row by row; options as `logits`."""
        parts = self.split
        size = max(1, CHUNK // self.vocabulary_size)
        # A place may be read twice; the gradient of an index by pairs would add those up in any order.
        if parts is None:
            keep = ids.shape[1] - int((at % ids.shape[1]).min())
            logits = self.logits(ids, cache=cache, mask=mask, positions=positions, keep=keep)
            row, column = at // ids.shape[1], at % ids.shape[1] - (ids.shape[1] - keep)
            return Places(logits.flatten(0, 1).index_select(0, row * keep + column), _precise, size)
        states = self.call(
            parts.trunk, input_ids=ids, **self._options(cache, mask, positions)
        ).last_hidden_state
        last = parts.last
        return Places(
            states.flatten(0, 1).index_select(0, at),
            lambda chosen: _precise(last(inputs_embeds=chosen[None], use_cache=False).logits[0]),
            size,
        )

    @property
    def split(self) -> Split | None:
        """The module in front of its head and behind, where the two may be called apart."""
        parts = split(self.module)
        return parts if parts is not None and parts.is_frozen() else None

    def _options(
        self, cache: Cache | None, mask: Tensor | None, positions: Tensor | None
    ) -> dict[str, object]:
        options: dict[str, object] = {"use_cache": cache is not None}
        if cache is not None:
            if self.cache_name is None:
                raise TypeError(f"{type(self.module).__name__} fills no cache")
            options[self.cache_name] = cache
        if mask is not None:
            options["attention_mask"] = mask
        if positions is not None:
            options["position_ids"] = positions
        return options

    def call(self, part: nn.Module, **options: object) -> Any:
        """What the module, or its trunk, returns."""
        return part(**options)

    def check_window(self, tokens: int) -> None:
        """Raises `ModelError` (PLM520) where a sequence of that many tokens does not fit."""
        if self.max_length is not None and tokens > self.max_length:
            extra = tokens - self.max_length
            many = f"{extra} token{'s' * (extra > 1)}"
            raise ModelError.of(
                "PLM520",
                f"a sequence of {tokens} tokens is {many} longer than the model's window of {self.max_length}",
                help=f"shorten the context or the text by {many}, or use a model with a longer window",
            )

    def tensor(self, values: object) -> Tensor:
        """Whole numbers on the model's device."""
        return torch.as_tensor(values, dtype=torch.long, device=self.device)

    def padded(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """(B, L) ids, padded on the right with id 0, which no earlier column can see."""
        width = max(map(len, rows))
        return self.tensor([[*row, *[0] * (width - len(row))] for row in rows])

    def additive(self, visible: Tensor) -> Tensor:
        """(B, 1, L, P + L) mask to add to attention scores, of (B, L, P + L) booleans."""
        blocked = torch.finfo(self.dtype).min
        mask = torch.zeros(visible.shape, dtype=self.dtype, device=self.device)
        return mask.masked_fill_(~visible, blocked).unsqueeze(1)


def _precise(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()
