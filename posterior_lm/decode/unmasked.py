"""Decoding without the mask (any token, until the stop, end-of-text or the limit), and what was then said."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from attrs import field, frozen

from posterior_lm.lang.diagnostics import DataError, ModelError
from posterior_lm.lm.protocol import Tokenizer
from posterior_lm.support.base import Ending, Support
from posterior_lm.target.target import LatentInfo, Target
from posterior_lm.target.values import Value

State = tuple[int, bytes, bool]
"""Tokens so far, the last bytes of their text, whether the stop was reached."""


@frozen(eq=False)
class UnmaskedSupport:
    """Every text of at most `max_tokens` tokens, up to its first `stop`: what a decoder without a mask may say.

    It obeys the part of `support.base.Support` that decoding needs.
    """

    vocabulary_size: int
    max_tokens: int
    stop: bytes
    token_bytes: tuple[bytes | None, ...] = field(repr=False)
    ending: Ending = field(init=False, default="eos")
    _open: np.ndarray = field(init=False, repr=False)

    @_open.default
    def _mask(self) -> np.ndarray:
        return np.array([spelled is not None for spelled in self.token_bytes])

    @classmethod
    def of(cls, support: Support, tokenizer: Tokenizer) -> UnmaskedSupport:
        """A finite value gets one token more, which shows where it ends."""
        stop = b"".join(tokenizer.token_bytes[i] or b"" for i in support.stop_ids)
        more = int(support.ending == "value")
        return cls(tokenizer.vocabulary_size, support.max_tokens + more, stop, tokenizer.token_bytes)

    def start(self) -> State:
        return (0, b"", False)

    def allowed(self, state: State) -> np.ndarray:
        return self._open

    def may_stop(self, state: State) -> bool:
        return True

    def must_stop(self, state: State) -> bool:
        return state[2] or state[0] >= self.max_tokens

    def advance(self, state: State, token: int) -> State:
        count, tail, _ = state
        text = tail + (self.token_bytes[token] or b"")
        done = bool(self.stop) and self.stop in text
        # What the stop may have begun in: all but its last byte.
        return (count + 1, text[max(0, len(text) - len(self.stop) + 1) :] if self.stop else b"", done)


def said(target: Target, info: LatentInfo, ids: Sequence[int]) -> tuple[Value, bool]:
    """The value that plainly decoded tokens say, and whether it is one of the latent's type.

    Tokens that are a value stay as they are. Else the text is cut behind its first stop, or for a
    finite type to the longest of its values that it begins with and that no letter or digit goes on
    from, and spelled by the tokenizer.
    """
    ids = tuple(int(i) for i in ids)
    if target.evaluator.supports[info.name].accepts(ids):
        return target.value_of(info.name, ids), True
    assert info.lm is not None
    tokenizer = target.models[info.lm].tokenizer
    text = tokenizer.decode(ids)
    raw = Value(ids, text, text)
    if info.support.ending == "value":
        found = _first_value(target, info, text)
        return (raw, False) if found is None else (found, True)
    stop = tokenizer.decode(info.support.stop_ids)
    place = text.find(stop) if stop else -1
    if place >= 0:
        text = text[: place + len(stop)]
    try:
        return target.value(info.name, text), True
    except (DataError, ModelError):  # outside the type, or bytes that are no text
        return raw, False


def _first_value(target: Target, info: LatentInfo, text: str) -> Value | None:
    text = text.lstrip()
    found = None
    for ids in info.support.values():
        value = target.value_of(info.name, ids)
        spelled = value.text.strip()
        rest = text[len(spelled) :]
        ends = not rest[:1].isalnum() or not spelled[-1:].isalnum()
        if text.startswith(spelled) and ends and (found is None or len(spelled) > len(found.text.strip())):
            found = value
    return found


def clean(text: str, stop: str = "") -> str:
    """The text up to and with its first `stop`, white space collapsed to single spaces and stripped at both ends.

    Characters that stand for broken bytes (U+FFFD) go too, as no reader sees them. Without a stop the
    whole text is kept.
    """
    if stop:
        place = text.find(stop)
        text = text if place < 0 else text[: place + len(stop)]
    return " ".join(text.replace("\ufffd", "").split())
