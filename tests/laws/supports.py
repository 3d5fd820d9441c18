"""Toy tokenizers, and a registry of supports for laws; every implementation stands in `SUPPORTS`.

The toys have no model and no dependency: their tokens are given byte by byte, so
that tokens that straddle a stop string or split a character are easy to make.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from attrs import frozen

from posterior_lm.lang.diagnostics import ModelError, error
from posterior_lm.lang.values import ChoiceSpec, IntSpec
from posterior_lm.support.base import Support
from posterior_lm.support.build import build_support
from posterior_lm.support.spec import Regular, TextSpec
from posterior_lm.tools import ToolSpec


@frozen
class ToyTokenizer:
    """Tokens as given; the longest that fits comes next."""

    token_bytes: tuple[bytes | None, ...]
    eos_ids: tuple[int, ...] = (0,)
    bos_id: int | None = None
    start_ids: tuple[int, ...] = ()

    @property
    def digest(self) -> str:
        return hashlib.sha256(repr((type(self).__name__, self)).encode()).hexdigest()

    @property
    def vocabulary_size(self) -> int:
        return len(self.token_bytes)

    def usable(self, token: int) -> bool:
        return bool(self.token_bytes[token]) and token not in (*self.eos_ids, *self.start_ids, self.bos_id)

    def encode(self, text: str) -> tuple[int, ...]:
        rest, ids = text.encode(), []
        while rest:
            fits = [i for i, b in enumerate(self.token_bytes) if self.usable(i) and rest.startswith(b)]
            if not fits:
                raise ModelError(error("PLM531", f"the tokenizer cannot spell {text!r}"))
            ids.append(max(fits, key=lambda i: (len(self.token_bytes[i]), -i)))
            rest = rest[len(self.token_bytes[ids[-1]]) :]
        return tuple(ids)

    encode_start = encode

    def decode(self, ids: Sequence[int]) -> str:
        return b"".join(self.token_bytes[i] or b"" for i in ids).decode("utf-8", "replace")


@frozen
class ToyMerges(ToyTokenizer):
    """Byte-pair encoding over the whole text: `merges` are pairs of ids, the earliest first."""

    merges: tuple[tuple[int, int], ...] = ()

    def encode(self, text: str) -> tuple[int, ...]:
        try:
            ids = [self.token_bytes.index(bytes([b])) for b in text.encode()]
        except ValueError:
            raise ModelError(error("PLM531", f"the tokenizer cannot spell {text!r}")) from None
        for left, right in self.merges:
            then, at = [], 0
            while at < len(ids):
                if tuple(ids[at : at + 2]) == (left, right):
                    then.append(self.token_bytes.index(self.token_bytes[left] + self.token_bytes[right]))
                    at += 2
                else:
                    then.append(ids[at])
                    at += 1
            ids = then
        return tuple(ids)


def toy_merges(alphabet: bytes, merges: Sequence[tuple[int, int]]) -> ToyMerges:
    """End of text is id 0, then the bytes, then a token for each merge that adds one."""
    pieces: list[bytes | None] = [None, *(bytes([b]) for b in alphabet)]
    kept = []
    for left, right in merges:
        left, right = (1 + i % (len(pieces) - 1) for i in (left, right))
        joined = pieces[left] + pieces[right]
        if joined not in pieces:
            pieces.append(joined)
            kept.append((left, right))
    return ToyMerges(tuple(pieces), merges=tuple(kept))


E_ACUTE = "é".encode()
TOY = ToyTokenizer(
    (
        *(None, b"a", b"b", b"ab", b".", b"b.", b"a.b", b".a", b" ", E_ACUTE[:1], E_ACUTE[1:]),
        *(b"", None, b"<s>", b"1", b"2", b"0", b"10", b"-"),
    ),
    eos_ids=(0, 7),
    bos_id=13,
    start_ids=(13,),
)
"""Two ends of text, of which one has bytes (".a"); a token without bytes; a beginning of text with bytes."""

MERGES = toy_merges(b"ab.\xc3\xa9 ", [(0, 1), (1, 2), (3, 4), (6, 6), (5, 8), (0, 0)])

AFTER_B = ToolSpec(name="b", kind="lookup", trigger="b", table=(("1", "2b"), ("a", "10"), ("b", "1")))
AFTER_A_SPACE = ToolSpec(name="s", kind="lookup", trigger="a ", table=(("1", "2"), ("b", "ab")))
WHOLE = ToolSpec(
    name="w", kind="lookup", trigger="b", table=(("1", "2b"), ("a", "10"), ("b", "1.")), whole=True
)
"""Toy tools; the second has a trigger of two characters, which tokens may begin and end apart."""

SUPPORTS: dict[str, Callable[[], Support]] = {
    "stop": lambda: build_support(TextSpec(1, 4, ".", "stop"), TOY),
    "stop after two": lambda: build_support(TextSpec(2, 5, ".", "stop"), TOY),
    "stop of two bytes": lambda: build_support(TextSpec(1, 4, "b.", "stop"), TOY),
    "stop that overlaps itself": lambda: build_support(TextSpec(1, 5, "aa", "stop"), TOY),
    "stop of one character in two tokens": lambda: build_support(TextSpec(1, 4, "é", "stop"), TOY),
    "characters": lambda: build_support(TextSpec(1, 4, "ab.", "stop", chars="abé"), TOY),
    "end of text": lambda: build_support(TextSpec(0, 3, chars="aé "), TOY),
    "free": lambda: build_support(TextSpec(2, 3, end="free"), TOY),
    "free, one length": lambda: build_support(TextSpec(3, 3, end="free", chars="ab"), TOY),
    "canonical stop": lambda: build_support(TextSpec(1, 5, ".", "stop", canonical=True), MERGES),
    "canonical text": lambda: build_support(TextSpec(0, 4, canonical=True, chars="abé"), MERGES),
    "pattern": lambda: build_support(TextSpec(1, 4, pattern=r"(ab|é)*\.?b?"), TOY),
    "pattern and stop": lambda: build_support(TextSpec(1, 5, ".", "stop", pattern=r"[^é]*(a|é)b\."), TOY),
    "pattern and conditions": lambda: build_support(
        TextSpec(
            0,
            3,
            chars="ab. ",
            pattern="(?i)a?.*",
            also=(Regular("contains", "b."), Regular("ends_with", " ", True)),
        ),
        TOY,
    ),
    "canonical pattern": lambda: build_support(TextSpec(1, 4, pattern="(a|b|é)+", canonical=True), MERGES),
    "grammar": lambda: build_support(TextSpec(0, 5, grammar='start: "a" start "b" | "é" | ""'), TOY),
    "grammar and stop": lambda: build_support(
        TextSpec(1, 5, ".", "stop", grammar='start: s "."\ns: "a" s "b" | s "a" | "b"'), TOY
    ),
    "grammar far from its cap": lambda: build_support(
        TextSpec(2, 9, grammar='start: "a" start "b" | "1" start "2" | "0"'), TOY
    ),
    "schema": lambda: build_support(TextSpec(1, 3, json='{"type": "integer", "maximum": 120}'), TOY),
    "tools": lambda: build_support(TextSpec(1, 3, chars="ab.012", tools=(AFTER_B,)), TOY),
    "tools and stop": lambda: build_support(TextSpec(2, 4, ".", "stop", tools=(AFTER_B,)), TOY),
    "tools of whole words": lambda: build_support(TextSpec(1, 3, chars="ab.012", tools=(WHOLE,)), TOY),
    "two tools": lambda: build_support(
        TextSpec(0, 4, chars="ab012 ", end="free", tools=(AFTER_A_SPACE, AFTER_B)), TOY
    ),
    "int": lambda: build_support(IntSpec(-2, 2), TOY),
    "int without a lead": lambda: build_support(IntSpec(0, 2, lead=""), TOY),
    "one_of": lambda: build_support(ChoiceSpec(("b", "ab", "a.b", "é", "bé", "ab ")), TOY),
    "one value": lambda: build_support(ChoiceSpec(("ab",)), TOY),
    "int without tokens": lambda: build_support(IntSpec(3, 9), None),
    "one_of without tokens": lambda: build_support(ChoiceSpec(("no", "yes", "")), None),
}
