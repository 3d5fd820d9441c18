"""What a transformers model's code can do, measured on the model itself.

Whether a cache may be repeated over rows, whether a mask of four dimensions and positions
that jump back are honoured, is a matter of a model's own code (ALiBi, recurrence and sliding
windows do not), so it is tried rather than listed. Two things decide:

*Numbers.* A shortcut may differ from the plain computation by what rounding explains, and
how much that is depends on the model and its dtype. It is measured by the plain computation in
harmless other ways: beside other rows and padding, and with every layer's output moved by half a
unit in the last place at random (Monte Carlo arithmetic; Parker, 1997), since the first two may
run the very same kernels. It is never less than the last place of the log-probs themselves, where
all logits are near zero.

*Influence.* In low precision a model may depend on its context by less than its rounding.
But what a mask hides has a weight of zero, to the last bit: changing a hidden token changes
nothing, and changing a visible token, or a position, changes something.
"""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from attrs import asdict, evolve, field, frozen
from torch import Tensor
from transformers.cache_utils import Cache

from posterior_lm import storage
from posterior_lm.lm.hf.forward import Forward
from posterior_lm.lm.hf.kv_cache import expanded, is_cuttable, is_expandable
from posterior_lm.lm.hf.packed import TRUNK, Row, lay_out, places_at
from posterior_lm.lm.hf.rollout import open_cached
from posterior_lm.lm.protocol import Branch, ModelIdentity, Request
from posterior_lm.lm.user_cache import cache_folder, cannot_write

LENGTH = 16
PAST = 4
"""Tokens of the prompt that packed rows are tried on."""

EXPLAINED = 2.0
"""How many times the measured noise is still noise. Right shortcuts of 2 to 30 layers in three
dtypes came to 0.1 to 0.8 of it; wrong ones of a trained model to 5 and more."""

SHARE = 0.1
"""Of the influence of a visible token, what a hidden one may have: layers of experts sort tokens
into products of other sizes, which round differently."""

LONG = 0.5
"""Seconds from which what was found is kept for the next start."""

_WINDOWS = ("sliding_window", "window_size", "attention_chunk_size", "local_attention", "attention_window")


@frozen
class Abilities:
    """`cached`: caches can be repeated, picked and continued. `packed`: masks and positions can be given too.

    A packed pass is right for sequences of up to `window` tokens (None: of any length): masks that are
    given take the place of a layer's own window. `lost` says, one phrase each, what is slow and why.
    """

    cached: bool
    packed: bool
    window: int | None = None
    lost: tuple[str, ...] = field(default=(), eq=False)

    def packs(self, tokens: int) -> bool:
        """Whether sequences of up to so many tokens can be packed."""
        return self.packed and (self.window is None or tokens <= self.window)


class _Off(Exception):
    """Why a shortcut is not taken."""


@torch.inference_mode()
def find_abilities(forward: Forward) -> Abilities:
    """Try a cached and a packed computation on random tokens; what is not right, or fails, is off."""
    probe = Probe(forward)
    why = _why_not(probe.try_cached, "a cache that is handed on")
    if why:
        return Abilities(False, False, None, (f"every token computes its whole sequence again: {why}",))
    why = _why_not(lambda: probe.try_packed(_window(forward)), "masks and positions of its caller")
    if why:
        return Abilities(True, False, None, (f"texts that begin alike are computed one by one: {why}",))
    return Abilities(True, True, _window(forward))


def known_abilities(forward: Forward, identity: ModelIdentity) -> Abilities:
    """As `find_abilities`; what took long is kept in the user's cache folder, for the same weights and libraries."""
    kind = type(forward.module)
    versions = (
        torch.__version__,
        transformers.__version__,
        hashlib.sha256(Path(__file__).read_bytes()).hexdigest(),
    )
    model = (identity.digest, identity.dtype, str(forward.device), f"{kind.__module__}.{kind.__qualname__}")
    name = hashlib.sha256(json.dumps([model, platform.processor(), *versions]).encode()).hexdigest()[:32]
    path = cache_folder() / "abilities" / f"{name}.json"
    with suppress(OSError, ValueError, LookupError, TypeError):
        kept = storage.read_object(path)
        return Abilities(bool(kept["cached"]), bool(kept["packed"]), kept["window"], tuple(kept["lost"]))
    begun = time.monotonic()
    found = find_abilities(forward)
    if time.monotonic() - begun > LONG:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            storage.replace(path, json.dumps(asdict(found)).encode())
        except OSError as problem:
            cannot_write(cache_folder(), (problem.strerror or str(problem)).lower())
    return found


def _why_not(attempt: Callable[[], None], given: str) -> str | None:
    try:
        attempt()
    except _Off as off:
        return str(off)
    except Exception as problem:  # a model's code may refuse in any way; what is plain never needs this
        return f"its code refuses {given} ({type(problem).__name__})"
    return None


