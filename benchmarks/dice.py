"""Fifteen distributions to draw a number from: does a policy pass the test that language models fail?

    python -m benchmarks.dice [--only NAME …] [--lm base=smollm2,dtype=bfloat16] [--steps N] [--seconds S]
        [--seed 0] [--draws 1000] [--repeats 2000] [--set balance_learning_rate=0.001] [--out dice.jsonl]

The programs are in `dice/`, whose README says what they are after: an audit of 11 models, of which 10 pass a goodness-of-fit
test for none of its 15 distributions. A policy is fitted to each program at default settings, and five ways to draw are put to the test:

- `prompting`: what the frozen model says after the guide's words, without a mask; one answer that is no number of the range fails the test;
- `base`: the frozen model inside the range;
- `policy`: the policy as it proposes, which is a language model's own draw, one request each;
- `auto`: `plm run --policy`, which lists so small a support;
- `weighted`: the policy's draws, `OVER` for each that is kept, taken by their weights;
- `exact`: draws of the target's own probabilities, which is what chance gives.

One JSON line for each program and way, appended to the file; what stands there is not run again. `p` is of Pearson's chi-squared test of
the draws, whose neighbouring values are merged until each cell is expected `LEAST` times. `forward` is KL(target ‖ way) and `reverse`
KL(way ‖ target), nats, summed over the range, where a way's probabilities can be listed. A sound sampler fails one test in
twenty, and passes all fifteen with probability 0.46: so `rate` says how many of `repeats` such tests are passed by as many draws of
those probabilities.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from attrs import frozen
from scipy import stats

from benchmarks.paper.policies import untrained
from benchmarks.paper.tasks.integers import divergence, listed
from posterior_lm.api.query import Query, load
from posterior_lm.cli.given import model_named
from posterior_lm.cli.options import pairs
from posterior_lm.infer.draws import Draws
from posterior_lm.lang.diagnostics import PlmError
from posterior_lm.train.guide import PolicyGuide
from posterior_lm.train.policy import load_policy

FOLDER = Path(__file__).resolve().parent / "dice"
WAYS = ("prompting", "base", "policy", "auto", "weighted", "exact")
LEVEL, LEAST = 0.05, 5.0
OVER = 20
"""Draws of the policy for each that is taken by its weight: with as many as are kept, heavy ones would come twice."""

# ------------------------------------------------------------------------------- the test


def p_values(counts: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """(R,) p-values of the chi-squared test that each row of counts (R, V) was drawn from the probabilities (V,).

    Neighbours are merged from the left until a cell is expected `LEAST` times, and what is left over goes to the last cell. 1 where
    that leaves one cell, since nothing can be tested.
    """
    expected = probs * counts.sum(axis=1, keepdims=True)
    starts, held = [0], 0.0
    for place, one in enumerate(expected[0]):
        if held >= LEAST:
            starts.append(place)
            held = 0.0
        held += float(one)
    if held < LEAST and len(starts) > 1:
        starts.pop()
    seen, wanted = (np.add.reduceat(one, starts, axis=1) for one in (counts, expected))
    statistic = np.sum((seen - wanted) ** 2 / wanted, axis=1)
    if len(starts) == 1:
        return np.ones(len(counts))
    return np.asarray(stats.chi2.sf(statistic, len(starts) - 1))


def rate(log_q: np.ndarray, log_p: np.ndarray, draws: int, repeats: int, rng: np.random.Generator) -> float:
    """Share of tests passed by so many draws of q (V,), where p (V,) is what they should be."""
    q = np.exp(log_q - np.logaddexp.reduce(log_q))
    return float(np.mean(p_values(rng.multinomial(draws, q, size=repeats), np.exp(log_p)) >= LEVEL))


# ------------------------------------------------------------------------------- ways to draw


@frozen(eq=False)
class Drawn:
    """Numbers that one way drew; `log_q` (V,) are the probabilities that it draws the range's values with, nats."""

    numbers: Sequence[object]
    log_q: np.ndarray | None = None
    valid: float = 1.0
    method: str = ""


def taken(draws: Draws, count: int, rng: np.random.Generator) -> list[object]:
    """So many of the draws by their weights."""
    weights = np.exp(draws.log_weights - np.logaddexp.reduce(draws.log_weights))
    return [draws.values["n"][k].datum for k in rng.choice(len(draws), size=count, p=weights)]


def ways(query: Query, folder: Path, count: int, seed: int) -> Mapping[str, Drawn]:
    """Every way's draws of a program whose policy lies in the folder."""
    rng = np.random.default_rng([seed, 1])
    target = query.target()
    values, log_p = listed(target)
    said = query.using("prompting", masked=False).draw(count, seed=seed).draws
    kept = [v.datum for v, r in zip(said.values["n"], said.log_reward, strict=True) if math.isfinite(r)]
    found = {"prompting": Drawn(kept, None, len(kept) / count)}
    with untrained(query, target) as frozen_model:
        policy = load_policy(folder, query.prepared)
        # `policy.guide` is the prior where that proposes better, which is the target itself where the language has it.
        learnt = PolicyGuide.of(target, policy.adapter)
        for name, guide in (("base", frozen_model), ("policy", learnt)):
            drawn = guide.sample(rng, count).values["n"]
            found[name] = Drawn([v.datum for v in drawn], guide.log_prob({"n": values}))
        weighted = query.using("importance").draw(OVER * count, seed=seed, guide=learnt).draws
        policy.adapter.close()
    auto = query.policy(folder).draw(count, seed=seed).draws
    found["auto"] = Drawn(taken(auto, count, rng), method=auto.method)
    found["weighted"] = Drawn(taken(weighted, count, rng))
    places = rng.choice(len(values), size=count, p=np.exp(log_p))
    found["exact"] = Drawn([values[k].datum for k in places], log_p)
    return found


