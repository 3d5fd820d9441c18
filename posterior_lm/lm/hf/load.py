"""From a folder, or from objects of transformers, to a frozen model that can be called; every failure is one sentence."""

from __future__ import annotations

import copy
import hashlib
import json
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from torch import nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from posterior_lm.lang.diagnostics import ModelError
from posterior_lm.lang.values import read_json
from posterior_lm.lm.hf.abilities import looks_ahead
from posterior_lm.lm.hf.forward import Forward
from posterior_lm.lm.hf.placement import check_memory, device_of, dtype_of, quantization
from posterior_lm.lm.notices import notice
from posterior_lm.lm.protocol import ModelIdentity
from posterior_lm.lm.tokenizers import HFTokenizer, load_tokenizer
from posterior_lm.lm.weights import (
    ADAPTER,
    DTYPES,
    Weights,
    check_adapter,
    failed,
    find_weights,
    with_adapter,
)

if TYPE_CHECKING:
    from peft import LoraConfig


FILLS = 'a masked model can propose what another one scores: lm d = masked("…")'


def load_module(
    folder: Path,
    name: str,
    *,
    revision: str | None = None,
    dtype: str | None = None,
    device: str | None = None,
    quantize: str | None = None,
    adapter: Path | None = None,
    digest: str | None = None,
) -> tuple[Forward, HFTokenizer, ModelIdentity]:
    """The model of a folder, its tokenizer and its identity; options as `TransformersModel.from_folder` has them.

    Raises `ModelError` PLM511 to PLM514, PLM518 and PLM519.
    """
    weights = find_weights(folder)
    tokenizer = load_tokenizer(folder, name)
    place = device_of(device)
    dtype = dtype or (weights.dtype if quantize else dtype_of(weights, name, place))
    if dtype not in DTYPES:
        raise ModelError.of("PLM514", f"there is no dtype {dtype!r}", help=f"use one of {', '.join(DTYPES)}")
    config = config_of(folder)
    bits = None if quantize is None else quantization(quantize, getattr(torch, dtype), place, name)
    check_memory(name, weights.bytes_in(dtype, quantize), quantize or dtype, place)
    module = module_of(weights, _class_of(config, folder), config, getattr(torch, dtype), place, bits)
    digest = digest or weights.digest
    if adapter is not None:
        if quantize is not None:
            message = "an adapter cannot be added to quantized weights"
            raise ModelError.of("PLM514", message, help="leave out quantize, or save the two merged")
        module = _adapted(module, adapter)
        digest = with_adapter(digest, adapter)
    elif (folder / ADAPTER).is_file():
        notice(f"the adapter in {folder} is not applied to the model beside it; adapter={folder} applies it")
    if quantize is not None:
        digest = hashlib.sha256(f"{digest} {quantize} {place.type}".encode()).hexdigest()
        dtype = f"{dtype}, {quantize}"
    identity = ModelIdentity(name, "transformers", digest, revision, dtype)
    return forward_of(module, config, tokenizer, str(folder)), tokenizer, identity


def forward_of(
    module: PreTrainedModel, config: PreTrainedConfig, tokenizer: HFTokenizer, what: str
) -> Forward:
    """Raises `ModelError` PLM514 where model and tokenizer have not the same ids, a forward pass fails or is not causal."""
    head = module.get_output_embeddings()
    size = tokenizer.vocabulary_size if head is None else head.weight.shape[0]
    if size != tokenizer.vocabulary_size:
        raise failed(what, f"it predicts {size} ids but the tokenizer has {tokenizer.vocabulary_size}")
    # Padding is on the right of causal attention here and carries no meaning;
    # a pad id would only make some models warn about ids that equal it.
    module.config.pad_token_id = None
    forward = Forward(module.eval().requires_grad_(False), size, window_of(config))
    try:
        encoder = looks_ahead(forward)
    except Exception as problem:  # a model's code may fail in any way
        raise failed(what, f"a first forward pass ended in: {first_line(problem)}") from None
    if encoder:
        why = "it reads the tokens after a token to predict it, so a text has no log-prob from left to right"
        help = (
            f"use a causal model, which an encoder such as BERT is where config.json says is_decoder; {FILLS}"
        )
        raise failed(what, why, help=help)
    return forward


def config_of(folder: Path) -> PreTrainedConfig:
    try:
        kind = read_json((folder / "config.json").read_bytes(), finite=False).get("model_type")
    except FileNotFoundError:
        raise failed(folder, "config.json is missing") from None
    except (OSError, ValueError, AttributeError):
        raise failed(folder, "config.json is not a JSON object") from None
    try:
        with quiet():
            return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as problem:
        if isinstance(problem, (ValueError, KeyError)):
            raise failed(folder, f"its model_type {kind!r} is not one that transformers knows") from None
        raise failed(folder, first_line(problem)) from None


