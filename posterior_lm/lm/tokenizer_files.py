"""The JSON files that describe a tokenizer, and the forms cut from `tokenizer.json`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrs import frozen

from posterior_lm.lang.diagnostics import ModelError, error
from posterior_lm.lang.values import read_json
from posterior_lm.lm.token_bytes import steps

LOSSY = ("Lowercase", "StripAccents", "BertNormalizer")
"""Normalizers that change ordinary text. Others, such as NFC, leave most texts as they
are; there, the texts that do change are refused one by one (PLM531)."""


@frozen(eq=False)
class TokenizerFiles:
    """What was read: `spec` is `tokenizer.json`, the others are {} where their file is absent."""

    folder: Path
    spec: dict[str, Any]
    config: dict[str, Any]  # tokenizer_config.json over special_tokens_map.json
    model: dict[str, Any]  # config.json
    generation: dict[str, Any]  # generation_config.json

    def unusable(self, why: str) -> ModelError:
        """PLM513 for this folder."""
        return ModelError(
            error(
                "PLM513",
                f"the tokenizer in {self.folder} cannot be used: {why}",
                help="use a model whose tokenizer.json is BPE or Unigram and keeps text as it is",
            )
        )

    def start_spec(self) -> dict[str, Any]:
        """The tokenizer as it is, but deterministic and without truncation or padding."""
        model = (
            {**self.spec["model"], "dropout": None}
            if self.spec["model"].get("dropout")
            else self.spec["model"]
        )
        return {**self.spec, "model": model, "truncation": None, "padding": None}

    def continuation_spec(self) -> dict[str, Any]:
        """The tokenizer for a text that follows something: its dummy prefix is taken out."""
        return {
            **self.start_spec(),
            "normalizer": _without_prepend(self.spec.get("normalizer")),
            "pre_tokenizer": _without_prefix_space(self.spec.get("pre_tokenizer")),
        }

    def bos_id(self, to_id: Callable[[str], int | None]) -> int | None:
        """The begin-of-text id: the tokenizer's own, else the model's."""
        own = _content(self.config.get("bos_token"))
        found = None if own is None else to_id(own)
        if found is None:
            found = next(iter(_ids(self.model.get("bos_token_id"))), None)
        return found

    def eos_ids(self, to_id: Callable[[str], int | None]) -> tuple[int, ...]:
        """Every end-of-text id: of the tokenizer, of the model and of its generation settings."""
        own = _content(self.config.get("eos_token"))
        named = () if own is None or to_id(own) is None else (to_id(own),)
        both = (*_ids(self.model.get("eos_token_id")), *_ids(self.generation.get("eos_token_id")))
        return tuple(sorted({*named, *both}))  # type: ignore[type-var]

    def model_vocabulary_size(self) -> int | None:
        """V as `config.json` gives it, also where it is nested under `text_config`."""
        nested = self.model.get("text_config")
        size = self.model.get("vocab_size", nested.get("vocab_size") if isinstance(nested, dict) else None)
        return size if isinstance(size, int) and size > 0 else None

    def digest(self) -> str:
        """SHA-256 over the vocabulary, the merges and the added tokens, in one canonical form."""
        model = self.spec["model"]
        merges = [m.split(" ", 1) if isinstance(m, str) else m for m in model.get("merges") or ()]
        added = sorted((t["id"], t["content"]) for t in self.spec.get("added_tokens") or ())
        canonical = [model.get("type", "BPE"), model["vocab"], merges, added]
        text = json.dumps(canonical, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode("ascii")).hexdigest()


def read_tokenizer_files(folder: Path) -> TokenizerFiles:
    """Read and check the files; PLM512 without `tokenizer.json`, PLM513 where it is not usable."""
    if not (folder / "tokenizer.json").is_file():
        raise ModelError(
            error(
                "PLM512",
                f"the folder {folder} holds no tokenizer: tokenizer.json is missing",
                help="save it there with AutoTokenizer.from_pretrained(...).save_pretrained(folder)",
            )
        )
    files = TokenizerFiles(
        folder,
        spec=_read(folder, "tokenizer.json"),
        config={**_read(folder, "special_tokens_map.json"), **_read(folder, "tokenizer_config.json")},
        model=_read(folder, "config.json"),
        generation=_read(folder, "generation_config.json"),
    )
    _check(files)
    return files


def _check(files: TokenizerFiles) -> None:
    model = files.spec.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), (dict, list)):
        raise files.unusable("tokenizer.json has no vocabulary")
    kind = model.get("type", "BPE")
    if kind == "WordPiece" or model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise files.unusable(f"the pieces of its {kind} vocabulary do not spell text byte for byte")
    for step in steps(files.spec.get("normalizer")):
        if step.get("type") in LOSSY:
            raise files.unusable(f"its {step['type']} normalizer changes letters")


def _read(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    if not path.is_file():
        return {}
    try:
        found, why = read_json(path.read_bytes(), finite=False), ""
    except ValueError as problem:
        found, why = None, f": {problem}"
    if not isinstance(found, dict):
        message = f"the tokenizer in {folder} cannot be used: {name} is not a JSON object{why}"
        raise ModelError(error("PLM513", message))
    return found


def _content(token: Any) -> str | None:
    """The text of a named special token, written as a string or as an object."""
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else None


def _ids(value: Any) -> tuple[int, ...]:
    values = value if isinstance(value, list) else [value]
    return tuple(v for v in values if isinstance(v, int) and not isinstance(v, bool) and v >= 0)


def _without_prepend(normalizer: Any) -> Any:
    if not isinstance(normalizer, dict) or normalizer.get("type") == "Prepend":
        return None
    if normalizer.get("type") == "Sequence":
        kept = [n for n in map(_without_prepend, normalizer["normalizers"]) if n is not None]
        return {**normalizer, "normalizers": kept} if kept else None
    return normalizer


def _without_prefix_space(pre_tokenizer: Any) -> Any:
    if not isinstance(pre_tokenizer, dict):
        return None
    match pre_tokenizer.get("type"):
        case "Sequence":
            inner = [_without_prefix_space(p) for p in pre_tokenizer["pretokenizers"]]
            return {**pre_tokenizer, "pretokenizers": inner}
        case "Metaspace":
            kept = {k: v for k, v in pre_tokenizer.items() if k != "add_prefix_space"}
            return {**kept, "prepend_scheme": "never"}
        case "ByteLevel":
            return {**pre_tokenizer, "add_prefix_space": False}
    return pre_tokenizer
