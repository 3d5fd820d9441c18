"""What to change in a pattern that `re` refuses, by what it says of it."""

from __future__ import annotations

_MENDS = (
    ("missing ), unterminated subpattern", r"close it with `)`, or write `\(` for the character"),
    ("missing ), unterminated comment", "close it with `)`"),
    ("missing >", "close the name with `>`, or write `(...)` without a name"),
    ("missing }", "close it with `}`"),
    ("unterminated character set", r"close it with `]`, or write `\[` for the character"),
    ("unbalanced parenthesis", r"take this `)` out, or write `\)` for the character"),
    ("nothing to repeat", r"put what is repeated before it, or write `\` before it for the character"),
    ("multiple repeat", "put what is repeated in brackets, `(?:...)`, or take one of the two out"),
    ("min repeat greater", "write the smaller number first, `{1,3}`"),
    ("bad escape (end of pattern)", r"write `\\` for a backslash"),
    ("bad escape", r"take the `\` out, or write `\\` for a backslash"),
    ("incomplete escape", r"write all its digits, such as `\x41` and `\u00e9`"),
    ("bad character range", r"write the first character of a range first, `a-z`, or `\-` for the character"),
    ("look-behind requires", "say it without looking behind, for instance by listing the alternatives"),
    ("redefinition of group name", "give the group another name, or none: `(...)`"),
    (
        "unknown extension",
        r"write `(?:...)` for a group, `(?P<name>...)` for one with a name, or `\(` for the character",
    ),
    ("global flags", "put it at the start of the pattern, or write `(?i:...)`"),
    ("undefined character name", "write the character itself"),
)
_GENERAL = r"write `\` before a character that stands for itself, such as `\(`"


def mend(message: str) -> str:
    """An edit for the message of a `re.error`."""
    return next((help for start, help in _MENDS if message.startswith(start)), _GENERAL)
