"""From a GGUF file to an ordinary folder, by transformers' own reader.

What transformers loads from such a file can be neither saved nor trained, and reading it takes longer than
loading a folder ten times: the weights are put into a plain module once, and that is saved.
"""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from posterior_lm.lang.diagnostics import ModelError
from posterior_lm.lm.gguf_header import GgufHeader
from posterior_lm.lm.hf.load import first_line, quiet

try:
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS as KNOWN
except ImportError:  # of another version
    KNOWN = {}

DIGITS = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b")
"""Ways of splitting text where every digit stands alone, by the names of llama.cpp (llama-vocab.cpp)."""
LIKE_GPT2 = ("default", "gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling", "a.x-4.0",
             "mellum", "modern-bert", "gigachat", "jina-es", "jina-de", "jina-v2-es", "jina-v2-de",
             "roberta-bpe")  # fmt: skip
"""Ways of splitting text that are GPT-2's."""


def convert(file: Path, header: GgufHeader, dtype: str, folder: Path) -> None:
    """Write the model, its tokenizer and its chat template as a folder. Raises ModelError, and OSError.

    Quantised weights are computed in float32 and rounded to `dtype` once.
    """
    check_tokenizer(file, header)
    options = {"gguf_file": file.name, "local_files_only": True, "trust_remote_code": False}
    try:
        with quiet(), redirect_stderr(io.StringIO()):  # the reader has a progress bar of its own
            module, info = AutoModelForCausalLM.from_pretrained(
                file.parent, dtype=getattr(torch, dtype), output_loading_info=True, **_unpacked(), **options
            )
            tokenizer = AutoTokenizer.from_pretrained(file.parent, **options)
    except Exception as problem:  # the reader's own kinds, and those of every model
        raise failed(file, first_line(problem).replace("GGUF model with", "the")) from None
    missing = sorted(info["missing_keys"])
    if missing:
        raise failed(file, f"it lacks {len(missing)} tensors, {missing[0]} among them")
    with quiet():
        try:
            _plain(module, header, dtype).save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        except OSError:
            raise
        except Exception as problem:  # safetensors has an error of its own for a full disk
            raise OSError(first_line(problem)) from None
    _split_as_declared(folder / "tokenizer.json", header.metadata.get("tokenizer.ggml.pre"))


def _unpacked() -> dict[str, object]:
    """Weights as numbers, also for the architectures that transformers could compute with in blocks."""
    config = getattr(transformers, "GgufConfig", None)
    return {} if config is None else {"quantization_config": config(dequantize=True)}


def _plain(module: PreTrainedModel, header: GgufHeader, dtype: str) -> PreTrainedModel:
    """A module like any other over the same weights."""
    config = module.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.dtype = getattr(torch, dtype)
    with torch.device("meta"):
        plain = type(module)(config)
    plain.load_state_dict(module.state_dict(), assign=True)
    plain.tie_weights()
    ends = [header.metadata.get(f"tokenizer.ggml.{kind}_token_id") for kind in ("eos", "eot")]
    if settings := module.generation_config:
        settings.eos_token_id = list(dict.fromkeys(i for i in ends if i is not None)) or settings.eos_token_id
        plain.generation_config = settings
    return plain


def check_tokenizer(file: Path, header: GgufHeader) -> None:
    """Raises ModelError PLM512 where the file holds none, PLM513 where its way of splitting text is unknown."""
    if not {"tokenizer.ggml.model", "tokenizer.ggml.tokens"} <= set(header.metadata):
        raise ModelError.of(
            "PLM512",
            f"the file {file} holds no tokenizer: it was made with the weights alone",
            help="use a file with its vocabulary, or the model's own folder",
        )
    if header.metadata["tokenizer.ggml.model"] != "gpt2":
        return
    split = header.metadata.get("tokenizer.ggml.pre", "default")
    if split not in (*DIGITS, *LIKE_GPT2, *KNOWN):
        raise ModelError.of(
            "PLM513",
            f"the tokenizer in {file} cannot be used: how it splits text, {split!r}, is not known here",
            help="use the model's own folder, whose tokenizer.json says it",
        )


def _split_as_declared(path: Path, split: str | None) -> None:
    """transformers splits as GPT-2 does where it does not know better; the digits stand alone first."""
    if split in DIGITS and split not in KNOWN:
        spec = json.loads(path.read_text(encoding="utf-8"))
        digits = {"type": "Digits", "individual_digits": True}
        spec["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, spec["pre_tokenizer"]]}
        path.write_text(json.dumps(spec, ensure_ascii=False), encoding="utf-8")


def failed(file: Path, why: str) -> ModelError:
    return ModelError.of(
        "PLM514",
        f"the model in {file} failed to load: {why.rstrip('.')}",
        help="use the model's own folder in place of the GGUF file",
    )
