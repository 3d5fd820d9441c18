"""Which bytes each token of a `tokenizer.json` adds to a text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

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