def _window(forward: Forward) -> int | None:
    """How many columns back some layer sees at most, which a short probe would not show; None for all."""
    config = forward.module.config.get_text_config(decoder=True)
    attention = getattr(config, "_attn_implementation", None)
    if attention not in ("sdpa", "eager"):
        raise _Off(f"its attention is {attention!r}, which takes no mask")
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    declared = [w for w in (getattr(config, name, None) for name in _WINDOWS) if w]
    if kinds == {"full_attention"} and not (declared and getattr(config, "use_sliding_window", True)):
        return None
    if not declared or not all(isinstance(w, int) for w in declared):
        raise _Off(f"its layers are of the kinds {', '.join(sorted(kinds))}")
    return min(declared)


class Probe:
    """One model, one random sequence, and the computations that are set beside each other on it.

    Letters: L columns, V vocabulary. Log-probs are (L, V), in nats.
    """

    def __init__(self, forward: Forward) -> None:
        self.forward = forward
        longest = min(LENGTH, forward.max_length or LENGTH)
        ids, other = np.random.default_rng(0).integers(0, forward.vocabulary_size, (2, longest)).tolist()
        self.ids, self.other = tuple(ids), tuple(other)
        self.half = longest // 2

    # ------------------------------------------------------------- numbers

    def log_probs(self, *rows: tuple[int, ...], cache: Cache | None = None) -> Tensor:
        """(L, V) log-probs of the first of some rows."""
        return torch.log_softmax(self.forward(self.forward.tensor(rows), cache=cache)[0], dim=-1)

    @cached_property
    def plain(self) -> Tensor:
        return self.log_probs(self.ids)

    @cached_property
    def noise(self) -> Tensor:
        """(2,) what harmless changes make of the plain computation: the difference of a token in the middle, and the largest."""
        size, tail = len(self.ids), self.other[:5] if self.forward.max_length is None else ()
        moved = [
            self.log_probs((*self.ids, *tail), (*self.other, *tail), (*reversed(self.ids), *tail))[:size]
        ]
        for seed in range(2):
            with rounded_otherwise(self.forward, seed):
                moved.append(self.log_probs(self.ids))
        found = torch.stack([middle_and_most(gaps(other, self.plain)) for other in moved]).amax(dim=0)
        if not torch.isfinite(found).all():
            raise _Off(f"its log-probs are not numbers in {str(self.forward.dtype).removeprefix('torch.')}")
        finest = torch.finfo(self.plain.dtype).eps * self.plain[torch.isfinite(self.plain)].abs().max()
        return torch.maximum(found, finest)

    def check(self, pairs: Iterable[tuple[Tensor, Tensor]], what: str) -> None:
        """Raises where log-probs differ from the plain ones by more than rounding explains."""
        found = middle_and_most(torch.cat([gaps(a, b) for a, b in pairs]))
        for gap, noise in zip(found.tolist(), self.noise.tolist(), strict=True):
            if not gap <= EXPLAINED * noise:
                raise _Off(f"{what}, log-probs are off by {gap:.2g} nats where rounding explains {noise:.2g}")

    # ------------------------------------------------------------- a cache

    def prefill(self, ids: tuple[int, ...]) -> Cache:
        cache = self.forward.new_cache()
        self.forward(self.forward.tensor([ids]), cache=cache)
        return cache

    def try_cached(self) -> None:
        """A prompt's cache under two rows, then a step of rows that changed places."""
        forward, ids, half = self.forward, self.ids, self.half
        if len(ids) < 12:
            raise _Off(f"its window of {len(ids)} tokens is too short to try anything")
        if forward.cache_name is None:
            kinds = sorted({type(layer).__name__ for layer in forward.new_cache().layers})
            raise _Off(f"it fills no cache of keys and values ({', '.join(kinds)})")
        cache = self.prefill(ids[:half])
        if not is_expandable(cache):
            kinds = sorted({type(layer).__name__ for layer in cache.layers})
            raise _Off(f"its cache holds more than keys and values ({', '.join(kinds)})")
        rest, back = ids[half:-1], tuple(reversed(ids[half:-1]))
        found = self.log_probs(rest, back, cache=expanded(cache, 2))
        changed = self.prefill((*self.other[:1], *ids[1:half]))
        if torch.equal(self.log_probs(rest, back, cache=expanded(changed, 2)), found):
            raise _Off("what its cache holds changes nothing")
        stepped = open_cached(forward, [ids[:-1], (*ids[:half], *back)], cache, half)
        extended = stepped.extend(np.array([1, 0]), np.array([0, ids[-1]]))
        last = torch.as_tensor(extended.log_probs[1:], device=forward.device)
        self.check([(found, self.plain[half:-1]), (last, self.plain[-1:])], "with a cache")

    # ------------------------------------------------------------- masks and positions

    def try_packed(self, window: int | None) -> None:
        """Branches that leave a row on a cached prompt early and late, and rows of unequal length."""
        forward, ids, half = self.forward, self.ids, self.half
        if window is not None and window < len(ids):
            raise _Off(f"its layers see only {window} tokens back")
        cache = self.prefill(ids[:PAST])
        if window is None and not is_cuttable(cache):
            raise _Off("its cache forgets tokens")
        early, late = Branch(PAST + 2, self.other[-5:]), Branch(half, self.other[: len(ids) - half])
        rows = [
            lay_out(Request(ids, PAST + 1, 0, (late, early)), PAST),
            lay_out(Request(ids[:-3], PAST + 1, 0, (late, early)), PAST),
        ]
        texts = [ids[: b.at] + b.ids for b in (late, early)]
        plain = torch.log_softmax(forward(forward.padded(texts)), dim=-1)
        pairs = []
        for row, found in zip(rows, self.read(rows, cache), strict=True):
            pairs.append((found[0], self.plain[PAST : len(row.request.ids)]))
            pairs.append((found[1], plain[0, half - 1 : len(texts[0])]))
            pairs.append((found[2], plain[1, early.at - 1 : len(texts[1])]))
        # Ragged rollouts lean on the same masks, with a cache that holds padding.
        ragged = open_cached(forward, [ids, ids[:half]], None, 0).log_probs
        pairs.append((torch.as_tensor(ragged, device=forward.device), self.plain[[-1, half - 1]]))
        self.check(pairs, "packed")
        self.check_influence(rows[0], cache)

    def read(self, rows: list[Row], cache: Cache) -> list[list[Tensor]]:
        """(T + 1, V) log-probs of the trunk and of each branch, for each row."""
        columns = [np.concatenate([c for c, _ in row.spans]) for row in rows]
        found = torch.log_softmax(places_at(self.forward, rows, columns, cache).logits(), dim=-1)
        of_rows = found.split([len(c) for c in columns])
        return [
            list(found.split([len(c) for c, _ in row.spans]))
            for found, row in zip(of_rows, rows, strict=True)
        ]

    def check_influence(self, row: Row, cache: Cache) -> None:
        """Of what the row holds, its last branch hangs on what it sees and on its positions, on nothing else."""
        last, own = len(row.request.branches), row.owner == len(row.request.branches)
        hidden = ~own & ((row.owner != TRUNK) | (np.arange(row.width) >= row.reach[-1]))
        tokens, size = row.tokens, self.forward.vocabulary_size
        (before,) = self.read([row], cache)

        def influence(**changed: Any) -> float:
            (after,) = self.read([evolve(row, **changed)], cache)
            return gaps(after[last], before[last]).max().item()

        seen = influence(tokens=np.where(hidden | own, tokens, (tokens + 1) % size))
        moved = influence(positions=row.positions + own)
        unseen = influence(tokens=np.where(hidden, (tokens + 1) % size, tokens))
        if not unseen <= SHARE * seen or not seen:
            raise _Off("tokens that a mask hides still have a say")
        if not moved:
            raise _Off("the positions that it is given change nothing")


