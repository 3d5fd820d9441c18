"""Given texts as tokens where tools write into them: drawn parts and outputs are tokenised apart."""

from __future__ import annotations

from attrs import frozen

from posterior_lm.support.tool_tokens import Ids, Spliced
from posterior_lm.support.tooled import ToolSupport


@frozen
class Disagreement:
    """A given text that goes on otherwise than the tool `tool` writes after `text`."""

    tool: str
    text: str
    written: str


def read(support: ToolSupport, text: str) -> Ids | Disagreement:
    """The tokens of a given text as drawing would make them.

    What stands up to each trigger, and what follows each output, is tokenised on its own.
    The tokens need not be a value of the support.
    """
    ids: Ids = ()
    at = 0
    while True:
        end, tool = _next_trigger(support, text, at)
        if tool is None:
            rest = text[at:]
            return ids + tuple(support.tools[0].tokenizer.encode(rest)) if rest else ids
        ids += tuple(tool.tokenizer.encode(text[at:end]))
        at = end
        state = support.after(ids)
        if state is not None and state.pending:
            written = b"".join(support.pieces[i] or b"" for i in state.pending).decode()
            if not text.startswith(written, at):
                return Disagreement(tool.spec.name, text[:at], written)
            ids += state.pending
            at += len(written)


def _next_trigger(support: ToolSupport, text: str, at: int) -> tuple[int, Spliced | None]:
    """Where the first trigger ends that ends behind `at`, and its tool."""
    found: list[tuple[int, Spliced]] = []
    for tool in support.tools:
        trigger = tool.spec.trigger
        place = text.find(trigger, max(0, at - len(trigger) + 1))
        if place >= 0:
            found.append((place + len(trigger), tool))
    return min(found, key=lambda one: one[0]) if found else (-1, None)
