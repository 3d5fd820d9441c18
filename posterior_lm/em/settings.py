"""What EM is told: how many rounds, how long each step, and the settings of the E-step's fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import field, fields, frozen

from posterior_lm.infer.methods import OBJECTIVES
from posterior_lm.lang.diagnostics import meant
from posterior_lm.storage import plain
from posterior_lm.train.settings import FitSettings, checked, with_new_names, wrong
from posterior_lm.train.settings import settings_of as fit_settings_of

OWN_OF_FIT = ("steps", "budget", "held_out", "seed", "checkpoint_every")
"""Settings of a fit that EM has in its own way; the others belong to the E-step."""


@frozen(kw_only=True)
class EmSettings:
    """Every setting of EM; all are stored with the result.

    Raises InferenceError PLM802 for an unknown name or a value out of range, by `settings_of`.
    """

    rounds: int = field(default=5, metadata={"low": 0})
    """M-steps at most; each is followed by an E-step. 0: an E-step alone, which fits the guide."""
    patience: int = field(default=2, metadata={"low": 1})
    """Rounds without a better held-out bound after which EM ends."""
    budget: float | None = field(default=None, metadata={"low": 0, "above": True})
    """Seconds of the whole run. None: no limit."""
    e_steps: int = field(default=100, metadata={"low": 1})
    """Steps of each E-step; every one goes on from the guide of the last."""
    m_steps: int = field(default=100, metadata={"low": 1})
    """Gradient steps of each M-step at most; it ends where Q of held-out rows no longer rises."""
    m_rate: float = field(default=1e-3, metadata={"low": 0, "above": True})
    """Learning rate of an M-step; AdamW, without decay."""
    m_rank: int = field(default=8, metadata={"low": 1})
    """Of the adapter that the M-step trains."""
    m_targets: tuple[str, ...] = ()
    """Last names of the layers that it adapts; () for every linear layer but the head."""
    m_rows: int = field(default=32, metadata={"low": 1})
    """Rows of one gradient step."""
    m_draws: int = field(default=4, metadata={"low": 1})
    """Draws of each of these rows, drawn anew by their weights from `bound_draws`."""
    bound_rows: int = field(default=256, metadata={"low": 1})
    """Rows of a round at most, for its bound and its M-step: another part of them each round."""
    bound_draws: int = field(default=64, metadata={"low": 2})
    """Draws of each of these rows."""
    train: str | None = None
    """The alias of the model whose observed terms are trained, where the program observes with several."""
    train_prior: bool = False
    """Whether the latents' own terms are trained too."""
    held_out: int = field(default=16, metadata={"low": 0})
    """Rows kept from both steps, at most a fifth of all."""
    seed: int = field(default=0, metadata={"low": 0})
    fit: FitSettings = field(factory=FitSettings)
    """Of the E-step."""

    def to_json(self) -> dict[str, Any]:
        """Every setting by name, as JSON values; those of the E-step under `fit`."""
        whole: dict[str, Any] = plain(self)
        return {**whole, "fit": {k: v for k, v in whole["fit"].items() if k not in OWN_OF_FIT}}


def settings_of(options: Mapping[str, object]) -> EmSettings:
    """Settings from options by name, those of the E-step's fit among them. Raises InferenceError PLM802."""
    known = {f.name: f for f in fields(EmSettings) if f.name != "fit"}
    of_fit = {f.name for f in fields(FitSettings)} - set(OWN_OF_FIT)
    own: dict[str, Any] = {}
    fit: dict[str, object] = {}
    for name, value in with_new_names(options).items():
        if name == "train" and not (value is None or isinstance(value, str)):
            raise wrong(f"`train` is the alias of a model, not {value!r}")
        if name == "train_prior" and not isinstance(value, bool):
            raise wrong(f"`train_prior` is true or false, not {value!r}")
        if name in known:
            own[name] = value if name in ("train", "train_prior") else checked(name, value, known[name])
        elif name in of_fit:
            fit[name] = value
        else:
            hint = meant(name, {*known, *of_fit}, f"its own settings are {', '.join(known)}")
            hint = "did you mean `e_steps`?" if name == "steps" else hint
            raise wrong(f"EM has no setting `{name}`", hint)
    found = fit_settings_of(fit)
    if OBJECTIVES[found.objective].peer:
        raise wrong(f"`{found.objective}` does not draw from the posterior, as an E-step has to")
    return EmSettings(**own, fit=found)
