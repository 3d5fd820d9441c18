"""The exact posterior of a row by enumeration, kept in the folder of the bench."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from attrs import frozen

from benchmarks.paper.task import Bench, Row
from posterior_lm.storage import write_whole
from posterior_lm.validate.comparison import cell_distances, total_variation

if TYPE_CHECKING:
    from posterior_lm.api.query import Query
    from posterior_lm.infer.guide import Guide
    from posterior_lm.target.target import Target

ROOM = "exact"
TAIL = 1e-3
"""Share of the listed posterior whose values, the least likely, are put with those not listed."""
LOOSE = 0.05
"""A row whose listing leaves out more is no yardstick, and is not tested on."""
REPEATS = 200


@frozen(eq=False)
class Listed:
    """The likeliest values (N,) of the only latent, their log probability (N,), nats, and the share `rest` of all others."""

    ids: tuple[tuple[int, ...], ...]
    log_prob: np.ndarray
    rest: float
    log_evidence: float

    def of_guide(self, target: Target, guide: Guide) -> float:
        """Total variation of a guide, by its own probabilities; one cell for all values not listed."""
        (name,) = target.names
        log_q = guide.log_prob({name: [target.value_of(name, ids) for ids in self.ids]})
        return cell_distances(self.log_prob, log_q, self.rest)[0]

    def of_draws(self, ids: Sequence[tuple[int, ...]], weights: np.ndarray) -> float:
        """Total variation of M weighted draws, above 0 by chance alone: see `noise`."""
        places = {one: k for k, one in enumerate(self.ids)}
        q = np.zeros(len(self.ids))
        for one, weight in zip(ids, weights, strict=True):
            if one in places:
                q[places[one]] += weight
        return total_variation(np.exp(self.log_prob), q, self.rest)

    def noise(self, n: int, rng: np.random.Generator) -> float:
        """Expected total variation of n exact draws."""
        p = np.exp(self.log_prob)
        cells = np.append(p, self.rest)
        counts = rng.multinomial(n, cells / cells.sum(), size=REPEATS)
        return float(np.mean([total_variation(p, c[:-1] / n, self.rest) for c in counts]))


def listed(bench: Bench, query: Query, row: Row, values: int) -> Listed:
    """The posterior of a row by about `values` values, found once."""
    target = query.given(row).target()
    digests = sorted(model.identity.digest for model in target.models.values())
    what = json.dumps([query.fingerprint, digests, dict(row), values], sort_keys=True)
    file = bench.store.folder / ROOM / f"{hashlib.sha256(what.encode()).hexdigest()[:24]}.json"
    try:
        saved = json.loads(file.read_text(encoding="utf-8"))
        return Listed(
            tuple(tuple(ids) for ids in saved["ids"]), np.array(saved["log_prob"], dtype=np.float64),
            float(saved["rest"]), float(saved["log_evidence"]),
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError):
        pass
    made = _enumerated(query.given(row), values)
    file.parent.mkdir(parents=True, exist_ok=True)
    found = {"ids": made.ids, "log_prob": made.log_prob.tolist(), "rest": made.rest,
             "log_evidence": made.log_evidence}  # fmt: skip
    write_whole(file, json.dumps(found).encode())
    return made


def _enumerated(bound: Query, values: int) -> Listed:
    draws = bound.using("exact", values=values).draw(seed=0).draws
    certificate = draws.certificate
    assert certificate is not None and len(draws.values) == 1
    (column,) = draws.values.values()
    outside = 0.0 if certificate.complete else certificate.estimate or 0.0
    log_evidence = certificate.covered + math.log1p(outside)
    p = np.exp(draws.log_reward - certificate.covered)
    last = int(np.searchsorted(np.cumsum(p), 1 - TAIL)) + 1
    rest = (outside + float(p[last:].sum())) / (1 + outside)
    ids = tuple(column[i].ids for i in range(min(last, len(p))))
    return Listed(ids, draws.log_reward[: len(ids)] - log_evidence, rest, log_evidence)
