"""What tools answer, remembered: a tool is asked once for each text.

So a value that is looked at again, scored or trained on holds the outputs that it was
drawn with.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from threading import RLock

from attrs import define, field

from posterior_lm.lang.diagnostics import InferenceError, error
from posterior_lm.tools.base import ToolSpec, shown_end
from posterior_lm.tools.calculator import Calculator
from posterior_lm.tools.lookup import Lookup
from posterior_lm.tools.process import Process

KEPT = 1 << 18
"""Answers of one tool that are remembered; at some 100 characters each they take 60 MB."""

MOST_TOKENS = 32
"""Tokens that one call may write; more is PLM764."""


@define(eq=False)
class Answers:
    """One tool and its answers so far. The only state; safe to ask from several threads."""

    spec: ToolSpec
    _tool: Callable[[str], object]
    _kept: OrderedDict[str, str | None] = field(init=False, factory=OrderedDict, repr=False)
    _lock: RLock = field(init=False, factory=RLock, repr=False)

    def __call__(self, text: str) -> str | None:
        """What the tool writes after a text; None where it declines or writes nothing.

        Raises InferenceError: PLM760 where it raises, PLM761 where it takes too long, PLM762
        where it answers something that is no text, PLM765 where its process ends.
        """
        with self._lock:
            if text in self._kept:
                self._kept.move_to_end(text)
                return self._kept[text]
            found = self._tool(text)
            if found is not None and not isinstance(found, str):
                raise InferenceError(
                    error(
                        "PLM762",
                        f"the tool `{self.spec.name}` answered {type(found).__name__} to {shown_end(text)}",
                        help="a tool returns a text, or None where it has nothing to write",
                    )
                )
            while len(self._kept) >= KEPT:
                self._kept.popitem(last=False)
            self._kept[text] = found or None
            return found or None


_answers: dict[ToolSpec, Answers] = {}
_lock = RLock()


def answers_of(spec: ToolSpec) -> Answers:
    """The answers of a declared tool: equal declarations share theirs."""
    with _lock:
        if spec not in _answers:
            _answers[spec] = Answers(spec, _made(spec))
        return _answers[spec]


def _made(spec: ToolSpec) -> Callable[[str], object]:
    match spec.kind:
        case "calculator":
            return Calculator(spec.trigger, spec.operands)
        case "lookup":
            return Lookup(spec.trigger, spec.table)
    return Process(spec.name, spec.where, spec.seconds)
