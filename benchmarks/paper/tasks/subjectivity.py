"""Subjectivity of reviews from 10, 20 or 50 labels: a reason is latent, the label follows from it.

On `tiny` the reviews are those of its world, labelled with their true class; people of that
world give fitting reasons for most kinds of reviews and unfitting ones for two, so the
label that is likeliest without training is wrong for those. With a folder of SUBJ (Pang and
Lee 2004) as JSON lines, the same with real reviews.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.paper import data, voting
from benchmarks.paper.cells import Cell
from benchmarks.paper.policies import guide, train
from benchmarks.paper.task import Bench, Metric, Outcome, Row, Task
from posterior_lm.lang.diagnostics import DataError, error
from training.tiny.world import reviews

if TYPE_CHECKING:
    from posterior_lm.api.query import Query

LABELS = ("objective", "subjective")
METHODS = ("zero-shot", "few-shot", "reasons of the frozen model", "sft", "gflownet", "gflownet+em")


def settings(bench: Bench) -> tuple[str, ...]:
    """How many labels."""
    return tuple(f"{n} labels" for n in bench.size("subjectivity").more["labels"])


def rows_of(bench: Bench, labels: int, seed: int) -> tuple[list[Row], list[Row]]:
    """Labelled rows, those of fewer labels among those of more, and test rows with none of their reviews."""
    size = bench.size("subjectivity")
    if "subj" in bench.data:
        return _subj(bench.data["subj"], labels, size.test, seed)
    train_rows, test_rows = data.split(
        _of_world, train=size.train, test=size.test, seed=seed, names=("review",)
    )
    return list(train_rows[:labels]), list(test_rows)


def _of_world(rng: np.random.Generator) -> Iterator[dict[str, object]]:
    for document in data.documents("review", rng, lambda d: True):
        review = str(document.fields["review"])
        yield {"review": review, "label": reviews.gold_label(review)}


def _subj(folder: Path, labels: int, test: int, seed: int) -> tuple[list[Row], list[Row]]:
    """The stored subset of so many labels where there is one, else the first rows of `train.jsonl`."""
    subset = folder / f"train.{labels}.jsonl"
    shown = subj_rows(subset if subset.exists() else folder / "train.jsonl")[:labels]
    taken = {row["review"] for row in shown}
    rest = [row for row in subj_rows(folder / "test.jsonl") if row["review"] not in taken]
    order = np.random.default_rng(data.TEST).permutation(len(rest))
    mixed = np.random.default_rng([seed, 5]).permutation(len(shown))
    return [shown[int(k)] for k in mixed], [rest[int(k)] for k in order[:test]]


def subj_rows(path: Path) -> list[Row]:
    """Rows of a file of SUBJ: `text`, and `label_text`. Raises DataError PLM822 for anything else."""
    found: list[Row] = []
    try:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
            one = json.loads(line)
            if not isinstance(one["text"], str) or one["label_text"] not in LABELS:
                raise ValueError(f"line {number + 1} is no labelled text")
            found.append({"review": one["text"], "label": one["label_text"]})
    except (OSError, ValueError, KeyError, TypeError) as problem:
        said = f"it has no {problem}" if isinstance(problem, KeyError) else str(problem)
        raise DataError(
            error(
                "PLM822",
                f"cannot read {path} as reviews of SUBJ ({said})",
                where=str(path),
                help='each line is a JSON object with "text" and "label_text", objective or subjective',
            )
        ) from None
    return found


def run(bench: Bench, cell: Cell) -> Outcome:
    """One method with so many labels."""
    train_rows, test_rows = rows_of(bench, int(cell.setting.split()[0]), cell.seed)
    if cell.method in ("zero-shot", "few-shot", "sft"):
        return _direct(bench, cell, train_rows, test_rows)
    query = bench.query("latent_rationale")
    folder, note = None, ""
    if cell.method == "gflownet":
        trained = train(bench, cell, "gflownet", query, train_rows, searched=_most(bench, cell.seed))
        folder, note = trained.folder, trained.said
    elif cell.method == "gflownet+em":
        from benchmarks.paper.rounds import after_em

        query, folder = after_em(bench, cell, query, train_rows)
    return _voted(bench, cell, query, folder, test_rows, note)


def _voted(
    bench: Bench, cell: Cell, query: Query, folder: Path | None, rows: Sequence[Row], note: str
) -> Outcome:
    from posterior_lm.infer.guide import PriorGuide

    draws, right, right_hard = bench.size("subjectivity").draws, 0, 0
    for number, row in enumerate(rows):
        known = {"review": row["review"]}
        # The guide reads no label, so any may be bound while it draws.
        target = query.given({**known, "label": LABELS[0]}).target()
        own = PriorGuide(target) if folder is None else guide(query, target, folder)
        values = own.sample(np.random.default_rng([cell.seed, number, 51]), draws).values
        log_probs = voting.answer_log_probs(query, known, "label", LABELS, values)
        right += voting.winner(LABELS, voting.soft(log_probs)) == row["label"]
        right_hard += voting.winner(LABELS, voting.hard(log_probs)) == row["label"]
    metrics = {"accuracy": right / len(rows), "accuracy_hard": right_hard / len(rows)}
    return Outcome(metrics, rows=len(rows), note=note)


def _direct(bench: Bench, cell: Cell, shown: Sequence[Row], rows: Sequence[Row]) -> Outcome:
    """The label right after the question: by the frozen model, after examples, or trained on them."""
    query = bench.query("direct_label")
    folder, note = None, ""
    if cell.method == "sft":
        trained = train(
            bench, cell, "sft", query, _spelled(shown), searched=_spelled(_most(bench, cell.seed))
        )
        folder, note = trained.folder, trained.said
    right, most = 0, 0
    for row in rows:
        known = {"review": row["review"]}
        if cell.method == "few-shot":
            known["demos"], used = _demos(query, shown, str(row["review"]))
            most = max(most, used)
        target = query.given(known).target()
        values = {"label": [target.value("label", f" {label}") for label in LABELS]}
        if folder is None:
            scores = target.log_reward(values)
        else:
            scores = guide(query, target, folder).log_prob(values)
        right += voting.winner(LABELS, scores) == row["label"]
    if cell.method == "few-shot":
        note = f"at most {most} of {len(shown)} examples fit into the window"
    return Outcome({"accuracy": right / len(rows)}, rows=len(rows), note=note)


def _most(bench: Bench, seed: int) -> list[Row]:
    """The rows of the most labels: rates are searched on them, since of ten rows two could be held out."""
    return rows_of(bench, max(int(n) for n in bench.size("subjectivity").more["labels"]), seed)[0]


def _spelled(rows: Sequence[Row]) -> list[Row]:
    """Rows with their labels as the model writes them, after a space."""
    return [{**row, "label": f" {row['label']}"} for row in rows]


def _demos(query: Query, shown: Sequence[Row], review: str) -> tuple[str, int]:
    """As many solved examples, in their order, as the model's window has room for; and their number."""

    model = query.prepared.models["base"]
    text, used = "", 0
    room = model.max_length
    for row in shown:
        longer = f"{text}{reviews.question_text(str(row['review']))} {row['label']}.\n"
        asked = longer + reviews.question_text(review) + " subjective"
        if room is not None and len(model.tokenizer.encode(asked)) + 2 > room:
            break
        text, used = longer, used + 1
    return text, used


TASK = Task(
    name="subjectivity",
    title="Subjectivity from few labels",
    metrics=(
        Metric("accuracy", "share of test reviews with the right label", "%", "higher", 1),
        Metric("accuracy_hard", "the same where each draw votes", "%", "higher", 1),
    ),
    settings=settings,
    methods=lambda bench, setting: METHODS,
    run=run,
)
