"""How well confidence orders answers: the posterior predictive beside the scores of lm-polygraph, on the same model and rows.

    pip install --no-deps --target DIR lm-polygraph==0.7.0
    python -m benchmarks.uncertainty --polygraph DIR [--lm tiny] [--data FILE] [--rows 60] [--draws 32] [--json FILE]

Rows are reviews with a label (`text`, `label_text`), solved ones before each from `--demos`. Three sides answer them:
`plm predict` of a label alone, of a label behind latent reasons, and the likelier label with what lm-polygraph's
estimators say of its tokens (their log-probs, the model's whole rows at them, and ten free samples). Printed are
the accuracy, AURC (the mean error among the surest k rows, k = 1 … n; that of no order is the error rate) and, where
the confidence is a probability, ECE. lm-polygraph's estimators are functions of such arrays and are loaded without
its other dependencies.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from attrs import evolve

import posterior_lm as plm
from posterior_lm.lm.protocol import LanguageModel
from posterior_lm.validate.reliability import Reliability

ESTIMATORS = {
    "max_probability": "MaximumSequenceProbability",
    "perplexity": "Perplexity",
    "token_entropy": "MeanTokenEntropy",
    "renyi_neg": "RenyiNeg",
    "fisher_rao": "FisherRao",
    "self_certainty": "SelfCertainty",
    "monte_carlo_sequence_entropy": "MonteCarloSequenceEntropy",
    "monte_carlo_normalized_sequence_entropy": "MonteCarloNormalizedSequenceEntropy",
}
LABELS = ("objective", "subjective")
QUESTION = '"Classify this movie review as objective or subjective: \\"", review, "\\" This review is"'
PROGRAMS = {
    "label": f"""
lm base = "tiny"
program label(review: text, label: one_of("objective", "subjective"), demos: text = "") {{
  observe [" ", label] ~ base(demos, {QUESTION})
}}
""",
    "label behind a reason": f"""
lm base = "tiny"
program reason(review: text, label: one_of("objective", "subjective"), demos: text = "") {{
  latent reason: text(tokens=1..8, stop=",") ~ base(demos, {QUESTION})
  observe [" so it is ", label] ~ base(demos, {QUESTION}, reason)
}}
""",
}
SAMPLES, LONGEST = 10, 8


def question(review: str, demos: str) -> str:
    return f'{demos}Classify this movie review as objective or subjective: "{review}" This review is'


def estimators(folder: Path) -> dict[str, Any]:
    """lm-polygraph's estimators by name. Its packages bring in everything on import, so only these modules are loaded."""
    for name in ("lm_polygraph", "lm_polygraph.estimators", "lm_polygraph.utils"):
        package = types.ModuleType(name)
        package.__path__ = [str(folder.joinpath(*name.split(".")))]
        sys.modules[name] = package
    return {
        kind: getattr(importlib.import_module(f"lm_polygraph.estimators.{module}"), kind)()
        for module, kind in ESTIMATORS.items()
    }


def walk(model: LanguageModel, prompt: tuple[int, ...], ids: Sequence[int]) -> np.ndarray:
    """(T, V) log-probs of what comes at each of the tokens."""
    rollout, rows = model.open([prompt]), []
    for token in ids:
        rows.append(rollout.log_probs[0])
        rollout = rollout.extend(np.array([0]), np.array([token]))
    return np.array(rows)


def samples(
    model: LanguageModel, prompt: tuple[int, ...], rng: np.random.Generator
) -> tuple[list[float], list[list[int]]]:
    """Ten free samples of eight tokens, or up to the end of the text: their log-probs (nats) and tokens."""
    rollout, total = model.open([prompt] * SAMPLES), np.zeros(SAMPLES)
    tokens: list[list[int]] = [[] for _ in range(SAMPLES)]
    going = np.ones(SAMPLES, dtype=bool)
    for _ in range(LONGEST):
        logs = rollout.log_probs
        drawn = np.array([rng.choice(len(row), p=np.exp(row) / np.exp(row).sum()) for row in logs])
        for s in np.flatnonzero(going):
            total[s] += logs[s, drawn[s]]
            tokens[s].append(int(drawn[s]))
        going &= ~np.isin(drawn, model.tokenizer.eos_ids)
        rollout = rollout.extend(np.arange(SAMPLES), drawn)
    return total.tolist(), tokens


