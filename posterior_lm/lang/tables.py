"""The LALR tables of `grammar/plm.lark`, loaded from JSON or built anew.

Building them takes lark longer than everything else that checking a program
does, so `tables.json` holds the finished ones, with a digest of what they were
made from. A stale or missing file costs time and nothing else. Lark's own cache
is not used: reading it executes a pickle.

Regenerate with `python -m posterior_lm.lang.tables` after editing the grammar.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import lark
from lark.grammar import Rule
from lark.lexer import TerminalDef

from posterior_lm import assets

STARTS = ("module", "statement", "expr", "type", "param")
PATH = Path(__file__).with_name("tables.json")


def build(*, strict: bool = False) -> lark.Lark:
    """The parser, built from the grammar; `strict` also refuses colliding terminals."""
    return lark.Lark(
        assets.grammar_text(),
        start=list(STARTS),
        parser="lalr",
        lexer="basic",
        maybe_placeholders=False,
        strict=strict,
    )


def digest() -> str:
    """What the tables depend on: the grammar, lark's version, the start rules."""
    made_from = "\0".join((assets.grammar_text(), lark.__version__, *STARTS))
    return hashlib.sha256(made_from.encode()).hexdigest()


def dump() -> str:
    """The text of `tables.json` for the grammar as it stands."""
    data, memo = build().memo_serialize([TerminalDef, Rule])
    content = {"digest": digest(), "data": data, "memo": memo}
    return json.dumps(content, separators=(",", ":"), sort_keys=True) + "\n"


@cache
def parser() -> lark.Lark:
    """The parser that `parse` drives, made once per process."""
    try:
        content = json.loads(PATH.read_text(encoding="utf-8"), object_hook=_numbered)
        if content["digest"] == digest():
            return lark.Lark._load_from_dict(content["data"], content["memo"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass  # a damaged file is as good as none
    return build()


def _numbered(mapping: dict[str, Any]) -> dict[Any, Any]:
    """JSON turns integer keys into strings; lark wants them back."""
    if mapping and all(key.isdigit() for key in mapping):
        return {int(key): value for key, value in mapping.items()}
    return mapping


if __name__ == "__main__":
    PATH.write_text(dump(), encoding="utf-8")
