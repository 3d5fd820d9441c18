"""From a folder to a frozen model that can be called; every failure is one sentence."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from posterior_lm.lang.diagnostics import ModelError
from posterior_lm.lang.values import read_json
from posterior_lm.lm.hf.forward import Forward
from posterior_lm.lm.protocol import ModelIdentity
from posterior_lm.lm.tokenizers import HFTokenizer, load_tokenizer

WHOLE = 2**26
"""Weight files up to 64 MiB are hashed whole; of larger ones, see `digest_of`."""
_BLOCK, _BLOCKS = 2**16, 64


def load_module(
    folder: Path, name: str, revision: str | None, dtype: str, device: str | None, digest: str | None = None
) -> tuple[Forward, HFTokenizer, ModelIdentity]:
    """The model of a folder, its tokenizer and its identity. Raises `ModelError` PLM511 to PLM514.

    `digest` is that of the file which the folder was made out of, if it was.
    """
    weights = _weight_files(folder)
    tokenizer = load_tokenizer(folder)
    place = _device(device)
    config = _config(folder)
    module = _module(folder, config, getattr(torch, dtype), place)
    head = module.get_output_embeddings()
    size = tokenizer.vocabulary_size if head is None else head.weight.shape[0]
    if size != tokenizer.vocabulary_size:
        raise _failed(folder, f"it predicts {size} ids but the tokenizer has {tokenizer.vocabulary_size}")
    identity = ModelIdentity(name, "transformers", digest or digest_of(folder, weights), revision, dtype)
    return Forward(module, size, _window(config)), tokenizer, identity


def _weight_files(folder: Path) -> list[Path]:
    found = sorted(folder.glob("*.safetensors"))
    if found:
        return found
    pickled = sorted(p.name for pattern in ("*.bin", "*.pt", "*.pth") for p in folder.glob(pattern))
    why = f"only {pickled[0]}, which is pickled and not read" if pickled else "no *.safetensors file"
    raise ModelError.of(
        "PLM511",
        f"the folder {folder} holds no weights: there is {why}",
        help="save the model there with model.save_pretrained(folder), which writes model.safetensors",
    )


def _config(folder: Path) -> PreTrainedConfig:
    try:
        kind = read_json((folder / "config.json").read_bytes(), finite=False).get("model_type")
    except FileNotFoundError:
        raise _failed(folder, "config.json is missing") from None
    except (OSError, ValueError, AttributeError):
        raise _failed(folder, "config.json is not a JSON object") from None
    try:
        with quiet():
            return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as problem:
        if isinstance(problem, (ValueError, KeyError)):
            raise _failed(folder, f"its model_type {kind!r} is not one that transformers knows") from None
        raise _failed(folder, first_line(problem)) from None


def _module(
    folder: Path, config: PreTrainedConfig, dtype: torch.dtype, device: torch.device
) -> PreTrainedModel:
    try:
        with quiet():
            module, info = AutoModelForCausalLM.from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
            module = module.to(device)
    except Exception as problem:  # safetensors, shapes, memory: each library raises its own
        raise _failed(folder, first_line(problem)) from None
    missing = sorted(info["missing_keys"])
    if missing:
        # transformers would fill these at random and go on.
        raise _failed(folder, f"the weights lack {len(missing)} tensors, {missing[0]} among them")
    # Padding is on the right of causal attention here and carries no meaning;
    # a pad id would only make some models warn about ids that equal it.
    module.config.pad_token_id = None
    return module.eval().requires_grad_(False)


def _window(config: PreTrainedConfig) -> int | None:
    """Tokens that fit. A `longrope` model is kept within its short window: beyond it every
    position turns by other angles, so a cached prompt would no longer agree with a long text."""
    text = config.get_text_config(decoder=True)
    found = getattr(text, "max_position_embeddings", None) or getattr(text, "max_seq_len", None)
    rope = getattr(text, "rope_parameters", None) or {}
    if isinstance(rope, dict) and rope.get("rope_type") == "longrope":
        short = rope.get("original_max_position_embeddings")
        found = min(x for x in (short, found) if x) if short or found else None
    return int(found) if isinstance(found, int) and found > 0 else None


def _device(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise ModelError.of(
            "PLM514", f"there is no device {name!r} here", help='use "cpu", or leave the device out'
        ) from None
    return device


def digest_of(folder: Path, weights: list[Path]) -> str:
    """SHA-256 over config.json and the weight files, by name.

    Of a file over 64 MiB: its size, and 64 blocks of 64 KiB spread evenly from the
    first byte (the header, which lists every tensor) to the last.
    """
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for path in weights:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            if size <= WHOLE:
                digest.update(file.read())
                continue
            for k in range(_BLOCKS):
                file.seek((size - _BLOCK) * k // (_BLOCKS - 1))
                digest.update(file.read(_BLOCK))
    return digest.hexdigest()


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


def _failed(folder: Path, why: str) -> ModelError:
    return ModelError.of(
        "PLM514",
        f"the model in {folder} failed to load: {why.rstrip('.')}",
        help="check that the folder loads with AutoModelForCausalLM.from_pretrained(folder)",
    )


def first_line(problem: Exception) -> str:
    text = str(problem).strip().splitlines()
    return (text[0] if text else type(problem).__name__)[:200]
