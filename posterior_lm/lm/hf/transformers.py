"""Any causal language model of the transformers library as a `LanguageModel`, the fastest way that it can."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from attrs import evolve

from posterior_lm.lm.hf.abilities import Abilities, known_abilities
from posterior_lm.lm.hf.forward import Forward
from posterior_lm.lm.hf.head import Places
from posterior_lm.lm.hf.kv_cache import PrefixStore
from posterior_lm.lm.hf.load import load_module
from posterior_lm.lm.hf.packed import Limits, Line, Row, lay_out, read_lines, score_rows
from posterior_lm.lm.hf.placement import slow_products
from posterior_lm.lm.hf.rollout import GroupedRollout, RecomputedRollout, gather_groups, open_cached
from posterior_lm.lm.hf.threads import threads_of
from posterior_lm.lm.notices import notice
from posterior_lm.lm.protocol import ModelIdentity, Request, Rollout, Scores, unpack_branches
from posterior_lm.lm.tokenizers import HFTokenizer

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
        self._threads = threads_of(forward.module, identity)

    @classmethod
    def from_folder(
        cls,
        folder: str | Path,
        *,
        name: str | None = None,
        revision: str | None = None,
        dtype: str | None = None,
        device: str | None = None,
        quantize: str | None = None,
        adapter: str | Path | None = None,
        digest: str | None = None,
    ) -> TransformersModel:
        """The model of an existing folder, under the name it was asked for; `ModelError` PLM510 to PLM519.

        `dtype` None is what the weights are stored in; `device` None the first GPU where there is one, else the
        CPU. `quantize` "8bit" or "4bit" keeps linear layers in so many bits. The LoRA adapter in the folder
        `adapter` is added to the weights. Weights are read from safetensors only, and no code that comes with a
        model is run. `digest` is that of the file which the folder was made out of, if it was.
        """
        options = {"dtype": dtype, "device": device, "quantize": quantize, "digest": digest}
        beside = None if adapter is None else Path(adapter)
        name = name or str(folder)
        return cls(*load_module(Path(folder), name, revision=revision, adapter=beside, **options))

    def __repr__(self) -> str:
        where = f"dtype={self.identity.dtype!r}, device={str(self._forward.device)!r}"
        return f"TransformersModel({self.identity.name!r}, {where})"

    @cached_property
    def abilities(self) -> Abilities:
        """What the model's code can do; measured at first need, and what it lacks is told."""
        found = known_abilities(self._forward, self.identity)
        for why in found.lost:
            self._tell(why)
        dtype = str(self._forward.dtype).removeprefix("torch.")
        if slower := slow_products(dtype, self._forward.device.type):
            self._tell(
                f"this processor multiplies {dtype} in software, {slower:.0f} times slower than float32 (dtype=float32)"
            )
        return found

    def _tell(self, why: str) -> None:
        notice(f"the model {self.identity.name} is slower than it could be: {why}")

    @property
    def threads(self) -> dict[str, int]:
        """How many threads each phase was last computed with, of those there were; none on a GPU."""
        return dict(self._threads.used)

    def take_threads(self, numbers: object) -> bool:
        """Compute with the numbers that `threads` was in another run; False where others are asked for now.

        Raises ValueError for what are no such numbers.
        """
        return self._threads.take(numbers)

    @property
    def packed(self) -> bool:
        return self._pack and self.abilities.packed

    def _packs(self, tokens: int) -> bool:
        if self.packed and not self.abilities.packs(tokens):
            window = self.abilities.window
            self._tell(
                f"texts of over {window} tokens that begin alike are computed one by one, as its layers see only so many back"
            )
        return self._pack and self.abilities.packs(tokens)

    def forget(self) -> None:
        """Drop the prompts that were kept; what is computed next does not depend on what came before."""
        self._store = PrefixStore(self._forward)

    def score(self, requests: Sequence[Request]) -> list[Scores]:
        """Scores of each request, in order; equal requests are computed once. PLM520 past the window."""
        ends = {r: max([len(r.ids), *(b.at + len(b.ids) for b in r.branches)]) for r in requests}
        self._forward.check_window(max(ends.values(), default=0))
        parts: dict[Request, list[Request]] = {}
        for request in requests:
            if request not in parts:
                whole = not request.branches or self._packs(ends[request])
                parts[request] = [request] if whole else unpack_branches(request)
        found = self._score_rows(dict.fromkeys(p for ps in parts.values() for p in ps))
        for request, (trunk, *branches) in parts.items():
            if branches:
                found[request] = evolve(found[trunk], branches=tuple(found[b] for b in branches))
        return [found[request] for request in requests]

    def read(self, lines: Sequence[Line], *, columns: int) -> Iterator[tuple[list[int], Places]]:
        """What is predicted, with gradients, pass by pass; see `packed.read_lines`."""
        longest = max((len(context) + len(ids) for context, ids, _ in lines), default=0)
        return read_lines(self._forward, lines, packed=self._packs(longest), columns=columns)

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
        # Nobody knows how long a rollout will be, so a window has to be of any length.
        padded = self.packed and self.abilities.window is None
        if padded or len({len(s) for s in distinct}) == 1:
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
