"""Questions of the arithmetic task: fresh ones without a repetition, and the paper's files as they are."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from attrs import frozen

from benchmarks.paper import data
from benchmarks.paper.task import Row
from posterior_lm.lang.diagnostics import DataError, error
from training.tiny.world import sums

OPERANDS = (3, 4, 5)
"""Of the test questions; those of training have three or four, so five are out of distribution."""
SHOTS = (((1, 8), "+"), ((9, 4), "-"), ((2, 6), "-"))
"""Two-operand sums that the target's own prompt shows worked; no question of the task has two."""
PAPER_FILES = {
    "paper 3 or 4 operands, leaky": "1digit_34_op+-_test.json",
    "paper 3 operands, leaky": "1digit_3_op+-_test.json",
    "paper 4 operands, leaky": "1digit_4_op+-_test.json",
    "paper 5 operands": "1digit_5_op+-_test.json",
}
"""The paper's test files by the name of their setting; three of them share questions with its training files."""


@frozen(eq=False)
class Split:
    """Training rows without steps, demonstrations with them, and test rows by number of operands."""

    train: Sequence[Row]
    demos: Sequence[Row]
    test: dict[int, Sequence[Row]]


def worked_prompt(count: int) -> str:
    """The first `count` worked sums, each on a line of its own."""
    lines = []
    for (a, b), operator in SHOTS[:count]:
        value = sums.apply(a, operator, b)
        steps = sums.right_steps([a, b], [operator])
        lines.append(
            f"Question: {sums.question_text([a, b], [operator])} Answer:{steps} The answer is {value}.\n"
        )
    return "".join(lines)


def questions(operands: Sequence[int], rng: np.random.Generator) -> Iterator[dict[str, object]]:
    """Endless sums, their operands from the list in turn: question, answer, and the right steps."""
    turn = 0
    while True:
        numbers, operators, value = sums.write_question(
            lambda table: table.texts[table.at(rng.random())], operands[turn % len(operands)]
        )
        turn += 1
        yield {
            "question": sums.question_text(numbers, operators),
            "answer": value,
            "steps": sums.right_steps(numbers, operators),
        }


def split(*, train: int, demos: int, test: int, seed: int) -> Split:
    """Fresh questions; no question is in two parts, or in one part twice."""
    names = ("question",)
    held = {
        k: data.distinct(questions((k,), np.random.default_rng([data.TEST, k])), test, names=names)
        for k in OPERANDS
    }
    without = frozenset(data.key_of(row, names) for rows in held.values() for row in rows)
    rng = np.random.default_rng([seed, 61])
    shown = data.distinct(questions((3, 4), rng), train + demos, names=names, without=without)
    plain = [{k: v for k, v in row.items() if k != "steps"} for row in shown[demos:]]
    return Split(plain, shown[:demos], dict(held))


def paper_rows(folder: Path, setting: str, count: int) -> list[Row]:
    """The first rows of one of the paper's files. Raises DataError PLM822 for anything else."""
    path = folder / PAPER_FILES[setting]
    try:
        found = []
        for one in json.loads(path.read_text(encoding="utf-8"))[:count]:
            question = one["str_query"].removeprefix("Question: ").removesuffix(" Answer:")
            found.append({"question": question, "answer": int(one["num_sol"])})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
        said = f"it has no {problem}" if isinstance(problem, KeyError) else str(problem)
        raise DataError(
            error(
                "PLM822",
                f"cannot read {path} as one of the paper's files of sums ({said})",
                where=str(path),
                help="--paper-data takes the folder arithmetic_with_tool of the paper's code",
            )
        ) from None
    return list(found)
