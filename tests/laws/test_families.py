"""Product-level meaning for three families of tokenizers, against transformers by hand.

Byte-level BPE (GPT-2's, with random weights), two SentencePiece-like ones with a dummy
prefix (one falls back to bytes and has two ends of text, one writes spaces at the end of
its pieces), and the packaged model. The oracle knows only `AutoTokenizer`'s own files
and a full forward pass over ids that stand here; nothing of `target`, `support`
or `posterior_lm.lm.transformers` is read.
"""

from __future__ import annotations

import copy
import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from tests.conftest import ROOT, shared_model
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

import posterior_lm as plm

Ids = tuple[int, ...]
FAMILIES = ("gpt2", "stories260k", "tinystories656k", "tiny")
CLOSE = 2e-4
"""Nats: float32 sums in another order, over up to about 60 tokens."""


@dataclass(frozen=True)
class Family:
    """A model folder, and log-probs of its tokens by the book."""

    name: str
    folder: Path
    start: Ids
    """What the tokenizer puts before a text."""
    empty: Ids
    """What an empty context is."""
    eos: Ids

    @cached_property
    def module(self):
        return AutoModelForCausalLM.from_pretrained(self.folder, dtype=torch.float32).eval()

    @cached_property
    def whole(self):
        return AutoTokenizer.from_pretrained(self.folder)

    @cached_property
    def bare(self) -> Tokenizer:
        """The tokenizer without its dummy prefix, from its file."""
        spec = json.loads((self.folder / "tokenizer.json").read_text("utf-8"))
        normalizer = copy.deepcopy(spec["normalizer"])
        if normalizer is not None and normalizer["type"] == "Sequence":
            normalizer["normalizers"] = [n for n in normalizer["normalizers"] if n["type"] != "Prepend"]
        return Tokenizer.from_str(json.dumps({**spec, "normalizer": normalizer}))

    def open(self, text: str) -> Ids:
        """A text that begins a sequence, with what the tokenizer puts before it."""
        return tuple(self.whole(text).input_ids)

    def on(self, text: str) -> Ids:
        """A text that follows something."""
        return tuple(self.bare.encode(text, add_special_tokens=False).ids)

    def log_probs(self, ids: Sequence[int]) -> np.ndarray:
        with torch.no_grad():
            logits = self.module(torch.tensor([list(ids)])).logits[0].double()
        return torch.log_softmax(logits, dim=-1).numpy()

    def score(self, context: Ids, text: Ids, *, ends: bool = False) -> float:
        """log p(text | context), and of any end-of-text after it."""
        ids = context + text
        rows = self.log_probs(ids)
        value = sum(rows[i - 1, ids[i]] for i in range(len(context), len(ids)))
        return float(value + (np.logaddexp.reduce(rows[-1, list(self.eos)]) if ends else 0.0))


@pytest.fixture(scope="module")
def gpt2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random GPT-2 with the real vocabulary, skewed so that some tokens are much likelier."""
    source = shared_model("gpt2-tokenizer")
    folder = tmp_path_factory.mktemp("gpt2")
    for file in source.glob("tokenizer*.json"):
        shutil.copy(file, folder)
    torch.manual_seed(7)
    module = GPT2LMHeadModel(
        GPT2Config(vocab_size=50257, n_positions=128, n_embd=16, n_layer=2, n_head=2, bos_token_id=50256, eos_token_id=50256)
    )
    with torch.no_grad():
        module.transformer.wte.weight.mul_(40.0)
        module.transformer.wte.weight[50256] *= 2.0
    module.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def families(gpt2_folder: Path) -> dict[str, Family]:
    tiny = ROOT / "posterior_lm" / "lm" / "tiny" / "weights"
    found = {
        "gpt2": Family("gpt2", gpt2_folder, (), (50256,), (50256,)),
        "stories260k": Family("stories260k", shared_model("stories260k-hf"), (1,), (1,), (1, 2)),
        "tinystories656k": Family("tinystories656k", shared_model("tinystories656k-hf"), (1,), (1,), (2,)),
    }
    whole = AutoTokenizer.from_pretrained(tiny)
    start = tuple(whole("").input_ids)
    found["tiny"] = Family("tiny", tiny, start, start or (whole.eos_token_id,), (whole.eos_token_id,))
    return found


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest, families: dict[str, Family]) -> Family:
    return families[request.param]
