"""Any causal language model of the transformers library as a `LanguageModel`, and what its code can do.

Whether a transformers model honours a cache that was repeated over rows, a mask of
four dimensions or positions that jump back is a matter of its own code (ALiBi,
recurrence and sliding windows do not), so it is measured rather than listed, against the plain computation.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from attrs import evolve, frozen

from posterior_lm.lm.hf.forward import Forward
from posterior_lm.lm.hf.head import Places
from posterior_lm.lm.hf.kv_cache import PrefixStore, expanded, is_cuttable, is_expandable
from posterior_lm.lm.hf.load import load_module
from posterior_lm.lm.hf.packed import Limits, Line, Row, lay_out, read_lines, score_rows
from posterior_lm.lm.hf.rollout import GroupedRollout, RecomputedRollout, gather_groups, open_cached
from posterior_lm.lm.protocol import Branch, ModelIdentity, Request, Rollout, Scores, unpack_branches
from posterior_lm.lm.tokenizers import HFTokenizer

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Largest difference of log-probs, in nats, that rounding explains; the lower
precisions round each of some hundred products to 11 or 8 bits."""

LENGTH = 24
_WINDOWS = ("sliding_window", "window_size", "attention_chunk_size", "local_attention", "attention_window")


@frozen
class Abilities:
    """`cached`: caches can be repeated, picked and continued. `packed`: masks and positions too."""

    cached: bool
    packed: bool


def find_abilities(forward: Forward) -> Abilities:
    """Try a cached and a packed computation on random tokens; anything that differs or fails is off."""
    longest = LENGTH if forward.max_length is None else min(LENGTH, forward.max_length)
    if longest < 12 or "past_key_values" not in forward.parameters:
        return Abilities(False, False)
    ids = np.random.default_rng(0).integers(0, forward.vocabulary_size, longest).tolist()
    cached = _agrees(forward, lambda: _try_cached(forward, ids))
    packed = cached and not _is_local(forward) and _agrees(forward, lambda: _try_packed(forward, ids))
    return Abilities(cached, packed)


def _agrees(forward: Forward, attempt: Callable[[], float]) -> bool:
    try:
        return attempt() <= TOLERANCE[forward.dtype]  # false for NaN
    except Exception:  # a model's code may refuse in any way; the plain computation never needs this
        return False


def _try_cached(forward: Forward, ids: list[int]) -> float:
    half = len(ids) // 2
    plain = torch.log_softmax(forward(forward.tensor([ids])), dim=-1)
    cache = forward.new_cache()
    forward(forward.tensor([ids[:half]]), cache=cache)
    if not is_expandable(cache):
        return np.inf
    rows = [ids[half:-1], [*reversed(ids[half:-1])]]
    rest = torch.log_softmax(forward(forward.tensor(rows), cache=expanded(cache, 2))[0], dim=-1)
    stepped = open_cached(forward, [tuple(ids[:-1]), (*ids[:half], *rows[1])], cache, half)
    last = stepped.extend(np.array([1, 0]), np.array([0, ids[-1]])).log_probs[1]
    gap = (rest - plain[0, half:-1]).abs().max().item()
    return max(gap, float(np.abs(last - plain[0, -1].cpu().numpy()).max()))


def _try_packed(forward: Forward, ids: list[int]) -> float:
    """Two rows of unequal length on a cached prompt, with branches that leave early and late."""
    past, half = 4, len(ids) // 2
    late = Branch(half, tuple(ids[: len(ids) - half]))
    early = Branch(past + 2, tuple(ids[-5:]))
    requests = [
        Request(tuple(ids), past + 1, 0, (late, early)),
        Request(tuple(ids[:-3]), past + 2, 0, (Branch(half, tuple(ids[:3])), late)),
    ]
    cache = forward.new_cache()
    forward(forward.tensor([ids[:past]]), cache=cache)
    if not is_cuttable(cache):
        return np.inf
    eos = (0, 1)
    packed = dict(score_rows(forward, [lay_out(r, past) for r in requests], eos, cache, Limits()))
    # Ragged rollouts lean on the same masks, with a cache that holds padding.
    ragged = open_cached(forward, [tuple(ids), tuple(ids[:half])], None, 0).log_probs
    gaps = [np.abs(ragged[0] - open_cached(forward, [tuple(ids)], None, 0).log_probs[0]).max()]
    gaps.append(np.abs(ragged[1] - open_cached(forward, [tuple(ids[:half])], None, 0).log_probs[0]).max())
    for row, scores in packed.items():
        plain_rows = [lay_out(r, 0) for r in unpack_branches(row.request)]
        plain = dict(score_rows(forward, plain_rows, eos, None, Limits()))
        pairs = zip([scores, *scores.branches], (plain[r] for r in plain_rows), strict=True)
        gaps += [_gap(a, b) for a, b in pairs]
    return float(np.max(gaps))


def _gap(a: Scores, b: Scores) -> float:
    return float(max(np.abs(a.tokens - b.tokens).max(initial=0.0), np.abs(a.eos - b.eos).max()))


def _is_local(forward: Forward) -> bool:
    """Whether some layer sees only so many columns back, which a short probe would not show."""
    config = forward.module.config.get_text_config(decoder=True)
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    declared = any(getattr(config, name, None) for name in _WINDOWS)
    used = getattr(config, "use_sliding_window", True)
    attention = getattr(config, "_attn_implementation", None)
    return kinds != {"full_attention"} or (declared and used) or attention not in ("sdpa", "eager")


# ------------------------------------------------------------------------------- the model

WORTH = 128
"""Saved columns from which a prompt gets its own prefill: below that the extra call costs more."""

