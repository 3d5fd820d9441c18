"""A model folder's tokenizer, read without torch: exact bytes, no special tokens from text.

A text value must mean the same bytes wherever it stands, so the tokenizer is used
in two forms cut from the same `tokenizer.json`: the *start* form begins a sequence
as the tokenizer itself does (a SentencePiece tokenizer writes a space first, its
dummy prefix), the *continuation* form adds nothing. Both never read a special
token out of a text, and every encoding is checked byte for byte.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from attrs import field, frozen
from tokenizers import Tokenizer as Backend

from posterior_lm.lang.diagnostics import Diagnostic, ModelError, error, shown
from posterior_lm.lang.values import read_json
from posterior_lm.lm.chat import ChatTemplate, ChatText, is_special, mark, unusable

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


# ------------------------------------------------------------------------------- a tokenizer


@frozen(slots=False, eq=False)
class HFTokenizer:
    """A `Tokenizer` over the `tokenizers` library; see `posterior_lm.lm.protocol.Tokenizer`."""

    digest: str
    vocabulary_size: int
    token_bytes: tuple[bytes | None, ...] = field(repr=False)
    start_ids: tuple[int, ...]
    bos_id: int | None
    eos_ids: tuple[int, ...]
    _start: Backend = field(repr=False)
    _continuation: Backend = field(repr=False)
    _chat: ChatText | None = field(default=None, repr=False)
    _where: str = field(default="", repr=False)

    @cached_property
    def chat(self) -> ChatTemplate | None:
        """See `posterior_lm.lm.protocol.Tokenizer`; made when it is first asked for."""
        return None if self._chat is None else _conversations(self, self._chat, self._start, self._where)

    def encode(self, text: str) -> tuple[int, ...]:
        """Tokens of a text that follows something; PLM531 where the vocabulary cannot spell it."""
        spelled = _checked_utf8(text)
        ids = tuple(self._continuation.encode(text, add_special_tokens=False).ids)
        if self.spelling(ids) != spelled:
            raise ModelError(self._unspellable(text, ids))
        return ids

    def encode_start(self, text: str) -> tuple[int, ...]:
        """Tokens of the first text of a sequence, with the tokenizer's own dummy prefix."""
        spelled = _checked_utf8(text)
        ids = tuple(self._start.encode(text, add_special_tokens=False).ids)
        if self.spelling(ids) not in (spelled, b" " + spelled):
            raise ModelError(self._unspellable(text, ids))
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens; special ids add nothing, broken UTF-8 becomes U+FFFD."""
        return b"".join(self.token_bytes[i] or b"" for i in ids).decode("utf-8", "replace")

    def spelling(self, ids: Sequence[int]) -> bytes | None:
        """The exact bytes of tokens, or None where one of them spells nothing."""
        pieces = [self.token_bytes[i] for i in ids]
        if None in pieces:
            return None
        return b"".join(pieces)  # type: ignore[arg-type]

    def _unspellable(self, text: str, ids: tuple[int, ...]) -> Diagnostic:
        for char in text:
            alone = self._continuation.encode(char, add_special_tokens=False).ids
            if self.spelling(alone) != _checked_utf8(char):
                return error(
                    "PLM531",
                    f"the tokenizer cannot spell {_name(char)}",
                    help="replace the character, or use a model whose tokenizer falls back to bytes",
                )
        return error(
            "PLM531",
            f"the tokenizer changes the text {shown(text, 40)} into {shown(self.decode(ids), 40)}",
            help="write the text as the tokenizer keeps it, or use a model whose tokenizer changes nothing",
        )


def load_tokenizer(folder: str | Path, name: str | None = None) -> HFTokenizer:
    """The tokenizer of a model folder, from `tokenizer.json` and the configuration files beside it.

    `name` is what its chat template is called by where it is wrong; by default the folder.

    Raises `ModelError`: PLM512 without `tokenizer.json`, PLM513 where it cannot be
    used (not JSON, a kind whose pieces do not spell text, more ids than the model).
    """
    files = read_tokenizer_files(Path(folder))
    start = _backend(files, files.start_spec())
    same = files.start_spec() == files.continuation_spec()
    continuation = start if same else _backend(files, files.continuation_spec())
    size = _vocabulary_size(files, start)
    bos_id = files.bos_id(start.token_to_id)
    eos_ids = tuple(i for i in files.eos_ids(start.token_to_id) if 0 <= i < size)
    named = {*eos_ids, *(() if bos_id is None else (bos_id,))}
    return HFTokenizer(
        digest=files.digest(),
        vocabulary_size=size,
        token_bytes=table_of_bytes(files.spec, size, special_ids(files.spec, files.config) | named),
        start_ids=_start_ids(start),
        bos_id=bos_id,
        eos_ids=eos_ids,
        start=start,
        continuation=continuation,
        chat=files.chat_text(),
        where=name or str(folder),
    )


def _conversations(tokenizer: HFTokenizer, text: ChatText, start: Backend, where: str) -> ChatTemplate:
    """The template with the tokens of what it writes.

    A tokenizer in which every special token is spelled by one private character finds those that the
    template wrote and no other, and treats the text between them as the tokenizer itself does.
    """
    spec = json.loads(start.to_str())
    marks = {content: mark(k) for k, content in enumerate(text.specials)}
    ids = {content: i for content in marks if (i := start.token_to_id(content)) is not None}
    model, added = spec["model"], spec["added_tokens"]
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    listed = {token["content"] for token in added}
    added += [{"id": i, "content": c, "special": True, **plain} for c, i in ids.items() if c not in listed]
    eats_space = {marks[t["content"]] for t in added if t["content"] in marks and t["lstrip"]}
    for token in added:
        token["content"] = marks.get(token["content"], token["content"])
    if isinstance(model["vocab"], dict):
        model["vocab"] = {marks.get(piece, piece): i for piece, i in model["vocab"].items()}
    else:
        model["vocab"] = [[marks.get(piece, piece), score] for piece, score in model["vocab"]]
    model["unk_token"] = marks.get(model.get("unk_token"), model.get("unk_token"))
    backend = Backend.from_str(json.dumps({**spec, "added_tokens": added, "post_processor": None}))

    def encode(written: str) -> tuple[int, ...]:
        ids = tuple(backend.encode(written, add_special_tokens=False).ids)
        bare = "".join(c for c in written if not is_special(c))
        read = b"".join(tokenizer.token_bytes[i] or b"" for i in ids)
        # Tokens with `lstrip` or `rstrip` take the white space beside them, and a dummy prefix adds some.
        if read.translate(None, _BLANK) != _checked_utf8(bare).translate(None, _BLANK):
            raise ModelError(tokenizer._unspellable(bare, ids))
        return ids

    def follows(written: str) -> tuple[int, ...]:
        first = next((k for k, c in enumerate(written) if is_special(c)), len(written))
        head = written[:first].rstrip() if written[first : first + 1] in eats_space else written[:first]
        return tokenizer.encode(head) + encode(written[first:])

    return ChatTemplate(where, text, ids, encode, follows)


_BLANK = b" \t\n\r\x0b\x0c"


def _backend(files: TokenizerFiles, spec: dict[str, Any]) -> Backend:
    try:
        backend = Backend.from_str(json.dumps(spec, ensure_ascii=False))
    except Exception as problem:  # the library raises bare `Exception`
        raise files.unusable(str(problem).splitlines()[0]) from None
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True
    return backend


def _vocabulary_size(files: TokenizerFiles, backend: Backend) -> int:
    """V of the model. Its embedding may be padded beyond the tokenizer; it may lack only special ids."""
    special = special_ids(files.spec, files.config)
    ids = backend.get_vocab(with_added_tokens=True).values()
    if not ids:
        raise files.unusable("it has no vocabulary")
    declared = files.model_vocabulary_size()
    known = 1 + max(ids)
    if declared is not None and any(i >= declared for i in ids if i not in special):
        raise files.unusable(f"it has {known} ids but the model has {declared}")
    return known if declared is None else declared


def _start_ids(backend: Backend) -> tuple[int, ...]:
    """What the tokenizer writes before a text. What it writes after one is not wanted.

    Only `tokenizer.json` counts: transformers, too, leaves `add_bos_token` of
    `tokenizer_config.json` aside where that file exists.
    """
    for text in ("a", "A", "0", " ", "."):
        bare = backend.encode(text, add_special_tokens=False).ids
        full = backend.encode(text, add_special_tokens=True).ids
        for at in range(len(full) - len(bare) + 1 if bare else 0):
            if full[at : at + len(bare)] == bare:
                return tuple(full[:at])
    return ()


def _checked_utf8(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as problem:
        char = text[problem.start]
        raise ModelError.of(
            "PLM531",
            f"no tokenizer can spell {_name(char)}, half of a surrogate pair",
            help="write the whole character, or remove it",
        ) from None


@lru_cache(maxsize=256)
def _name(char: str) -> str:
    shown = f"'{char}' " if char.isprintable() and not char.isspace() else ""
    return f"the character {shown}(U+{ord(char):04X})"
