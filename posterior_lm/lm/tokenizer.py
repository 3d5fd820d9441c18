"""A model folder's tokenizer, read without torch: exact bytes, no special tokens from text.

A text value must mean the same bytes wherever it stands, so the tokenizer is used
in two forms cut from the same `tokenizer.json`: the *start* form begins a sequence
as the tokenizer itself does (a SentencePiece tokenizer writes a space first, its
dummy prefix), the *continuation* form adds nothing. Both never read a special
token out of a text, and every encoding is checked byte for byte.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from attrs import field, frozen
from tokenizers import Tokenizer as Backend

from posterior_lm.lang.diagnostics import Diagnostic, ModelError, error, shown
from posterior_lm.lm.token_bytes import special_ids, table_of_bytes
from posterior_lm.lm.tokenizer_files import TokenizerFiles, read_tokenizer_files


@frozen(eq=False)
class HFTokenizer:
    """A `Tokenizer` over the `tokenizers` library; see `posterior_lm.lm.base.Tokenizer`."""

    digest: str
    vocabulary_size: int
    token_bytes: tuple[bytes | None, ...] = field(repr=False)
    start_ids: tuple[int, ...]
    bos_id: int | None
    eos_ids: tuple[int, ...]
    _start: Backend = field(repr=False)
    _continuation: Backend = field(repr=False)

    def encode(self, text: str) -> tuple[int, ...]:
        """Tokens of a text that follows something; PLM531 where the vocabulary cannot spell it."""
        spelled = _utf8(text)
        ids = tuple(self._continuation.encode(text, add_special_tokens=False).ids)
        if self.spelling(ids) != spelled:
            raise ModelError(self._unspellable(text, ids))
        return ids

    def encode_start(self, text: str) -> tuple[int, ...]:
        """Tokens of the first text of a sequence, with the tokenizer's own dummy prefix."""
        spelled = _utf8(text)
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
            if self.spelling(alone) != _utf8(char):
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


def load_tokenizer(folder: str | Path) -> HFTokenizer:
    """The tokenizer of a model folder, from `tokenizer.json` and the configuration files beside it.

    Raises `ModelError`: PLM512 without `tokenizer.json`, PLM513 where it cannot be
    used (not JSON, a kind whose pieces do not spell text, more ids than the model).
    """
    return _load(read_tokenizer_files(Path(folder)))


def _load(files: TokenizerFiles) -> HFTokenizer:
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
    )


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


def _utf8(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as problem:
        char = text[problem.start]
        raise ModelError(
            error(
                "PLM531",
                f"no tokenizer can spell {_name(char)}, half of a surrogate pair",
                help="write the whole character, or remove it",
            )
        ) from None


@lru_cache(maxsize=256)
def _name(char: str) -> str:
    shown = f"'{char}' " if char.isprintable() and not char.isspace() else ""
    return f"the character {shown}(U+{ord(char):04X})"