Ids = tuple[int, ...]


class TransformersModel:
    """A frozen `LanguageModel` over an `AutoModelForCausalLM`.

    `limits` bounds a micro-batch; `share_prompts` and `pack` switch the two
    shortcuts off, which changes no number beyond rounding.
    """

    def __init__(
        self,
        forward: Forward,
        tokenizer: HFTokenizer,
        identity: ModelIdentity,
        *,
        limits: Limits | None = None,
        share_prompts: bool = True,
        pack: bool = True,
    ) -> None:
        self.identity = identity
        self.tokenizer = tokenizer
        self.max_length = forward.max_length
        self._forward = forward
        self._limits = limits or Limits()
        self._share_prompts = share_prompts
        self._pack = pack
        self._store = PrefixStore(forward)

    @classmethod
    def from_folder(
        cls,
        folder: str | Path,
        *,
        name: str | None = None,
        revision: str | None = None,
        dtype: str = "float32",
        device: str | None = None,
        digest: str | None = None,
    ) -> TransformersModel:
        """The model of an existing folder, under the name it was asked for; `ModelError` PLM510 to PLM514.

        `device` None takes the first GPU where there is one, else the CPU. Weights
        are read from safetensors only, and no code that comes with a model is run.
        `digest` is that of the file which the folder was made out of, if it was.
        """
        return cls(*load_module(Path(folder), name or str(folder), revision, dtype, device, digest))

    def __repr__(self) -> str:
        where = f"dtype={self.identity.dtype!r}, device={str(self._forward.device)!r}"
        return f"TransformersModel({self.identity.name!r}, {where})"

    @cached_property
    def abilities(self) -> Abilities:
        """What the model's code can do; measured at first need."""
        return find_abilities(self._forward)

    @property
    def packed(self) -> bool:
        return self._pack and self.abilities.packed

    def forget(self) -> None:
        """Drop the prompts that were kept; what is computed next does not depend on what came before."""
        self._store = PrefixStore(self._forward)

    def score(self, requests: Sequence[Request]) -> list[Scores]:
        """Scores of each request, in order; equal requests are computed once. PLM520 past the window."""
        ends = (max([len(r.ids), *(b.at + len(b.ids) for b in r.branches)]) for r in requests)
        self._forward.check_window(max(ends, default=0))
        parts: dict[Request, list[Request]] = {}
        for request in requests:
            if request not in parts:
                whole = not request.branches or self.packed
                parts[request] = [request] if whole else unpack_branches(request)
        found = self._score_rows(dict.fromkeys(p for ps in parts.values() for p in ps))
        for request, (trunk, *branches) in parts.items():
            if branches:
                found[request] = evolve(found[trunk], branches=tuple(found[b] for b in branches))
        return [found[request] for request in requests]

    def read(self, lines: Sequence[Line], *, columns: int) -> Iterator[tuple[list[int], Places]]:
        """What is predicted, with gradients, pass by pass; see `packed.read_lines`."""
        return read_lines(self._forward, lines, packed=self.packed, columns=columns)

    def _score_rows(self, requests: dict[Request, None]) -> dict[Request, Scores]:
        groups: dict[Ids, list[Request]] = defaultdict(list)
        for request in requests:
            # The last prompt token is computed again, as it predicts the first scored one.
            groups[request.ids[: max(0, request.shared - 1)]].append(request)
        scored: dict[Request, Scores] = {}
        loose: list[Row] = []
        for prompt, group in groups.items():
            if not (self._share_prompts and len(prompt) * len(group) >= WORTH and self.abilities.cached):
                loose += [lay_out(r, 0) for r in group]
                continue
            rows = [lay_out(r, len(prompt)) for r in group]
            cache = self._store.prefill(prompt)
            for row, scores in score_rows(self._forward, rows, self.tokenizer.eos_ids, cache, self._limits):
                scored[row.request] = scores
        for row, scores in score_rows(self._forward, loose, self.tokenizer.eos_ids, None, self._limits):
            scored[row.request] = scores
        return scored

    def open(self, sequences: Sequence[Ids], *, shared: int = 0) -> Rollout:
        """A rollout that stands after each sequence (N,), each of at least one token."""
        sequences = [tuple(s) for s in sequences]
        if not sequences:
            return RecomputedRollout(self._forward, ())
        if not all(sequences):
            raise ValueError("a sequence of no tokens has no next token: begin with a start token")
        self._forward.check_window(max(map(len, sequences)))
        if not self.abilities.cached:
            return RecomputedRollout(self._forward, tuple(sequences))
        distinct = list(dict.fromkeys(sequences))
        place = {s: i for i, s in enumerate(distinct)}
        if self.packed or len({len(s) for s in distinct}) == 1:
            return self._open_equal(distinct, shared).pick(np.asarray([place[s] for s in sequences]))
        return self._open_grouped(sequences, shared)

    def _open_equal(self, distinct: list[Ids], shared: int):
        past = min(shared, min(map(len, distinct)) - 1) if self._share_prompts else 0
        prompt = self._store.prefill(distinct[0][:past]) if past > 0 else None
        return open_cached(self._forward, distinct, prompt, max(past, 0))

    def _open_grouped(self, sequences: list[Ids], shared: int) -> GroupedRollout:
        lengths = sorted({len(s) for s in sequences})
        group = np.asarray([lengths.index(len(s)) for s in sequences])
        groups = []
        for length in lengths:
            mine = [s for s in sequences if len(s) == length]
            distinct = list(dict.fromkeys(mine))
            opened = self._open_equal(distinct, shared)
            groups.append(opened.pick(np.asarray([distinct.index(s) for s in mine])))
        return gather_groups(groups, group)