def statistics(
    model: LanguageModel, review: str, demos: str, rng: np.random.Generator
) -> tuple[str, dict[str, Any]]:
    """The likelier label, and what the estimators read of it."""
    tokenizer = model.tokenizer
    prompt = (*tokenizer.start_ids, *tokenizer.encode_start(question(review, demos)))
    found = {}
    for label in LABELS:
        ids = tokenizer.encode(f" {label}")
        rows = walk(model, prompt, ids)
        found[label] = rows, [float(row[token]) for row, token in zip(rows, ids, strict=True)]
    best = max(LABELS, key=lambda label: sum(found[label][1]))
    rows, logs = found[best]
    sampled, tokens = samples(model, prompt, rng)
    finite = np.where(np.isfinite(rows), rows, -1e4)
    return best, {
        "greedy_log_likelihoods": logs, "greedy_log_probs": finite,
        "entropy": [float(-(np.exp(row) * row).sum()) for row in finite],
        "sample_log_probs": sampled, "sample_tokens": tokens,
    }  # fmt: skip


def side(name: str, found: Reliability, probability: bool) -> dict[str, Any]:
    return {
        "side": name, "accuracy": found.accuracy, "aurc": found.aurc, "least": found.least_aurc,
        "ece": found.ece if probability else None,
    }  # fmt: skip


def compare(
    lm: str, rows: Sequence[Mapping[str, str]], demos: str, draws: int, polygraph: Path
) -> list[dict[str, Any]]:
    found = []
    for name, text in PROGRAMS.items():
        asked = plm.loads(text, f"<{name}>").lm(base=lm)
        predictions = []
        for k, row in enumerate(rows):
            given = asked.given(review=row["text"], demos=demos)
            predictions.append(given.predict("label", n=draws, seed=k))
            print(f"\r{name}: {k + 1} of {len(rows)} rows", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)
        whole = plm.reliability(predictions, [row["label_text"] for row in rows])
        found.append(side(f"plm predict, {name}", whole, True))
    model = asked.given(review="", label=LABELS[0]).target().models["base"]
    rng = np.random.default_rng(0)
    answers, read = zip(*(statistics(model, row["text"], demos, rng) for row in rows), strict=True)
    right = np.array([a == row["label_text"] for a, row in zip(answers, rows, strict=True)])
    stats = {name: [one[name] for one in read] for name in read[0]}
    for name, estimator in estimators(polygraph).items():
        unsure = np.asarray(estimator(stats), dtype=float)
        found.append(side(f"lm-polygraph {name}", evolve(whole, confidence=-unsure, right=right), False))
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--polygraph", type=Path, required=True, help="the folder that lm-polygraph was put into"
    )
    parser.add_argument("--lm", default="tiny")
    parser.add_argument("--data", type=Path, required=True, help="JSON lines with text and label_text")
    parser.add_argument(
        "--demos", type=Path, help="solved reviews of the same kind, put before every question"
    )
    parser.add_argument("--rows", type=int, default=60)
    parser.add_argument("--draws", type=int, default=32)
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    options = parser.parse_args(argv)
    rows = read(options.data)[: options.rows]
    solved = [] if options.demos is None else read(options.demos)
    demos = "".join(f"{question(one['text'], '')} {one['label_text']}.\n\n" for one in solved)
    found = compare(options.lm, rows, demos, options.draws, options.polygraph)
    print(f"{len(rows)} rows, {len(solved)} solved before each, {options.lm}")
    for one in found:
        ece = "" if one["ece"] is None else f"  ECE {one['ece']:.3f}"
        print(
            f"  {one['side']:52} accuracy {one['accuracy']:.3f}  AURC {one['aurc']:.3f} (least {one['least']:.3f}){ece}"
        )
    if options.json:
        options.json.write_text(
            json.dumps({"rows": len(rows), "lm": options.lm, "sides": found}, indent=1) + "\n"
        )
    return 0


def read(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


if __name__ == "__main__":
    sys.exit(main())
