"""Tools: functions of a text so far that write what comes next.

A tool is called with the whole text of a latent so far, when it ends with the tool's trigger, and
what it returns is spliced into the text; with None it declines, and the text goes on. The same
text always gets the same answer. How that becomes tokens is in `posterior_lm.support.tools`.
"""

from __future__ import annotations

import hashlib
import json
from typing import Literal

from attrs import frozen

Output = Literal["observe", "intervene"]


@frozen(kw_only=True, cache_hash=True)
class ToolSpec:
    """A declared tool as plain data.

    `output` says whether the spliced tokens count in the target ("observe") or not ("intervene"); `whole` that the word or
    number that an output ends with ends there.
    `operands` belong to a calculator, `table` (key and text, sorted) to a lookup, `where`
    ("module:function") and `seconds` to a tool that `use` imports.
    """

    name: str
    """Its name in the program, for messages."""
    kind: Literal["calculator", "list_functions", "lookup", "use"]
    trigger: str
    output: Output = "observe"
    whole: bool = False
    operands: int = 0
    table: tuple[tuple[str, str], ...] = ()
    where: str = ""
    seconds: float = 0.0

    @property
    def identity(self) -> list[object]:
        """What makes it the tool that it is, as JSON values: neither its name nor its time limit.

        Of a table the SHA-256 of its rows counts, and of a used function the name that it is imported by.
        """
        found: list[object] = [self.kind, self.trigger, self.output, *(["whole"] if self.whole else [])]
        match self.kind:
            case "calculator":
                return [*found, self.operands]
            case "lookup":
                text = json.dumps(self.table, ensure_ascii=True, separators=(",", ":"))
                return [*found, hashlib.sha256(text.encode()).hexdigest()]
            case "list_functions":
                return found
        return [*found, self.where]

    @property
    def alphabet(self) -> bytes | None:
        """The bytes of which its answers are made, each of them once; None where they may be any."""
        match self.kind:
            case "calculator":
                return b" -0123456789"
            case "list_functions":
                return b" ,-0123456789[]"
            case "lookup":
                return bytes(sorted(set("".join(text for _, text in self.table).encode("utf-8", "replace"))))
        return None


def shown_end(text: str) -> str:
    """A text for a message: its end, where it is long."""
    return repr(text if len(text) <= 60 else "…" + text[-59:])
