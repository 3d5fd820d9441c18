"""What each family's code can do, by hand and with the reason, against what is measured on random weights.

Two and thirty layers, in three dtypes: rounding grows with depth, and random weights hang
on their context little, which makes a wrong computation hard to tell from noise.
"""

from __future__ import annotations

import warnings
from functools import cache, partial
from pathlib import Path

import pytest
import torch
from attrs import frozen
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from posterior_lm.lm.hf import abilities
from posterior_lm.lm.hf.abilities import LENGTH, Abilities, find_abilities
from posterior_lm.lm.hf.forward import Forward
from posterior_lm.lm.hf.transformers import TransformersModel
from posterior_lm.lm.notices import ModelNotice
from posterior_lm.lm.protocol import Branch, Request, unpack_branches
from posterior_lm.lm.tiny import WEIGHTS
from tests.conftest import shared_model
from tests.laws.models import build

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
BOTH, CACHED, NEITHER = Abilities(True, True), Abilities(True, False), Abilities(False, False)
TINY = {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48}
ALIKE = TINY | {"head_dim": 8, "max_position_embeddings": 64}
WINDOW = LENGTH + 4

FAMILIES = {
    # Rotary positions and masks as they are given; a cache of plain keys and values.
    "llama": ("llama", ALIKE, BOTH),
    "qwen2": ("qwen2", ALIKE, BOTH),
    "qwen3": ("qwen3", ALIKE, BOTH),
    "gpt2": ("gpt2", {"n_embd": 32, "n_head": 4, "n_positions": 64}, BOTH),  # learned positions
    # Some layers see a window only. A mask that is given replaces it: right where all fits.
    "gemma2": ("gemma2", ALIKE | {"sliding_window": WINDOW}, Abilities(True, True, WINDOW)),
    "gemma3": ("gemma3_text", ALIKE | {"sliding_window": WINDOW}, Abilities(True, True, WINDOW)),
    "gemma3 of a short window": ("gemma3_text", ALIKE | {"sliding_window": 8}, CACHED),
    "mistral": ("mistral", ALIKE | {"sliding_window": WINDOW}, Abilities(True, True, WINDOW)),
    # ALiBi: distances are columns counted from the mask, and positions cannot be given.
    "bloom": ("bloom", {"hidden_size": 32, "n_head": 4}, CACHED),
    "falcon with alibi": ("falcon", {"hidden_size": 32, "num_attention_heads": 4, "alibi": True}, CACHED),
    "mpt": ("mpt", {"d_model": 32, "n_heads": 4, "max_seq_len": 64}, CACHED),
    # Recurrent: a state, and no keys and values.
    "mamba": ("mamba", {"hidden_size": 32, "state_size": 4}, NEITHER),
}
DEEP = ("llama", "qwen3", "gpt2", "gemma3", "bloom", "falcon with alibi", "mamba")
DEPTH = {"gpt2": "n_layer", "bloom": "n_layer", "mpt": "n_layers"}


@cache
def family(name: str, layers: int, dtype: torch.dtype) -> Forward:
    kind, options, _ = FAMILIES[name]
    depth = {DEPTH.get(kind, "num_hidden_layers"): layers}
    config = CONFIG_MAPPING[kind](vocab_size=300, bos_token_id=None, eos_token_id=0, pad_token_id=None,
                                  **options, **depth)  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = AutoModelForCausalLM.from_config(config)
    return Forward(module.to(dtype).eval().requires_grad_(False), 300, 64)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("name", "layers"), [*((name, 2) for name in FAMILIES), *((name, 30) for name in DEEP)]
)
def test_a_family_has_exactly_its_abilities(name: str, layers: int, dtype: torch.dtype) -> None:
    found = find_abilities(family(name, layers, dtype))
    assert found == FAMILIES[name][2], found.lost
    assert len(found.lost) == (not found.packed)


def test_the_last_place_of_a_log_prob_is_rounding() -> None:
    """The logits of this model are so near zero that its log-probs differ by more than its layers' rounding makes of them."""
    options = {"hidden_size": 32, "word_embed_proj_dim": 32, "num_attention_heads": 4, "ffn_dim": 48}
    config = CONFIG_MAPPING["opt"](vocab_size=266, num_hidden_layers=2, max_position_embeddings=256, pad_token_id=0,
                                   bos_token_id=None, eos_token_id=0, **options)  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = AutoModelForCausalLM.from_config(config)
    found = find_abilities(Forward(module.eval().requires_grad_(False), 266, 256))
    assert found == BOTH, found.lost


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", ["tiny", "stories260k-hf", "tinystories656k-hf"])
def test_a_trained_model_has_every_ability(name: str, dtype: str) -> None:
    folder = WEIGHTS if name == "tiny" else shared_model(name)
    assert TransformersModel.from_folder(folder, dtype=dtype).abilities == BOTH


def test_texts_that_fit_in_a_window_are_packed_and_others_are_right_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build("windowed", tmp_path)
    window = model.abilities.window
    assert window and model.abilities.packs(window) and not model.abilities.packs(window + 1)
    calls: list[bool] = []
    additive = Forward.additive
    monkeypatch.setattr(Forward, "additive", lambda *args: calls.append(True) or additive(*args))
    for length, packed in ((window, True), (window + 1, False)):
        ids = tuple(range(3, 3 + length))
        branches = (Branch(4, ids[: length - 4]), Branch(9, (7, 8)))
        request = Request(ids, 4, 0, branches)
        calls.clear()
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            (scores,) = model.score([request])
        assert [f"over {window} tokens" in str(w.message) for w in told] == [True] * (not packed)
        assert bool(calls) == packed
        plain = model.score(unpack_branches(request))
        for a, b in zip([scores, *scores.branches], plain, strict=True):
            assert a.tokens == pytest.approx(b.tokens, abs=1e-4)
            assert a.eos == pytest.approx(b.eos, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "what"),
    [("mamba", "every token computes its whole sequence again"), ("bloom", "are computed one by one")],
)
def test_what_is_slow_is_said_once_with_its_reason(name: str, what: str, tmp_path: Path) -> None:
    built = build(name, tmp_path)
    model = TransformersModel(built._forward, built.tokenizer, built.identity)
    with pytest.warns(
        ModelNotice, match=rf"the model .*{name} is slower than it could be: .*{what}.*: ."
    ) as told:
        model.open([(3, 4), (5,)])
        model.score([Request((3, 4), 1, 0, (Branch(1, (5,)),))])
    assert len(told) == 1


def test_what_took_long_to_find_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTERIOR_LM_CACHE", str(tmp_path / "kept"))
    model = build("bloom", tmp_path)
    known = partial(abilities.known_abilities, model._forward, model.identity)
    monkeypatch.setattr(abilities, "LONG", 100.0)
    assert known() == CACHED and not (tmp_path / "kept").exists()
    monkeypatch.setattr(abilities, "LONG", 0.0)
    lost = known().lost
    monkeypatch.setattr(abilities, "find_abilities", lambda _: pytest.fail("it is known"))
    assert known() == CACHED and known().lost == lost
    (kept,) = (tmp_path / "kept" / "abilities").iterdir()
    kept.write_text("{}", "utf-8")  # damaged: found again
    monkeypatch.setattr(abilities, "find_abilities", lambda _: NEITHER)
    assert known() == NEITHER


@frozen(eq=False)
class Wrong(Forward):
    """A forward whose module computes something else than it is asked for, and raises no error."""

    wrong: str

    def call(self, part, **options):
        cache, mask = options.get(self.cache_name), options.get("attention_mask")
        past = cache.get_seq_length() if cache else 0
        if self.wrong == "cache" and past:
            part(**options)  # it grows, and is not read
            options = {"input_ids": options["input_ids"], "use_cache": False}
        if self.wrong == "rows" and past:
            options["input_ids"] = options["input_ids"].flip(0)
        if self.wrong == "branches" and mask is not None:
            options["attention_mask"] = mask.clone()
            options["attention_mask"][..., -1, past:] = 0  # one column sees all of its row
        options.pop(self.wrong, None)
        return part(**options)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("name", "layers"), [("llama", 2), ("llama", 30), ("gpt2", 2)])
@pytest.mark.parametrize(
    ("wrong", "left"),
    [
        ("attention_mask", CACHED),
        ("position_ids", CACHED),
        ("branches", CACHED),
        ("cache", NEITHER),
        ("rows", NEITHER),
    ],
)
def test_code_that_ignores_what_it_is_given_is_found_out(
    name: str, wrong: str, left: Abilities, layers: int, dtype: torch.dtype
) -> None:
    right = family(name, layers, dtype)
    assert find_abilities(Wrong(right.module, 300, 64, wrong)) == left
