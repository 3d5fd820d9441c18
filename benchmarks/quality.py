"""How far a guide is from the exact posterior: listings of held-out rows, and distances to them.

Every script of this folder that reports quality measures it here, so that two
figures with the same name are the same quantity. All numbers are in nats or are
probabilities; nothing is estimated but the share of the posterior that a listing
leaves out, and what is said to come from draws.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from attrs import asdict, frozen

from benchmarks.targets import KnownTarget, Row
from posterior_lm.api.query import Query
from posterior_lm.infer.guide import Guide
from posterior_lm.infer.weights import ess
from posterior_lm.lm.protocol import LanguageModel
from posterior_lm.target.prepared import PreparedProgram
from posterior_lm.target.target import Target
from posterior_lm.target.validate import validate_data
from posterior_lm.validate.comparison import cell_distances

DRAWS = 400
"""Draws of the guide for its ESS share and its reverse KL."""

TAIL = 1e-3
"""Share of the listed posterior whose values, the least likely, are put with those not listed: most of
a listing is there, and a distance is at most this much smaller without it."""

_FIELDS = ("values", "log_prob", "rest", "rest_se", "log_evidence")


@frozen(eq=False)
class Listing:
    """The exact posterior of one row: its likeliest values, and how much lies outside them.

    `values` (N,) token ids of the only latent; `log_prob` (N,) of each under the
    posterior, nats; `rest` the share of all other values: those of the `TAIL`, and what
    enumeration did not reach, estimated with standard error `rest_se` (0 where it
    reached everything); `log_evidence` nats, the rest included.
    """

    values: tuple[tuple[int, ...], ...]
    log_prob: np.ndarray
    rest: float
    rest_se: float
    log_evidence: float


def exact_listing(query: Query, row: Row, values: int = 1500, *, cache: Path | None = None) -> Listing:
    """The posterior of a row by enumeration of about `values` values, kept in the folder `cache`.

    A file is found again by the program's fingerprint, the models' digests, the row and
    `values`. Raises ValueError where the program has several latents.
    """
    file = None if cache is None else cache / f"{_key(query, row, values)}.json"
    if file is not None and file.exists():
        saved = json.loads(file.read_text(encoding="utf-8"))
        return Listing(
            tuple(tuple(ids) for ids in saved["values"]),
            np.array(saved["log_prob"], dtype=np.float64),
            *(float(saved[name]) for name in _FIELDS[2:]),
        )
    made = _enumerate(query, row, values)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        found = dict(zip(_FIELDS, (made.values, made.log_prob.tolist(), *_numbers(made)), strict=True))
        part = file.with_suffix(f".{os.getpid()}.part")
        part.write_text(json.dumps(found), encoding="utf-8")
        part.replace(file)
    return made


def _numbers(listing: Listing) -> tuple[float, float, float]:
    return listing.rest, listing.rest_se, listing.log_evidence


def _key(query: Query, row: Row, values: int) -> str:
    digests = sorted(m.identity.digest for m in query.prepared.models.values())
    what = json.dumps([query.fingerprint, digests, row, values], sort_keys=True)
    return hashlib.sha256(what.encode()).hexdigest()[:32]


def _enumerate(query: Query, row: Row, values: int) -> Listing:
    draws = query.given(row).using("exact", values=values).draw(seed=0).draws
    if len(draws.values) != 1:
        raise ValueError(f"the program has {len(draws.values)} latents, and a listing holds one")
    certificate = draws.certificate
    assert certificate is not None
    column = next(iter(draws.values.values()))
    # `estimate` is relative to what is listed; a share is relative to everything.
    outside, se = certificate.estimate or 0.0, certificate.estimate_se or 0.0
    log_evidence = certificate.covered + math.log1p(outside)
    order = np.argsort(-draws.log_reward, kind="stable")
    order = order[np.isfinite(draws.log_reward[order])]
    p = np.exp(draws.log_reward[order] - certificate.covered)
    last = int(np.searchsorted(np.cumsum(p), 1 - TAIL)) + 1
    tail = float(p[last:].sum())
    order = order[:last]
    return Listing(
        tuple(column[i].ids for i in order),
        draws.log_reward[order] - log_evidence,
        (outside + tail) / (1 + outside),
        se / (1 + outside) ** 2,
        log_evidence,
    )


@frozen
class Quality:
    """A guide against one exact posterior.

    `tv` total variation over the listed values and one cell for all others.
    `forward_kl` KL(posterior ‖ guide) over the same cells, nats; +inf where the guide
    cannot draw a listed value. `ess_share` ESS/N and `reverse_kl` KL(guide ‖ posterior),
    nats, are of draws of the guide. Cells are coarser than values, so `tv` and
    `forward_kl` are never above those of the whole space.
    """

    tv: float
    forward_kl: float
    reverse_kl: float
    ess_share: float


def distance(target: Target, guide: Guide, listing: Listing, *, draws: int = DRAWS, seed: int = 5) -> Quality:
    """How far `guide` is from the listed posterior of `target`."""
    (name,) = target.names
    values = [target.value_of(name, ids) for ids in listing.values]
    log_q = guide.log_prob({name: values})
    tv, forward = cell_distances(listing.log_prob, log_q, listing.rest)
    proposal = guide.sample(np.random.default_rng(seed), draws)
    log_reward = target.log_reward(proposal.values)
    reverse = float(np.mean(proposal.log_prob - log_reward)) + listing.log_evidence
    dead = bool(np.isneginf(log_reward).all())
    return Quality(tv, forward, reverse, 0.0 if dead else ess(log_reward - proposal.log_prob) / draws)


@frozen
class Report:
    """Rows of `Quality` as means and worst cases."""

    rows: tuple[Quality, ...]

    def figures(self) -> dict[str, float]:
        """`tv_mean`, `tv_worst` and so on; the worst ESS share is the smallest."""
        found: dict[str, float] = {}
        for name in asdict(self.rows[0]):
            column = [getattr(row, name) for row in self.rows]
            found[f"{name}_mean"] = float(np.mean(column))
            found[f"{name}_worst"] = float(min(column) if name == "ess_share" else max(column))
        return found


@frozen(eq=False)
class HeldOut:
    """The held-out rows of a known target, bound, with their listings."""

    targets: tuple[Target, ...]
    listings: tuple[Listing, ...]
    models: Mapping[str, LanguageModel]

    @classmethod
    def of(cls, known: KnownTarget, *, cache: Path | None = None, rows: int | None = None) -> HeldOut:
        """The first `rows` held-out rows (None: all)."""
        query, models = known.query, known.query.prepared.models
        kept: Sequence[Row] = known.held_out[:rows]
        return cls(
            tuple(
                PreparedProgram.of(query.graph, models).bind_valid(validate_data(query.graph, row))
                for row in kept
            ),
            tuple(exact_listing(query, row, cache=cache) for row in kept),
            models,
        )

    def measure(self, guide_of: Callable[[Target], Guide], *, draws: int = DRAWS) -> Report:
        """The distances of the guide that `guide_of` gives each row's target."""
        pairs = zip(self.targets, self.listings, strict=True)
        return Report(tuple(distance(t, guide_of(t), listing, draws=draws) for t, listing in pairs))
