"""The data rows of the example programs, drawn from the world.

python -m training.tiny.rows [--out programs/data]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from .world import Document, instructions, reviews, sample_task, stories, sums

SEED = 20
COUNT = 8
Row = dict[str, object]


def _draws(task: str, salt: int) -> Iterator[Document]:
    rng = np.random.default_rng([SEED, salt])
    while True:
        yield sample_task(task, rng)


def _first(rows: Iterator[Row], keep: Callable[[Row], bool], count: int = COUNT) -> list[Row]:
    """The first `count` distinct rows that `keep` accepts."""
    found: list[Row] = []
    for row in rows:
        if row not in found and keep(row):
            found.append(row)
        if len(found) == count:
            return found
    return found


def story_rows() -> list[Row]:
    """Openings and endings that the prior seldom joins, one row per event.

    A row is kept where the world's own prior has an ESS of at most 6 % and the
    posterior has at least five middles above 2 %.
    """
    seen: set[object] = set()
    found: list[Row] = []
    for document in _draws("story", 1):
        if document.fields["order"] != "plain":
            continue
        opening, ending = str(document.fields["opening"]), str(document.fields["ending"])
        if document.fields["event"] in seen or stories.prior_ess(opening, ending) > 0.06:
            continue
        if sum(p > 0.02 for p in stories.middle_posterior(opening, ending).values()) < 5:
            continue
        seen.add(document.fields["event"])
        found.append({"opening": opening, "ending": ending})
        if len(found) == COUNT:
            return found
    return found


def first_sentence_rows() -> list[Row]:
    """Prompts of one plain sentence."""
    return _first(({"prompt": d.fields["first"]} for d in _draws("plain", 2)), lambda row: True)


def opening_rows() -> list[Row]:
    """Prompts after which a story may bring in a dog."""
    rows = ({"prompt": d.fields["opening"]} for d in _draws("story", 3))
    return _first(rows, lambda row: "kitchen" not in str(row["prompt"]))


def integer_rows() -> list[Row]:
    """Ranges; the first is the one most often written about."""
    return [{"low": a, "high": b} for a, b in ((0, 100), (1, 100), (0, 10), (1, 6), (10, 99), (20, 80))]


def mean_rows() -> list[Row]:
    """Means of counts, the default first."""
    return [{"mean": m} for m in (20.0, 5.0, 40.5, 2.0, 65.0)]


def stop_rows() -> list[Row]:
    """Probabilities of a first success, the default first."""
    return [{"p": p} for p in (0.05, 0.2, 0.5, 0.02, 0.1)]


def most_rows() -> list[Row]:
    """Largest integers, the default first."""
    return [{"most": n} for n in (99, 9, 20, 50, 12)]


def second_sentence_rows() -> list[Row]:
    """Second sentences, whose first is to be found."""
    told = (d for d in _draws("plain", 7) if d.fields["rest"])
    return _first(({"after": str(d.fields["rest"][0]).strip()} for d in told), lambda row: True)  # type: ignore[index]


def bare_review_rows() -> list[Row]:
    """The reviews of `review_rows` without their labels."""
    return [{"review": row["review"]} for row in review_rows()]


def review_rows() -> list[Row]:
    """One review of each kind, with its gold label."""
    drawn = {str(d.fields["kind"]): d for d, _ in zip(_draws("review", 4), range(400), strict=False)}
    return [
        {"review": drawn[k].fields["review"], "label": reviews.gold_label(str(drawn[k].fields["review"]))}
        for k in reviews.KINDS
    ]


def run_rows() -> list[Row]:
    """Four reviews in a row each, those of the world's kinds turned by one for each row."""
    said = [str(row["review"]) for row in review_rows()]
    return [{"sentences": [{"said": said[(k + i) % len(said)]} for i in range(4)]} for k in range(len(said))]


def sum_rows() -> list[Row]:
    """Questions of three and four operands with right answers and one worked demonstration."""
    rng = np.random.default_rng([SEED, 5])

    def draw(operands: int) -> tuple[list[int], list[str], int]:
        return sums.write_question(lambda table: table.texts[table.at(rng.random())], operands)

    rows: list[Row] = []
    for i in range(COUNT):
        numbers, operators, value = draw(2)
        shown = sums.question_text(numbers, operators)
        demo = f"Question: {shown} Answer:{sums.right_steps(numbers, operators)} The answer is {value}.\n"
        numbers, operators, value = draw(3 + i % 2)
        rows.append({"question": sums.question_text(numbers, operators), "answer": value, "demos": demo})
    return rows


def instruction_rows() -> list[Row]:
    """Two or three examples of one rule."""
    chosen = ("opposite", "plural", "sound", "double", "first", "add two", "twice", "colour")
    rng = np.random.default_rng([SEED, 6])
    rows: list[Row] = []
    for name in chosen:
        outputs = instructions.RULES[name].outputs
        inputs = [str(x) for x in rng.permutation(sorted(outputs))[: int(rng.integers(2, 4))]]
        rows.append({"examples": [{"input": x, "output": outputs[x]} for x in inputs]})
    return rows


PROGRAMS: dict[str, Callable[[], list[Row]]] = {
    "story_infilling": story_rows,
    "reverse_generation": second_sentence_rows,
    "tempered_continuation": first_sentence_rows,
    "contrastive_continuation": first_sentence_rows,
    "random_integer": integer_rows,
    "random_poisson": mean_rows,
    "random_geometric": stop_rows,
    "random_benford": most_rows,
    "latent_rationale": review_rows,
    "direct_label": bare_review_rows,
    "arithmetic_with_tool": sum_rows,
    "steps_or_not": sum_rows,
    "reasons": review_rows,
    "runs_of_a_kind": run_rows,
    "instruction_induction": instruction_rows,
    "constrained": opening_rows,
}


def main(arguments: list[str] | None = None) -> None:
    """Write one file of rows per program."""
    parser = argparse.ArgumentParser(description="Write the data rows of the example programs.")
    parser.add_argument("--out", type=Path, default=Path("programs/data"))
    out = parser.parse_args(arguments).out
    out.mkdir(parents=True, exist_ok=True)
    for name, rows in PROGRAMS.items():
        text = "".join(json.dumps(row) + "\n" for row in rows())
        (out / f"{name}.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
