"""Variational EM: fifty labelled reviews teach the model what a reason says of a label.

    python examples/10_em.py [FOLDER]

The reason is latent. Round 0 fits the guide alone; each later round first raises
p(label | review, reason) on drawn reasons, then fits the guide to the posterior that this
leaves. Takes a minute or two, far less than the default settings. Prints what stands in
10_em.out, up to rounding.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

import posterior_lm as plm
from posterior_lm.api.query import Query
from training.tiny.world import sample_task
from training.tiny.world.reviews import gold_label

PROGRAMS = Path(__file__).resolve().parent.parent / "programs"


def reviews(seed: int, count: int) -> list[dict[str, object]]:
    """Reviews of the little world that `tiny` was trained on, with their true labels."""
    rng = np.random.default_rng(seed)
    found = (str(sample_task("review", rng).fields["review"]) for _ in range(count))
    return [{"review": review, "label": gold_label(review)} for review in found]


def accuracy(query: Query, rows: list[dict[str, object]]) -> float:
    """The share of labels that are the likeliest, averaged over 32 reasons from the guide."""
    found = [query.given(review=r["review"]).predict("label", n=32).probs[0][0] for r in rows]
    return sum(f == r["label"] for f, r in zip(found, rows, strict=True)) / len(rows)


program = plm.load(PROGRAMS / "latent_rationale.plm")
folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()) / "em"
result = program.em(
    reviews(seed=1, count=50), folder, rounds=3, e_steps=4, m_steps=12, rank=4, sleep=0,
    seeds=0, rows=8, draws=4, bound_draws=12, m_draws=6, certify_draws=16, certify_rows=0,
)  # fmt: skip
print(str(result.query))
print("round  ELBO   log evidence   held out")
for one in result.rounds:
    assert one.held_out is not None
    print(
        f"{one.number:>5}{one.bound.elbo:>7.2f}{one.bound.log_evidence:>11.2f}"
        f"{one.held_out.log_evidence:>13.2f}"
    )
print(f"kept: round {result.best}, since {result.stopped}")

# From here on only the folder is needed.
trained = program.with_em(folder)
test = reviews(seed=2, count=40)
print(f"\naccuracy on new reviews: {accuracy(program, test):.0%} before, {accuracy(trained, test):.0%} after")
