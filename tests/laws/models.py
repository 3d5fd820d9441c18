"""A registry of language models for laws: tables, toy transformers of several shapes, real small ones.

`MODELS` maps a name to a function of a scratch folder that builds the model; it
calls `pytest.skip` where the model is not on this machine. Other laws may
import `MODELS` and `build`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from posterior_lm.lm.protocol import LanguageModel
from posterior_lm.lm.resolve import load_model
from posterior_lm.lm.tabular import TabularModel
from posterior_lm.lm.tokenizer_files import byte_alphabet

SHARED = Path(os.environ.get("PLM_SHARED", Path(__file__).parents[3] / "shared")) / "models"
TOY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64}
WIDE = {
    "initializer_range": 0.3
}  # wide enough for skewed next-token distributions and attention that matters


def byte_level_tokenizer(*, bos: bool = False, special: tuple[str, ...] = ("<|endoftext|>",)) -> dict:
    """A byte-level BPE `tokenizer.json` with a few merges, as GPT-2's."""
    chars = {b: c for c, b in byte_alphabet().items()}
    space = chars[ord(" ")]
    merges = [(space, "t"), ("h", "e"), (space + "t", "he"), ("e", "d"), (".", chars[10]), (space, "a")]
    pieces = [chars[b] for b in range(256)] + [a + b for a, b in merges]
    vocab = {p: i for i, p in enumerate([*special, *pieces])}
    return _spec(
        vocab,
        merges,
        special,
        normalizer=None,
        pre_tokenizer={
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": True,
        },
        bos=special[0] if bos else None,
    )


def sentencepiece_tokenizer(*, fallback: bool = True, metaspace: bool = False) -> dict:
    """A SentencePiece-style BPE `tokenizer.json` with a dummy prefix; without bytes, pieces span words."""
    special = ("<unk>", "<s>", "</s>")
    letters = [chr(c) for c in range(0x21, 0x7F)] + ["\u2581", "\n", "é"]
    merges = [
        ("\u2581", "a"),
        ("t", "h"),
        ("th", "e"),
        ("the", "\u2581"),
        ("o", "n"),
        ("on", "\u2581"),
        ("on\u2581", "the\u2581"),
    ]
    raw = [f"<0x{b:02X}>" for b in range(256)] if fallback else []
    vocab = {p: i for i, p in enumerate([*special, *raw, *letters, *(a + b for a, b in merges)])}
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    prepend = {"type": "Prepend", "prepend": "\u2581"}
    return _spec(
        vocab,
        merges,
        special,
        normalizer=None if metaspace else {"type": "Sequence", "normalizers": [prepend, replace]},
        pre_tokenizer={
            "type": "Metaspace",
            "replacement": "\u2581",
            "prepend_scheme": "first",
            "split": False,
        }
        if metaspace
        else None,
        bos="<s>",
        unk="<unk>",
        fallback=fallback,
    )


def _spec(vocab, merges, special, *, normalizer, pre_tokenizer, bos=None, unk=None, fallback=False) -> dict:
    single = [{"Sequence": {"id": "A", "type_id": 0}}]
    if bos:
        single.insert(0, {"SpecialToken": {"id": bos, "type_id": 0}})
    tokens = {bos: {"id": bos, "ids": [vocab[bos]], "tokens": [bos]}} if bos else {}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    model = {"type": "BPE", "dropout": None, "unk_token": unk, "continuing_subword_prefix": None}
    model |= {"end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": fallback, "ignore_merges": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": vocab[s], "content": s, **flags} for s in special],
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": single,
            "pair": single,
            "special_tokens": tokens,
        },
        "decoder": None,
        "model": {**model, "vocab": vocab, "merges": [list(m) for m in merges]},
    }


