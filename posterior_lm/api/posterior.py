"""The answer as a user sees it: weighted draws, what they estimate, how far to trust them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
from attrs import field, fields, frozen

from posterior_lm.api import saved
from posterior_lm.api.expressions import evaluate, refuse_nan
from posterior_lm.api.tables import apart, dataset, frame, optional
from posterior_lm.graph.ops import spelled
from posterior_lm.infer.draws import Draws
from posterior_lm.infer.verdict import level, verdict
from posterior_lm.infer.weights import Z90, logsumexp, wilson
from posterior_lm.lang.diagnostics import DataError, refuse_unknown
from posterior_lm.lang.value_types import value_type
from posterior_lm.lang.values import number_text, shares_of
from posterior_lm.lm.protocol import ModelIdentity
from posterior_lm.shown import Shown
from posterior_lm.storage import folder_named, plain
from posterior_lm.target.values import Datum

if TYPE_CHECKING:
    import datasets
    import pandas
    import xarray
    from matplotlib.axes import Axes


@frozen
class Estimate:
    """A posterior expectation: its value, standard error, and a 90 % interval.

    For listed values there is no sampling error; the interval then covers what
    the values not listed could change, where that is known.
    """

    value: float
    se: float
    low: float
    high: float


@frozen
class Spread:
    """Of a latent that is a number: posterior mean with its standard error, standard deviation, middle 90 %."""

    mean: float
    se: float
    sd: float
    low: float
    high: float


@frozen
class Draw:
    """One draw: the value of each latent (a text, a number, true or false), its normalised weight, its log reward in nats."""

    values: Mapping[str, Datum]
    weight: float
    log_reward: float

    def __getitem__(self, latent: str) -> Datum:
        return self.values[latent]


@frozen
class Merged(Draw):
    """Draws whose latents read the same, as one.

    `log_reward` is log Σ exp(log reward) over the distinct token sequences drawn.
    """

    sequences: int


@frozen(eq=False)
class Posterior(Shown):
    """Weighted draws of one program for one binding. Nothing in it changes."""

    program: str
    fingerprint: str
    lm: Mapping[str, ModelIdentity]
    draws: Draws
    seed: int
    reason: str = ""
    types: Mapping[str, str] = field(factory=dict)
    """The declared type of each latent: text, int, one_of, real or bool."""
    threads: Mapping[str, Mapping[str, int]] = field(factory=dict)
    """By model, how many threads it was computed with, phase by phase; on a CPU other numbers round differently."""
    notes: tuple[str, ...] = ()
    """What the program itself makes of its values that a reader may not expect, in sentences."""

    # ------------------------------------------------------------- as a sequence of draws

    def __repr__(self) -> str:
        return f"<Posterior of {self.program}: {self.summary}>\n{self.verdict}"

    @property
    def summary(self) -> str:
        """In half a line: how many draws of which method, the ESS, and the log evidence with its standard error."""
        found = [
            f"{self.n:,} {'value' if self.draws.exact else 'draw'}{'s' * (self.n != 1)} by {self.method}"
        ]
        if self.ess is not None:
            found.append(f"ESS {number_text(self.ess, 1)}")
        if self.log_evidence is not None:
            spread = "" if self.draws.exact else f" ± {number_text(self.log_evidence_se)}"
            found.append(f"log evidence {number_text(self.log_evidence)}{spread} nats")
        return ", ".join(found)

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[Draw]:
        """The draws in their order, not merged."""
        rows, weights, rewards = self._rows(), self.weights.tolist(), self.draws.log_reward.tolist()
        return (Draw(*one) for one in zip(rows, weights, rewards, strict=True))

    @overload
    def __getitem__(self, item: str) -> list[Datum]: ...
    @overload
    def __getitem__(self, item: int) -> Draw: ...
    @overload
    def __getitem__(self, item: slice) -> list[Draw]: ...
    def __getitem__(self, item: str | int | slice) -> list[Datum] | Draw | list[Draw]:
        """The N values of a latent by name, to go with `weights`; a draw, or some, by number. Raises DataError PLM602."""
        return self._column(item) if isinstance(item, str) else list(self)[item]

    def _column(self, latent: str) -> list[Datum]:
        shares, values = shares_of(self.draws.values), self.draws.values
        refuse_unknown(self.program, [latent], [*values, *shares], "latent", DataError, "PLM602")
        if latent not in shares:
            return [value.datum for value in values[latent]]
        left, own = ([[value.datum for value in values[name]] for name in names] for names in shares[latent])
        parts = [*([None if x is None else 1 - float(x) for x in column] for column in left), *own]
        return [None if None in row else math.prod(row) for row in zip(*parts, strict=True)]  # type: ignore[arg-type]

    def best(self) -> Merged:
        """The value with the highest log reward among the draws; of equal ones the heaviest."""
        return max(self.merged(), key=lambda one: one.log_reward)

    # ------------------------------------------------------------- numbers

    @property
    def method(self) -> str:
        return self.draws.method

    @property
    def n(self) -> int:
        """The number of draws, or of listed values."""
        return len(self.draws)

    @property
    def log_evidence(self) -> float | None:
        """Nats; None for Markov chains and decoders, which say nothing of it."""
        return self.draws.log_evidence

    @property
    def log_evidence_se(self) -> float | None:
        """Nats; infinite where the verdict is not to trust the draws, which then support no error."""
        se = self.draws.log_evidence_se
        return math.inf if se is not None and level(self.draws) == "bad" else se

    @property
    def ess(self) -> float | None:
        return self.draws.ess

    @property
    def khat(self) -> float | None:
        return self.draws.khat

    @property
    def weights(self) -> np.ndarray:
        """(N,) normalised weights."""
        return self.draws.normalized_weights

    @property
    def verdict(self) -> str:
        """In words: what was checked and how far to trust it, and what else is to be minded."""
        return " ".join([verdict(self.draws), *self.notes])

    # ------------------------------------------------------------- estimates

    def _rows(self) -> list[dict[str, Datum]]:
        names = list(self.draws.values)
        return [{name: self.draws.values[name][d].datum for name in names} for d in range(self.n)]

    def expect(self, f: str | Callable[[Mapping[str, Datum]], float]) -> Estimate:
        """The posterior mean of an expression of the language, or of a function of the values.

        A function sees texts as str and integers as int. Self-normalised: Σ w f, with standard error
        √Σ w² (f − mean)² (Owen 2013, eq. 9.9); the sum runs over the ancestors of particles (Chan and Lai 2013),
        and the draws of Markov chains count as `Draws.ess` independent ones.
        Raises CompileError for an expression that is wrong, InferenceError PLM701 where it has no value, and
        ValueError where a function gives NaN.
        """
        return self._mean(self._of_each(f, "number"))

    def prob(self, predicate: str | Callable[[Mapping[str, Datum]], bool]) -> Estimate:
        """The posterior probability of an expression that is true or false, with a 90 % interval; as `expect`.

        For draws, Wilson's interval (1927) with the N that has this standard error, or where all draws agree with the
        number of independent ones (`Draws.independent`). What is `Draws.missing`, of a list or of draws, may be all of it or none.
        """
        estimate = self._mean(self._of_each(predicate, "truth"))
        p = min(1.0, max(0.0, estimate.value))
        n = self.draws.independent or (self.n if self.draws.decoded else 1.0)
        # Equal weights within the event and without it say more than the ESS, and unequal ones less.
        n = p * (1 - p) / estimate.se**2 if 1e-9 < p < 1 - 1e-9 and estimate.se > 0 else n
        low, high = (p, p) if self.draws.certificate is not None else wilson(p, n)
        missing = self.draws.missing
        return Estimate(p, estimate.se, low * (1 - missing), high * (1 - missing) + missing)

    def spread(self, latent: str) -> Spread:
        """What there is to say of a latent that is a number, an int or a real, or of a share, of one row of a plate by `r[3]`.

        The ends of the middle are values of the latent: for a real, midpoints of cells. Raises DataError PLM602 for any other name.
        """
        numbers = [name for name, kind in self.types.items() if value_type(kind).kind in ("int", "real")]
        numbers += shares_of(self.draws.values)
        refuse_unknown(self.program, [latent], numbers, "number", DataError, "PLM602")
        values, w = np.array(self._column(latent), dtype=np.float64), self.weights
        mean = self._mean(values)
        order = np.argsort(values, kind="stable")
        below = np.cumsum(w[order])
        low, high = (
            float(values[order[min(self.n - 1, int(np.searchsorted(below, p)))]]) for p in (0.05, 0.95)
        )
        return Spread(mean.value, mean.se, float(np.sqrt(np.sum(w * (values - mean.value) ** 2))), low, high)

    @property
    def reals(self) -> dict[str, Spread]:
        """`spread` of every latent that is a real, and of shares in place of those that they are made of."""
        shares = shares_of(self.draws.values)
        sticks = {stick for _, own in shares.values() for stick in own}
        reals = [name for name in self.draws.values if self.types.get(name) == "real" and name not in sticks]
        return {name: self.spread(name) for name in (*reals, *shares)}

    def _of_each(
        self, f: str | Callable[[Mapping[str, Datum]], float], wanted: Literal["number", "truth"]
    ) -> np.ndarray:
        """(N,) what an expression or a function is of every draw, a truth value as 1 or 0; 0 for dead draws."""
        alive = self.weights > 0
        if isinstance(f, str):
            kinds = {name: "int" if any(isinstance(value.datum, int) for value in column) else "text"
                     for name, column in self.draws.values.items()}  # fmt: skip
            values = np.array(evaluate(f, wanted, {**kinds, **self.types}, self.lm, self.draws.values))
            refuse_nan(f, values[alive].tolist())
        else:
            found = map(f, self._rows())
            values = np.array([float(x if wanted == "number" else bool(x)) for x in found])
            if np.isnan(values[alive]).any():
                raise ValueError("the function gave NaN for a draw with positive weight")
        return np.where(alive, values, 0.0)

    def _mean(self, values: np.ndarray) -> Estimate:
        w = self.weights
        mean = float(np.sum(w * values))
        if not math.isfinite(mean):
            return Estimate(mean, math.inf, -math.inf, math.inf)
        parts: np.ndarray = w * (values - mean)
        particles, chains = self.draws.particles, self.draws.chains
        if particles is not None and particles.origin is not None:
            parts = np.bincount(particles.origin, weights=parts)
        se = 0.0 if self.draws.exact else float(np.sqrt(np.sum(parts**2)))
        if chains is not None:
            se *= math.sqrt(self.n / (chains.bulk_ess or 1.0))
        return Estimate(mean, se, mean - Z90 * se, mean + Z90 * se)

    # ------------------------------------------------------------- views

    def merged(self) -> list[Merged]:
        """Draws with equal texts merged, heaviest first; of equal weights, as decoders give, the highest log reward first."""
        names = list(self.draws.values)
        w = self.weights
        groups: dict[tuple[Datum, ...], list[int]] = {}
        for d in range(self.n):
            groups.setdefault(tuple(self.draws.values[k][d].datum for k in names), []).append(d)
        merged = []
        for data, rows in groups.items():
            sequences = {tuple(self.draws.values[k][d].ids for k in names): d for d in rows}
            distinct = self.draws.log_reward[list(sequences.values())]
            log_reward = float(distinct[0]) if len(distinct) == 1 else logsumexp(distinct)
            values = dict(zip(names, data, strict=True))
            merged.append(Merged(values, float(w[rows].sum()), log_reward, len(sequences)))
        return sorted(merged, key=lambda m: (-m.weight, -m.log_reward, tuple(map(str, m.values.values()))))

    def marginal(self, latent: str) -> list[tuple[Datum, float]]:
        """Each value of one latent with its posterior probability, likeliest first. Raises DataError PLM602."""
        mass: dict[Datum, float] = {}
        for value, weight in zip(self._column(latent), self.weights.tolist(), strict=True):
            mass[value] = mass.get(value, 0.0) + weight
        return sorted(mass.items(), key=lambda item: (-item[1], str(item[0])))

    def plot(self, latent: str | None = None, *, ax: Axes | None = None) -> Axes:
        """Bars of the posterior probability of each value of a latent, the first where none is named; the axes.

        Raises DataError PLM602 for a name that is no latent, PLM732 without matplotlib.
        """
        return self._above("plots", latent, ax)

    def resample(self, rng: np.random.Generator, n: int) -> list[dict[str, Datum]]:
        """n draws with equal weights, by systematic resampling (Kitagawa 1996)."""
        at = (rng.random() + np.arange(n)) / n
        rows = self._rows()
        picked = np.searchsorted(np.cumsum(self.weights), at)
        return [rows[min(int(i), self.n - 1)] for i in picked]

    # ------------------------------------------------------------- other formats

    def to_json(self, *, top: int | None = None) -> dict[str, Any]:
        """The stable shape of `plm run --format json`; infinities and absent numbers are None."""
        merged = self.merged()[:top]
        particles, chains = self.draws.particles, self.draws.chains
        whole = {
            "program": self.program,
            "fingerprint": self.fingerprint,
            "lm": self.lm,
            "method": self.method,
            "reason": self.reason,
            "seed": self.seed,
            "log_evidence": self.log_evidence,
            "log_evidence_se": self.log_evidence_se,
            "ess": self.ess,
            "khat": self.khat,
            "least_ess": None if particles is None else particles.least_ess,
            "ancestors": None if particles is None else particles.ancestors,
            "rhat": None if chains is None else chains.rhat,
            "bulk_ess": None if chains is None else chains.bulk_ess,
            "acceptance": None if chains is None else chains.acceptance,
            "n": self.n,
            "notes": self.notes,
            "respelled": [
                {
                    "values": {
                        k: None if v is None else spelled(v)
                        for k, v in zip(self.draws.values, one.datum, strict=True)
                    },
                    "log_reward": one.log_reward,
                    "share": one.share,
                    "left_out": one.left_out,
                }
                for one in self.draws.respelled
            ],
            "draws": [
                {
                    "values": {k: None if v is None else spelled(v) for k, v in m.values.items()},
                    "weight": m.weight,
                    "log_reward": m.log_reward,
                }
                for m in merged
            ],
        }
        if reals := self.reals:
            whole["spreads"] = reals
        found: dict[str, Any] = plain(whole)
        return found

    def columns(self) -> dict[str, list[Any]]:
        """One entry per draw: the latents, the shares that some of them are made of, `weight`, `log_weight`, `log_reward`.

        A statistic that has a latent's name gets an underscore behind its own.
        """
        names = (*self.draws.values, *shares_of(self.draws.values))
        found: dict[str, list[Any]] = {name: self._column(name) for name in names}
        stats = (
            ("weight", self.weights),
            ("log_weight", self.draws.log_weights),
            ("log_reward", self.draws.log_reward),
        )
        return {**found, **{apart(name, found): column.tolist() for name, column in stats}}

    def to_pandas(self) -> pandas.DataFrame:
        """`columns` as a data frame, one row per draw. Raises DataError PLM732 without pandas."""
        return frame(self.columns())

    def to_datasets(self) -> datasets.Dataset:
        """`columns` as a dataset of Hugging Face, one row per draw. Raises DataError PLM732 without `datasets`."""
        return dataset(self.columns())

    def to_arviz(self) -> xarray.DataTree:
        """An arviz tree: group `posterior` (one chain), weights in `sample_stats`.

        Draws keep their weights; resample first for tools that expect equal ones. A
        latent called `chain` or `draw`, as the dimensions are, gets an underscore. Raises DataError PLM732 without arviz.
        """
        taken = ("chain", "draw")
        posterior = {
            apart(name, self.draws.values) if name in taken else name: np.array([self._column(name)])
            for name in self.draws.values
        }
        stats = {
            "weight": self.weights[None, :],
            "log_weight": self.draws.log_weights[None, :],
            "log_reward": self.draws.log_reward[None, :],
        }
        tree: xarray.DataTree = optional("arviz_base", "arviz").from_dict(
            {"posterior": posterior, "sample_stats": stats},
            attrs={"/": {"program": self.program, "fingerprint": self.fingerprint, "method": self.method}},
        )
        return tree

    def save(self, folder: str | Path) -> Path:
        """Write `posterior.json` into a folder, whole or not at all; returns its path. Raises PLM612."""
        return saved.save(folder_named(folder), **{f.name: getattr(self, f.name) for f in fields(Posterior)})

    @classmethod
    def load(cls, folder: str | Path) -> Posterior:
        """Read what `save` wrote. Raises DataError PLM611 for anything else."""
        return cls(**saved.load(Path(folder)))
