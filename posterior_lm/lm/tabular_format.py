"""The JSON format of a tabular language model, checked entry by entry.

    {
      "tokens": ["a", "b", "ab", " ", "."],
      "order": 1,
      "max_tokens": 6,
      "bos": false,
      "rows": {
        "": {"a": 0.5, "b": 0.3, "<eos>": 0.2},
        "a": {"b": 0.9, "<eos>": 0.1}
      },
      "contexts": [{"after": ["a", "b"], "next": {"<eos>": 1.0}}]
    }

`rows` gives the next-token probabilities after one token ("" is: after anything);
`contexts` does the same for any number of last tokens up to `order`, written as a
list. A context that has no row falls back to its shorter end, at last to "".
Tokens that a row does not name have probability zero; a row sums to one. `"<bos>"`
may stand in a context, as its first token, where `bos` is true; without `bos` a
context at the very start of a text is simply shorter.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from posterior_lm.lang.diagnostics import ModelError, error, shown
from posterior_lm.lang.source import is_text
from posterior_lm.storage import read_object

EOS, BOS = "<eos>", "<bos>"
SUM_TOLERANCE = 1e-6  # what six printed decimals of a long row may be off by


def wrong(name: str, where: str, what: str) -> ModelError:
    """PLM514 for one entry of a table."""
    return ModelError(
        error(
            "PLM514",
            f"the table {name} cannot be read: {what}",
            where=where or None,
            help="the format is described in posterior_lm/lm/tabular_format.py",
        )
    )


def read_table(path: Path) -> dict[str, Any]:
    """The JSON object in a file; PLM510 where there is none, PLM514 where it is not JSON."""
    try:
        return read_object(path)
    except FileNotFoundError:
        raise ModelError(
            error("PLM510", f"there is no table {path}", help="name an existing .json file")
        ) from None
    except OSError as problem:
        raise ModelError(error("PLM510", f"the table {path} cannot be opened: {problem.strerror}")) from None
    except ValueError as problem:
        raise wrong(str(path), "", str(problem)) from None


def parse_table(
    table: dict[str, Any], name: str
) -> tuple[tuple[str, ...], int, int, bool, dict[tuple[str, ...], dict[str, float]]]:
    """Tokens, order, max_tokens, bos and the rows by context; PLM514 names the wrong entry."""
    unknown = sorted(set(table) - {"tokens", "order", "max_tokens", "bos", "rows", "contexts"})
    if unknown:
        raise wrong(name, unknown[0], f"there is no entry {unknown[0]!r} in this format")
    tokens = _tokens(table.get("tokens"), name)
    order = _whole(table.get("order", 0), 0, 2, "order", name)
    max_tokens = _whole(table.get("max_tokens"), 0, 10_000, "max_tokens", name)
    bos = table.get("bos", False)
    if not isinstance(bos, bool):
        raise wrong(name, "bos", "'bos' is neither true nor false")
    rows: dict[tuple[str, ...], dict[str, float]] = {}
    for context, row, where in _contexts(table, name):
        _check_context(context, tokens, order, bos, where, name)
        if context in rows:
            raise wrong(name, where, f"the context {list(context)} has two rows")
        rows[context] = _row(row, tokens, where, name)
    if () not in rows:
        raise wrong(name, "rows", 'the row "" is missing, to which every context falls back')
    return tokens, order, max_tokens, bos, rows


def _tokens(value: Any, name: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise wrong(name, "tokens", "'tokens' is not a list of texts")
    for i, token in enumerate(value):
        if not isinstance(token, str) or not token or token in (EOS, BOS) or not is_text(token):
            raise wrong(name, f"tokens[{i}]", f"{token!r} is no token")
    if len(set(value)) < len(value):
        twice = next(t for t in value if value.count(t) > 1)
        raise wrong(name, "tokens", f"the token {twice!r} is listed twice")
    return tuple(value)


def _whole(value: Any, low: int, high: int, entry: str, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise wrong(name, entry, f"'{entry}' is not a whole number from {low} to {high}")
    return value


def _contexts(table: dict[str, Any], name: str) -> list[tuple[tuple[str, ...], Any, str]]:
    rows, lists = table.get("rows", {}), table.get("contexts", [])
    if not isinstance(rows, dict):
        raise wrong(name, "rows", "'rows' is not an object")
    if not isinstance(lists, list):
        raise wrong(name, "contexts", "'contexts' is not a list")
    found: list[tuple[tuple[str, ...], Any, str]] = [
        ((key,) if key else (), row, f"rows[{key!r}]") for key, row in rows.items()
    ]
    for i, entry in enumerate(lists):
        after = entry.get("after") if isinstance(entry, dict) else None
        if not isinstance(after, list) or "next" not in entry:
            raise wrong(
                name, f"contexts[{i}]", 'an entry of \'contexts\' is not {"after": [...], "next": {...}}'
            )
        found.append((tuple(after), entry["next"], f"contexts[{i}]"))
    return found


def _check_context(
    context: tuple[Any, ...], tokens: tuple[str, ...], order: int, bos: bool, where: str, name: str
) -> None:
    if len(context) > order:
        raise wrong(name, where, f"the context {list(context)} is longer than the order {order}")
    for i, token in enumerate(context):
        if not (token in tokens or (bos and i == 0 and token == BOS)):
            raise wrong(name, where, f"{token!r} is not one of the tokens")


def _row(row: Any, tokens: tuple[str, ...], where: str, name: str) -> dict[str, float]:
    if not isinstance(row, dict):
        raise wrong(name, where, "a row is not an object of probabilities")
    for token, p in row.items():
        if token not in tokens and token != EOS:
            raise wrong(name, f"{where}[{token!r}]", f"{token!r} is not one of the tokens")
        if isinstance(p, bool) or not isinstance(p, (int, float)) or not 0 <= p <= 1 + SUM_TOLERANCE:
            raise wrong(name, f"{where}[{token!r}]", f"{shown(p)} is not a probability")
    total = math.fsum(row.values())
    if abs(total - 1) > SUM_TOLERANCE:
        raise wrong(name, where, f"the row sums to {total:.6g}, not to 1")
    return {token: p / total for token, p in row.items()}
