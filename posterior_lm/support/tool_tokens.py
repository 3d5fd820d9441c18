"""What tools answer as tokens of one tokenizer."""

from __future__ import annotations

from attrs import field, frozen

from posterior_lm.lang.diagnostics import InferenceError, ModelError, error
from posterior_lm.lm.base import Tokenizer
from posterior_lm.support.bounded import keep
from posterior_lm.tools import ToolSpec, shown_end
from posterior_lm.tools.answers import MOST_TOKENS, Answers, answers_of

Ids = tuple[int, ...]

_KEPT = 1 << 14
"""Answers whose tokens are remembered."""


@frozen(eq=False)
class Spliced:
    """One tool of a text: its trigger as bytes, and its answers as tokens."""

    spec: ToolSpec
    trigger: bytes
    answers: Answers
    tokenizer: Tokenizer = field(repr=False)
    _tokens: dict[str, Ids] = field(init=False, factory=dict, repr=False)

    @classmethod
    def of(cls, spec: ToolSpec, tokenizer: Tokenizer) -> Spliced:
        return cls(spec, spec.trigger.encode(), answers_of(spec), tokenizer)

    def __call__(self, text: str) -> Ids:
        """The tokens that it writes after a text; () where it declines. Raises InferenceError PLM760 to PLM765."""
        answer = self.answers(text)
        if answer is None:
            return ()
        if answer not in self._tokens:
            keep(self._tokens, answer, self._encoded(answer, text), _KEPT)
        return self._tokens[answer]

    def _encoded(self, answer: str, text: str) -> Ids:
        try:
            ids = tuple(self.tokenizer.encode(answer))
            spelled = b"".join(self.tokenizer.token_bytes[i] or b"" for i in ids)
            same = spelled == answer.encode()
        except (ModelError, UnicodeEncodeError):
            same = False
        if not same:
            raise InferenceError(
                error(
                    "PLM763",
                    f"the tokenizer cannot spell {shown_end(answer)}, which the tool `{self.spec.name}` writes after {shown_end(text)}",
                    help="let the tool write plain characters, or choose a model whose tokens spell them",
                )
            )
        if len(ids) > MOST_TOKENS:
            raise InferenceError(
                error(
                    "PLM764",
                    f"the tool `{self.spec.name}` writes {len(ids)} tokens after {shown_end(text)}, more than {MOST_TOKENS}",
                    help="let it write less",
                )
            )
        return ids
