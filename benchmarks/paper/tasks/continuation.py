"""Continuation of a prompt: tempered, p(z | prompt)^β, and contrastive.

Every method gives the same number of texts for the same held-out prompts. All of them are
scored by the frozen model at β = 1, whatever they were drawn with, and cleaned alike. A
policy counts as it proposes, and once more with its draws taken by their weights. At β ≠ 1
`log_reward` is that of the program with its own exponent. Supervised training sees the
sentences that the world wrote next; PPO gets one exponent, since an exponent scales its reward alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from benchmarks.paper import data, quality, stories
from benchmarks.paper.cells import Cell
from benchmarks.paper.drawing import Drawn, decoded, proposed, sampled
from benchmarks.paper.plans import TRAINED
from benchmarks.paper.policies import guide, train
from benchmarks.paper.task import Bench, Metric, Outcome, Row, Task

PROGRAMS = {"tempered": "tempered_continuation", "contrastive": "contrastive_continuation"}
BASELINES = (
    "greedy", "ancestral 1", "ancestral 0.8", "ancestral 0.5", "ancestral 0.3", "nucleus 0.95", "nucleus 0.8",
    "top-k 3",
    "beam", "diverse beam",
)  # fmt: skip
"""What the claim is made against."""
FIDELITY = {"tempered": "log_likelihood", "contrastive": "log_reward"}
"""What a baseline has to be better at, beside diversity: a contrastive text is not meant to be likely."""
OURS = "gflownet"
POOL = 4
"""Times as many weighted draws as texts: those are taken from them by their weights."""


def betas(bench: Bench) -> list[float]:
    """The exponents of the tempered setting."""
    found = bench.size("continuation").more["betas"]
    return [float(b) for b in found]


def methods(bench: Bench, setting: str) -> tuple[str, ...]:
    """The decoders, the other training methods, the chains, and a policy for each exponent."""
    if setting == "contrastive":
        return (*BASELINES, "sft", "ppo", "mcmc", "smc", OURS, f"{OURS} corrected")
    known = [f"{b:g}" for b in betas(bench)]
    own = [name.format(b) for b in known for name in ("mcmc b={}", OURS + " b={}", OURS + " b={} corrected")]
    return (*BASELINES, "sft", f"ppo b={known[len(known) // 2]}", *own)


def run(bench: Bench, cell: Cell) -> Outcome:
    """One method on the held-out prompts."""
    size = bench.size("continuation")
    train_rows, test_rows, note = rows_of(bench, cell.seed)
    kind, more = parsed(cell.method)
    query = bench.query(PROGRAMS[cell.setting])
    plain = bench.query("tempered_continuation").given(beta=1.0)
    folder = None
    if kind in TRAINED:
        known = ("prompt", "next") if kind == "sft" else ("prompt",)
        shown_rows = [{k: row[k] for k in known} | more for row in train_rows if set(known) <= set(row)]
        trained = train(bench, _of_policy(cell), kind, query, shown_rows)
        folder, note = trained.folder, "; ".join(filter(None, (trained.said, note)))
    found: list[dict[str, float]] = []
    shown: list[Mapping[str, object]] = []
    for number, whole in enumerate(test_rows):
        row = {"prompt": whole["prompt"]}
        bound = query.given({**row, **more})
        rng = np.random.default_rng([cell.seed, number, 41])
        if folder is not None:
            target = bound.target()
            corrected = cell.method.endswith("corrected")
            drawn = proposed(
                target, guide(query, target, folder), size.draws * (POOL if corrected else 1), cell.seed,
                corrected=corrected,
            )  # fmt: skip
        elif kind in ("mcmc", "smc", "importance"):
            drawn = sampled(bound, kind, size.draws * POOL, cell.seed, steps=size.more["chain"])
        else:
            drawn = decoded(bound, kind, size.draws, cell.seed)
        drawn = drawn.resampled(rng, size.draws)
        target = plain.given(row).target()
        values = {"next": [target.value_of("next", ids) for ids in drawn.ids]}
        own = {"log_reward": float(bound.target().log_reward(values).mean())}
        likely = likelihoods(target.log_reward(values))
        found.append({**likely, **own, **quality.of_set(drawn.texts), **_weighed(drawn)})
        shown.append({"prompt": row["prompt"], "texts": quality.cleaned(drawn.texts[:3])})
    return Outcome(quality.means(found), rows=len(test_rows), shown={"rows": shown[:2]}, note=note)


def rows_of(bench: Bench, seed: int) -> tuple[list[Row], list[Row], str]:
    """Prompts to train on and to test on, the same for both settings, and what is to be said of them."""
    size = bench.size("continuation")
    told = None
    if "stories" in bench.data:
        told = stories.of_bench(bench, "continuation", tuple(PROGRAMS.values()), size.test)
    train_rows, test_rows = data.split(
        told or data.prompts, train=size.train, test=size.test, seed=seed, names=("prompt",)
    )
    return list(train_rows), list(test_rows), "" if told is None else told.said


def parsed(method: str) -> tuple[str, dict[str, object]]:
    """The kind of a method, and what its name says of β: `gflownet b=1.5 corrected` is a gflownet with β = 1.5."""
    words = method.removesuffix(" corrected").split(" b=")
    if len(words) == 2:
        return words[0], {"beta": float(words[1])}
    return words[0], {}


def _of_policy(cell: Cell) -> Cell:
    """One policy serves its raw and its corrected draws; each β has its own."""
    setting = f"{cell.setting} {cell.method.removesuffix(' corrected')}"
    return Cell(cell.task, setting, parsed(cell.method)[0], cell.seed)


def likelihoods(log_prob: np.ndarray) -> dict[str, float]:
    """Mean and best of N log-likelihoods, nats; no text of a support has −∞ here."""
    return {"log_likelihood": float(log_prob.mean()), "best_log_likelihood": float(log_prob.max())}


def _weighed(drawn: Drawn) -> dict[str, float]:
    return {} if drawn.ess_share is None else {"ess_share": drawn.ess_share}


TASK = Task(
    name="continuation",
    title="Tempered and contrastive continuation",
    metrics=(
        Metric("log_likelihood", "mean log-likelihood of a text under the frozen model", "nats", "higher", 2),
        Metric("best_log_likelihood", "that of the best text of a prompt", "nats", "higher", 2),
        Metric("log_reward", "mean log reward under the setting's own program", "nats", "higher", 2),
        Metric("diversity", "semantic diversity of a prompt's texts", "", "higher"),
        Metric("distinct_2", "distinct bigrams", "", "higher"),
        Metric("self_bleu", "self-BLEU", "", "lower"),
        Metric("ess_share", "ESS/N of the weights", "", "higher", 2),
    ),
    settings=lambda bench: tuple(PROGRAMS),
    methods=methods,
    run=run,
)
