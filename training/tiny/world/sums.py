"""One-digit sums, worked from left to right or answered in the head.

A worked question shows its partial sums, each right with probability
`STEP_RIGHT`; a question answered in the head is right with a probability that
falls quickly with the number of operands. Wrong results are near the right one.
"""

from __future__ import annotations

from functools import cache

from .choice import Table, weighted
from .document import Choose, Fields

STEP_RIGHT = 0.97
COPY_RIGHT = 0.99
HEAD_RIGHT = {2: 0.95, 3: 0.45, 4: 0.2, 5: 0.1}
STYLE: Table = weighted({"worked": 0.7, "head": 0.3})
WORKED_OPERANDS: Table = weighted({"2": 0.3, "3": 0.35, "4": 0.28, "5": 0.07})
HEAD_OPERANDS: Table = weighted({"2": 0.6, "3": 0.18, "4": 0.16, "5": 0.06})
QUESTIONS: Table = weighted({"1": 0.75, "2": 0.17, "3": 0.08})
DIGIT: Table = weighted({str(d): 0.4 if d == 0 else 1.0 for d in range(10)})
OFFSETS: dict[int, float] = {1: 8.0, -1: 6.0, 2: 3.0, -2: 3.0, 3: 1.0, -3: 1.0, 10: 1.0, -10: 1.0}


@cache
def operator_table(partial: int) -> Table:
    """P(+ or - | partial sum): large partial sums tend down and small ones up."""
    plus = 0.25 if partial >= 10 else 0.75 if partial <= 2 else 0.55
    return weighted({"+": plus, "-": 1.0 - plus})


@cache
def result_table(value: int, right: float) -> Table:
    """P(stated result | true `value`), right with probability `right`."""
    scale = (1.0 - right) / sum(OFFSETS.values())
    return weighted({str(value): right} | {str(value + o): scale * w for o, w in OFFSETS.items()})


def apply(left: int, operator: str, right: int) -> int:
    """The sum or difference."""
    return left + right if operator == "+" else left - right


def write_question(choose: Choose, operands: int) -> tuple[list[int], list[str], int]:
    """Draw the numbers, the operators between them, and the true value."""
    numbers = [int(choose(DIGIT))]
    operators: list[str] = []
    value = numbers[0]
    for _ in range(operands - 1):
        operators.append(choose(operator_table(value)))
        numbers.append(int(choose(DIGIT)))
        value = apply(value, operators[-1], numbers[-1])
    return numbers, operators, value


def question_text(numbers: list[int], operators: list[str]) -> str:
    """The sum as it stands in a question: `3 + 4 - 2 = ?`."""
    tail = "".join(f" {o} {n}" for o, n in zip(operators, numbers[1:], strict=True))
    return f"{numbers[0]}{tail} = ?"


def right_steps(numbers: list[int], operators: list[str]) -> str:
    """The right working, with its leading space and stop: ` 3 + 4 = 7, 7 - 2 = 5.`."""
    parts, left = [], numbers[0]
    for o, n in zip(operators, numbers[1:], strict=True):
        parts.append(f"{left} {o} {n} = {apply(left, o, n)}")
        left = apply(left, o, n)
    return " " + ", ".join(parts) + "."


def _worked(choose: Choose) -> str:
    numbers, operators, _ = write_question(choose, int(choose(WORKED_OPERANDS)))
    left = numbers[0]
    steps = []
    for o, n in zip(operators, numbers[1:], strict=True):
        stated = int(choose(result_table(apply(left, o, n), STEP_RIGHT)))
        steps.append(f"{left} {o} {n} = {stated}")
        left = stated
    answer = choose(result_table(left, COPY_RIGHT))
    question = question_text(numbers, operators)
    return f"Question: {question} Answer: {', '.join(steps)}. The answer is {answer}."


def write_sums(choose: Choose) -> tuple[str, Fields]:
    """Write one document: one to three worked questions, or one answered in the head."""
    if choose(STYLE) == "worked":
        count = int(choose(QUESTIONS))
        return "\n".join(_worked(choose) for _ in range(count)), {"style": "worked"}
    operands = int(choose(HEAD_OPERANDS))
    numbers, operators, value = write_question(choose, operands)
    answer = choose(result_table(value, HEAD_RIGHT[operands]))
    text = f"Question: {question_text(numbers, operators)} The answer is {answer}."
    return text, {"style": "head"}
