"""Writes the answers of targets: what `exact` lists, and what `brute.py` sums, which have to agree.

    python -m posteriors.make [CLASS/NAME …] [--models FOLDER]

Of an answer that is there `about` and `given` are kept and the rest is made anew; for a new target write a file
with those two alone. Targets whose two ways differ are not written, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

from posterior_lm import load
from posterior_lm.api.posterior import Posterior
from posteriors.brute import EXACT, FLOAT32, FOLDER, summed, targets

VALUES = 1_000_000
"""To list at most: far above the largest target, so that a list is whole or ends at `MASS`."""
MASS = 1.0
HELD = 0.99
DIGITS = 9


def rounded(share: float) -> float:
    return float(f"{share:.{DIGITS}g}")


def heaviest(shares: dict) -> list:
    """The fewest items that hold `HELD`, the heaviest first; of equal ones the first in order."""
    kept, total = [], 0.0
    for item, share in sorted(shares.items(), key=lambda one: (-rounded(one[1]), one[0])):
        if total >= HELD + 1e-9 or share <= 0:
            break
        kept.append((item, rounded(share)))
        total += share
    return kept


def listed(path: Path, given: dict, models: Path | None) -> Posterior:
    """The exact posterior by the product, whole."""
    query = load(path)
    for lm in query.graph.lms:
        if models is not None and (models / lm.spec).is_dir():
            query = query.lm(**{lm.alias: str(models / lm.spec)})
    return query.given(given).using("exact", values=VALUES, mass=MASS).draw()


def made(target: str, models: Path | None) -> dict:
    """The answer. Raises ValueError where the two ways differ."""
    path = FOLDER / f"{target}.plm"
    known = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    given = known["given"]
    posterior = listed(path, given, models)
    certificate = posterior.draws.certificate
    assert certificate is not None and posterior.log_evidence is not None
    left_out = certificate.missing_share
    total, shares, count, exact = summed(target, given, models)
    near = EXACT if exact else FLOAT32
    if abs(total - posterior.log_evidence) > near + 2 * left_out:
        raise ValueError(f"exact gives {posterior.log_evidence!r}, brute force {total!r}")
    names = list(posterior.draws.values)
    found = {
        tuple(one.values[name] for name in names): one.weight * (1 - left_out) for one in posterior.merged()
    }
    for values in found.keys() | shares.keys():
        if abs(found.get(values, 0.0) - shares.get(values, 0.0)) > near + left_out:
            raise ValueError(f"{values} has {found.get(values)!r}, by brute force {shares.get(values)!r}")
    marginals: dict[str, dict] = {}
    for k, name in enumerate(names if len(names) > 1 else ()):
        sums: Counter = Counter()
        for values, share in found.items():
            sums[str(values[k])] += share
        marginals[name] = dict(heaviest(sums))
    return {
        "about": known["about"],
        "given": given,
        "fingerprint": posterior.fingerprint,
        "models": {alias: model.digest for alias, model in posterior.lm.items()},
        "how": {
            "exact": {"log_evidence": posterior.log_evidence, "values": certificate.listed},
            "brute": {"log_evidence": total, "values": count},
        },
        "log_evidence": posterior.log_evidence,
        "left_out": left_out,
        "marginals": marginals,
        "values": [[list(values), share] for values, share in heaviest(found)],
    }


def written(answer: dict) -> str:
    """JSON with a line for each value: a change of one is a change of one line."""
    head = {key: value for key, value in answer.items() if key not in ("marginals", "values")}
    text = json.dumps(head, indent=2, ensure_ascii=False)[:-2]
    columns = ",\n".join(
        f"    {json.dumps(name, ensure_ascii=False)}: {json.dumps(column, ensure_ascii=False)}"
        for name, column in answer["marginals"].items()
    )
    values = ",\n".join(f"    {json.dumps(one, ensure_ascii=False)}" for one in answer["values"])
    marginals = "{\n" + columns + "\n  }" if columns else "{}"
    return f'{text},\n  "marginals": {marginals},\n  "values": [\n{values}\n  ]\n}}\n'


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", metavar="CLASS/NAME", default=targets())
    parser.add_argument("--models", type=Path, help="folder of the models that targets name")
    options = parser.parse_args(argv)
    wrong = 0
    for target in options.targets:
        try:
            answer = made(target, options.models)
        except ValueError as problem:
            print(f"{target}: not written: {problem}", file=sys.stderr)
            wrong += 1
            continue
        (FOLDER / f"{target}.json").write_text(written(answer), encoding="utf-8")
        print(
            f"{target}: {answer['log_evidence']:.6f}, {answer['how']['exact']['values']} values", flush=True
        )
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