def write_tokenizer(folder: Path, spec: dict, **config: object) -> Path:
    """Write a tokenizer folder: tokenizer.json and tokenizer_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def write_model(
    folder: Path, kind: str, spec: dict, *, eos: object, seed: int = 0, **options: object
) -> Path:
    """Write a random model of an architecture with a tokenizer; its vocabulary is padded by three ids."""
    write_tokenizer(folder, spec, eos_token=spec["added_tokens"][-1]["content"])
    size = len(spec["model"]["vocab"]) + 3
    config = CONFIG_MAPPING[kind](
        vocab_size=size, eos_token_id=eos, bos_token_id=None, pad_token_id=0, **options
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def _toy(
    kind: str, spec: Callable[[], dict], eos: object = None, **options: object
) -> Callable[[Path], LanguageModel]:
    def build(folder: Path) -> LanguageModel:
        return load_model(str(write_model(folder / kind, kind, spec(), eos=eos, **options)))

    return build


def _tabular(order: int, bos: bool) -> Callable[[Path], LanguageModel]:
    tokens = ["a", "b", "ab", " ", "."]
    return lambda _: TabularModel.random(tokens, order=order, bos=bos, max_tokens=40, rng=order)


def _shared(name: str) -> Callable[[Path], LanguageModel]:
    def build(_: Path) -> LanguageModel:
        if not (SHARED / name).is_dir():
            pytest.skip(f"{SHARED / name} is not on this machine")
        return load_model(str(SHARED / name))

    return build


def _tiny(_: Path) -> LanguageModel:
    from posterior_lm.lm.tiny import WEIGHTS

    if not (WEIGHTS / "model.safetensors").is_file():
        pytest.skip("the packaged weights are not there")
    return load_model("tiny")


_SP = lambda: sentencepiece_tokenizer()  # noqa: E731
MODELS: dict[str, Callable[[Path], LanguageModel]] = {
    "tabular-0": _tabular(0, False),
    "tabular-1": _tabular(1, False),
    "tabular-2": _tabular(2, False),
    "tabular-2-bos": _tabular(2, True),
    "gpt2": _toy("gpt2", byte_level_tokenizer, 0, n_embd=32, n_layer=2, n_head=4, n_positions=64, **WIDE),
    "llama": _toy("llama", _SP, [1, 2], num_key_value_heads=2, intermediate_size=48, **TOY, **WIDE),
    "neox": _toy("gpt_neox", byte_level_tokenizer, 0, intermediate_size=48, **TOY, **WIDE),
    # Positions by ALiBi: the cache works, masks and positions cannot be given.
    "bloom": _toy("bloom", byte_level_tokenizer, 0, n_layer=2, n_head=4, hidden_size=32, **WIDE),
    # A window of 8 tokens on every other layer: the cache forgets.
    "sliding": _toy(
        "qwen2",
        _SP,
        2,
        num_key_value_heads=2,
        intermediate_size=48,
        use_sliding_window=True,
        sliding_window=8,
        max_window_layers=1,
        **TOY,
        **WIDE,
    ),
    # A window that a short text fits in: packed there, and only there.
    "windowed": _toy(
        "gemma3_text",
        _SP,
        2,
        num_key_value_heads=2,
        intermediate_size=48,
        head_dim=8,
        sliding_window=28,
        sliding_window_pattern=2,
        **TOY,
        **WIDE,
    ),
    # Recurrent: no key-value cache at all.
    "mamba": _toy(
        "mamba", byte_level_tokenizer, 0, hidden_size=32, num_hidden_layers=2, state_size=4, **WIDE
    ),
    "stories260k": _shared("stories260k-hf"),
    "tinystories656k": _shared("tinystories656k-hf"),
    "tiny": _tiny,
}

TOYS = tuple(MODELS)[:-3]
_built: dict[str, LanguageModel] = {}


def build(name: str, scratch: Path) -> LanguageModel:
    """The model of that name, built once per run."""
    if name not in _built:
        _built[name] = MODELS[name](scratch / name)
    return _built[name]
