"""Regular languages of a value's whole text, as automata over its bytes."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal

from attrs import frozen

from posterior_lm.lang.automaton import automaton
from posterior_lm.support.bytes_dfa import BytesDfa
from posterior_lm.support.products import opposite, smallest
from posterior_lm.support.utf8 import bytes_of

Kind = Literal["matches", "contains", "starts_with", "ends_with"]


@frozen
class Regular:
    """What a condition asks of a text: `kind(value, text)`, or with `negated` its opposite.

    The language is of bytes, and complete: a byte string is in it if and only if the
    condition holds of the text that decoding gives, where broken bytes read as U+FFFD.
    """

    kind: Kind
    text: str
    negated: bool = False

    def dfa(self) -> BytesDfa:
        """The smallest automaton. Raises PatternError for a `matches` that has none or a large one."""
        return _dfa(self)


@lru_cache(maxsize=64)
def _dfa(regular: Regular) -> BytesDfa:
    dfa = bytes_of(automaton(_pattern(regular)).whole(), strict=False)
    return smallest(opposite(dfa) if regular.negated else dfa)


def _pattern(regular: Regular) -> str:
    """The condition as a pattern of the whole text."""
    part = re.escape(regular.text)
    return {
        "matches": regular.text,
        "contains": f"(?s:.*{part}.*)",
        "starts_with": f"{part}(?s:.*)",
        "ends_with": f"(?s:.*){part}",
    }[regular.kind]


@lru_cache(maxsize=64)
def pattern_dfa(pattern: str) -> BytesDfa:
    """The smallest automaton of the texts of whole characters that match. Raises PatternError."""
    return smallest(bytes_of(automaton(pattern).whole(), strict=True))