@torch.inference_mode()
def looks_ahead(forward: Forward) -> bool:
    """Whether what is said of a token hangs on the tokens after it, as in an encoder: no log-prob of a text is had so."""
    size = min(2 * PAST, forward.max_length or LENGTH)
    ids, other = np.random.default_rng(1).integers(0, forward.vocabulary_size, (2, size)).tolist()
    half = size // 2
    rows = [ids, ids[:half] + other[half:], other[:1] + ids[1:]]
    found = torch.log_softmax(forward(forward.tensor(rows)), dim=-1)[:, :half]
    # Of the tokens before the changed one and after it, as a token has most say on what follows at once.
    later, earlier = (gaps(found[k], found[0])[1:].max().item() for k in (1, 2))
    return later > SHARE * earlier


def gaps(a: Tensor, b: Tensor) -> Tensor:
    """(L,) root mean squares, over the vocabulary, of the differences of (L, V) log-probs; nats."""
    return torch.where(a == b, 0.0, a - b).square().mean(dim=-1).sqrt()  # -inf on both sides is none


def middle_and_most(found: Tensor) -> Tensor:
    """(2,) the median and the largest of (L,) numbers."""
    return torch.stack([found.median(), found.max()])


@contextmanager
def rounded_otherwise(forward: Forward, seed: int) -> Iterator[None]:
    """Every layer's output moves by half a unit in the last place, up or down at random."""
    random = torch.Generator().manual_seed(seed)
    eps = torch.finfo(forward.dtype).eps

    def move(_module: object, _given: object, output: object) -> object:
        if not isinstance(output, Tensor) or not output.is_floating_point():
            return None
        up = torch.randint(0, 2, output.shape, generator=random).to(output.device, output.dtype)
        return output * (1 + eps * (up - 0.5))

    leaves = [m for m in forward.module.modules() if not any(m.children())]
    handles = [m.register_forward_hook(move) for m in leaves]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
