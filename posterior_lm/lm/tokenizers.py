"""A model folder's tokenizer, without torch: exact bytes, no special tokens from text.

It is used in the two forms that `tokenizer_files` cuts. Both never read a special token out of a
text, and every encoding is checked byte for byte.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from attrs import field, frozen
from tokenizers import Tokenizer as Backend

from posterior_lm.lang.diagnostics import Diagnostic, ModelError, error, shown
from posterior_lm.lm.chat import ChatTemplate, ChatText, is_special, mark
from posterior_lm.lm.tokenizer_files import TokenizerFiles, read_tokenizer_files, special_ids, table_of_bytes


@frozen(slots=False, eq=False)
class HFTokenizer:
    """A `Tokenizer` over the `tokenizers` library; see `posterior_lm.lm.protocol.Tokenizer`."""

    digest: str
    vocabulary_size: int
    token_bytes: tuple[bytes | None, ...] = field(repr=False)
    start_ids: tuple[int, ...]
    bos_id: int | None
    eos_ids: tuple[int, ...]
    end_ids: tuple[int, ...]
    """What the tokenizer writes after a text, which only a masked model reads."""
    mask_id: int | None
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
    start_ids, end_ids = _around(start)
    return HFTokenizer(
        digest=files.digest(),
        vocabulary_size=size,
        token_bytes=table_of_bytes(files.spec, size, special_ids(files.spec, files.config) | named),
        start_ids=start_ids,
        bos_id=bos_id,
        eos_ids=eos_ids,
        end_ids=end_ids,
        mask_id=files.mask_id(start.token_to_id),
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


def _around(backend: Backend) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What the tokenizer writes before and after a text.

    Only `tokenizer.json` counts: transformers, too, leaves `add_bos_token` of
    `tokenizer_config.json` aside where that file exists.
    """
    for text in ("a", "A", "0", " ", "."):
        bare = backend.encode(text, add_special_tokens=False).ids
        full = backend.encode(text, add_special_tokens=True).ids
        for at in range(len(full) - len(bare) + 1 if bare else 0):
            if full[at : at + len(bare)] == bare:
                return tuple(full[:at]), tuple(full[at + len(bare) :])
    return (), ()


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
