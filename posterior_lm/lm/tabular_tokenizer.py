"""The tokenizer of a tabular model: a short list of texts, several characters allowed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from attrs import field, frozen

from posterior_lm.lang.diagnostics import ModelError, error, shown


@frozen(eq=False)
class TabularTokenizer:
    """A `Tokenizer` over listed texts. Ids: the texts in order, then eos, then bos if there is one."""

    tokens: tuple[str, ...]
    bos: bool = False
    digest: str = field(init=False, repr=False)
    token_bytes: tuple[bytes | None, ...] = field(init=False, repr=False)

    @digest.default
    def _digest(self) -> str:
        canonical = json.dumps([list(self.tokens), self.bos], separators=(",", ":"))
        return hashlib.sha256(canonical.encode("ascii")).hexdigest()

    @token_bytes.default
    def _token_bytes(self) -> tuple[bytes | None, ...]:
        return (*(t.encode("utf-8") for t in self.tokens), *(None,) * (1 + self.bos))

    @property
    def vocabulary_size(self) -> int:
        return len(self.tokens) + 1 + self.bos

    @property
    def eos_id(self) -> int:
        return len(self.tokens)

    @property
    def eos_ids(self) -> tuple[int, ...]:
        return (self.eos_id,)

    @property
    def bos_id(self) -> int | None:
        return len(self.tokens) + 1 if self.bos else None

    @property
    def start_ids(self) -> tuple[int, ...]:
        return (len(self.tokens) + 1,) if self.bos else ()

    def encode(self, text: str) -> tuple[int, ...]:
        """The fewest tokens that spell the text; among those, the one whose first tokens are longest.

        Found from the right: `best[i]` is the count for `text[i:]`. Raises
        `ModelError` (PLM531) where no tokens spell it.
        """
        endless = len(text) + 1
        best = [endless] * len(text) + [0]
        chosen = [-1] * len(text)
        for i in reversed(range(len(text))):
            for k, token in enumerate(self.tokens):
                if not text.startswith(token, i) or best[i + len(token)] >= endless:
                    continue
                count = 1 + best[i + len(token)]
                longer = chosen[i] < 0 or len(token) > len(self.tokens[chosen[i]])
                if count < best[i] or (count == best[i] and longer):
                    best[i], chosen[i] = count, k
        if best[0] >= endless:
            raise ModelError(self._unspellable(text))
        ids, i = [], 0
        while i < len(text):
            ids.append(chosen[i])
            i += len(self.tokens[chosen[i]])
        return tuple(ids)

    def encode_start(self, text: str) -> tuple[int, ...]:
        """The same as `encode`: a tabular model has no dummy prefix."""
        return self.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens; eos and bos add nothing."""
        return "".join(self.tokens[i] for i in ids if i < len(self.tokens))

    def _unspellable(self, text: str):
        known = {c for token in self.tokens for c in token}
        char = next((c for c in text if c not in known), None)
        if char is None:
            message = f"no tokens of the table spell {shown(text, 40)}"
        else:
            message = f"the tokenizer cannot spell the character {char!r} (U+{ord(char):04X})"
        return error(
            "PLM531", message, help=f"the tokens of the table are: {', '.join(map(repr, self.tokens[:20]))}"
        )