def measured(
    query: Query, settings: Mapping[str, Any], count: int, repeats: int, seed: int
) -> list[dict[str, object]]:
    """A line for each way to draw from the program; `settings` are the fit's, with a seed of its own."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="plm-dice-") as top:
        folder = Path(top) / "policy"
        fitted = query.fit([{}], folder, **settings)
        seconds = time.perf_counter() - began
        found = ways(query, folder, count, seed)
    values, log_p = listed(query.target())
    place = {v.datum: k for k, v in enumerate(values)}
    lines: list[dict[str, object]] = []
    for way, drawn in found.items():
        counts = np.bincount([place[n] for n in drawn.numbers], minlength=len(values))  # type: ignore[index]
        line: dict[str, object] = {"way": way, "valid": drawn.valid, "draws": len(drawn.numbers)}
        # What is no number of the range has probability 0, so a single such answer is ruled out.
        line["p"] = float(p_values(counts[None], np.exp(log_p))[0]) if drawn.valid == 1 else 0.0
        if drawn.log_q is not None:
            line["forward"] = divergence(log_p, drawn.log_q)
            line["reverse"] = divergence(drawn.log_q, log_p)
            line["rate"] = rate(drawn.log_q, log_p, count, repeats, np.random.default_rng([seed, 2]))
        if drawn.method:
            line["method"] = drawn.method
        if way == "policy":
            line |= {"trained": round(seconds, 1), "steps": fitted.manifest.steps}
        lines.append(line)
    return lines


# ------------------------------------------------------------------------------- the table


def table(lines: Sequence[Mapping[str, object]]) -> str:
    """What was measured, a program a line, and how often all of them are passed."""
    programs = list(dict.fromkeys(str(line["program"]) for line in lines))
    by = {(line["program"], line["way"]): line for line in lines}
    shown = [f"{'program':26}{'p of ' + ', '.join(WAYS):52}{'KL(target‖·) base, policy':28}{'rate base, policy, exact'}"]  # fmt: skip
    for program in programs:
        own = {way: by[program, way] for way in WAYS}
        p = " ".join(f"{own[way]['p']:8.3g}" for way in WAYS)
        kl = " ".join(f"{own[way]['forward']:10.4f}" for way in ("base", "policy"))
        rates = " ".join(f"{own[way]['rate']:6.3f}" for way in ("base", "policy", "exact"))
        shown.append(f"{program:26}{p:52}{kl:28}{rates}")
    for way in WAYS:
        own_lines = [by[program, way] for program in programs]
        passed = sum(float(str(line["p"])) >= LEVEL for line in own_lines)
        shown.append(f"{way}: {passed} of {len(programs)} pass")
        if "rate" in own_lines[0]:
            rates_of = [float(str(line["rate"])) for line in own_lines]
            shown[-1] += f"; over many tests {np.mean(rates_of):.1%}, all together {np.prod(rates_of):.2g}"
    return "\n".join(shown)


def rounded(line: Mapping[str, object]) -> dict[str, object]:
    """With floats of six digits, as the file and the table have them."""
    return {name: float(f"{one:.6g}") if isinstance(one, float) else one for name, one in line.items()}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = sorted(path.stem for path in FOLDER.glob("*.plm"))
    parser.add_argument("--only", nargs="+", choices=known, metavar="NAME", help="programs of the folder")
    parser.add_argument("--lm", action="append", default=[], metavar="ALIAS=MODEL", help="another than tiny")
    parser.add_argument(
        "--steps", type=int, help="of each fit; 300 where neither this nor --seconds is given"
    )
    parser.add_argument("--seconds", type=float, help="of each fit, its certificate included")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--draws", type=int, default=1000, help="of each test")
    parser.add_argument("--repeats", type=int, default=2000, help="tests of the listed probabilities")
    parser.add_argument("--out", type=Path, default=Path("dice.jsonl"))
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="settings of the fits")
    options = parser.parse_args(argv)
    asked = {"lm": " ".join(options.lm), "seed": options.seed, "asked_steps": options.steps,
             "seconds": options.seconds, "of": options.draws, "set": " ".join(options.set)}  # fmt: skip
    settings = {"steps": options.steps, "budget": options.seconds, "seed": options.seed}
    settings |= {name: json.loads(value) for name, value in (one.split("=", 1) for one in options.set)}
    models = {alias: model_named(text) for alias, text in pairs("--lm", options.lm, "ALIAS=MODEL").items()}
    names = options.only or known
    stored = options.out.read_text(encoding="utf-8").splitlines() if options.out.exists() else []
    lines = [line for line in map(json.loads, stored) if all(line[k] == v for k, v in asked.items())]
    for name in names:
        if any(line["program"] == name for line in lines):
            continue
        query = load(FOLDER / f"{name}.plm").lm(**models)  # type: ignore[arg-type]
        # Without the name all programs would be drawn by the same uniforms, and pass or fail together.
        own = int(np.random.default_rng([options.seed, *name.encode()]).integers(1 << 31))
        try:
            new = measured(query, settings, options.draws, options.repeats, own)
        except PlmError as problem:
            print(f"{name}: {problem.diagnostics[0].message}", file=sys.stderr)
            continue
        new = [rounded({"program": name} | line | asked) for line in new]
        lines += new
        texts = [json.dumps(line) for line in new]
        print("\n".join(texts), flush=True)
        with options.out.open("a", encoding="utf-8") as file:
            file.write("".join(f"{text}\n" for text in texts))
    if not (wanted := [line for line in lines if line["program"] in names]):
        return 1
    print(table(wanted))
    return 0


if __name__ == "__main__":
    sys.exit(main())
