"""JSON that others wrote: whatever is wrong with it, one ValueError says what."""

from __future__ import annotations

import json
import math

import pytest

from posterior_lm.lang.values import DIGITS, is_number, read_json


@pytest.mark.parametrize("value", [{"a": [1, -2.5, None, True, "é\n😀"]}, [], "", 0, 10**300, -(10**300)])
def test_what_is_json_is_read(value: object) -> None:
    for escaped in (True, False):
        text = json.dumps(value, ensure_ascii=escaped)
        assert (
            read_json(text) == read_json(text.encode()) == read_json(b"\xef\xbb\xbf" + text.encode()) == value
        )


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "expecting value in line 1, column 1"),
        ('{"a":\n 1,}', "in line 2, column"),
        (b'["\xff"]', "byte 2 is not UTF-8"),
        ("[" * 100_000, "nested too deeply"),
        (b"[" * 100_000, "nested too deeply"),
        ('{"a": ' * 100_000 + "1" + "}" * 100_000, "nested too deeply"),
        ("[" + "9" * (DIGITS + 1) + "]", "more than 308 digits"),
        ("9" * 5000, "more than 308 digits"),
        (r'["\ud800"]', "half of a surrogate pair"),
        (r'{"\uDC00": 1}', "half of a surrogate pair"),
        ("[NaN]", "NaN is no number"),
        ("-Infinity", "-Infinity is no number"),
    ],
    ids=range(12),
)
def test_what_is_not_is_one_kind_of_error(data: str | bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why) as caught:
        read_json(data)
    assert type(caught.value) is ValueError
    assert "\n" not in str(caught.value) and not str(caught.value).endswith(".")


def test_every_whole_number_that_is_read_is_a_float_too() -> None:
    assert math.isfinite(float(read_json("9" * DIGITS)))


@pytest.mark.parametrize(
    ("value", "number"),
    [(0, True), (-1.5, True), (10**308, True), (10**309, False), (-(10**5000), False), (math.inf, False),
     (math.nan, False), (True, False), ("1", False), (None, False)],
    ids=range(10),
)  # fmt: skip
def test_what_is_a_number(value: object, number: bool) -> None:
    assert is_number(value) is number


def test_configurations_may_hold_infinity() -> None:
    assert read_json('{"limit": Infinity}', finite=False) == {"limit": math.inf}


def test_pairs_are_seen_before_a_key_wins() -> None:
    seen: list[object] = []
    assert read_json('{"a": 1, "a": 2}', pairs=lambda pairs: seen.append(pairs) or dict(pairs)) == {"a": 2}
    assert seen == [[("a", 1), ("a", 2)]]
