"""What a declared text type asks of a value, with every option already a plain value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from attrs import field, frozen

from posterior_lm.lang.diagnostics import Diagnostic, error
from posterior_lm.lang.source import Span, is_text
from posterior_lm.lang.values import FiniteSpec, half_surrogate, reversed_range
from posterior_lm.support.regular import Regular
from posterior_lm.tools import ToolSpec

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

    @classmethod
    def of(cls, options: Mapping[str, object], tools: tuple[ToolSpec, ...] = ()) -> TextSpec:
        """From the options of a text as the graph names them, `tokens` as `tokens_low` and `tokens_high`."""
        texts = {
            name: str(options[name])
            for name in ("stop", "chars", "pattern", "grammar", "json")
            if options.get(name) is not None
        }
        return cls(
            min_tokens=int(str(options.get("tokens_low", DEFAULT_TOKENS[0]))),
            max_tokens=int(str(options.get("tokens_high", DEFAULT_TOKENS[1]))),
            end="stop" if "stop" in texts else str(options.get("end", "eos")),  # type: ignore[arg-type]
            canonical=bool(options.get("canonical", False)),
            tools=tools,
            **texts,
        )

    @end.validator
    def _end_fits_stop(self, _: object, end: str) -> None:
        if end not in ("stop", "eos", "free"):
            raise ValueError(f"end is 'stop', 'eos' or 'free', not {end!r}")
        if (end == "stop") != (self.stop is not None):
            raise ValueError(f"end={end!r} and stop={self.stop!r} contradict each other")

    def checks(self, span: Span | None = None) -> tuple[Diagnostic, ...]:
        """What is wrong whatever the tokenizer: PLM330 for options that leave nothing, PLM531."""
        found = []
        low, high = self.min_tokens, self.max_tokens
        if low < 0:
            found.append(
                error(
                    "PLM330",
                    f"tokens={low}..{high} starts below zero",
                    span,
                    "a value cannot have fewer than 0 tokens",
                    help=f"write tokens=0..{max(high, 0)}",
                )
            )
        elif high < low:
            found.append(reversed_range(f"tokens={low}..{high}", low, high, span))
        elif high == 0 and self.stop:
            found.append(
                error(
                    "PLM330",
                    f"tokens={low}..0 leaves no room for stop={self.stop!r}",
                    span,
                    "the stop string counts as tokens too",
                    help="allow at least one token",
                )
            )
        if self.stop == "":
            found.append(
                error(
                    "PLM330",
                    'stop="" ends every text before its first token',
                    span,
                    "an empty stop string",
                    help='leave stop= out, or name a string such as stop="."',
                )
            )
        if self.grammar is not None and self.json is not None:
            found.append(
                error(
                    "PLM339",
                    "grammar= and json= cannot stand together",
                    span,
                    "two languages for one text",
                    help="keep one of them; pattern=, stop= and chars= go with either",
                )
            )
        if self.canonical and (self.grammar is not None or self.json is not None):
            which = "grammar" if self.grammar is not None else "json"
            found.append(
                error(
                    "PLM339",
                    f"canonical=true and {which}= cannot stand together",
                    span,
                    "no automaton looks ahead in both",
                    help="drop canonical=true: results are merged by their text all the same",
                )
            )
        for option, text in (("stop", self.stop), ("chars", self.chars), ("pattern", self.pattern)):
            if text is not None and not is_text(text):
                found.append(half_surrogate(f"{option}=", text, span))
        return tuple(found)


Spec = TextSpec | FiniteSpec
