"""Milliseconds per particle and step to find the tokens that may come next, with GPT-2's vocabulary.

    python -m benchmarks.masks [--tokenizer DIR] [--particles 64] [--steps 24] [--rounds 3] [--json FILE]

Particles walk through a support by tokens drawn uniformly from what is allowed, so their
paths part early: a model's would share more. A step is the mask, whether the text may stop,
and the state after the token. `first` is a support that was just built, `again` the same walk
once more; `build` is the compilation, once per tokenizer and type. Beside it llguidance's own
matcher along the same tokens, one per particle: for the patterns as for the grammars.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np

from posterior_lm.lm.protocol import Tokenizer
from posterior_lm.lm.tokenizers import load_tokenizer
from posterior_lm.support.base import Support
from posterior_lm.support.build import build_support
from posterior_lm.support.grammar_parser import matcher
from posterior_lm.support.spec import TextSpec

SHARED = Path(__file__).resolve().parents[2] / "shared" / "models" / "gpt2-tokenizer"
LETTERS = "abcdefghijklmnopqrstuvwxyz ,'"
ARITHMETIC = 'start: sum "."\nsum: product | sum ("+" | "-") product\nproduct: atom | product "*" atom\natom: NUMBER | "(" sum ")"\nNUMBER: /[0-9]+/\n'  # fmt: skip
SCHEMA = json.dumps({
    "type": "object", "required": ["name", "age", "tags"], "additionalProperties": False,
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"},
                   "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}}},
})  # fmt: skip
SPECS = {
    "chars": TextSpec(2, 40, ".", "stop", chars=LETTERS),
    "pattern": TextSpec(2, 40, ".", "stop", pattern=r" [A-Z][a-z ,']*\."),
    "pattern, alternatives": TextSpec(2, 40, None, "eos", pattern=r"([0-9]{1,3}\.){3}[0-9]{1,3}( (GET|POST) /[a-z/]{1,20})?"),
    "grammar": TextSpec(2, 40, None, "eos", grammar=ARITHMETIC),
    "json": TextSpec(2, 60, None, "eos", json=SCHEMA),
}  # fmt: skip
PEER = {
    "pattern": TextSpec(2, 40, None, "eos", grammar='start: /[ ][A-Z][a-z ,\']*\\./\n'),
    "pattern, alternatives": TextSpec(2, 40, None, "eos", grammar='start: /([0-9]{1,3}\\.){3}[0-9]{1,3}( (GET|POST) \\/[a-z\\/]{1,20})?/\n'),
    "grammar": SPECS["grammar"],
    "json": SPECS["json"],
}  # fmt: skip
"""What llguidance is given, where it can say the same. Its masks also allow the end-of-text."""


def walk(support: Support, particles: int, steps: int, seed: int) -> tuple[list[list[int]], float, int]:
    """The tokens that particles took, the seconds without the choosing of tokens, and the steps that were made."""
    rng = np.random.default_rng(seed)
    states, paths = [support.start()] * particles, [[] for _ in range(particles)]
    live, spent, made = list(range(particles)), 0.0, 0
    for _ in range(steps):
        going = []
        for p in live:
            began = time.perf_counter()
            mask = support.allowed(states[p])
            support.may_stop(states[p])
            spent += time.perf_counter() - began
            made += 1
            choices = np.flatnonzero(mask)
            if not len(choices):
                continue
            token = int(rng.choice(choices))
            began = time.perf_counter()
            states[p] = support.advance(states[p], token)
            done = support.must_stop(states[p])
            spent += time.perf_counter() - began
            paths[p].append(token)
            if not done:
                going.append(p)
        live = going
    return paths, spent, made


def peer(spec: TextSpec, tokenizer: Tokenizer, paths: list[list[int]]) -> float:
    """Milliseconds per particle and step of llguidance's own matchers along the same tokens."""
    from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask

    first = matcher(spec, tokenizer, None)
    bits = allocate_token_bitmask(1, tokenizer.vocabulary_size)
    spent, made = 0.0, 0
    for path in paths:
        one = first.deep_copy()
        for token in path:
            began = time.perf_counter()
            fill_next_token_bitmask(one, bits)
            taken = one.consume_token(token)
            spent += time.perf_counter() - began
            made += 1
            if not taken:
                break
    return 1e3 * spent / made


def measure(
    spec: TextSpec, tokenizer: Tokenizer, particles: int, steps: int, rounds: int
) -> dict[str, float]:
    """Medians over rounds, each with a support of its own and other walks."""
    builds, first, again = [], [], []
    for seed in range(rounds):
        began = time.perf_counter()
        # Supports are kept by what they are asked; another cap each time makes another one.
        support = build_support(TextSpec(spec.min_tokens, spec.max_tokens + seed, spec.stop, spec.end, chars=spec.chars,
                                         pattern=spec.pattern, grammar=spec.grammar, json=spec.json), tokenizer)  # fmt: skip
        builds.append(time.perf_counter() - began)
        for times in (first, again):
            _, spent, made = walk(support, particles, steps, seed)
            times.append(1e3 * spent / made)
    return {
        "build_seconds": statistics.median(builds),
        "first_ms": statistics.median(first),
        "again_ms": statistics.median(again),
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokenizer", type=Path, default=SHARED)
    parser.add_argument("--particles", type=int, default=64)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    options = parser.parse_args(argv)
    tokenizer = load_tokenizer(options.tokenizer)
    figures: dict[str, object] = {"vocabulary": tokenizer.vocabulary_size, "particles": options.particles}
    print(f"vocabulary {tokenizer.vocabulary_size}, milliseconds per particle and step")
    for name, spec in SPECS.items():
        row = measure(spec, tokenizer, options.particles, options.steps, options.rounds)
        if name in PEER:
            paths, _, _ = walk(build_support(spec, tokenizer), options.particles, options.steps, 0)
            row["llguidance_ms"] = statistics.median(
                peer(PEER[name], tokenizer, paths) for _ in range(options.rounds)
            )
        figures[name] = row
        print(f"  {name:22}", "  ".join(f"{key} {value:.3g}" for key, value in row.items()), flush=True)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
