"""One policy for many programs of a family, beside each program's own policy and beside the prior, on programs it has not seen.

    python -m benchmarks.many_programs --work DIR [--programs 8] [--held-out 8] [--steps 400] [--own N] [--fresh N]
        [--seen N] [--seed 0] [--out FILE]

The programs are drawn by a generator over `tiny`: infilling, reverse, constrained, tempered and labels, in turn, with
options, conditions and powers by chance (`program_of`). All rows come from the generator of the model's world. One
policy is trained on the programs in so many steps together, then each program's own policy (of the first `--own`) in its
share of as many; the first `--seen` are asked about. With `--fresh N` a held-out program gets two policies more: one that
begins with the model and has N steps, and one that begins with the shared policy and has half as many. The last lines are means:

- of trained programs, the total variation of either policy to the exact posterior of a row that it was not trained on
  (`quality.distance`);
- of held-out programs, both of the shared policy, which was never shown them, of the prior, and of what `--fresh` adds; and
  how many times the prior's ESS/N it has.

What is in the work folder is not done again, so a run that was ended goes on. The file has one JSON line for each program.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from attrs import evolve, frozen

from benchmarks.quality import DRAWS, distance, exact_listing
from benchmarks.targets import Row
from posterior_lm.api.query import Query, loads
from posterior_lm.infer.guide import PriorGuide
from posterior_lm.train.fit import fit
from posterior_lm.train.many import Asked, fit_many
from posterior_lm.train.policy import MANIFEST, load_policy
from posterior_lm.train.settings import FitSettings, settings_of
from training.tiny.world import sample_task

KINDS = ("infilling", "reverse", "constrained", "tempered", "labels")
WORDS = ("park", "home", "dog", "cat", "ball", "her", "his", "day")
PLACES = (" in the park.", " in the kitchen.", " at home.", " at school.", " in the garden.", " by the sea.")
ROWS, ASKED = 40, 2
"""Rows of a program to train on, and others to ask about."""


@frozen(eq=False)
class Member:
    """A program of the family, with rows to train on and rows to ask about."""

    name: str
    query: Query
    rows: tuple[Row, ...]
    asked: tuple[Row, ...]


def program_of(kind: str, rng: np.random.Generator) -> str:
    """A random program of a kind, as text; its parameters are `before` or `after` or both."""
    length, b = int(rng.integers(6, 15)), round(float(rng.choice([0.5, 0.75, 1.25, 1.5, 2.0])), 2)
    after = 'observe [" ", after] ~ base({})\n  '
    latent = f'latent z: text(tokens=1..{length}, stop=".") ~ base({{}})\n  '
    word = rng.choice(WORDS)
    negated = "not " * int(rng.integers(2))
    bound = f"condition words(z) <= {int(rng.integers(4, 9))}\n  "
    match kind:
        case "infilling":
            params, body = "before: text, after: text", latent.format("before") + after.format("before, z")
            body += bound * int(rng.integers(2))
        case "reverse":
            params, body = "after: text", latent.format("") + after.format("z") + bound * int(rng.integers(2))
        case "constrained":
            params = "before: text"
            body = (
                latent.format("before")
                + f'condition {negated}contains(z, "{word}")\n  '
                + bound * (negated != "")
            )
        case "tempered":
            params, body = "before: text", latent.format("before").replace("\n", f" ^ {b}\n")
        case _:
            places = rng.permutation(PLACES)[: int(rng.integers(2, len(PLACES)))]
            choices = ", ".join(f'"{place}"' for place in places)
            params = "before: text, after: text"
            body = f"latent z: one_of({choices}) ~ choice(base(before))\n  " + after.format("before, z")
            if rng.integers(2):
                body = f"temper {b} {{\n  {body}}}\n"
    return f'lm base = "tiny"\nprogram {kind}({params}) {{\n  {body.rstrip()}\n}}\n'


def rows_of(params: Sequence[str], rng: np.random.Generator) -> Iterator[Row]:
    """Different rows for a program of these parameters."""
    seen = set()
    while True:
        fields = sample_task("story", rng).fields
        if fields["order"] == "plain":
            row = {"before": str(fields["opening"]), "after": str(fields["ending"])}
            found = {name: row[name] for name in params}
            if (key := json.dumps(found)) not in seen:
                seen.add(key)
                yield found


def family(count: int, seed: int, first: int = 0) -> list[Member]:
    """`count` programs from number `first` on, no two alike."""
    found: dict[str, Member] = {}
    for number in range(first, first + count):
        kind = KINDS[number % len(KINDS)]
        rng = np.random.default_rng([seed, number])
        while True:
            query = loads(program_of(kind, rng), f"<{kind}>")
            if query.fingerprint not in {one.query.fingerprint for one in found.values()}:
                break
        rows = rows_of([p.name for p in query.graph.params], rng)
        some = tuple(row for row, _ in zip(rows, range(ROWS + ASKED), strict=False))
        name = f"{kind}{number}"
        found[name] = Member(name, query, some[ASKED:], some[:ASKED])
    return list(found.values())


def measured(member: Member, folder: Path | None, cache: Path) -> tuple[float, float]:
    """Means over the asked rows of the total variation and of ESS/N; of the prior without a folder."""
    program = member.query.prepared
    policy = None if folder is None else load_policy(folder, program)
    found = []
    try:
        for row in member.asked:
            target = program.bind(row)
            guide = PriorGuide(target) if policy is None else policy.guide(target)
            found.append(distance(target, guide, exact_listing(member.query, row, cache=cache), draws=DRAWS))
    finally:
        if policy is not None:
            policy.adapter.close()
    return float(np.mean([q.tv for q in found])), float(np.mean([q.ess_share for q in found]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--programs", type=int, default=8)
    parser.add_argument("--held-out", type=int, default=8)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--own", type=int)
    parser.add_argument("--seen", type=int)
    parser.add_argument("--fresh", type=int)
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/many_programs.jsonl"))
    args = parser.parse_args()
    trained = family(args.programs, args.seed)
    unseen = family(args.held_out, args.seed, first=args.programs + len(KINDS))
    unseen = [one for one in unseen if one.query.fingerprint not in {t.query.fingerprint for t in trained}]

    def settings(steps: int) -> FitSettings:
        return settings_of({
            "steps": steps, "pairs": args.pairs, "rows": 8, "draws": 8, "certify_draws": 50, "certify_rows": 0,
            "held_out": 2, "checkpoint_every": 20, "seed": args.seed, "scope": "program",
        })  # fmt: skip

    shared = args.work / "shared"
    programs = {one.name: Asked(one.query.prepared, one.rows) for one in trained}
    fit_many(programs, shared, settings(args.steps), resume=True, say=print)

    def alone(one: Member, name: str, steps: int, **more: object) -> tuple[float, float]:
        """Of a policy of this program alone, trained once for so many steps."""
        folder = args.work / name
        if not (folder / MANIFEST).exists() or (folder / "checkpoints").exists():
            fit(one.query.prepared, one.rows, folder, evolve(settings(steps), **more), resume=True)
        return measured(one, folder, args.work)

    lines: list[dict[str, Any]] = []
    asked = trained[: args.seen]
    for k, one in enumerate((*asked, *unseen)):
        seen = k < len(asked)
        line: dict[str, Any] = {"program": one.name, "seen": seen}
        line["prior"], line["shared"] = (measured(one, at, args.work) for at in (None, shared))
        if seen and (args.own is None or k < args.own):
            line["own"] = alone(one, one.name, args.steps // len(trained))
        if not seen and args.fresh:
            line["fresh"] = alone(one, one.name, args.fresh)
            line["from it"] = alone(one, f"{one.name}-from", args.fresh // 2, start=str(shared))
        print(json.dumps(line), flush=True)
        lines.append(line)
    facts = {"steps": args.steps, "programs": args.programs, "fresh": args.fresh, "seed": args.seed}
    args.out.write_text("".join(json.dumps({**line, **facts}) + "\n" for line in lines), encoding="utf-8")
    for seen in (True, False):
        some = [line for line in lines if line["seen"] == seen]
        for name, k in (("total variation", 0), ("ESS/N", 1)):
            who = [
                one
                for one in ("prior", "shared", "own", "fresh", "from it")
                if any(one in line for line in some)
            ]
            shown = (f"{one} {np.mean([line[one][k] for line in some if one in line]):.3f}" for one in who)
            print(f"{'trained' if seen else 'held out'}: mean {name}: {', '.join(shown)}")
    for most in (0.05, 0.2, 1.0):
        low = [line for line in lines if not line["seen"] and line["prior"][1] <= most]
        if low:
            times = np.exp(np.mean([np.log(line["shared"][1] / line["prior"][1]) for line in low]))
            print(
                f"held out, {len(low)} where the prior has ESS/N of at most {most}: {times:.2f} times it, geometric mean"
            )


if __name__ == "__main__":
    main()
