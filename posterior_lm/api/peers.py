"""Training peers of a policy, and the learning rate of each, searched for every method alike.

Every rate gets the same small budget on the same part of the rows, and is judged by a figure on the
rest. A fit that breaks off with numbers that are not finite counts as −∞.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from attrs import frozen

from posterior_lm.api.engine import policy_offer
from posterior_lm.api.query import Query
from posterior_lm.lang.diagnostics import DataError, InferenceError
from posterior_lm.target.prepared import in_row
from posterior_lm.train.fit import Fitted, fit
from posterior_lm.train.ppo import BELOW
from posterior_lm.train.rows import Inputs, Rows, read_inputs
from posterior_lm.train.settings import FitSettings, settings_of, with_new_names

Data = Sequence[Mapping[str, object]]
Figure = Callable[[Query, Data], float]
"""(query with its policy, held-out rows) -> how good the policy is there, nats; bigger is better."""

DRAWS = 16
"""Draws a row where a figure needs them."""
PARTS = 4
"""One row in so many is held out."""


@frozen
class Searched:
    """The best rate, and the figure of every rate that was tried, in their order."""

    rate: float
    figures: tuple[tuple[float, float], ...]


def search_rate(
    fit: Callable[..., Any], query: Query, rows: Data, rates: Sequence[float], /, *,
    figure: Figure, seed: int = 0, **settings: Any,
) -> Searched:  # fmt: skip
    """The rate with the best figure; of equal ones the lowest.

    `fit(query, rows, folder, learning_rate=…, seed=…, **settings)` is `sft`, `ppo`, or `gflownet` below.
    Every fourth row is held out, at least one. Raises DataError PLM773 for fewer than two rows or no
    rate, InferenceError PLM626 where no rate gave finite numbers.
    """
    if len(rows) < 2 or not rates:
        what = "no learning rates to choose from" if not rates else "one row, and a search holds one out"
        raise DataError.of(
            "PLM773", f"there {'are' if not rates else 'is'} {what}", help="give at least two rows"
        )
    order = np.random.default_rng([seed, 9]).permutation(len(rows))
    kept = max(1, len(rows) // PARTS)
    inside, outside = [rows[int(k)] for k in order[kept:]], [rows[int(k)] for k in order[:kept]]
    # The certificate of a trial is read by nobody.
    quick: dict[str, object] = {"certify_draws": 10, "certify_rows": 0, "held_out": 0, "seed": seed}
    found, problem = [], None
    for rate in rates:
        with tempfile.TemporaryDirectory(prefix="plm-rate-") as folder:
            where = Path(folder) / "policy"
            try:
                fit(query, inside, where, learning_rate=rate, **{**quick, **settings})
                found.append((float(rate), figure(query.policy(where), outside)))
            except InferenceError as wrong:
                if all(d.code != "PLM626" for d in wrong.diagnostics):
                    raise
                found.append((float(rate), -math.inf))
                problem = wrong
    best = max(found, key=lambda one: (one[1], -one[0]))
    if problem is not None and best[1] == -math.inf:
        raise problem
    return Searched(best[0], tuple(found))


def sft(query: Query, rows: Data, out: str | Path, /, **settings: object) -> Fitted:
    """A policy trained on the known values that rows hold, certified and saved in the folder `out`.

    A row holds them in columns named after the latents, one for each latent; rows without any are
    only held out and certified with. `settings` are those of a fit: of them `steps`, `budget`,
    `pairs` (known values a step), `learning_rate`, `warmup`, `rank`, `targets` and `seed` matter here.
    Raises DataError PLM772 where no row to train on holds a value, and what a fit raises.
    """
    return _fit(query, rows, out, {**settings, "objective": "sft"})


def ppo(query: Query, rows: Data, out: str | Path, /, **settings: object) -> Fitted:
    """A policy that maximises the log reward, certified and saved in the folder `out`.

    `settings` are those of a fit: of them `steps`, `budget`, `rows`, `draws`, `learning_rate` (another name
    of `balance_learning_rate` here), `kl`, `epochs`, `ratio`, `warmup`, `rank`, `targets` and `seed` matter here.
    A step asks for rows × draws rewards, as a step of balancing does. Raises what a fit raises.
    """
    settings = with_new_names(settings)
    if "learning_rate" in settings:
        settings["balance_learning_rate"] = settings.pop("learning_rate")
    return _fit(query, rows, out, {**settings, "objective": "ppo"})


def _fit(query: Query, rows: Data, out: str | Path, settings: Mapping[str, object]) -> Fitted:
    # What the program states of a gflownet concerns no peer of it.
    return fit(query.prepared, rows, out, settings_of(settings), given=query.data)


def gflownet(query: Query, rows: Data, out: str | Path, /, **settings: Any) -> Any:
    """`query.fit`, with `learning_rate` as the one of both stages' beginnings: `balance_learning_rate` is a quarter
    of it, as the defaults have it."""
    settings = dict(with_new_names(settings))
    if "learning_rate" in settings:
        settings.setdefault("balance_learning_rate", float(str(settings["learning_rate"])) / 4)
    return query.fit(rows, out, **settings)


def log_likelihood(query: Query, rows: Data) -> float:
    """Mean log q of the rows' known values, nats: the figure of `sft`. −∞ where no row holds one."""
    inputs = _inputs(query, rows)
    bound = Rows(inputs.program, inputs.data)
    found = []
    for row, values in inputs.known:
        with in_row(row):
            guide = _guide(query, bound, row)
            columns = {name: [v[name] for v in values] for name in bound.target(row).names}
            found += guide.log_prob(columns).tolist()
    return float(np.mean(found)) if found else -math.inf


def mean_log_reward(query: Query, rows: Data, *, seed: int = 0) -> float:
    """Mean log reward of draws from the policy, nats: the figure of `ppo`.

    A dead draw counts as the least of the others' log rewards less `BELOW` nats.
    """
    return _mean(query, rows, seed, 0.0)


def evidence_bound(query: Query, rows: Data, *, seed: int = 0) -> float:
    """Mean over draws of log R − log q, nats, a lower bound of the log evidence: the figure of a GFlowNet.

    Dead draws count as in `mean_log_reward`.
    """
    return _mean(query, rows, seed, 1.0)


def _mean(query: Query, rows: Data, seed: int, entropy: float) -> float:
    inputs = _inputs(query, rows)
    bound = Rows(inputs.program, inputs.data)
    rewards, log_q = [], []
    for row in range(len(bound)):
        with in_row(row):
            proposal = _guide(query, bound, row).sample(np.random.default_rng([seed, 10, row]), DRAWS)
            rewards.append(np.broadcast_to(bound.target(row).log_reward(proposal.values), (DRAWS,)))
            log_q.append(proposal.log_prob)
    reward, q = np.concatenate(rewards), np.concatenate(log_q)
    alive = np.isfinite(reward)
    if not alive.any():
        return -math.inf
    return float(np.mean(np.where(alive, reward, reward[alive].min() - BELOW) - entropy * q))


def _inputs(query: Query, rows: Data) -> Inputs:
    return read_inputs(query.prepared, rows, FitSettings(), query.data)


def _guide(query: Query, bound: Rows, row: int) -> Any:
    offer = policy_offer(query.prepared, query.request, bound.target(row))
    assert offer is not None  # the query has the folder of the trial
    return offer.guide()
