"""Twelve programs that nothing is tuned to: what a fit at default settings is worth, beside its peers at equal seconds.

    python -m benchmarks.unseen [--only NAME …] [--seconds 120] [--slow 600] [--models ../shared/models]
        [--method fit prior rloo vargrad smc] [--seed 0 …] [--particles 16384] [--out FILE]
        [--folder benchmarks/tried] [--set learning_rate=0.003 …] [--cpu]

The programs and their rows are in `unseen/`, whose README says how the reference of each is
had. One JSON line per program, method, seed and seconds, appended to the file; what stands
there is not run again. Programs whose model is absent are left out, with a line that says so. A change of the recipe is
tried on the programs in `tried/`, with `--set` or beside another checkout. With `--cpu` seconds are those of the process, which
other work on the machine does not shorten.

`ess` is the mean over the rows of ESS/N of the draws by their own weights, which a lost mode
does not show in; `held` of 1 / E[w / Z] over draws of the reference, which is what ESS/N
tends to with more and more draws, and 0 where a reference draw cannot be proposed (a swarm of smc
has none); `kl` of KL(posterior‖policy), nats, of the policy or the prior alone; `error` of |log evidence − reference|, nats.

What a method draws is scored, so its values are known from then on: a reference holds the log rewards of all values that
any method has drawn as they are, and has its swarms say only what is beside them (`Reference.knowing`). `known` is the share of the
posterior on such values, the least of the rows; `raised` by how much they raise a reference's log evidence, nats, the most of the rows.
A reference whose own standard error is above `RESOLVED` hangs on a particle or two and says nothing of anybody: `held`, `kl` and `error` are means over the
other rows, of which there are `resolved`; `each` has the numbers of every row, in this order: ESS/N, held, kl, error, the reference's standard error.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
from attrs import evolve, frozen

from benchmarks.unseen_peers import KINDS, train_peer
from posterior_lm.api.query import Query, load
from posterior_lm.infer.draws import Draws
from posterior_lm.infer.guide import Guide, PriorGuide
from posterior_lm.infer.mixture import Mixture
from posterior_lm.infer.weights import logsumexp
from posterior_lm.lang.diagnostics import PlmError
from posterior_lm.target.target import Target
from posterior_lm.train.guide import PolicyGuide
from posterior_lm.train.policy import load_policy

FOLDER = Path(__file__).resolve().parent / "unseen"
MODELS = FOLDER.parent.parent.parent / "shared" / "models"
METHODS = ("fit", "prior", "smc", *KINDS)
DRAWS = 1000
SLOW = "smollm2"
"""The model whose programs have the longer time."""
LISTED = {"missing_words": 300_000}
"""Values to list where enumeration gives the reference; the others have long runs of smc."""
SWARMS, PARTICLES = 4, 16_384
RESOLVED = 0.25
"""The standard error of a reference, relative to the evidence, up to which a row counts in what is held against it."""
KEPT = 2_000
"""Values of a reference that are kept, the heaviest."""


Ids = tuple[tuple[int, ...], ...]
"""Token ids of a value of every latent."""


@frozen(eq=False)
class Reference:
    """Of one row: token ids of M values of every latent, their log rewards (M,) and posterior shares (M,); nats."""

    how: str
    log_evidence: float
    se: float
    ids: tuple[Ids, ...]
    log_reward: np.ndarray
    share: np.ndarray
    known: float = 0.0
    """The share of the posterior on values whose log rewards stand in place of what swarms say of them."""

    def knowing(self, values: Mapping[Ids, float]) -> Reference:
        """This reference, with the log rewards of `values` (nats) as they are, and the swarms for all others alone.

        Z = Σ_{z in values} reward(z) + E[swarm's weights outside of values]: given values that the swarms have not chosen, that
        is unbiased as the swarms' own evidence is, and a mode that they all missed is in it.
        """
        if not values or self.se == 0:
            return self
        outside = np.array([key not in values for key in self.ids])
        rest = self.log_evidence + np.log(
            self.share, where=self.share > 0, out=np.full(len(outside), -np.inf)
        )
        ids = (*(key for key, out in zip(self.ids, outside, strict=True) if out), *values)
        log_reward = np.concatenate([self.log_reward[outside], list(values.values())])
        mass = np.concatenate([rest[outside], list(values.values())])
        total = logsumexp(mass)
        share = np.exp(mass - total)
        kept = np.argsort(-share, kind="stable")[:KEPT]
        known = float(share[int(outside.sum()) :].sum())
        return evolve(
            self, log_evidence=total, se=self.se * (1.0 - known), ids=tuple(ids[k] for k in kept),
            log_reward=log_reward[kept], share=share[kept] / share[kept].sum(), known=known,
        )  # fmt: skip


def known_values(file: Path, draws: Draws | None = None) -> dict[Ids, float]:
    """The values of a row whose log rewards (nats) are known from draws, the `KEPT` heaviest; those of `draws` are added."""
    found: dict[Ids, float] = {}
    if file.exists():
        for ids, reward in json.loads(file.read_text(encoding="utf-8")):
            found[tuple(tuple(one) for one in ids)] = reward
    if draws is None:
        return found
    columns = list(draws.values.values())
    for d in np.flatnonzero(np.isfinite(draws.log_reward)):
        found[tuple(column[d].ids for column in columns)] = float(draws.log_reward[d])
    found = {key: found[key] for key in sorted(found, key=lambda key: -found[key])[:KEPT]}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(list(found.items())), encoding="utf-8")
    return found


# ------------------------------------------------------------------------------- programs and references


def query_of(name: str, models: Path, folder: Path | None = None) -> Query:
    """The program, with the model that it names taken from the folder of models where it is there."""
    query = load((folder or FOLDER) / f"{name}.plm")
    (spec,) = {lm.spec for lm in query.graph.lms}
    here = models / str(spec)
    return query.lm(base=str(here)) if here.is_dir() else query


def rows_of(name: str, folder: Path | None = None) -> list[dict[str, object]]:
    text = ((folder or FOLDER) / f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def reference_of(
    name: str, query: Query, row: int, data: Mapping[str, object], cache: Path, particles: int
) -> Reference:
    """By enumeration or by long runs; kept in the folder `cache`."""
    file = cache / f"{name}-{row}.json"
    if file.exists():
        saved = json.loads(file.read_text(encoding="utf-8"))
        ids = tuple(tuple(tuple(one) for one in values) for values in saved["ids"])
        numbers = (np.array(saved[k], dtype=np.float64) for k in ("log_reward", "share"))
        return Reference(saved["how"], saved["log_evidence"], saved["se"], ids, *numbers)
    asked = query.given(data)
    if name in LISTED:
        draws = [asked.using("exact", values=LISTED[name], mass=0.9999).draw().draws]
        certificate = draws[0].certificate
        assert certificate is not None
        left = 0.0 if certificate.complete else certificate.likely_missing_share
        how, se = f"enumerated, {left:.1g} left out", left
    else:
        draws = [asked.using("smc", particles=particles).draw(seed=1000 + k).draws for k in range(SWARMS)]
        how = f"{SWARMS} swarms of {particles}"
        each = np.array([one.log_evidence for one in draws])
        ratio = np.exp(each - each.max())
        se = float(ratio.std(ddof=1) / ratio.mean() / math.sqrt(SWARMS))
    found = _merged(how, se, draws)
    cache.mkdir(parents=True, exist_ok=True)
    whole = {"how": how, "log_evidence": found.log_evidence, "se": se, "ids": found.ids,
             "log_reward": found.log_reward.tolist(), "share": found.share.tolist()}  # fmt: skip
    file.write_text(json.dumps(whole), encoding="utf-8")
    return found


def _merged(how: str, se: float, draws: Sequence[Draws]) -> Reference:
    """Distinct values with their shares of all runs together."""
    mass: dict[Ids, float] = {}
    reward: dict[Ids, float] = {}
    weights = np.concatenate([one.log_weights for one in draws])
    total = logsumexp(weights)
    shares = iter(np.exp(weights - total).tolist())
    for one in draws:
        columns = list(one.values.values())
        for d in range(len(one)):
            key = tuple(column[d].ids for column in columns)
            mass[key] = mass.get(key, 0.0) + next(shares)
            reward[key] = float(one.log_reward[d])
    kept = sorted(mass, key=lambda key: -mass[key])[:KEPT]
    evidence = total if draws[0].exact else total - math.log(len(weights))
    share = np.array([mass[key] for key in kept])
    return Reference(how, evidence, se, tuple(kept), np.array([reward[k] for k in kept]), share / share.sum())


# ------------------------------------------------------------------------------- what draws are worth


def log_weights(target: Target, guide: Guide, reference: Reference) -> np.ndarray:
    """(M,) log w / Z of the reference's values where the guide draws them, nats."""
    values = {
        name: [target.value_of(name, ids[k]) for ids in reference.ids] for k, name in enumerate(target.names)
    }
    return np.asarray(reference.log_reward - guide.log_prob(values) - reference.log_evidence)


def worth(target: Target, guide: Guide, reference: Reference) -> float:
    """ESS/N of endlessly many draws of the guide: 1 / E[w / Z] over the reference's posterior draws."""
    log_w = log_weights(target, guide, reference)
    with np.errstate(divide="ignore"):
        return min(1.0, math.exp(-logsumexp(np.log(reference.share) + log_w)))


def held(target: Target, draws: Draws, guide: Guide | None, reference: Reference) -> float | None:
    """`worth` of what the draws were proposed with; both stages of a mixture together. None for a swarm, and for proposals of
    `auto` beside the prior and the policy."""
    if draws.exact:
        return 1.0
    if draws.particles is not None and draws.particles.resampled:
        return None
    if draws.mixture is None:
        return worth(target, guide or PriorGuide(target), reference)
    mixture = Mixture(1).init(np.random.default_rng(0), target, guide).guide
    if len(mixture.guides) != len(draws.mixture.shares):
        return None
    equal = worth(target, mixture, reference)
    late = worth(target, evolve(mixture, shares=np.array(draws.mixture.shares)), reference)
    early = draws.mixture.pilot / len(draws)
    return 0.0 if 0.0 in (equal, late) else 1.0 / (early / equal + (1 - early) / late)


def measured(
    name: str, method: str, query: Query, rows: Sequence[Mapping[str, object]], seconds: float, seed: int,
    cache: Path, particles: int, settings: Mapping[str, object],
) -> dict[str, object]:  # fmt: skip
    """One line of the table; `settings` are the fit's, over its defaults."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="plm-unseen-") as top:
        folder = Path(top) / "policy"
        adapter, guide_of = None, None
        if method == "fit":
            query.fit(rows, folder, budget=seconds, seed=seed, **settings)
            policy = load_policy(folder, query.prepared)
            adapter, guide_of = policy.adapter, policy.guide
        elif method in KINDS:
            adapter = trained = train_peer(query, rows, method, seconds, seed)
            guide_of = lambda target: PolicyGuide.of(target, trained)  # noqa: E731
        spent, found, raised = time.perf_counter() - began, [], []
        for number, row in enumerate(rows):
            asked = query.given(row)
            target = asked.target()
            guide = None if guide_of is None else guide_of(target)
            if method == "fit":
                draws = asked.policy(folder).draw(DRAWS, seed=seed).draws
            elif method in KINDS:
                draws = asked.using("importance").draw(DRAWS, seed=seed, guide=guide).draws
            else:
                draws = asked.using("smc" if method == "smc" else "importance").draw(DRAWS, seed=seed).draws
            swarms = reference_of(name, query, number, row, cache, particles)
            reference = swarms.knowing(known_values(cache / f"{name}-{number}-known.json", draws))
            raised.append(reference.log_evidence - swarms.log_evidence)
            kl = float(np.dot(reference.share, log_weights(target, guide or PriorGuide(target), reference)))
            found.append((draws, held(target, draws, guide, reference), kl, reference))
        if adapter is not None:
            adapter.close()
    each = [
        [(one.independent or 0.0) / len(one), value, kl, abs((one.log_evidence or -math.inf) - ref.log_evidence), ref.se]
        for one, value, kl, ref in found
    ]  # fmt: skip
    resolved = [row for row in each if row[4] <= RESOLVED]
    shown = [row[1] for row in resolved if row[1] is not None]
    return {
        "program": name, "method": method, "seed": seed, "seconds": seconds, "trained": round(spent, 1),
        "took": sorted({draws.method for draws, *_ in found}), "ess": float(np.mean([row[0] for row in each])),
        "held": float(np.mean(shown)) if shown else None,
        "kl": float(np.mean([row[2] for row in resolved])) if resolved else None,
        "error": float(np.mean([row[3] for row in resolved])) if resolved else None,
        "resolved": [len(resolved), len(each)], "each": [[None if x is None else round(x, 5) for x in row] for row in each],
        "reference": sorted({r.how for *_, r in found}), "reference_se": max(r.se for *_, r in found),
        "known": min(r.known for *_, r in found), "raised": max(raised),
    }  # fmt: skip


# ------------------------------------------------------------------------------- the table


def done(out: Path) -> Iterator[tuple[object, ...]]:
    """What stands in the file already."""
    for line in out.read_text(encoding="utf-8").splitlines() if out.exists() else ():
        one = json.loads(line)
        yield one["program"], one["method"], one["seed"], one["seconds"], one.get("set", "")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of programs and their rows")
    parser.add_argument("--only", nargs="+", help="programs of the folder")
    parser.add_argument("--method", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seconds", type=float, default=120, help="of training, small models")
    parser.add_argument("--slow", type=float, default=600, help=f"of training, {SLOW}")
    parser.add_argument("--seed", type=int, nargs="+", default=[0])
    parser.add_argument("--models", type=Path, default=MODELS, help="folder of the other small models")
    parser.add_argument(
        "--cache", type=Path, default=Path("unseen-references"), help="keep the references here"
    )
    parser.add_argument("--particles", type=int, default=PARTICLES, help="of each swarm of a reference")
    parser.add_argument("--out", type=Path, default=Path("unseen.jsonl"))
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="settings of the fit")
    parser.add_argument("--cpu", action="store_true", help="seconds of the process, not of the wall")
    options = parser.parse_args(argv)
    if options.cpu:
        time.monotonic = time.perf_counter = time.process_time
    changed = " ".join(options.set)
    settings = {name: json.loads(value) for name, value in (one.split("=", 1) for one in options.set)}
    known = set(done(options.out))
    for name in options.only or sorted(path.stem for path in options.folder.glob("*.plm")):
        query, rows = query_of(name, options.models, options.folder), rows_of(name, options.folder)
        seconds = options.slow if query.graph.lms[0].spec == SLOW else options.seconds
        for method in options.method:
            for seed in options.seed:
                of_fit = changed if method == "fit" else ""
                if (name, method, seed, seconds, of_fit) in known:
                    continue
                try:
                    line = measured(
                        name, method, query, rows, seconds, seed, options.cache, options.particles, settings
                    )
                except PlmError as problem:
                    print(f"{name}, {method}: {problem.diagnostics[0].message}", file=sys.stderr)
                    continue
                line |= {"clock": "cpu"} if options.cpu else {}
                line |= {"set": of_fit} if of_fit else {}
                text = json.dumps({k: round(v, 5) if isinstance(v, float) else v for k, v in line.items()})
                print(text, flush=True)
                with options.out.open("a", encoding="utf-8") as file:
                    file.write(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
