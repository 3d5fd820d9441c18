"""A posterior on disk: one JSON file, written whole or not at all."""

from __future__ import annotations

import json
import math
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from posterior_lm.infer.base import Certificate, Chains, Draws, Particles
from posterior_lm.lang.diagnostics import DataError, error
from posterior_lm.lm.base import ModelIdentity
from posterior_lm.target.values import Value

if TYPE_CHECKING:
    from posterior_lm.posterior import Posterior

FORMAT = "plm-posterior-1"
NAME = "posterior.json"


def _floats(array: np.ndarray | None) -> list[float | str] | None:
    """Numbers as JSON keeps them exactly; infinities by name, since JSON has none."""
    if array is None:
        return None
    return [x if math.isfinite(x) else ("inf" if x > 0 else "-inf") for x in map(float, array)]


def _array(items: list[float | str] | None) -> np.ndarray | None:
    return None if items is None else np.array([float(x) for x in items], dtype=np.float64)


def _particles(particles: Particles | None) -> dict[str, Any] | None:
    if particles is None:
        return None
    return {
        "least_ess": particles.least_ess,
        "ancestors": particles.ancestors,
        "resampled": particles.resampled,
        "variance": particles.variance,
        "origin": None if particles.origin is None else particles.origin.tolist(),
    }


def _read_particles(whole: dict[str, Any] | None, n: int) -> Particles | None:
    if whole is None:
        return None
    return Particles(
        float(whole["least_ess"]),
        int(whole["ancestors"]),
        int(whole["resampled"]),
        float(whole["variance"]),
        None if whole["origin"] is None else _places(whole["origin"], n),
    )


def _places(items: list[int], n: int) -> np.ndarray:
    """Which ancestor or chain each of n draws comes from."""
    found = np.array(items, dtype=np.int64)
    if found.shape != (n,) or (n and found.min() < 0):
        raise ValueError("its columns have different lengths")
    return found


def _chains(chains: Chains | None) -> dict[str, Any] | None:
    if chains is None:
        return None
    return {
        "number": chains.number,
        "of_draw": chains.of_draw.tolist(),
        "rhat": _floats(None if chains.rhat is None else np.array([chains.rhat])),
        "bulk_ess": chains.bulk_ess,
        "acceptance": chains.acceptance,
    }


def _read_chains(whole: dict[str, Any] | None, n: int) -> Chains | None:
    if whole is None:
        return None
    rhat = _array(whole["rhat"])
    return Chains(
        int(whole["number"]),
        _places(whole["of_draw"], n),
        None if rhat is None else float(rhat[0]),
        None if whole["bulk_ess"] is None else float(whole["bulk_ess"]),
        float(whole["acceptance"]),
    )


def save(posterior: Posterior, folder: Path) -> Path:
    """Write `posterior.json` into the folder, which is made where it is absent."""
    draws = posterior.draws
    certificate = draws.certificate
    whole: dict[str, Any] = {
        "format": FORMAT,
        "program": posterior.program,
        "fingerprint": posterior.fingerprint,
        "lm": {alias: [m.name, m.kind, m.digest, m.revision, m.dtype] for alias, m in posterior.lm.items()},
        "seed": posterior.seed,
        "reason": posterior.reason,
        "types": dict(posterior.types),
        "method": draws.method,
        "seconds": draws.seconds,
        "values": {
            name: [[list(v.ids), v.text, v.datum] for v in column] for name, column in draws.values.items()
        },
        "log_weights": _floats(draws.log_weights),
        "log_reward": _floats(draws.log_reward),
        "log_prob": _floats(draws.log_prob),
        "certificate": None
        if certificate is None
        else [
            *(_floats(np.array([certificate.covered, certificate.rest])) or ()),
            certificate.complete,
            certificate.listed,
            certificate.estimate,
            certificate.estimate_se,
        ],
        "particles": _particles(draws.particles),
        "chains": _chains(draws.chains),
        "decoded": draws.decoded,
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=".posterior-", suffix=".json")
    except OSError as problem:
        raise DataError(
            error("PLM612", f"cannot write into {folder}: {problem.strerror}", where=str(folder))
        ) from None
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(whole, file, ensure_ascii=False, allow_nan=False)
        os.replace(temporary, folder / NAME)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return folder / NAME


def load(folder: Path) -> Posterior:
    """The posterior that `save` wrote into the folder. Raises DataError PLM611."""
    from posterior_lm.posterior import Posterior

    path = folder / NAME if folder.is_dir() else folder
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
        if whole.get("format") != FORMAT:
            raise ValueError(f"its format is {whole.get('format')!r}, not {FORMAT!r}")
        certificate = whole["certificate"]
        log_weights, log_reward = _array(whole["log_weights"]), _array(whole["log_reward"])
        if log_weights is None or log_reward is None:
            raise ValueError("it has no weights")
        values = {
            name: tuple(Value(tuple(map(int, ids)), str(text), datum) for ids, text, datum in column)
            for name, column in whole["values"].items()
        }
        if any(len(column) != len(log_weights) for column in values.values()) or len(log_reward) != len(
            log_weights
        ):
            raise ValueError("its columns have different lengths")
        draws = Draws(
            values=values,
            log_weights=log_weights,
            log_reward=log_reward,
            method=str(whole["method"]),
            log_prob=_array(whole["log_prob"]),
            certificate=None
            if certificate is None
            else Certificate(
                float(certificate[0]),
                float(certificate[1]),
                bool(certificate[2]),
                int(certificate[3]),
                *certificate[4:6],
            ),
            reason=str(whole["reason"]),
            seconds=float(whole["seconds"]),
            # Posteriors saved by earlier versions have none of these.
            particles=_read_particles(whole.get("particles"), len(log_weights)),
            chains=_read_chains(whole.get("chains"), len(log_weights)),
            decoded=bool(whole.get("decoded", False)),
        )
        return Posterior(
            program=str(whole["program"]),
            fingerprint=str(whole["fingerprint"]),
            lm={alias: ModelIdentity(*fields) for alias, fields in whole["lm"].items()},
            draws=draws,
            seed=int(whole["seed"]),
            reason=str(whole["reason"]),
            types=dict(whole["types"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as problem:
        shown = problem.strerror if isinstance(problem, OSError) else f"{type(problem).__name__}: {problem}"
        raise DataError(error("PLM611", f"{path} is no saved posterior ({shown})", where=str(path))) from None
