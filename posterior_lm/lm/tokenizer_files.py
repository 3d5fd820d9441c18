"""What the files of a model's folder say of its tokenizer, read without any library.

A text value must mean the same bytes wherever it stands, so the tokenizer is used
in two forms cut from the same `tokenizer.json`: the *start* form begins a sequence
as the tokenizer itself does (a SentencePiece tokenizer writes a space first, its
dummy prefix), the *continuation* form adds nothing.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from attrs import frozen

from posterior_lm.lang.diagnostics import ModelError
from posterior_lm.lang.values import read_json
from posterior_lm.lm.chat import ChatText, unusable

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
        return ModelError.of(
            "PLM513",
            f"the tokenizer in {self.folder} cannot be used: {why}",
            help="use a model whose tokenizer.json is BPE or Unigram and keeps text as it is",
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

    def mask_id(self, to_id: Callable[[str], int | None]) -> int | None:
        """The id of a masked place: the tokenizer's own, else the model's; None of a model without masks."""
        own = _content(self.config.get("mask_token"))
        found = None if own is None else to_id(own)
        return next(iter(_ids(self.model.get("mask_token_id"))), None) if found is None else found

    def model_vocabulary_size(self) -> int | None:
        """V as `config.json` gives it, also where it is nested under `text_config`."""
        nested = self.model.get("text_config")
        size = self.model.get("vocab_size", nested.get("vocab_size") if isinstance(nested, dict) else None)
        return size if isinstance(size, int) and size > 0 else None

    def chat_text(self) -> ChatText | None:
        """The chat template, of chat_template.jinja before that of the configuration; None without one.

        Of several named ones it is the one called "default". Raises ModelError PLM551 for a file that
        cannot be read.
        """
        found = self.config.get("chat_template")
        if isinstance(found, list):
            found = {t.get("name"): t.get("template") for t in found if isinstance(t, dict)}
        if isinstance(found, dict):
            found = found.get("default")
        path = self.folder / "chat_template.jinja"
        if path.is_file():
            try:
                if path.stat().st_size > LONGEST_TEMPLATE:
                    raise ValueError(f"it has more than {LONGEST_TEMPLATE:,} bytes")
                found = path.read_text(encoding="utf-8")
            except (OSError, ValueError) as problem:
                raise unusable(str(self.folder), str(problem).rstrip(".")) from None
        if not isinstance(found, str):
            return None
        named = {k: _content(v) for k, v in self.config.items() if k.endswith("_token")}
        variables = {k: v for k, v in named.items() if v is not None}
        ids = special_ids(self.spec, self.config) if self.spec else set()
        specials = {t["content"] for t in self.spec.get("added_tokens") or () if t["id"] in ids}
        return ChatText(found, variables, tuple(sorted({*specials, *variables.values()} - {""})))

    def digest(self) -> str:
        """SHA-256 over the vocabulary, the merges and the added tokens, in one canonical form."""
        model = self.spec["model"]
        merges = [m.split(" ", 1) if isinstance(m, str) else m for m in model.get("merges") or ()]
        added = sorted((t["id"], t["content"]) for t in self.spec.get("added_tokens") or ())
        canonical = [model.get("type", "BPE"), model["vocab"], merges, added]
        text = json.dumps(canonical, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode("ascii")).hexdigest()


LONGEST_TEMPLATE = 2**20
"""Bytes of a chat template."""


def read_chat_text(folder: Path) -> ChatText | None:
    """The chat template of a model's folder, without its vocabulary. Raises PLM513 and PLM551."""
    config = {**_read(folder, "special_tokens_map.json"), **_read(folder, "tokenizer_config.json")}
    return TokenizerFiles(folder, spec={}, config=config, model={}, generation={}).chat_text()


def read_special_tokens(folder: Path) -> tuple[str, ...]:
    """The special tokens of a model's folder as they are spelled, sorted. Raises PLM512, PLM513."""
    files = read_tokenizer_files(folder)
    ids = special_ids(files.spec, files.config)
    return tuple(sorted(t["content"] for t in files.spec.get("added_tokens") or () if t["id"] in ids))


