"""The policy as a guide: the adapted model draws each latent after what its guide reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from attrs import field, frozen

from posterior_lm.amortize.adapter import Adapter
from posterior_lm.amortize.paths import Path, path_maker
from posterior_lm.amortize.reading import Reading, readings_of
from posterior_lm.amortize.teacher import score_paths
from posterior_lm.infer.choose import Follow
from posterior_lm.infer.contexts import contexts_of
from posterior_lm.infer.guide import PriorGuide
from posterior_lm.infer.rollout import TextWalk
from posterior_lm.infer.walk import Walk, finished
from posterior_lm.lm.transformers import TransformersModel
from posterior_lm.support.base import Ending
from posterior_lm.target.target import LatentInfo, Target
from posterior_lm.target.values import Values, count


@frozen(eq=False)
class PolicyGuide(PriorGuide):
    """Draws from an adapter under the supports of a target; latents without a reading keep their prior.

    `exponent` below 1 flattens every step, above 1 sharpens it; 1 is the policy itself.
    """

    model: TransformersModel = field(kw_only=True)
    """The adapted model, as `Adapter.model` gives it."""
    readings: Mapping[str, Reading] = field(kw_only=True)
    exponent: float = field(kw_only=True, default=1.0)

    @classmethod
    def of(cls, target: Target, adapter: Adapter, *, exponent: float = 1.0) -> PolicyGuide:
        return cls(target, model=adapter.model(), readings=readings_of(target), exponent=exponent)

    @property
    def name(self) -> str:
        return "the policy"

    def _finite(self, info: LatentInfo, drawn: Values, n: int, alive: np.ndarray | None = None) -> Walk:
        if info.name in self.readings:
            return self._text(info, drawn, n, alive=alive)
        return PriorGuide._finite(self, info, drawn, n, alive)

    def _text(self, info: LatentInfo, drawn: Values, n: int, **options: Any) -> Walk:
        reading = self.readings[info.name]
        contexts, shared = contexts_of(self.target, reading.lm, reading.pieces, drawn, n)
        ending: Ending = "stop" if info.support.ending == "stop" else "eos"
        return TextWalk.begin(
            self.model, contexts, info.support, exponent=self.exponent, shared=shared, ending=ending,
            **options,
        )  # fmt: skip

    def log_prob(self, values: Values) -> np.ndarray:
        """(N,) float64 nats; −inf for a value outside the supports."""
        n = count(values)
        if self.exponent != 1.0:
            return PriorGuide.log_prob(self, values)
        inside = np.ones(n, dtype=bool)
        for info in self.target.latents:
            inside &= [info.support.accepts(v.ids) for v in values[info.name]]
        rows = [int(d) for d in np.flatnonzero(inside)]
        total = np.full(n, -np.inf)
        if len(rows):
            kept = {name: [column[d] for d in rows] for name, column in values.items()}
            total[rows] = self._inside(kept, len(rows))
        return total

    def _inside(self, values: Values, n: int) -> np.ndarray:
        total = np.zeros(n)
        for info, paths in paths_of(self.target, self.readings, values, n):
            if paths is None:
                drawn = {k: values[k] for k in self.target.names[: self.target.names.index(info.name)]}
                follow = Follow([v.ids for v in values[info.name]])
                total += finished(PriorGuide._finite(self, info, drawn, n), follow).log_q
                continue
            with torch.inference_mode():
                total += score_paths(self.model, paths).log_prob.cpu().numpy()
        return total


def paths_of(
    target: Target, readings: Mapping[str, Reading], values: Values, n: int
) -> list[tuple[LatentInfo, list[Path] | None]]:
    """For each latent the paths of its N values after what the guide reads; None for one that it does not draw."""
    found: list[tuple[LatentInfo, list[Path] | None]] = []
    drawn: dict[str, Sequence] = {}
    for info in target.latents:
        reading = readings.get(info.name)
        if reading is None:
            found.append((info, None))
        else:
            contexts, _ = contexts_of(target, reading.lm, reading.pieces, drawn, n)
            make = path_maker(info.support)
            found.append((info, [make(c, v.ids) for c, v in zip(contexts, values[info.name], strict=True)]))
        drawn[info.name] = values[info.name]
    return found
