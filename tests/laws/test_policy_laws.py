"""Laws of the policy: what it draws with, what it says of given values and what a step-by-step sum gives agree.

Toy transformers with an adapter that changes them a lot; supports small enough to
list, over a few characters, so that every sum is written out.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from scipy import stats

from posterior_lm.amortize.adapter import Adapter
from posterior_lm.amortize.guide import PolicyGuide, paths_of
from posterior_lm.amortize.paths import Path, has_end_points, path_maker
from posterior_lm.amortize.reading import readings_of
from posterior_lm.amortize.teacher import PathScores, score_paths
from posterior_lm.infer.guide import PriorGuide, contexts_of
from posterior_lm.lm.transformers import TransformersModel
from posterior_lm.support.base import Support
from posterior_lm.target.target import Target
from posterior_lm.target.values import Value
from tests.laws.models import MODELS
from tests.strategies import compiled

Ids = tuple[int, ...]
P_VALUE = 1e-4
CLOSE = {"rtol": 0, "atol": 1e-4}

LATENTS = {
    "stop": 'text(tokens=1..4, stop="b", chars="at")',
    "stop in two spellings": 'text(tokens=1..4, stop="ed", chars="hed")',
    "stop after two tokens": 'text(tokens=3..4, stop=".", chars="he")',
    "stop of two tokens": 'text(tokens=2..5, stop="ba", chars="abt")',
    "end of text": 'text(tokens=0..3, chars="he")',
    "end of text after two tokens": 'text(tokens=2..4, chars="he")',
    "free": 'text(tokens=1..3, end="free", chars="he")',
    "free, one length": 'text(tokens=3..3, end="free", chars="he")',
    "canonical": 'text(tokens=0..4, chars="he", canonical=true)',
    "canonical stop": 'text(tokens=1..4, stop=".", chars="he", canonical=true)',
    "int": "int(0..30)",
    "int with a lead": 'int(8..25, lead=" ")',
    "one_of": 'one_of("he", "hed", "a", "ed", "heh", "hehe")',
}
"""Types of one latent; in some, values begin other values."""
CASES = [("gpt2", kind) for kind in LATENTS] + [
    (name, kind)
    for name in ("llama", "bloom", "neox", "sliding")
    for kind in ("stop", "end of text after two tokens", "free", "int with a lead")
]
WALKED = pytest.mark.parametrize(("name", "kind"), CASES)

_adapters: dict[str, Adapter] = {}


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory):
    return tmp_path_factory.mktemp("policy")


def stirred(name: str, scratch, **how: object) -> Adapter:
    """The toy of that name with an adapter of large random weights; built once."""
    if name not in _adapters:
        adapter = Adapter.new(MODELS[name](scratch / name), rank=3, seed=1)
        rng = torch.Generator().manual_seed(5)
        adapter.restore({k: 0.15 * torch.randn(v.shape, generator=rng) for k, v in adapter.tensors().items()})
        _adapters[name] = adapter
    return _adapters[name]


def program(body: str, model: TransformersModel, params: str = "", **data: object) -> Target:
    return compiled(f'lm base = "b"\nprogram p({params}) {{\n{body}\n}}', data, {"base": model})


def target_of(kind: str, adapter: Adapter) -> Target:
    return program(f'latent z: {LATENTS[kind]} ~ base("the end")', adapter.base)


def listed(support: Support) -> list[Ids]:
    """Every value of a small support, by walking it."""
    found: list[Ids] = []
    open_ = [(support.start(), ())]
    while open_:
        state, ids = open_.pop()
        if support.may_stop(state):
            found.append(ids)
        assert len(found) < 500
        for token in np.flatnonzero(support.allowed(state)):
            open_.append((support.advance(state, int(token)), (*ids, int(token))))
    return sorted(found)


def next_logits(adapter: Adapter, ids: Ids) -> np.ndarray:
    with adapter.on(), torch.inference_mode():
        return adapter.base._forward.module(input_ids=torch.tensor([ids])).logits[0, -1].double().numpy()


def log_sum(numbers: Sequence[float]) -> float:
    return float(np.logaddexp.reduce(numbers)) if len(numbers) else -math.inf


def by_hand(adapter: Adapter, context: Ids, support: Support, ids: Ids, exponent: float = 1.0) -> float:
    """log q of a value, one forward pass a token, with nothing but the support's answers."""
    eos = list(adapter.base.tokenizer.eos_ids)
    state, total = support.start(), 0.0
    for token in (*ids, None):
        if support.must_stop(state):
            assert token is None
            break
        logits = next_logits(adapter, context + tuple(ids[: len(ids)]) if token is None else context + _before(ids, state))
        logits = logits - log_sum(logits)
        choices = {int(v): exponent * logits[v] for v in np.flatnonzero(support.allowed(state))}
        if support.may_stop(state) and support.ending != "stop":
            choices[-1] = exponent * log_sum(logits[eos])
        total += choices[-1 if token is None else token] - log_sum(list(choices.values()))
        state = support.advance(state, token) if token is not None else state
    return total


def _before(ids: Ids, state: object) -> Ids:
    return ids[: state[-1]]  # type: ignore[index]