def module_of(
    weights: Weights, kind: type[PreTrainedModel], config: PreTrainedConfig, dtype: torch.dtype, device: torch.device,
    bits: Any = None,
) -> PreTrainedModel:  # fmt: skip
    """The module over the tensors of these files. transformers is given no folder: it would follow an index
    out of it, and add an adapter that lies in it, without a word."""
    folder = weights.folder
    options = {} if bits is None else {"quantization_config": bits, "device_map": {"": device}}
    try:
        with quiet():
            module, info = kind.from_pretrained(
                None,
                config=config,
                state_dict=_tensors(weights),
                dtype=dtype,
                output_loading_info=True,
                **options,
            )
            module = module if options else module.to(device)
    except ImportError as problem:  # weights that are stored quantized need the package that made them
        raise ModelError.of(
            "PLM518", f"the model in {folder} needs a package: {first_line(problem)}"
        ) from None
    except Exception as problem:  # safetensors, shapes, memory: each library raises its own
        raise failed(folder, first_line(problem)) from None
    missing = sorted(info["missing_keys"])
    if missing:
        # transformers would fill these at random and go on.
        raise failed(folder, f"the weights lack {len(missing)} tensors, {missing[0]} among them")
    return module


def _class_of(config: PreTrainedConfig, folder: Path) -> type[PreTrainedModel]:
    found = class_in(MODEL_FOR_CAUSAL_LM_MAPPING, config)
    if found is None:
        masked = class_in(MODEL_FOR_MASKED_LM_MAPPING, config) is not None
        why = f"its model_type {config.model_type!r} is no causal language model"
        raise failed(folder, why, help=f"use a causal model; {FILLS}" if masked else None)
    return found


def class_in(mapping: Any, config: PreTrainedConfig) -> type[PreTrainedModel] | None:
    """The class of a model in one of transformers' tables; of several the one that its configuration names."""
    found = mapping.get(type(config), None)
    if isinstance(found, tuple):
        return next((c for c in found if c.__name__ in (config.architectures or ())), found[0])
    return found  # type: ignore[no-any-return]


def _tensors(weights: Weights) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for path in weights.files:
        with safe_open(path, framework="pt") as file:
            found |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return found


def _adapted(module: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """The module with a LoRA adapter added to its weights."""
    from peft import PeftModel

    check_adapter(folder)
    try:
        config = lora_config(folder)
        with quiet():
            return PeftModel.from_pretrained(module, folder, config=config).merge_and_unload()
    except Exception as problem:
        why = f"the adapter {folder} cannot be applied: {first_line(problem)}"
        raise ModelError.of(
            "PLM514", why, help="use the adapter with the model that it was trained on"
        ) from None


def lora_config(folder: Path) -> LoraConfig:
    """What peft's file says of a LoRA adapter. Raises ValueError for none, and for one that this peft knows in part.

    peft leaves out what a later version of it has written, with a warning: what is not in use there does no harm.
    """
    from peft import LoraConfig

    with quiet():
        config = LoraConfig.from_pretrained(str(folder))
    if not isinstance(config, LoraConfig):
        raise ValueError(f"it is of the kind {type(config).__name__}, not LoRA")
    written = read_json((folder / ADAPTER).read_bytes(), finite=False)
    if unknown := [name for name, value in written.items() if value and not hasattr(config, name)]:
        raise ValueError(f"its {', '.join(unknown)} is not known to the peft that is installed")
    return config


def window_of(config: PreTrainedConfig) -> int | None:
    """Tokens that fit. A `longrope` model is kept within its short window: beyond it every
    position turns by other angles, so a cached prompt would no longer agree with a long text."""
    text = config.get_text_config(decoder=True)
    found = getattr(text, "max_position_embeddings", None) or getattr(text, "max_seq_len", None)
    rope = getattr(text, "rope_parameters", None) or {}
    if isinstance(rope, dict) and rope.get("rope_type") == "longrope":
        short = rope.get("original_max_position_embeddings")
        found = min(x for x in (short, found) if x) if short or found else None
    return int(found) if isinstance(found, int) and found > 0 else None


# ------------------------------------------------------------------------------- objects in memory

_PAIR = "pass both: .lm(base=(model, tokenizer))"


def from_objects(model: object, tokenizer: object) -> tuple[Forward, HFTokenizer, ModelIdentity]:
    """The pair as `load_module` gives a folder's; its weights are shared, and neither object is changed.

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
    return forward_of(own, own.config, read, name), read, identity


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


# ------------------------------------------------------------------------------- the library's noise


@contextmanager
def quiet() -> Iterator[None]:
    """Loading without progress bars or notices; the library's settings are put back afterwards."""
    level, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


def first_line(problem: Exception) -> str:
    text = str(problem).strip().splitlines()
    return (text[0] if text else type(problem).__name__)[:200]
