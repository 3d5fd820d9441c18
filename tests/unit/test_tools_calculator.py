"""The calculator's parser: what it accepts, of how many operands, and what it declines."""

from __future__ import annotations

import pytest

from posterior_lm.tools.calculator import LARGEST, Calculator


@pytest.mark.parametrize(
    ("text", "written"),
    [
        (" 3 + 4 =", " 7"),
        ("3+4=", "7"),
        ("3 +4=", "7"),
        (" 3 - 9 =", " -6"),
        ("3 - -4 =", " 7"),
        ("-3 + 1 =", " -2"),
        ("7 =", " 7"),
        (" 3 + 4 = 7, 7 - 2 =", " 5"),
        ("3 + 4 = 7 - 2 =", " 5"),
        ("so it is 9; 6 * 7 =", " 42"),
        ("done. 8 / 2 =", " 4"),
        ("9\n8 - 2 =", " 6"),
        ("Answer: 1 + 1 =", " 2"),
        ("<<48/2=", "24"),
        ("999999999999 + 1 =", " 1000000000000"),
        ("0007 + 1 =", " 8"),
    ],
)
def test_sums_are_read(text: str, written: str) -> None:
    assert Calculator("=", 2)(text) == written


@pytest.mark.parametrize(
    "text",
    [
        "1/0 =",
        "7 / 2 =",
        "2**99999 =",
        "2^3 =",
        "٣ + 4 =",
        "٣4 + 1 =",
        "3² =",
        "4.5 + 1 =",
        "4 + 1.5 =",
        "x 3 + 4 =",
        "3 plus 4 =",
        "x3 + 4 =",
        "3 +=",
        "+ 3 =",
        "--3 =",
        "9 9 =",
        " =",
        "=",
        "(3 + 4) * 2 =",
        "10 % 3 =",
        "1234567890123 + 1 =",
        "999999999999 * 999999999999 =",
        "__import__('os') =",
        "3 + 4\t=",
    ],
)
def test_what_is_no_sum_is_declined(text: str) -> None:
    assert Calculator("=", 2)(text) is None


@pytest.mark.parametrize(
    ("operands", "text", "value"),
    [
        (1, "5 - 3 - 2 =", 2),
        (2, "5 - 3 - 2 =", 1),
        (3, "5 - 3 - 2 =", 0),
        (9, "5 - 3 - 2 =", 0),
        (2, "5 + -3 - 2 =", -5),
        (2, "2 + 3 * 4 =", 12),
        (3, "2 + 3 * 4 =", 14),
        (3, "2 * 3 + 4 =", 10),
        (2, "2 * 3 + 4 =", 7),
        (3, "6 / 2 * 5 =", 15),
        (3, "9 - 2 * 3 =", 3),
    ],
)
def test_only_the_last_operands_count_and_products_come_first(operands: int, text: str, value: int) -> None:
    assert Calculator("=", operands)(text) == f" {value}"


def test_another_trigger_may_hold_a_sign() -> None:
    calculator = Calculator("->", 2)
    assert calculator("3 + 4 ->") == " 7"
    assert calculator("3 + 4 -> 7 - 2->") == "5"


def test_results_on_the_way_are_bounded() -> None:
    biggest = "9" * 12
    assert Calculator("=", 5)(f"{biggest} * 1000000 =") == f" {int(biggest) * 1000000}"
    assert int(biggest) * 10_000_000 > LARGEST
    assert Calculator("=", 5)(f"{biggest} * 10000000 =") is None
    assert Calculator("=", 5)(f"{biggest} * 10000000 * 0 =") is None
