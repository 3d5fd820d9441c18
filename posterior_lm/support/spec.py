"""What a declared text type asks of a value, and the language of its texts, whatever the tokenizer.

Every option is a plain value already. The language is an automaton over bytes: the body and its
stop, the pattern, and what conditions imply.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Literal

from attrs import field, frozen

from posterior_lm.lang.automaton import automaton
from posterior_lm.lang.diagnostics import CompileError, Diagnostic, error, shown
from posterior_lm.lang.regex import PatternError, wrong_pattern
from posterior_lm.lang.source import Span, is_text
from posterior_lm.lang.values import FiniteSpec, PlaceSpec, half_surrogate, reversed_range
from posterior_lm.support.byte_automata import (
    MOST_STATES,
    BytesDfa,
    any_bytes,
    any_characters,
    both,
    bytes_of,
    opposite,
    smallest,
    text_dfa,
    these_characters,
)
from posterior_lm.tools import ToolSpec

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


DEFAULT_TOKENS = (1, 64)
"""The length of a text that states none."""


@frozen
class TextSpec:
    """`text(tokens=min..max, stop=…, end=…, chars=…, pattern=…, grammar=…, json=…, canonical=…)`.

    `pattern` is a regular expression of the whole text, the stop included, `grammar`
    the text of a grammar, `json` that of a schema (not names of files); `also` what
    conditions imply, and `tools` write parts of the text. `end` is "stop" exactly where there is a stop string. Raises ValueError where
    the two disagree: that is a mistake of the caller, not of the user.
    """

    min_tokens: int
    max_tokens: int
    stop: str | None = None
    end: Literal["stop", "eos", "free"] = field(default="eos")
    chars: str | None = None
    canonical: bool = False
    pattern: str | None = None
    also: tuple[Regular, ...] = ()
    grammar: str | None = None
    json: str | None = None
    tools: tuple[ToolSpec, ...] = ()
    mark: str | None = None
    """Of an item of a list, the end of the list: no item begins with it, and where one `may_end` it may stand instead."""
    may_end: bool = False

    @classmethod
    def of(cls, options: Mapping[str, object], tools: tuple[ToolSpec, ...] = ()) -> TextSpec:
        """From the options of a text as the graph names them, `tokens` as `tokens_low` and `tokens_high`."""
        texts = {
            name: str(options[name])
            for name in ("stop", "chars", "pattern", "grammar", "json", "mark")
            if options.get(name) is not None
        }
        return cls(
            min_tokens=int(str(options.get("tokens_low", DEFAULT_TOKENS[0]))),
            max_tokens=int(str(options.get("tokens_high", DEFAULT_TOKENS[1]))),
            end="stop" if "stop" in texts else str(options.get("end", "eos")),  # type: ignore[arg-type]
            canonical=bool(options.get("canonical", False)),
            may_end=bool(options.get("may_end", False)),
            tools=tools,
            **texts,  # type: ignore[arg-type]
        )

    @end.validator
    def _end_fits_stop(self, _: object, end: str) -> None:
        if end not in ("stop", "eos", "free"):
            raise ValueError(f"end is 'stop', 'eos' or 'free', not {end!r}")
        if (end == "stop") != (self.stop is not None):
            raise ValueError(f"end={end!r} and stop={self.stop!r} contradict each other")

    def checks(self, span: Span | None = None) -> tuple[Diagnostic, ...]:
        """What is wrong whatever the tokenizer: PLM330 for options that leave nothing, PLM531."""
        found: list[Diagnostic] = []

        def wrong(code: str, message: str, label: str, help: str) -> None:
            found.append(error(code, message, span, label, help=help))

        low, high = self.min_tokens, self.max_tokens
        if low < 0:
            message, help = f"tokens={low}..{high} starts below zero", f"write tokens=0..{max(high, 0)}"
            wrong("PLM330", message, "a value cannot have fewer than 0 tokens", help)
        elif high < low:
            found.append(reversed_range(f"tokens={low}..{high}", low, high, span))
        elif high == 0 and self.stop:
            message = f"tokens={low}..0 leaves no room for stop={self.stop!r}"
            wrong("PLM330", message, "the stop string counts as tokens too", "allow at least one token")
        if self.stop == "":
            message, help = (
                'stop="" ends every text before its first token',
                'leave stop= out, or name a string such as stop="."',
            )
            wrong("PLM330", message, "an empty stop string", help)
        if self.grammar is not None and self.json is not None:
            help = "keep one of them; pattern=, stop= and chars= go with either"
            wrong("PLM339", "grammar= and json= cannot stand together", "two languages for one text", help)
        if self.canonical and (self.grammar is not None or self.json is not None):
            which = "grammar" if self.grammar is not None else "json"
            message = f"canonical=true and {which}= cannot stand together"
            help = "drop canonical=true: results are merged by their text all the same"
            wrong("PLM339", message, "no automaton looks ahead in both", help)
        for option, text in (("stop", self.stop), ("chars", self.chars), ("pattern", self.pattern)):
            if text is not None and not is_text(text):
                found.append(half_surrogate(f"{option}=", text, span))
        return tuple(found)


Spec = TextSpec | FiniteSpec | PlaceSpec


def language(spec: TextSpec, span: Span | None = None) -> BytesDfa:
    """The texts of a type, whatever the tokenizer and however many tokens; a grammar is left out.

    Raises CompileError: PLM317 or PLM333 for a pattern that is none or has a part that is not supported,
    PLM334 where the automaton is too large, PLM335 where there is no text. A mask of
    `also` that would make it too large is left out, so the condition that implies it
    has to be tested all the same.
    """
    if spec.chars is not None:
        body = these_characters(spec.chars)
    else:
        body = any_characters() if spec.canonical else any_bytes()
    plain = text_dfa(None if spec.stop is None else spec.stop.encode("utf-8"), body)
    if spec.pattern is None and not spec.also and spec.mark is None:
        return plain
    try:
        dfa = plain if spec.pattern is None else _small(both(plain, pattern_dfa(spec.pattern)))
    except PatternError as wrong:
        raise CompileError(wrong_pattern(spec.pattern or "", wrong, span)) from None
    for regular in spec.also:
        try:
            dfa = _small(both(dfa, regular.dfa()))
        except PatternError:
            continue
    if spec.mark is not None:
        dfa = _marked(dfa, spec.mark, spec.may_end)
    if not dfa.accepting.any():
        raise CompileError(_no_text(spec, span))
    return dfa


def _marked(dfa: BytesDfa, mark: str, may_end: bool) -> BytesDfa:
    """The texts that do not begin with a mark, and with `may_end` the mark itself."""
    others = both(dfa, Regular("starts_with", mark, negated=True).dfa())
    itself = Regular("matches", re.escape(mark)).dfa()
    return smallest(opposite(both(opposite(others), opposite(itself)))) if may_end else others


def _small(dfa: BytesDfa) -> BytesDfa:
    if len(dfa.table) > MOST_STATES:
        raise PatternError("too large", "the pattern needs too many states")
    return dfa


def _as_pattern(text: str) -> str:
    """The pattern of this text alone, with line breaks and tabs as one writes them."""
    return re.escape(text).replace("\\\n", "\\n").replace("\\\t", "\\t").replace("\\\r", "\\r")


def _no_text(spec: TextSpec, span: Span | None) -> Diagnostic:
    """PLM335: no text at all satisfies the options and conditions together."""
    parts = [f"pattern {shown(spec.pattern, 20)}"] if spec.pattern is not None else []
    if spec.stop is not None:
        parts.append(f"stop={spec.stop!r}")
    if spec.chars is not None:
        parts.append(f"chars={shown(spec.chars, 20)}")
    if spec.also:
        parts.append("the conditions")
    message = f"no text satisfies {' and '.join(parts)}"
    if spec.pattern is not None and spec.stop is not None:
        help = f"the stop is a part of the text: let the pattern end in {_as_pattern(spec.stop)}, and nowhere else"
    else:
        help = "let them have one text in common"
    return error("PLM335", message, span, "no text is left", help=help)
