"""A posterior on disk: one JSON file, written whole or not at all, and read field by field."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import attrs
import numpy as np
from attrs import frozen

from posterior_lm.infer.draws import (
    AnyNats,
    Chains,
    Count,
    Draws,
    EnumerationBound,
    MixtureReport,
    Nats,
    Respelled,
    SecondLook,
    SmcReport,
    Spread,
)
from posterior_lm.lang.diagnostics import DataError
from posterior_lm.lang.value_types import value_type
from posterior_lm.lm.protocol import ModelIdentity
from posterior_lm.storage import Stored, plain, read_object, refusing, structured, write_whole, writing_into
from posterior_lm.target.values import Value

FORMAT = "plm-posterior-1"
NAME = "posterior.json"

Size = Annotated[float, Stored(low=0.0)]


@frozen
class _Particles:
    least_ess: Size
    ancestors: Count
    resampled: Count
    variance: AnyNats
    origin: tuple[Count, ...] | None


@frozen
class _Chains:
    number: Annotated[int, Stored(low=1)]
    of_draw: tuple[Count, ...]
    rhat: tuple[Spread] | None
    bulk_ess: Size | None
    acceptance: Annotated[float, Stored(low=0.0, high=1.0)]


@frozen
class _Whole:
    """The object in the file; identities, values and the certificate stand there as lists."""

    format: str
    program: str
    fingerprint: str
    lm: Mapping[str, ModelIdentity]
    seed: Count
    reason: str
    types: Mapping[str, str]
    method: str
    seconds: Size
    values: Mapping[str, tuple[Value, ...]]
    log_weights: tuple[Nats, ...]
    log_reward: tuple[Nats, ...]
    log_prob: tuple[Nats, ...] | None
    certificate: EnumerationBound | None
    particles: _Particles | None
    chains: _Chains | None
    mixture: MixtureReport | None
    second_look: SecondLook | None
    respelled: tuple[Respelled, ...]
    decoded: bool
    parts: Count
    threads: Mapping[str, Mapping[str, Annotated[int, Stored(low=1)]]]
    notes: tuple[str, ...]


def save(folder: Path, draws: Draws, **more: Any) -> Path:
    """Write `posterior.json` into the folder, which is made where it is absent; returns its path.

    `more` are the fields of the posterior beside its draws. Raises DataError PLM612.
    """
    chains = draws.chains
    whole = {
        "format": FORMAT,
        **more,
        "lm": {alias: attrs.astuple(model) for alias, model in more["lm"].items()},
        "method": draws.method,
        "seconds": draws.seconds,
        "values": {name: [(v.ids, v.text, v.datum) for v in column] for name, column in draws.values.items()},
        "log_weights": draws.log_weights,
        "log_reward": draws.log_reward,
        "log_prob": draws.log_prob,
        "certificate": draws.certificate and attrs.astuple(draws.certificate),
        "particles": draws.particles,
        "chains": chains and {**attrs.asdict(chains), "rhat": None if chains.rhat is None else [chains.rhat]},
        "decoded": draws.decoded,
    }
    for name in ("threads", "notes"):  # a posterior of before stated none
        if not whole[name]:
            del whole[name]
    if draws.mixture is not None:  # what was saved before there were mixtures is saved again as it was
        whole["mixture"] = draws.mixture
    if draws.second_look is not None:
        whole["second_look"] = draws.second_look
    if draws.respelled:
        whole["respelled"] = draws.respelled
    if draws.parts:
        whole["parts"] = draws.parts
    text = json.dumps(plain(whole, named=True), ensure_ascii=False, allow_nan=False)
    with writing_into(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / NAME, text.encode())
    return folder / NAME


def load(folder: Path) -> dict[str, Any]:
    """The fields of the posterior that `save` wrote into the folder. Raises DataError PLM611."""
    path = folder / NAME if os.path.isdir(folder) else folder

    def refuse(why: str) -> DataError:
        return DataError.of("PLM611", f"{path} is no saved posterior: {why}", where=str(path))

    with refusing(refuse):
        found = read_object(path)
        if found.get("format") != FORMAT:
            raise ValueError(f"its format is {found.get('format')!r}, not {FORMAT!r}")
        # Posteriors saved by earlier versions have none of these.
        absent = {"particles": None, "chains": None, "mixture": None, "second_look": None, "respelled": ()}
        found = {**absent, "decoded": False, "parts": 0, "threads": {}, "notes": (), **found}
        known = {f.name for f in attrs.fields(_Whole)}
        whole = structured(_Whole, {name: value for name, value in found.items() if name in known})
        kept = ("program", "fingerprint", "lm", "seed", "reason", "types", "threads", "notes")
        return {"draws": _draws(whole), **{name: getattr(whole, name) for name in kept}}


_DATA: Mapping[str, type] = {"text": str, "int": int, "real": float, "bool": bool}
"""What the values of a latent are, by the kind of its type."""


def _draws(whole: _Whole) -> Draws:
    """Raises ValueError where columns have different lengths, or what must agree does not."""
    n, particles, chains = len(whole.log_weights), whole.particles, whole.chains
    origin = None if particles is None else particles.origin
    of_draw = None if chains is None else chains.of_draw
    columns = {
        "log_reward": whole.log_reward, "log_prob": whole.log_prob, "particles.origin": origin,
        "chains.of_draw": of_draw, **{f"values.{name}": column for name, column in whole.values.items()},
    }  # fmt: skip
    for name, column in columns.items():
        if column is not None and len(column) != n:
            raise ValueError(f"`{name}` has {len(column)} entries, and `log_weights` {n}")
    if not any(map(math.isfinite, whole.log_weights)):
        raise ValueError("`log_weights` has none above zero")
    for name, values in whole.values.items():
        if any(min(value.ids, default=0) < 0 for value in values):
            raise ValueError(f"`values.{name}` has a token below 0")
        kind = _DATA.get(value_type(whole.types.get(name, "")).kind, object)
        # What no branch took has no tokens; a list's end, at one of its places, has them.
        odd = next((k for k, v in enumerate(values) if v.datum is None and v.ids), None)
        if odd is not None and kind is not str and not name.endswith("]"):
            raise ValueError(f"`values.{name}[{odd}].datum` is null, and it has tokens")
        held = [(k, value) for k, value in enumerate(values) if value.datum is not None]
        odd = next((k for k, value in held if kind not in (type(value.datum), object)), None)
        if odd is not None:
            raise ValueError(f"`values.{name}[{odd}].datum` is no value of the type {whole.types[name]}")
    if origin is not None and max(origin) >= n:
        raise ValueError(f"`particles.origin` has {max(origin)}, and there are {n} particles")
    mixture = whole.mixture
    if mixture is not None and (len(mixture.names) != len(mixture.shares) or mixture.pilot >= n):
        raise ValueError("`mixture` has a share too many or too few, or a pilot of all draws")
    if chains is not None and max(chains.of_draw) >= chains.number:
        raise ValueError(f"`chains.of_draw` has {max(chains.of_draw)}, and there are {chains.number} chains")
    return Draws(
        values=whole.values,
        log_weights=np.array(whole.log_weights),
        log_reward=np.array(whole.log_reward),
        method=whole.method,
        log_prob=None if whole.log_prob is None else np.array(whole.log_prob),
        certificate=whole.certificate,
        reason=whole.reason,
        seconds=whole.seconds,
        particles=None
        if particles is None
        else SmcReport(**{**attrs.asdict(particles), "origin": origin and np.array(origin)}),
        chains=None
        if chains is None
        else Chains(
            chains.number,
            np.array(chains.of_draw),
            None if chains.rhat is None else chains.rhat[0],
            chains.bulk_ess,
            chains.acceptance,
        ),
        mixture=whole.mixture,
        second_look=whole.second_look,
        respelled=whole.respelled,
        decoded=whole.decoded,
        parts=whole.parts,
    )
