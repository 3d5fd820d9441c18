"""Sums with a limited calculator: the steps are latent, the tool writes what follows each "=".

Policies are trained on questions of three and four operands and asked about five too. Three
ways of reading an answer off ten draws: the average of p(answer | steps), a vote of the
likeliest answers, and a vote of the last results that the tool wrote. Candidates are the numbers
that stand in the draws' steps.

Every trained method gets the same number of steps. A step of ours asks for as many
log rewards as a step of PPO; supervised training sees the demonstrations alone. `gflownet after sft` begins from
what that has taught, and has half as many steps on top.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import numpy as np
from attrs import evolve

from benchmarks.paper import sums_data, voting
from benchmarks.paper.cells import Cell
from benchmarks.paper.policies import guide, train, untrained
from benchmarks.paper.task import Bench, Metric, Outcome, Row, Task
from posterior_lm.infer.guide import PriorGuide

if TYPE_CHECKING:
    from pathlib import Path

    from posterior_lm.api.query import Query
    from posterior_lm.infer.guide import Guide
    from posterior_lm.target.target import Target
    from posterior_lm.target.values import Value

AFTER = "gflownet after sft"
METHODS = ("prompting", "few-shot", "sft", "ppo", "gflownet", AFTER)
_NUMBER = re.compile(r"-?\d+")
_RESULT = re.compile(r"= ?(-?\d+)")


def settings(bench: Bench) -> tuple[str, ...]:
    """Numbers of operands, and the paper's own files where their folder is given."""
    own = tuple(f"{k} operands" for k in sums_data.OPERANDS)
    return own + (tuple(sums_data.PAPER_FILES) if "arithmetic" in bench.data else ())


def rows_of(bench: Bench, seed: int) -> sums_data.Split:
    """The fresh questions of one seed."""
    size = bench.size("arithmetic")
    return sums_data.split(train=size.train, demos=int(size.more["demos"]), test=size.test, seed=seed)


def run(bench: Bench, cell: Cell) -> Outcome:
    """One method on questions of one kind."""
    size, found = bench.size("arithmetic"), rows_of(bench, cell.seed)
    # A model that was not trained on such sums has to see some before its posterior holds the right steps of others.
    examples = found.demos[: int(size.more.get("examples", 0))]
    worked = demonstrated(examples) if examples else sums_data.worked_prompt(int(size.more["shots"]))
    query = bench.query("arithmetic_with_tool").given(demos=worked)
    if cell.setting in sums_data.PAPER_FILES:
        rows = sums_data.paper_rows(bench.data["arithmetic"], cell.setting, size.test)
    else:
        rows = list(found.test[int(cell.setting.split()[0])])
    folder, note = None, ""
    if cell.method in ("sft", "ppo", "gflownet", AFTER):
        method, begun = cell.method, {}
        if method == AFTER:
            before = train(bench, _of_policy(evolve(cell, method="sft")), "sft", query, _shown("sft", found))
            method, begun = "gflownet", {"start": str(before.folder), "steps": size.steps // 2}
        trained = train(
            bench, _of_policy(cell), method, query, _shown(method, found), begun, named=cell.method
        )
        folder, note = trained.folder, trained.said
    right = np.zeros(3)
    for number, row in enumerate(rows):
        known: dict[str, object] = {"question": row["question"]}
        if cell.method == "few-shot":
            known["demos"] = demonstrated(examples or found.demos[: int(size.more["shots"])])
        # The guide reads no answer, so any may be bound while steps are drawn.
        target = query.given({**known, "answer": 0}).target()
        rng = np.random.default_rng([cell.seed, number, 71])
        with _guide(cell.method, query, target, folder) as own:
            steps = list(own.sample(rng, size.draws).values["steps"])
        right += [answer == row["answer"] for answer in answers(query, known, steps)]
    names = ("accuracy", "accuracy_hard", "accuracy_tool")
    return Outcome(dict(zip(names, (right / len(rows)).tolist(), strict=True)), rows=len(rows), note=note)


def _guide(method: str, query: Query, target: Target, folder: Path | None) -> AbstractContextManager[Guide]:
    """Who draws the steps: a policy, the frozen model after the question, or after demonstrations too."""
    if folder is not None:
        return nullcontext(guide(query, target, folder))
    return nullcontext(PriorGuide(target)) if method == "few-shot" else untrained(query, target)


def demonstrated(rows: Sequence[Row]) -> str:
    """Worked questions with their answers, each on a line of its own, as a prompt begins."""
    return "".join(
        f"Question: {row['question']} Answer:{row['steps']} The answer is {row['answer']}.\n" for row in rows
    )


def _of_policy(cell: Cell) -> Cell:
    """One policy answers questions of every kind."""
    return Cell(cell.task, "3 and 4 operands", cell.method, cell.seed)


def _shown(method: str, found: sums_data.Split) -> list[Row]:
    """What a method is trained on: demonstrations alone, questions alone, or both."""
    if method == "sft":
        return list(found.demos)
    plain = [*({k: v for k, v in row.items() if k != "steps"} for row in found.demos), *found.train]
    return plain if method == "ppo" else [*found.demos, *found.train]


def answers(query: Query, known: Row, steps: Sequence[Value]) -> tuple[int | None, int | None, int | None]:
    """The answer by averaged probabilities, by a vote of draws, by a vote of last results; None for no winner."""
    texts = [value.text for value in steps]
    candidates = sorted({int(n) for text in texts for n in _NUMBER.findall(text.replace(" - ", " ~ "))})
    by_tool = voting.majority([last_result(text) for text in texts])
    if not candidates:
        return None, None, by_tool
    log_probs = voting.answer_log_probs(query, known, "answer", candidates, {"steps": steps})
    return (
        voting.winner(candidates, voting.soft(log_probs)),
        voting.winner(candidates, voting.hard(log_probs)),
        by_tool,
    )


def last_result(text: str) -> int | None:
    """The number after the last "=" of the steps; None, never a number, where there is none."""
    found = _RESULT.findall(text)
    return int(found[-1]) if found else None


TASK = Task(
    name="arithmetic",
    title="Arithmetic with a limited calculator",
    metrics=(
        Metric("accuracy", "right answers by the average of p(answer | steps)", "%", "higher", 1),
        Metric("accuracy_hard", "by a vote of the draws' likeliest answers", "%", "higher", 1),
        Metric("accuracy_tool", "by a vote of the last results of the tool", "%", "higher", 1),
    ),
    settings=settings,
    methods=lambda bench, setting: METHODS,
    run=run,
)
