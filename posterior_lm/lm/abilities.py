"""What a model's code can do, found by trying it against the plain computation.

Whether a transformers model honours a cache that was repeated over rows, a mask of
four dimensions or positions that jump back is a matter of its own code (ALiBi,
recurrence and sliding windows do not), so it is measured rather than listed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from attrs import frozen

from posterior_lm.lm.base import Branch, Request, Scores, unpack_branches
from posterior_lm.lm.forward import Forward
from posterior_lm.lm.kv_cache import expanded, is_cuttable, is_expandable
from posterior_lm.lm.packed import Limits, lay_out, score_rows
from posterior_lm.lm.rollout import open_cached

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
