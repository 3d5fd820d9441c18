"""What messages may look like, and what they show of the values of users."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import posterior_lm
from posterior_lm.lang.diagnostics import shortened, shown


def ends(message: ast.expr) -> Iterator[str]:
    """What stands at the end of a message in the source, for each way that it may come out."""
    match message:
        case ast.Constant(value=str(text)):
            yield text
        case ast.JoinedStr(values=[*_, last]):
            yield from ends(last)
        case ast.BinOp(right=last):
            yield from ends(last)
        case ast.IfExp(body=one, orelse=other):
            yield from ends(one)
            yield from ends(other)


def messages(tree: ast.AST) -> Iterator[ast.expr]:
    """The second argument of a call whose first is a code, the first of `misuse`, and what is named `message`."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(args=[ast.Constant(value=str(code)), message, *_]) if re.fullmatch(
                r"PLM\d{3}", code
            ):
                yield message
            case ast.Call(func=ast.Name(id="misuse"), args=[message, *_]):
                yield message
            case ast.Assign(targets=[ast.Name(id="message")], value=message):
                yield message


def test_no_message_ends_with_a_full_stop() -> None:
    """A sentence of ours, that is: one that ends with a user's text ends as that does, `./folder.` too."""
    found = []
    for path in Path(posterior_lm.__path__[0]).rglob("*.py"):
        found += [end for m in messages(ast.parse(path.read_text(encoding="utf-8"))) for end in ends(m)]
    assert len(found) > 200
    assert not [end for end in found if end.endswith(".")]


def test_ends_are_found() -> None:
    tree = ast.parse('error("PLM101", f"{a} is" + (f"no {b}." if c else "not")); misuse("No.")')
    assert [end for m in messages(tree) for end in ends(m)] == [".", "not", "No."]


class Odd:
    def __repr__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("value", "most", "said"),
    [
        ("abcde", 5, "'abcde'"),
        ("abcdef", 5, "'ab...'"),
        (" it's\n", 60, '" it\'s\\n"'),
        ("\ud800", 60, r"'\ud800'"),
        ([1, 2, 3, 4], 9, "[1, 2,..."),
        (10**100, 20, "10000000000000000..."),
        (10**5000, 20, "a value of type int"),
        ([10**5000], 20, "a value of type list"),
        (Odd(), 20, "a value of type Odd"),
    ],
    ids=range(9),
)
def test_what_is_shown_of_a_value(value: object, most: int, said: str) -> None:
    assert shown(value, most) == said


def test_lists_in_lists_are_shown() -> None:
    value: list[object] = []
    for _ in range(100_000):
        value = [value]
    assert shown(value) == "a value of type list"
    while value:  # taken apart, so that freeing them does not recurse
        value = value[0]  # type: ignore[assignment]


def test_a_shortened_text_has_so_many_characters_at_most() -> None:
    assert shortened("x" * 60) == "x" * 60
    assert shortened("x" * 61) == "x" * 57 + "..."
