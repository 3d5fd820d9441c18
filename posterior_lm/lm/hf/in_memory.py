"""A transformers model that is in memory, with its tokenizer, as a `LanguageModel`."""

from __future__ import annotations

import copy
import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from posterior_lm.lang.diagnostics import ModelError
from posterior_lm.lm.hf.load import forward_of, quiet
from posterior_lm.lm.hf.transformers import TransformersModel
from posterior_lm.lm.protocol import ModelIdentity
from posterior_lm.lm.tokenizers import HFTokenizer, load_tokenizer

_PAIR = "pass both: .lm(base=(model, tokenizer))"


def from_objects(model: object, tokenizer: object) -> TransformersModel:
    """The pair as a frozen model; its weights are shared, and neither object is changed.

    The identity holds a digest of the weights as they are now: change them, and it is another model, for which
    the pair has to be passed again. Raises ModelError PLM512 for what is no tokenizer, PLM513 for one that
    cannot be used, PLM514 for what is no causal language model of transformers.
    """
    if not isinstance(model, PreTrainedModel) or not model.can_generate():
        kind = type(model).__name__
        help = "merge its adapter first: model.merge_and_unload()" if kind.startswith("Peft") else _PAIR
        raise ModelError.of("PLM514", f"a {kind} is no causal language model of transformers", help=help)
    if any(p.is_meta for p in model.parameters()):
        raise ModelError.of(
            "PLM514", "the model has weights without numbers, on the device meta", help="load it whole"
        )
    name = model.config.name_or_path or type(model).__name__
    read = _tokenizer(model, tokenizer, name)
    own = _twin(model)
    dtype = str(model.dtype).removeprefix("torch.")
    identity = ModelIdentity(name, "transformers", digest_of(model), dtype=dtype)
    return TransformersModel(forward_of(own, own.config, read, name), read, identity)


def _tokenizer(model: PreTrainedModel, tokenizer: object, name: str) -> HFTokenizer:
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        message = f"a {type(tokenizer).__name__} is no tokenizer of transformers"
        raise ModelError.of("PLM512", message, help=_PAIR)
    with tempfile.TemporaryDirectory(prefix="posterior_lm-") as written:
        folder = Path(written)
        with quiet():
            tokenizer.save_pretrained(folder)
            model.config.save_pretrained(folder)
            if model.generation_config is not None:
                settings = {"eos_token_id": model.generation_config.eos_token_id}
                (folder / "generation_config.json").write_text(json.dumps(settings))
        if not (folder / "tokenizer.json").is_file():
            message = f"the tokenizer of {name}, a {type(tokenizer).__name__}, has no fast form"
            raise ModelError.of("PLM512", message, help="use AutoTokenizer, which makes a tokenizer.json")
        return load_tokenizer(folder, name)


def _twin(model: PreTrainedModel) -> PreTrainedModel:
    """A module of its own over the same numbers: whose mode, flags and configuration may be set freely."""
    shared: dict[int, Any] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        plain = type(tensor) is nn.Parameter
        shared[id(tensor)] = nn.Parameter(tensor.detach(), requires_grad=False) if plain else tensor
    return copy.deepcopy(model, shared)


def digest_of(model: PreTrainedModel) -> str:
    """SHA-256 over the configuration and every tensor of the state, by name."""
    config = model.config.to_diff_dict()
    for changing in ("_name_or_path", "transformers_version", "dtype"):
        config.pop(changing, None)
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
