"""genlm-control and llamppl on the known posteriors, beside ours at the same number of particles.

    python -m benchmarks.db_peers [--envs DIR] [--models ../shared/models] [--particles 256] [--seeds 3] [--only NAME]
        [--json FILE]

Every target of `posteriors/` that draws one text under a table or a model, and weighs it by further texts, is told to
the peers as a table of what may come next and the terms that follow the value (`TARGETS`); they propose and weigh as
ours do. `ELSE` says what of the other classes their documentation has no words for. Environments are those of
`peers.py`. Printed are, by class, the root mean square of the error of the log evidence (nats), the mean total
variation to the exact posterior and the median seconds of a run, each over targets and seeds.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np

from benchmarks.peers import HERE, PACKAGES, Peer, make_environment
from posterior_lm.infer.base import InferenceAlgorithm, run
from posterior_lm.infer.importance import Importance
from posterior_lm.infer.smc import Smc
from posterior_lm.infer.weights import logsumexp
from posterior_lm.lm.tiny import WEIGHTS
from posterior_lm.support.base import Support
from posterior_lm.target.target import Target
from posterior_lm.validate.comparison import total_variation
from posterior_lm.validate.database import Answer, Entry, entries

MODELS = HERE.parents[1] / "shared" / "models"
POSTERIORS = HERE.parent / "posteriors"
METHODS: dict[str, InferenceAlgorithm] = {"importance": Importance(), "smc": Smc()}

Term = tuple[str, str, str, float]
"""A model, what it reads first, the parameter that follows the value ("": the value is scored itself), and a power."""

ENDING: Term = ("base", "opening", "ending", 1.0)
TARGETS: dict[str, tuple[str, float, tuple[Term, ...]]] = {
    **{name: ("opening", 1.0, (ENDING,)) for name in
       ("bridge_letters", "bridge_words", "long_bridge", "word_stories", "word_tiny", "word_tinystories")},
    "cause_letters": ("", 1.0, (("base", "", "ending", 1.0),)),
    "three_witnesses": ("", 1.0, tuple(("base", "", seen, 1.0) for seen in ("first", "second", "third"))),
    "flat_letters": ("opening", 0.4, ()),
    "flat_words": ("", 0.5, ()),
    "sharp_letters": ("", 3.0, ()),
    "sharp_words": ("", 2.0, ()),
    "sharp_stories": ("opening", 2.0, ()),
    "short_holds_it": ("", 2.0, ()),
    "cool_block": ("", 2.5, (("base", "", "ending", 2.5),)),
    "against_another": ("", 1.0, (("other", "", "", -0.8),)),
    "against_itself": ("opening", 1.0, (("base", "", "", -0.5),)),
    "both_at_once": ("", 1.0, (("other", "", "", 1.0),)),
    "strongly_against": ("", 1.0, (("other", "", "", -1.5),)),
    **{name: ("", 1.0, ()) for name in
       ("brackets", "pairs_of_letters", "price", "terminals_that_overlap", "trap_of_the_mask", "two_characters",
        "record", "record_trap", "early_full_stop", "early_stop", "exactly_six")},
    "canonical_letters": ("opening", 1.0, ()),
    "three_words": ("opening", 1.0, ()),
    "name_tiny": ("prompt", 1.0, ()),
    "pet_tiny": ("prompt", 1.0, ()),
    "stop_of_two_tokens": ("c", 1.0, ()),
    "rare_last_token": ("", 1.0, (("base", "", "seen", 1.0),)),
    "rare_token": ("", 1.0, (("base", "", "seen", 1.0),)),
}  # fmt: skip
"""By name: what the model reads before the value, the power of its probability, and the terms behind it."""

ELSE = {
    "several_latents, plates": "genlm-control draws one sequence of tokens; llamppl could, by a program of its own for each",
    "finite": "genlm-control's values are tokens; llamppl has Bernoulli, geometric and listed numbers, no others",
    "tools": "neither has text that is written by a tool in the middle of a draw",
    "conditions, heavy_tails, two_modes": "only as Python that computes the program's expression anew",
}
MOST_STATES = 20_000


def states_of(support: Support) -> tuple[np.ndarray, np.ndarray]:
    """(S, V) the state behind each token, −1 where it is not allowed, and (S,) bool where a value may end.

    States that reach no end are left out. Raises ValueError where there are too many.
    """
    places, order, rows = {support.start(): 0}, [support.start()], []
    for state in order:  # grows while it is read
        allowed = support.allowed(state)
        row = np.full(len(allowed), -1, dtype=np.int32)
        for token in np.flatnonzero(allowed).tolist():
            then = support.advance(state, token)
            if then not in places:
                places[then] = len(order)
                order.append(then)
            row[token] = places[then]
        rows.append(row)
        if len(order) > MOST_STATES:
            raise ValueError("too many states to be told as a table")
    table, ends = np.array(rows), np.array([support.may_stop(state) for state in order])
    alive = ends
    while (more := alive | (alive[table] & (table >= 0)).any(axis=1)).sum() > alive.sum():
        alive = more
    return np.where((table >= 0) & alive[table], table, -1), ends


def spec_of(entry: Entry, target: Target, models: Path, folder: Path) -> dict[str, Any]:
    """What the peers are told of a target."""
    before, power, terms = TARGETS[entry.name]
    given = entry.answer.given
    (latent,) = target.latents
    table, ends = states_of(latent.support)
    path = folder / f"{entry.name}.npz"
    np.savez(path, table=table, ends=ends)
    specs = {lm.alias: lm.spec for lm in target.graph.lms}

    def model(alias: str) -> dict[str, Any]:
        tokenizer = target.models[alias].tokenizer
        spec = str(specs[alias])
        if spec.endswith(".json"):
            names = [(one or b"").decode() for one in tokenizer.token_bytes]
            return {"table": Path(spec).stem, "names": names, "eos": tokenizer.eos_ids[0]}
        return {"folder": str(WEIGHTS if spec == "tiny" else models / spec), "eos": tokenizer.eos_ids[0]}

    def context(alias: str, name: str) -> list[int]:
        tokenizer = target.models[alias].tokenizer
        return [*tokenizer.start_ids, *tokenizer.encode(str(given.get(name, name)))]

    scored = latent.support.ending == "eos"
    return {
        "states": str(path), "prompt": context("base", before), "lm": model("base"), "power": power, "ends": scored,
        "max_tokens": latent.support.max_tokens,
        "terms": [
            {
                "lm": model(alias), "prompt": context(alias, read), "power": b, "ends": scored and not text,
                "ids": [*target.models[alias].tokenizer.encode(str(given[text]))] if text else None,
            }
            for alias, read, text, b in terms
        ],
    }  # fmt: skip


def ours(target: Target, method: str, particles: int, seed: int) -> dict[str, Any]:
    began = time.perf_counter()
    draws = run(METHODS[method], target, n=particles, rng=np.random.default_rng(seed))
    seconds = time.perf_counter() - began
    (column,) = draws.values.values()
    weights = np.exp(draws.log_weights - logsumexp(draws.log_weights))
    return {
        "log_evidence": draws.log_evidence,
        "seconds": seconds,
        "ids": [v.ids for v in column],
        "weights": weights,
    }


def distance(answer: Answer, found: Mapping[str, Any], target: Target) -> float:
    """Total variation to the exact posterior, as `Answer.distance` has it."""
    places, probs = answer.cells
    tokenizer, q = target.models["base"].tokenizer, np.zeros(len(probs))
    for ids, weight in zip(found["ids"], found["weights"], strict=True):
        if (place := places.get((tokenizer.decode(ids),))) is not None:
            q[place] += weight
    return total_variation(probs, q, max(0.0, 1.0 - float(probs.sum())))


def compare(
    chosen: list[Entry], models: Path, peers: Mapping[str, Peer], particles: int, seeds: int
) -> list[dict[str, Any]]:
    """A row for each run. The first of every side warms up and is not kept."""
    rows = []
    for entry in chosen:
        program = entry.prepared(models)
        target = program.bind(program.validate(entry.answer.given))
        with TemporaryDirectory(prefix="plm-db-peers-") as folder:
            spec = spec_of(entry, target, models, Path(folder))
            for method in METHODS:
                for seed in range(seeds + 1):
                    found = {"ours": ours(target, method, particles, seed)}
                    for name, peer in peers.items():
                        found[name] = peer.run(seed=seed, particles=particles, method=method, spec=spec)
                    rows += [
                        {
                            "class": entry.kind, "target": entry.name, "method": method, "seed": seed, "who": who,
                            "error": one["log_evidence"] - entry.answer.log_evidence,
                            "tv": distance(entry.answer, one, target), "seconds": one["seconds"],
                        }
                        for who, one in found.items() if seed
                    ]  # fmt: skip
        shown = [row for row in rows if row["target"] == entry.name]
        print(
            entry.name,
            " ".join(f"{r['who']}:{r['error']:+.3f}/{r['tv']:.3f}/{r['seconds']:.2f}s" for r in shown[-3:]),
            flush=True,
        )
    return rows


def table(rows: list[dict[str, Any]], by: str = "class") -> list[dict[str, Any]]:
    """By class or target, method and side: root mean square error, mean TV, median seconds."""
    groups = defaultdict(list)
    for row in rows:
        for kind in (row[by], "all"):
            groups[kind, row["method"], row["who"]].append(row)
    return [
        {
            by: kind, "method": method, "who": who, "runs": len(some),
            "rmse": math.sqrt(statistics.fmean(r["error"] ** 2 for r in some)),
            "tv": statistics.fmean(r["tv"] for r in some),
            "seconds": statistics.median(r["seconds"] for r in some),
        }
        for (kind, method, who), some in groups.items()
    ]  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--envs", type=Path, default=HERE / ".envs", help="where the peers' environments are")
    parser.add_argument("--models", type=Path, default=MODELS, help="folder of the other small models")
    parser.add_argument("--particles", type=int, default=256)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=sorted(TARGETS), default=sorted(TARGETS))
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    options = parser.parse_args(argv)
    chosen = [entry for entry in entries() if entry.name in options.only]
    for name in PACKAGES:
        make_environment(name, options.envs)
    started: dict[str, Peer] = {}
    try:
        for name in PACKAGES:
            started[name] = Peer.start(name, options.envs, name, "db_peers_child.py")
        rows = compare(chosen, options.models, started, options.particles, options.seeds)
    finally:
        for peer in started.values():
            peer.close()
    found = table(rows)
    print(f"{options.particles} particles, {len(chosen)} targets, {options.seeds} seeds")
    for row in found:
        print("  {class:14} {method:10} {who:8} rmse {rmse:.3f}  TV {tv:.3f}  {seconds:.3f} s".format(**row))
    for kinds, why in ELSE.items():
        print(f"  not told: {kinds}: {why}")
    if options.json:
        stored = {
            "particles": options.particles,
            "seeds": options.seeds,
            "packages": PACKAGES,
            "classes": found,
            "targets": [row for row in table(rows, "target") if row["target"] != "all"],
        }
        options.json.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
