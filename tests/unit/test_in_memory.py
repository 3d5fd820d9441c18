"""Models of transformers that are in memory: a pair with its tokenizer, shared and never changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import posterior_lm as plm
from posterior_lm.lang.diagnostics import ModelError
from posterior_lm.lm.protocol import Request
from posterior_lm.lm.resolve import adopt, load_model
from posterior_lm.lm.tiny import WEIGHTS
from tests.laws.models import byte_level_tokenizer, write_model

PROGRAM = 'lm base = "tiny"  program p() { latent z: one_of("heads", "tails") ~ choice(base()) }'
REQUEST = [Request((3, 5, 8, 13), 1)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    spec = byte_level_tokenizer()
    return write_model(tmp_path / "m", "gpt2", spec, eos=0, n_embd=8, n_layer=1, n_head=2, n_positions=32)


def pair(folder: Path):
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def test_a_pair_is_the_model_of_its_folder(folder: Path) -> None:
    model, tokenizer = pair(folder)
    found, other = adopt((model, tokenizer), "base"), load_model(str(folder))
    np.testing.assert_allclose(found.score(REQUEST)[0].tokens, other.score(REQUEST)[0].tokens, atol=1e-6)
    assert (
        found.tokenizer.digest == other.tokenizer.digest
        and found.tokenizer.eos_ids == other.tokenizer.eos_ids
    )
    assert (found.identity.dtype, found.max_length) == ("float32", 32)


def test_the_objects_are_as_they_were(folder: Path) -> None:
    model, tokenizer = pair(folder)
    model.train()
    model.config.pad_token_id = 2
    found = adopt((model, tokenizer), "base")
    found.score(REQUEST)
    assert model.training and model.config.pad_token_id == 2
    assert all(p.requires_grad for p in model.parameters())
    own = found._forward.module
    assert not own.training and not any(p.requires_grad for p in own.parameters())
    assert {p.data_ptr() for p in own.parameters()} == {p.data_ptr() for p in model.parameters()}
    assert own.lm_head.weight is own.transformer.wte.weight  # tied as they were


def test_the_identity_follows_the_weights(folder: Path) -> None:
    model, tokenizer = pair(folder)
    first = adopt((model, tokenizer), "base").identity.digest
    assert adopt(pair(folder), "base").identity.digest == first
    with torch.no_grad():
        model.transformer.h[0].mlp.c_fc.weight[0, 0] += 1e-3
    assert adopt((model, tokenizer), "base").identity.digest != first
    half = adopt((pair(folder)[0].to(torch.bfloat16), tokenizer), "base").identity
    assert half.dtype == "bfloat16" and half.digest != first


def test_a_program_takes_it() -> None:
    query = plm.loads(PROGRAM)
    found = query.lm(base=pair(WEIGHTS)).draw()
    assert found.marginal("z") == query.draw().marginal("z") == query.lm(base=WEIGHTS).draw().marginal("z")


@pytest.mark.parametrize(
    ("spoil", "code", "said", "help"),
    [
        (lambda m, t: m, "PLM512", "a GPT2LMHeadModel, has no tokenizer with it", "(model, tokenizer)"),
        (lambda m, t: (m,), "PLM512", "a tuple, has no tokenizer", "(model, tokenizer)"),
        (lambda m, t: (t, m), "PLM514", "is no causal language model", "(model, tokenizer)"),
        (lambda m, t: (m, "gpt2"), "PLM512", "a str is no tokenizer", "(model, tokenizer)"),
        (lambda m, t: (m.transformer, t), "PLM514", "a GPT2Model is no causal", "(model, tokenizer)"),
        (lambda m, t: (m.to("meta"), t), "PLM514", "without numbers", "whole"),
        (lambda m, t: ("gpt2", t), "PLM514", "a str is no causal", "(model, tokenizer)"),
        (lambda m, t: None, "PLM512", "a NoneType, has no tokenizer", "(model, tokenizer)"),
    ],
)
def test_what_is_no_pair_is_said(folder: Path, spoil, code: str, said: str, help: str) -> None:
    given = spoil(*pair(folder))
    with pytest.raises(ModelError) as caught:
        plm.loads(PROGRAM).lm(base=given).draw()
    (found,) = caught.value.diagnostics
    assert found.code == code and said in found.message and help in found.help


@pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning")  # as it calls transformers
def test_an_adapter_of_peft_has_to_be_merged(folder: Path) -> None:
    from peft import LoraConfig, get_peft_model

    model, tokenizer = pair(folder)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True))
    with pytest.raises(ModelError, match="merge_and_unload"):
        adopt((adapted, tokenizer), "base")
    adopt((adapted.merge_and_unload(), tokenizer), "base")


def test_a_vocabulary_of_another_model(folder: Path) -> None:
    with pytest.raises(ModelError, match="ids"):
        adopt((pair(folder)[0], AutoTokenizer.from_pretrained(WEIGHTS)), "base")
