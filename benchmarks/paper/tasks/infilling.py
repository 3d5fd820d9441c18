"""Story infilling, and reverse generation: a sentence between two others, or before one.

With `tiny` the posterior of a row can be listed, so a policy is compared with it by its own
probabilities, and methods that only draw by their draws, beside what as many exact draws
would give. With another model, or with real stories, there is no list (`Bench.lists`): methods
whose draws have weights are compared by the log of their mean, a lower bound of the log
evidence in expectation, and a long run of `smc` is what they are measured against.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from attrs import frozen

from benchmarks.paper import data, listing, quality, stories
from benchmarks.paper.cells import Cell
from benchmarks.paper.drawing import DECODERS, SAMPLERS, Drawn, decoded, proposed, sampled
from benchmarks.paper.policies import guide, train, untrained
from benchmarks.paper.task import Bench, Metric, Outcome, Row, Task
from posterior_lm.infer.guide import PriorGuide

if TYPE_CHECKING:
    from pathlib import Path

    from posterior_lm.api.query import Query
    from posterior_lm.infer.guide import Guide
    from posterior_lm.target.target import Target

LONGER = 8
"""Times as many draws of `smc` where its log evidence is what others are measured against."""
CLEAN = 10
"""Texts of each row that are compared with the one that the world wrote."""


@frozen
class Kind:
    """A setting: its program, its rows, the columns that are given, and the latent."""

    program: str
    rows: Callable[[np.random.Generator], Iterator[dict[str, object]]]
    given: tuple[str, ...]
    latent: str


KINDS = {
    "infilling": Kind("story_infilling", data.stories, ("opening", "ending"), "middle"),
    "reverse": Kind("reverse_generation", data.pairs_of_sentences, ("after",), "before"),
}
GREEDY = ("greedy", "ancestral 0.5", "nucleus 0.8", "beam", "diverse beam")
METHODS = ("exact draws", "prior", "prompting", "few_shot", *GREEDY, *SAMPLERS,
           "sft", "ppo", "gflownet", "gflownet corrected")  # fmt: skip


def rows_of(bench: Bench, setting: str, seed: int) -> tuple[list[Row], list[Row]]:
    """Rows to train on, and test rows: the first ones, of the listed whose listing leaves out at most 5 % of the posterior."""
    kind, size = KINDS[setting], bench.size("infilling")
    source = kind.rows if "stories" not in bench.data else _stories(bench, setting)
    count = size.test * (4 if bench.lists else 1)
    train_rows, found = data.split(source, train=size.train, test=count, seed=seed, names=kind.given)
    if bench.lists:
        return list(train_rows), list(_listable(bench, setting, size.test, tuple(map(_frozen, found))))
    return list(train_rows), list(found)


def _stories(bench: Bench, setting: str) -> stories.Stories:
    return stories.of_bench(bench, setting, (KINDS[setting].program,), bench.size("infilling").test)


def _frozen(row: Row) -> tuple[tuple[str, object], ...]:
    return tuple(row.items())


@lru_cache(maxsize=8)
def _listable(
    bench: Bench, setting: str, count: int, candidates: tuple[tuple[tuple[str, object], ...], ...]
) -> tuple[Row, ...]:
    kept: list[Row] = []
    for row in map(dict, candidates):
        if len(kept) < count and _listed(bench, setting, row).rest <= listing.LOOSE:
            kept.append(row)
    return tuple(kept)


def _listed(bench: Bench, setting: str, row: Row) -> listing.Listed:
    kind = KINDS[setting]
    values = int(str(bench.size("infilling").more["listed"]))
    return listing.listed(bench, bench.query(kind.program), {k: row[k] for k in kind.given}, values)


def run(bench: Bench, cell: Cell) -> Outcome:
    """One method on one of the two settings."""
    kind, size = KINDS[cell.setting], bench.size("infilling")
    query = bench.query(kind.program)
    train_rows, test_rows = rows_of(bench, cell.setting, cell.seed)
    notes, found, judge = [], [], bench.judge
    method = cell.method.removesuffix(" corrected")
    folder = None
    if method in ("sft", "ppo", "gflownet"):
        shown = train_rows if method == "sft" else [{k: r[k] for k in kind.given} for r in train_rows]
        trained = train(bench, cell, method, query, shown, size.more.get(cell.setting))
        folder = trained.folder
        notes.append(trained.said)
    if not bench.lists:
        notes.append("posteriors are not listed: another model than tiny, or real stories")
        notes += [_stories(bench, cell.setting).said] if "stories" in bench.data else []
    for number, row in enumerate(test_rows):
        bound = query.given({k: row[k] for k in kind.given})
        exact = _listed(bench, cell.setting, row) if bench.lists else None
        rng = np.random.default_rng([cell.seed, number, 31])
        drawn, figures = _drawn(bench, cell, bound, query, folder, exact, rng, train_rows)
        if exact is not None:
            figures.setdefault("tv_draws", exact.of_draws(drawn.ids, drawn.weights))
        elif drawn.log_evidence is not None:
            figures["log_evidence"] = drawn.log_evidence
        if drawn.ess_share is not None:
            figures["ess_share"] = drawn.ess_share
        few = drawn.resampled(rng, CLEAN)
        bert = bench.data.get("bert")
        figures |= quality.against_reference(
            few.texts, str(row[kind.latent]), bert, similarity=exact is None and bert is None
        )
        if judge is not None:
            more_figures, said = quality.judged(
                judge, few.texts, str(row.get("opening", "")), str(row.get("ending", row.get("after", "")))
            )
            figures |= more_figures
            if said:
                # A server that fails is not asked again for every other row of the cell.
                judge = None
                notes.append(said)
        alive = np.maximum(few.log_reward, -100.0)
        figures["log_reward"] = float(alive.mean())
        found.append(figures)
    return Outcome(quality.means(found), rows=len(test_rows), note="; ".join(filter(None, notes)))


def _drawn(
    bench: Bench, cell: Cell, bound: Query, query: Query, folder: Path | None, exact: listing.Listed | None,
    rng: np.random.Generator, train_rows: list[Row],
) -> tuple[Drawn, dict[str, float]]:  # fmt: skip
    """The draws of a method for one row, and how far it is from the list where there is one."""
    size, target, figures = bench.size("infilling"), bound.target(), {}
    if cell.method == "exact draws":
        assert exact is not None
        picked = rng.choice(len(exact.ids), size=size.draws, p=_share(exact.log_prob))
        return _given(target, [exact.ids[i] for i in picked]), {"tv_draws": exact.noise(size.draws, rng)}
    if folder is not None or cell.method in ("prior", "prompting"):
        corrected = cell.method.endswith("corrected")
        with _guide(cell.method, query, target, folder) as policy:
            if exact is not None and not corrected:  # corrected draws are no longer the policy's
                figures["tv"] = exact.of_guide(target, policy)
            return proposed(target, policy, size.draws, cell.seed, corrected=corrected), figures
    if cell.method in SAMPLERS:
        longer = LONGER if cell.method == "smc" and exact is None else 1
        return sampled(bound, cell.method, longer * size.draws, cell.seed, steps=size.more["chain"]), figures
    more = _shots(bench, cell, train_rows) if cell.method == "few_shot" else {}
    return decoded(bound, cell.method, size.draws, cell.seed, **more), figures


def _guide(method: str, query: Query, target: Target, folder: Path | None) -> AbstractContextManager[Guide]:
    if folder is not None:
        return nullcontext(guide(query, target, folder))
    return untrained(query, target) if method == "prompting" else nullcontext(PriorGuide(target))


def _share(log_prob: np.ndarray) -> np.ndarray:
    p = np.exp(log_prob - log_prob.max())
    return p / p.sum()


def _given(target: Target, ids: list[tuple[int, ...]]) -> Drawn:
    (name,) = target.names
    values = [target.value_of(name, one) for one in ids]
    n = len(ids)
    return Drawn(
        tuple(ids), tuple(v.text for v in values), np.full(n, 1 / n), target.log_reward({name: values})
    )


def _shots(bench: Bench, cell: Cell, rows: list[Row]) -> dict[str, object]:
    """Solved examples for a prompt: a file of rows, and how many of them."""
    from benchmarks.paper.examples import example_file

    return {"examples": str(example_file(bench, cell, rows[:64])), "shots": 3}


TASK = Task(
    name="infilling",
    title="Story infilling and reverse generation",
    metrics=(
        Metric("tv", "total variation to the exact posterior, by probabilities", "", "lower"),
        Metric("tv_draws", "the same from draws", "", "lower"),
        Metric(
            "log_evidence",
            "log of the mean weight, at most the log evidence in expectation",
            "nats",
            "higher",
            2,
        ),
        Metric("ess_share", "ESS/N of the weights", "", "higher", 2),
        Metric("log_reward", "mean log reward under the frozen model", "nats", "higher", 2),
        Metric("bleu4", "BLEU-4 against the story's own sentence", "", "higher"),
        Metric("gleu4", "GLEU-4 against the same", "", "higher"),
        Metric("bert_score", "BERTScore F1 against the same", "", "higher"),
        Metric("similarity", "cosine of the embeddings of a text and the same", "", "higher"),
        Metric("judge", "mean rating by a judge, from 1 to 5", "", "higher", 2),
    ),
    settings=lambda bench: tuple(KINDS),
    methods=lambda bench, setting: METHODS if bench.lists else METHODS[1:],
    run=run,
)
assert set(GREEDY) <= set(DECODERS)
