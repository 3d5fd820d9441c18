"""How particles draw one latent: what a guide must offer, and the chooser that weighs and drops them on the way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from attrs import define

from posterior_lm.infer.choose import Chooser
from posterior_lm.infer.particles import Swarm
from posterior_lm.infer.twists import Twist
from posterior_lm.target.target import LatentInfo
from posterior_lm.target.values import Values


@runtime_checkable
class StepGuide(Protocol):
    """A guide that draws one latent at a time, after values of those before it, by any chooser."""

    @property
    def name(self) -> str: ...

    def latent(
        self, info: LatentInfo, drawn: Values, n: int, choose: Chooser
    ) -> tuple[list[tuple[int, ...]], np.ndarray]:
        """Tokens of N values of one latent, and their log probability (N,), nats."""
        ...

    def is_prior(self, info: LatentInfo) -> bool:
        """Whether log q + Σ log of the mass that was allowed is the log of the latent's own term."""
        ...


@define(eq=False)
class Steered:
    """How the particles of a swarm draw one latent."""

    swarm: Swarm
    info: LatentInfo
    twists: Sequence[Twist]
    weighs: bool
    """Whether the mass of each choice belongs to the weight."""
    scores_forced: bool

    @property
    def tells_the_prior(self) -> bool:
        """Whether log q + Σ log mass holds all of a value's own term, its end included."""
        ending = self.info.support.ending
        return ending in ("stop", "value") or (ending == "eos" and self.scores_forced)

    def tokens(self, draws: np.ndarray, point: np.ndarray, step: int, probs: np.ndarray) -> np.ndarray:
        return self.swarm.chance.tokens(draws, point, step, probs)

    def values(self, draws: np.ndarray, probs: np.ndarray, ids: Sequence[tuple[int, ...]]) -> np.ndarray:
        return self.swarm.chance.values(draws, probs, ids)

    def alive(self) -> np.ndarray:
        return self.swarm.alive

    def before(self, draws: np.ndarray, log_mass: np.ndarray) -> np.ndarray | None:
        self.swarm.mass[draws] += log_mass
        if self.weighs:
            self.swarm.log_ratio[draws] += log_mass
        return self.swarm.resample()

    def after(
        self, prefixes: Sequence[tuple[int, ...]], ended: Sequence[bool], draws: Sequence[np.ndarray]
    ) -> None:
        # Draws at one prefix may differ in latents that the prefix does not read.
        values = self.swarm.values
        places: dict[tuple, list[int]] = {}
        for u, mine in enumerate(draws):
            for d in mine.tolist():
                places.setdefault((u, *(column[d].ids for column in values.values())), []).append(d)
        if not places:
            return
        at = [key[0] for key in places]
        first = [group[0] for group in places.values()]
        earlier = {name: [column[d] for d in first] for name, column in values.items()}
        total = np.zeros(len(places))
        for twist in self.twists:
            total = total + twist(
                self.info, [prefixes[u] for u in at], np.array([ended[u] for u in at]), earlier
            )
        for log_psi, group in zip(total, places.values(), strict=True):
            if np.isneginf(log_psi):
                self.swarm.kill(np.array(group))
            else:
                self.swarm.twist[group] = log_psi
