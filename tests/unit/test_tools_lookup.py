"""The lookup table: which key stands before the trigger, and which files are no table."""

from __future__ import annotations

import pytest

from posterior_lm.tools.lookup import Lookup, read_table

ROWS = (("France", " Paris"), ("New France", " Quebec"), ("land", " soil"), ("°C", " degrees"))


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("The capital of France:", " Paris"),
        ("The capital of France  :", " Paris"),
        ("Of New France:", " Quebec"),
        ("France:", " Paris"),
        ("20°C:", " degrees"),
        ("the land:", " soil"),
        ("Poland:", None),
        ("france:", None),
        ("France, :", None),
        (":", None),
    ],
)
def test_the_longest_key_before_the_trigger_counts(text: str, written: str | None) -> None:
    assert Lookup(":", ROWS)(text) == written


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", 'word,meaning\nb,"two, or more"\na,one\n'),
        ("t.json", '{"b": "two, or more", "a": "one"}'),
        ("t.JSONL", '{"key": "b", "text": "two, or more"}\n\n{"text": "one", "key": "a"}\n'),
    ],
)
def test_three_kinds_of_file_hold_the_same_table(name: str, text: str) -> None:
    assert read_table(text, name) == (("a", "one"), ("b", "two, or more"))


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("t.txt", "a,b\n", "ends neither"),
        ("csv", "a,b\n", "ends neither"),
        ("t.csv", "word,meaning\n", "no rows"),
        ("t.csv", "", "no rows"),
        ("t.csv", "word,meaning\na,b,c\n", "3 columns"),
        ("t.csv", 'word,meaning\na,"b\n', "no CSV"),
        ("t.csv", "word,meaning\na,b\na,c\n", "twice"),
        ("t.json", '{"a": "b", "a": "c"}', "twice"),
        ("t.json", '{"a": {"b": "c"}}', "no text"),
        ("t.json", '{"a": 1}', "no text"),
        ("t.json", '["a", "b"]', "no JSON object"),
        ("t.json", '{"a": ', "no JSON"),
        ("t.json", "[" * 100_000, "nested"),
        ("t.jsonl", '{"key": "a"}', "line 1"),
        ("t.jsonl", '{"key": "a", "text": ""}', "empty text"),
        ("t.json", '{" ": "b"}', "empty key"),
        ("t.json", '{"a ": "b"}', "ends with a space"),
    ],
)
def test_a_file_that_is_no_table_is_refused(name: str, text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        read_table(text, name)
