"""Certificates as plain JSON values and back, strictly: what is not finite is None."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from posterior_lm.amortize.certificate import Certificate, RowCheck, Simulated

_ROW_NUMBERS = ("ess", "khat", "elbo", "log_evidence", "dead", "prior_ess")


def to_json(certificate: Certificate) -> dict[str, Any]:
    """See `Certificate.to_json`."""
    s, verdict = certificate.simulated, certificate.verdict
    simulated = s and {
        "rows": s.rows,
        "forward": [_finite(x) for x in s.forward],
        "reverse": [_finite(x) for x in s.reverse],
        "jeffreys": _finite(s.jeffreys),
        "unreachable": s.unreachable,
        "p_value": s.p_value,
    }
    names = ("row", *_ROW_NUMBERS)
    return {
        "draws": certificate.draws,
        "rows": [{name: _finite(getattr(r, name)) for name in names} for r in certificate.rows],
        "simulated": simulated,
        "note": certificate.note,
        "verdict": {"level": verdict.level, "words": verdict.words},
    }


def from_json(whole: Mapping[str, Any]) -> Certificate:
    """See `Certificate.from_json`."""
    rows = tuple(_row(r) for r in whole["rows"])
    if not rows:
        raise ValueError("a certificate has at least one row")
    s = whole["simulated"]
    simulated = None if s is None else _simulated(s)
    return Certificate(_count(whole["draws"], 1), rows, simulated, str(whole["note"]))


def _simulated(s: Mapping[str, Any]) -> Simulated:
    forward, reverse = ([_number(x, math.inf) for x in s[name]] for name in ("forward", "reverse"))
    return Simulated(
        rows=_count(s["rows"], 1),
        forward=(forward[0], forward[1]),
        reverse=(reverse[0], reverse[1]),
        jeffreys=_number(s["jeffreys"], math.inf),
        unreachable=_count(s["unreachable"], 0),
        p_value=None if s["p_value"] is None else _number(s["p_value"], math.nan),
    )


def _row(whole: Mapping[str, Any]) -> RowCheck:
    khat = whole["khat"]
    share = [_number(whole[name], math.nan) for name in ("ess", "dead", "prior_ess")]
    if not all(0 <= x <= 1 + 1e-9 for x in share):
        raise ValueError("a share lies in 0..1")
    return RowCheck(
        row=_count(whole["row"], 0), ess=share[0], dead=share[1], prior_ess=share[2],
        khat=None if khat is None else _number(khat, math.nan),
        elbo=_number(whole["elbo"], -math.inf), log_evidence=_number(whole["log_evidence"], -math.inf),
    )  # fmt: skip


def _count(value: object, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{value!r} is no count of at least {least}")
    return value


def _number(value: object, absent: float) -> float:
    if value is None:
        value = absent
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        raise ValueError(f"{value!r} is no number")
    return float(value)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
