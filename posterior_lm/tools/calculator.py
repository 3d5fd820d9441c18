"""A calculator of few operands: it reads the sum that stands before its trigger.

After Hu et al. 2024 (section 4.4), whose calculator keeps the last two operands of a longer
sum. Theirs calls Python's `eval`; this one has a parser of its own and declines what it does
not know: a text that is no sum is no mistake, and the text goes on.
"""

from __future__ import annotations

import re

from attrs import frozen

MOST_DIGITS = 12
"""Digits of a number that is read."""
LARGEST = 10**18
"""No result on the way is this large; with twelve digits, two operands fit."""

_SUM = re.compile(r"[0-9+\-*/ ]*\Z")
_TOKEN = re.compile(r" *([0-9]+|[+\-*/])")
_BEFORE = frozenset(",;:.?!=\n\r([{<>")
"""What may stand before a sum, beside the beginning of the text: ends of sentences and of parts, opening brackets."""


@frozen
class Calculator:
    """Writes the value of the sum that ends at the trigger, of its last `operands` numbers.

    Integers of ASCII digits with + - * and an exact /, one sign before a number, * and / first.
    The answer begins with a space where the trigger is written after one.
    """

    trigger: str
    operands: int = 2

    def __call__(self, text: str) -> str | None:
        """The value as text, or None for what is no sum, divides by zero or with a rest, or is too large."""
        body = text[: len(text) - len(self.trigger)]
        found = _last_sum(body.rsplit(self.trigger, 1))
        if found is None:
            return None
        parsed = _parse(found)
        if parsed is None:
            return None
        numbers, operators = parsed
        kept = numbers[-self.operands :]
        value = _value(kept, operators[len(numbers) - len(kept) :])
        if value is None:
            return None
        return f" {value}" if body.endswith(" ") else str(value)


def _last_sum(parts: list[str]) -> str | None:
    """The characters of a sum at the end, if something that may stand before a sum does so."""
    body = parts[-1]
    match = _SUM.search(body)
    assert match is not None
    before = body[: match.start()]
    if not before:
        return match.group()  # the text begins here, or the last answer's trigger stands before it
    point = before[-1] == "." and before[-2:-1].isdigit() and match.group()[:1].isdigit()
    return match.group() if before[-1] in _BEFORE and not point else None


def _parse(text: str) -> tuple[list[int], list[str]] | None:
    """Numbers and the operators between them."""
    tokens, at = [], 0
    text = text.rstrip(" ")
    while at < len(text):
        match = _TOKEN.match(text, at)
        assert match is not None
        tokens.append(match.group(1))
        at = match.end()
    numbers: list[int] = []
    operators: list[str] = []
    place = 0
    while place < len(tokens):
        sign = 1
        if tokens[place] == "-":
            sign, place = -1, place + 1
        if place == len(tokens) or not tokens[place].isdigit() or len(tokens[place]) > MOST_DIGITS:
            return None
        numbers.append(sign * int(tokens[place]))
        place += 1
        if place == len(tokens):
            return numbers, operators
        if tokens[place].isdigit():
            return None
        operators.append(tokens[place])
        place += 1
    return None  # nothing, or an operator at the end


def _value(numbers: list[int], operators: list[str]) -> int | None:
    """Products first, from left to right."""
    terms, signs = [numbers[0]], [1]
    for operator, number in zip(operators, numbers[1:], strict=True):
        match operator:
            case "+" | "-":
                terms.append(number)
                signs.append(1 if operator == "+" else -1)
            case "*":
                terms[-1] *= number
            case _:
                if number == 0 or terms[-1] % number:
                    return None
                terms[-1] //= number
        if abs(terms[-1]) >= LARGEST:
            return None
    total = sum(s * t for s, t in zip(signs, terms, strict=True))
    return total if abs(total) < LARGEST else None
