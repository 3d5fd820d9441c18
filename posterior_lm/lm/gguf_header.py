"""What stands at the head of a GGUF file: metadata and the table of tensors, read without any library.

The `gguf` package makes an array of every string, which takes seconds for a vocabulary; and a file that was cut
short is only found out here. Of the vocabulary the special tokens are read, which a chat template needs. The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

from attrs import field, frozen

from posterior_lm.lm.chat import ChatText

_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_PLAIN = {0: "float32", 1: "float16", 28: "float64", 30: "bfloat16"}
"""Types of tensors that hold numbers as they are; the others hold blocks of quantised ones."""
_BYTES = {0: (1, 4), 1: (1, 2), 28: (1, 8), 30: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24),
          8: (32, 34), 9: (32, 36), 10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176),
          14: (256, 210), 15: (256, 292)}  # fmt: skip
"""Numbers in a block and its bytes, of the types that most files hold."""
_TOKENS, _KINDS, _CONTROL = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type", 3
_NAMED = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
"""What a template calls the tokens that the metadata name."""
_LENGTH = struct.Struct("<Q").unpack_from


@frozen(eq=False)
class GgufHeader:
    """Metadata by key, an array as its length alone, and (numbers, type) of every tensor.

    `special` are the tokens of the vocabulary that are marked as control tokens, or named in the metadata, by id.
    """

    metadata: Mapping[str, Any] = field(repr=False)
    tensors: tuple[tuple[int, int], ...] = field(repr=False)
    special: Mapping[int, str] = field(repr=False)

    @property
    def architecture(self) -> str:
        return str(self.metadata["general.architecture"])

    @property
    def parameters(self) -> int:
        return sum(numbers for numbers, _ in self.tensors)

    @property
    def dtype(self) -> str:
        """The dtype that holds most of the numbers; bfloat16 where most are quantised."""
        share: dict[str, int] = {}
        for numbers, kind in self.tensors:
            name = _PLAIN.get(kind, "bfloat16")
            share[name] = share.get(name, 0) + numbers
        return max(share, key=lambda name: share[name])

    @property
    def chat_text(self) -> ChatText | None:
        """The chat template; None without one. A token that the metadata do not name is no variable of it."""
        source = self.metadata.get("tokenizer.chat_template")
        if not isinstance(source, str):
            return None
        ids: dict[str, Any] = {
            name: self.metadata.get(f"tokenizer.ggml.{token}_token_id") for name, token in _NAMED.items()
        }
        variables = {name: self.special[i] for name, i in ids.items() if i in self.special}
        return ChatText(source, variables, tuple(sorted({*self.special.values()} - {""})))


def read_header(path: Path) -> GgufHeader:
    """The head of a file. Raises OSError, and ValueError for what is no whole GGUF file of version 2 or 3."""
    if path.stat().st_size == 0:
        raise ValueError("it is empty")
    with path.open("rb") as file:
        try:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return _Reader(content).header()
        except (struct.error, UnicodeDecodeError, MemoryError, OverflowError, RecursionError):
            raise ValueError("it is cut short or damaged in its head") from None


class _Reader:
    def __init__(self, content: mmap.mmap) -> None:
        self.content = content
        self.at = 0
        self.arrays: dict[str, int] = {}  # where each begins

    def header(self) -> GgufHeader:
        if self.content[:4] != b"GGUF":
            raise ValueError("it does not begin as a GGUF file does")
        self.at = 4
        (version,) = self.numbers("I")
        if version not in (2, 3):
            raise ValueError(f"it is GGUF of version {version}, and 2 and 3 are read")
        tensors, pairs = self.numbers("QQ")
        metadata = {}
        for _ in range(pairs):
            key = self.string()
            (kind,) = self.numbers("I")
            if kind == _ARRAY:
                self.arrays[key] = self.at
            metadata[key] = self.value(kind)
        if not isinstance(metadata.get("general.architecture"), str):
            raise ValueError("it names no architecture")
        table = [self.tensor() for _ in range(tensors)]
        if not table:
            raise ValueError("it holds no tensor")
        step = metadata.get("general.alignment", 32)
        if not isinstance(step, int) or step < 1:
            raise ValueError(f"its tensors are aligned by {step!r}")
        start = -(-self.at // step) * step
        for name, numbers, kind, offset in table:
            block, size = _BYTES.get(kind, (1, 0))
            if start + offset + numbers // block * size > len(self.content):
                raise ValueError(
                    f"it is cut short: the tensor {name} ends beyond its {len(self.content):,} bytes"
                )
        return GgufHeader(
            metadata, tuple((numbers, kind) for _, numbers, kind, _ in table), self.special(metadata)
        )

    def special(self, metadata: Mapping[str, Any]) -> dict[int, str]:
        if _TOKENS not in self.arrays:
            return {}
        wanted = {metadata.get(f"tokenizer.ggml.{token}_token_id") for token in _NAMED.values()}
        if _KINDS in self.arrays:
            self.at = self.arrays[_KINDS]
            inner, length = self.numbers("IQ")
            if inner in _NUMBERS:
                wanted |= {
                    i for i, kind in enumerate(self.numbers(f"{length}{_NUMBERS[inner]}")) if kind == _CONTROL
                }
        self.at = self.arrays[_TOKENS]
        inner, length = self.numbers("IQ")
        if inner != _STRING:
            return {}
        starts = self.strings(length)
        found = {}
        for i in wanted:
            if isinstance(i, int) and 0 <= i < length:
                self.at = starts[i]
                found[i] = self.string()
        return found

    def tensor(self) -> tuple[str, int, int, int]:
        name = self.string()
        (dimensions,) = self.numbers("I")
        numbers = prod(self.numbers(f"{dimensions}Q"))
        kind, offset = self.numbers("IQ")
        return name, numbers, kind, offset

    def numbers(self, form: str) -> tuple[Any, ...]:
        found = struct.unpack_from("<" + form, self.content, self.at)
        self.at += struct.calcsize("<" + form)
        return found

    def string(self) -> str:
        (length,) = self.numbers("Q")
        found = self.content[self.at : self.at + length]
        if len(found) != length:
            raise struct.error
        self.at += length
        return found.decode("utf-8")

    def value(self, kind: int) -> Any:
        if kind in _NUMBERS:
            return self.numbers(_NUMBERS[kind])[0]
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            raise ValueError(f"its metadata hold a value of the unknown type {kind}")
        inner, length = self.numbers("IQ")
        if inner in _NUMBERS:
            self.at += length * struct.calcsize("<" + _NUMBERS[inner])
        elif inner == _STRING:
            self.strings(length)
        else:
            for _ in range(length):
                self.value(inner)
        return length

    def strings(self, length: int) -> list[int]:
        """Where each of so many strings begins."""
        content, at, starts = self.content, self.at, []
        if 8 * length > len(content) - at:
            raise struct.error
        for _ in range(length):
            starts.append(at)
            at += 8 + _LENGTH(content, at)[0]
        self.at = at
        return starts