def read_tokenizer_files(folder: Path) -> TokenizerFiles:
    """Read and check the files; PLM512 without `tokenizer.json`, PLM513 where it is not usable."""
    if not (folder / "tokenizer.json").is_file():
        raise ModelError.of(
            "PLM512",
            f"the folder {folder} holds no tokenizer: tokenizer.json is missing",
            help="save it there with AutoTokenizer.from_pretrained(...).save_pretrained(folder)",
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
        raise ModelError.of("PLM513", message)
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


# ------------------------------------------------------------------------------- the bytes of every token

_SPACE = "\u2581"  # SentencePiece writes a space as this character
_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def byte_alphabet() -> dict[str, int]:
    """The 256 characters that byte-level BPE writes bytes with.

    Printable Latin-1 stands for itself; the other bytes take the characters from
    U+0100 on, in order (Radford et al., 2019, GPT-2's encoder).
    """
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [b for b in range(256) if b not in set(plain)]
    return {chr(b): b for b in plain} | {chr(0x100 + k): b for k, b in enumerate(rest)}


def special_ids(spec: dict[str, Any], config: dict[str, Any]) -> set[int]:
    """Ids that no text contains: special added tokens, and the unknown token."""
    found = {t["id"] for t in spec.get("added_tokens") or () if t.get("special")}
    declared = config.get("added_tokens_decoder")
    if isinstance(declared, dict):
        found |= {int(i) for i, t in declared.items() if isinstance(t, dict) and t.get("special")}
    model = spec["model"]
    if isinstance(model.get("unk_id"), int):
        found.add(model["unk_id"])
    unknown = model.get("unk_token")
    return found | {i for piece, i in _pieces(model) if piece == unknown}


def table_of_bytes(spec: dict[str, Any], size: int, special: set[int]) -> tuple[bytes | None, ...]:
    """(V,) the bytes of every id; None for special ids and for ids the tokenizer does not have."""
    beyond = 1 + max((t["id"] for t in spec.get("added_tokens") or ()), default=-1)
    table: list[bytes | None] = [None] * max(size, beyond)
    found = [*steps(spec.get("normalizer")), *steps(spec.get("pre_tokenizer"))]
    alphabet = byte_alphabet() if any(s.get("type") == "ByteLevel" for s in found) else None
    spaced = any(s.get("type") == "Metaspace" or s.get("content") == _SPACE for s in found)
    fallback = bool(spec["model"].get("byte_fallback"))
    for piece, i in _pieces(spec["model"]):
        if alphabet is not None:
            table[i] = _from_alphabet(piece, alphabet)
        elif fallback and (byte := _BYTE_PIECE.fullmatch(piece)):
            table[i] = bytes([int(byte[1], 16)])
        else:
            table[i] = _utf8(piece.replace(_SPACE, " ") if spaced else piece)
    for token in spec.get("added_tokens") or ():
        # An ordinary added token is cut out of the text before any byte mapping.
        table[token["id"]] = _utf8(token["content"])
    for i in special:
        if 0 <= i < size:
            table[i] = None
    return tuple(table[:size])


def _pieces(model: dict[str, Any]) -> Iterator[tuple[str, int]]:
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        yield from vocabulary.items()
    else:  # Unigram: [[piece, score], ...]
        yield from ((entry[0], i) for i, entry in enumerate(vocabulary))


def steps(step: Any) -> Iterator[dict[str, Any]]:
    """The normalizers or pre-tokenizers of a possibly nested sequence."""
    if isinstance(step, dict):
        inner = step.get("normalizers") or step.get("pretokenizers")
        if inner is None:
            yield step
        else:
            for one in inner:
                yield from steps(one)


def _from_alphabet(piece: str, alphabet: dict[str, int]) -> bytes | None:
    try:
        return bytes(alphabet[c] for c in piece)
    except KeyError:
        return None


def _utf8(piece: str) -> bytes | None:
    try:
        return piece.encode("utf-8")
    except UnicodeEncodeError:
        return None
