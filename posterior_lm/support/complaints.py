"""What to change in a grammar or schema that llguidance refuses, by what it says of it."""

from __future__ import annotations

import re

_GRAMMAR = (
    (r"unknown name", "define it as a rule or a terminal, or write it in double quotes for a text"),
    (r"no start rule", "name the rule that stands for the whole text `start`"),
    (r"duplicate rule", "give one of the two another name, or join them with `|`"),
    (r"look-around", "say it without look-ahead and look-behind: a terminal has to be regular"),
    (
        r"invalid regex|regex parse error",
        r"mend this regular expression; `\` makes a character stand for itself",
    ),
    (r"range end", "write the smaller number first, `~1..3`"),
    (r"Unknown common", "import one of those, such as `%import common.WORD`"),
    (
        r"lexer error",
        'write a text in double quotes, "like this", and a regular expression in slashes, /[a-z]+/',
    ),
    (r"%json", "write a whole JSON schema behind `%json`, or give it with json="),
    (r"^Expected|found ", "write a rule as `name: this that | other`, each on lines of its own"),
)
_SCHEMA = (
    (r"Unimplemented keys", "take it out: what it demands can be said as a condition"),
    (r"Unsatisfiable", "loosen it so that at least one value fits"),
    (r"Unknown format", "take the format out, or say it as a `pattern`"),
    (r"Invalid type", 'write one of "string", "number", "integer", "boolean", "object", "array" and "null"'),
    (r"Pointer", "put what `$ref` points at under `$defs`, or write it out in place"),
    (r"regex parse error", "mend this regular expression; in JSON each of its backslashes is written twice"),
    (r"must be", "write it as JSON Schema has it, such as {\"type\": \"string\"}"),
)  # fmt: skip


def grammar_help(message: str) -> str:
    """An edit for what is said of a grammar."""
    return _found(_GRAMMAR, message, "write it as Lark writes grammars, with a rule `start`")


def schema_help(message: str) -> str:
    """An edit for what is said of a JSON schema."""
    return _found(_SCHEMA, message, "take out what the message names, or say it as a condition")


def _found(known: tuple[tuple[str, str], ...], message: str, otherwise: str) -> str:
    return next((help for pattern, help in known if re.search(pattern, message)), otherwise)
