"""Chat templates of real families, over small tokenizers and random models that know their special tokens.

The templates in `golden/chat_templates` are those that models of the family were published with,
typed anew where they are long (Qwen's without tools).
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from attrs import frozen
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from tests.laws.models import write_tokenizer

TEMPLATES = Path(__file__).parent / "golden" / "chat_templates"


@frozen
class Family:
    """The special tokens of a template: the first and last of a text, those of turns, the end of a turn."""

    bos: str
    eos: str
    turns: tuple[str, ...]
    end: str
    system: bool = True
    """Whether it knows a system message."""


FAMILIES = {
    "smollm2": Family("<|im_start|>", "<|im_end|>", (), "<|im_end|>"),
    "llama3": Family(
        "<|begin_of_text|>", "<|end_of_text|>", ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|eot_id|>",
    ),
    "gemma2": Family("<bos>", "<eos>", ("<start_of_turn>", "<end_of_turn>"), "<end_of_turn>", False),
    "mistral": Family("<s>", "</s>", (), "</s>", False),
    "qwen2_5": Family("<|endoftext|>", "<|im_end|>", ("<|im_start|>",), "<|im_end|>"),
    "qwen3": Family("<|endoftext|>", "<|im_end|>", ("<|im_start|>",), "<|im_end|>"),
    "zephyr": Family("<s>", "</s>", (), "</s>"),
}  # fmt: skip


def with_special(spec: dict, *contents: str) -> dict:
    """A tokenizer that knows these special tokens too, behind its other ids."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = list(spec["added_tokens"])
    free = 1 + max([*spec["model"]["vocab"].values(), *(t["id"] for t in added)])
    for content in contents:
        if all(t["content"] != content for t in added):
            added.append({"id": free, "content": content, **flags})
            free += 1
    return {**spec, "added_tokens": added}


def write_family(folder: Path, name: str, spec: dict, template: str | None = None) -> Path:
    """A tokenizer's folder with the template of a family, or another one for its special tokens."""
    family = FAMILIES[name]
    whole = with_special(spec, family.bos, family.eos, *family.turns)
    if template is None:
        template = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
    return write_tokenizer(folder, whole, bos_token=family.bos, eos_token=family.eos, chat_template=template)


def write_chat_model(folder: Path, name: str, spec: dict, template: str | None = None, seed: int = 0) -> Path:
    """A random Llama with skewed next tokens over the tokenizer of `write_family`."""
    write_family(folder, name, spec, template)
    tokens = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    ids = {t["content"]: t["id"] for t in tokens["added_tokens"]}
    config = CONFIG_MAPPING["llama"](
        vocab_size=1 + max([*ids.values(), *tokens["model"]["vocab"].values()]), hidden_size=32,
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=48,
        max_position_embeddings=512, initializer_range=0.3, bos_token_id=ids[FAMILIES[name].bos],
        eos_token_id=ids[FAMILIES[name].eos], pad_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder
