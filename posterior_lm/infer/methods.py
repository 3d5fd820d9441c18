"""The methods of inference and the objectives of a fit, by name: what each takes, and where it is made.

Data only. The language checks `infer m(…)` against this table, and the command line, `auto`,
`compare`, `calibrate` and a fit look a name up here and nowhere else. What a method does is
its `Backend` (`infer/base.py`), in the method's own file; it is named as "module:attribute"
and imported when it is run, so that checking a program loads no algorithm.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from attrs import field, frozen

AUTO = "auto"
"""The method that chooses one of the others."""
EXACT = "exact"
"""The method that others are held against."""
MIXTURE = "mixture"
"""The method that draws from the prior and from a policy at once."""
AMORTIZED = "gflownet"
"""The method that draws from what a fit trained; its options are settings of the fit too."""
DRAWS = 1000
"""Draws where neither the caller nor the method says how many."""


@frozen(kw_only=True)
class OptionType:
    """One option: what kind of value it takes, its bounds, and its default; kinds as in `lang/signatures.py`."""

    kind: str
    _choices: tuple[str, ...] | Callable[[], tuple[str, ...]] = ()
    low: float | None = None
    high: float | None = None
    default: str | int | float | bool | None = None
    file: bool = False
    """Whether it names a file; in a program its path starts at the program's folder."""
    about: str = ""

    @property
    def choices(self) -> tuple[str, ...]:
        """The texts that a `choice` may be."""
        return self._choices() if callable(self._choices) else self._choices


@frozen(kw_only=True)
class _Entry:
    """A name, one line on it, and what it stands for: "module:attribute", or the object itself."""

    name: str
    about: str
    backend: Any

    def load(self) -> Any:
        """What the entry stands for, imported now."""
        if not isinstance(self.backend, str):
            return self.backend
        module, _, attribute = self.backend.partition(":")
        return getattr(import_module(module), attribute)


@frozen(kw_only=True)
class Method(_Entry):
    """A method of inference: its options, and what others have to know of it before it is run.

    `backend` is a `Backend`; that of `auto` is never asked for.
    """

    options: Mapping[str, OptionType] = field(factory=dict)
    auto: int = 0
    """Its place among those that `auto` asks whether they apply, the lowest first; 0: it is not asked."""
    evidence: bool = False
    """Whether its draws say what the log evidence is."""
    decoder: bool = False
    """Whether it says what a model decodes, which are no draws from the posterior."""
    proposes: bool = False
    """Whether it draws from a guide, such as a policy, and weighs or corrects what it drew."""
    needs_policy: bool = False
    """Whether it is nothing without a policy."""
    counts: str = "n"
    """The option that says how many draws there are."""
    former: Mapping[str, str] = field(factory=dict)
    """Options by the names of the release before, which still serve, and what they are called now."""

    def draws(self, options: Mapping[str, object]) -> int:
        """How many draws these options ask for; by default as many as the table says, else 1000."""
        known = self.options.get(self.counts)
        default = DRAWS if known is None or known.default is None else known.default
        return int(str(options.get(self.counts, default)))


@frozen(kw_only=True)
class Objective(_Entry):
    """What a policy is trained by.

    `backend` makes the loss (`train/objectives.py`), from those settings of a fit that are
    named like its arguments. That of a peer, which is trained otherwise and does not draw from
    the posterior, makes the trainer: (inputs, rows, numbers, adapter, settings, world) -> Trainer.
    """

    source: str = ""
    """Where the formula is from."""
    needs_prefixes: bool = False
    """Whether it compares the rewards of stopping early, which not every program has."""
    peer: bool = False


METHODS: dict[str, Method] = {}
OBJECTIVES: dict[str, Objective] = {}


def register(entry: Method | Objective) -> None:
    """Add an entry to its table. Raises ValueError for a name that is taken."""
    table: dict[str, Any] = METHODS if isinstance(entry, Method) else OBJECTIVES
    if entry.name in table:
        what = "a method" if isinstance(entry, Method) else "an objective"
        raise ValueError(f"there is {what} `{entry.name}` already")
    table[entry.name] = entry


def losses() -> tuple[str, ...]:
    """The objectives that are zero where a policy draws from the posterior: all but the peers."""
    return tuple(name for name, one in OBJECTIVES.items() if not one.peer)


def renamed(options: Mapping[str, object], former: Mapping[str, str]) -> dict[str, object]:
    """The options by the names that they have now, each old one with a DeprecationWarning; of two the later holds."""
    found: dict[str, object] = {}
    for name, value in options.items():
        if name in former:
            warnings.warn(f"`{name}` is now called `{former[name]}`", DeprecationWarning, stacklevel=3)
        found[former.get(name, name)] = value
    return found


_BUDGET = OptionType(kind="number", low=0, about="seconds after which to stop")
_N = OptionType(kind="int", low=1, default=DRAWS, about="number of draws")
_FEW = OptionType(kind="int", low=1, default=10, about="number of values, best first")
_TEMPERATURE = OptionType(kind="number", low=0.01, default=1.0, about="divides the logits of every token")
_PROPOSAL = OptionType(kind="choice", default="prior", choices=("prior", "guide"),
                       about="draw from the latents' own distributions, or from their guides")  # fmt: skip
_MASKED = OptionType(kind="bool", default=True, about="inside the support; without, texts may be invalid")
_BEAMS = OptionType(kind="int", low=1, about="side by side; n where not given")
_BY_CHANCE = {"temperature": _TEMPERATURE, "proposal": _PROPOSAL, "masked": _MASKED, "budget": _BUDGET}

for _entry in (
    Method(name=AUTO, about="exact where it is small enough, else importance", backend="",
           options={"n": _N, "budget": _BUDGET}, evidence=True),
    Method(name=EXACT, about="best-first enumeration with a certificate",
           backend="posterior_lm.infer.exact:BACKEND", auto=10, evidence=True, options={
        "mass": OptionType(kind="number", low=0, high=1, default=0.999,
                           about="posterior mass to cover before stopping"),
        "values": OptionType(kind="int", low=1, default=2000,
                             about="values to list at most; all of a small support"),
        "budget": _BUDGET,
    }),
    Method(name="importance", about="weighted draws from the guide or the prior",
           backend="posterior_lm.infer.importance:BACKEND", auto=40, evidence=True, proposes=True,
           options={"n": _N, "proposal": _PROPOSAL, "budget": _BUDGET}),
    Method(name="smc", about="weighted draws, resampled between tokens and between latents",
           backend="posterior_lm.infer.smc:BACKEND", auto=30, evidence=True, proposes=True, counts="particles",
           options={
        "particles": _N,
        "threshold": OptionType(kind="number", low=0, high=1, default=0.5,
                                about="resample where ESS falls below this part"),
        "resample": OptionType(kind="choice", default="systematic",
                               choices=("systematic", "stratified", "residual", "multinomial")),
        "proposal": _PROPOSAL,
        "look_ahead": OptionType(kind="number", low=0, high=1, default=0.0,
                                 about="power of what is observed after a text, before the text is whole"),
        "budget": _BUDGET,
    }),
    Method(name="mcmc", about="Markov chains over values", backend="posterior_lm.infer.mcmc:BACKEND",
           proposes=True, options={
        "n": OptionType(kind="int", low=1, default=DRAWS, about="number of draws that are kept"),
        "steps": OptionType(kind="int", low=1, default=1000, about="moves of each chain"),
        "chains": OptionType(kind="int", low=1, default=8, about="side by side"),
        "warmup": OptionType(kind="number", low=0, high=0.9, default=0.25,
                             about="share of the moves that is thrown away"),
        "move": OptionType(kind="choice", default="mixed", choices=("mixed", "suffix", "independence"),
                           about="redraw the end of a text, or everything, or either"),
        "budget": _BUDGET,
    }),
    Method(name=MIXTURE, about="weighted draws from the prior and a policy together",
           backend="posterior_lm.infer.mixture:BACKEND", auto=20, evidence=True, proposes=True, needs_policy=True,
           options={"n": _N, "budget": _BUDGET}),
    Method(name=AMORTIZED, about="draws from a policy that `plm fit` trained",
           backend="posterior_lm.infer.importance:BACKEND", evidence=True, proposes=True,
           needs_policy=True,
           former={"compile": "sleep", "rate": "learning_rate", "balance_rate": "balance_learning_rate"},
           options={
        "n": _N,
        "objective": OptionType(kind="choice", default="vargrad", choices=losses),
        "lam": OptionType(kind="number", low=0, high=1, default=1.0, about="lambda of subtb"),
        "rank": OptionType(kind="int", low=1, default=32, about="of the adapter"),
        "targets": OptionType(kind="text", about="names of the layers to adapt; every linear one"),
        "steps": OptionType(kind="int", low=1, about="of training; 300, or 600 where rows are listed"),
        "budget": _BUDGET,
        "sleep": OptionType(kind="number", low=0, high=1,
                              about="share of the steps spent on simulated pairs; 0.5, or 0.9 where rows are listed"),
        "pairs": OptionType(kind="int", low=1, default=128, about="simulated pairs a step"),
        "scope": OptionType(kind="choice", choices=("rows", "program"),
                            about="what the policy is for; the rows where they are fewer than 32"),
        "rows": OptionType(kind="int", low=1, about="data rows a step of balancing; 16, or 4 for a policy of its rows"),
        "draws": OptionType(kind="int", low=2,
                            about="draws of each of these rows; 16, or 256 of a step for a policy of its rows"),
        "tempered": OptionType(kind="number", low=0, high=1, default=0.25,
                               about="share of the draws from a flattened policy"),
        "replayed": OptionType(kind="number", low=0, high=1, default=0.25,
                               about="share of the draws from the replay buffer"),
        "reward_temperature": OptionType(kind="number", low=1,
                                         about="where the reward's temperature begins"),
        "learning_rate": OptionType(kind="number", low=0, about="on pairs; 0.004, less for a model larger than tiny"),
        "balance_learning_rate": OptionType(kind="number", low=0, about="on rows; 0.001, less for a larger model"),
        "seed": OptionType(kind="int", low=0, default=0),
    }),
    Method(name="prompting", about="what the model says after what the guides read", decoder=True,
           backend="posterior_lm.decode.decoders:PROMPTING",
           options={"n": _N, "temperature": _TEMPERATURE, "masked": _MASKED, "budget": _BUDGET}),
    Method(name="few_shot", about="prompting after solved examples", decoder=True,
           backend="posterior_lm.decode.decoders:FEW_SHOT", options={
        "n": _N,
        "examples": OptionType(kind="nonempty", file=True, about="a file of rows that hold known latents"),
        "shots": OptionType(kind="int", low=1, default=3, about="solved examples before what the guides read"),
        "temperature": _TEMPERATURE, "masked": _MASKED, "budget": _BUDGET,
    }),
    Method(name="greedy", about="the likeliest token, again and again", decoder=True,
           backend="posterior_lm.decode.decoders:GREEDY",
           options={"proposal": _PROPOSAL, "masked": _MASKED}),
    Method(name="ancestral", about="token by token, at a token temperature", decoder=True,
           backend="posterior_lm.decode.decoders:ANCESTRAL", options={"n": _N, **_BY_CHANCE}),
    Method(name="nucleus", about="token by token, of the likeliest with mass p", decoder=True,
           backend="posterior_lm.decode.decoders:NUCLEUS", options={
        "n": _N,
        "p": OptionType(kind="number", low=0.01, high=1, default=0.95, about="mass of the likeliest tokens"),
        **_BY_CHANCE,
    }),
    Method(name="top_k", about="token by token, of the k likeliest", decoder=True,
           backend="posterior_lm.decode.decoders:TOP_K", options={
        "n": _N, "k": OptionType(kind="int", low=1, default=50, about="likeliest tokens"), **_BY_CHANCE,
    }),
    Method(name="beam", about="the best of several beams by log probability", decoder=True,
           backend="posterior_lm.decode.decoders:BEAM",
           options={"n": _FEW, "beams": _BEAMS, "proposal": _PROPOSAL, "masked": _MASKED}),
    Method(name="diverse_beam", about="beams in groups that keep apart", decoder=True,
           backend="posterior_lm.decode.decoders:DIVERSE_BEAM", options={
        "n": _FEW, "beams": _BEAMS,
        "groups": OptionType(kind="int", low=1, about="of beams; as many as beams where not given"),
        "penalty": OptionType(kind="number", low=0, default=1.0,
                              about="nats for a token that another group took at the same step"),
        "proposal": _PROPOSAL, "masked": _MASKED,
    }),
    Objective(name="vargrad", about="whole draws of one row, with each other",
              source="Richter et al. 2020; Zhang et al. 2023",
              backend="posterior_lm.train.objectives:VarGrad"),
    Objective(name="tb", about="whole draws, with a learned log evidence of their row",
              source="Malkin et al. 2022", backend="posterior_lm.train.objectives:TrajectoryBalance"),
    Objective(name="subtb", about="all pairs of end points of one draw, near ones more for lam below 1",
              source="Madan et al. 2023; Hu et al. 2024", needs_prefixes=True,
              backend="posterior_lm.train.objectives:SubTrajectoryBalance"),
    Objective(name="db", about="neighbouring end points of one draw",
              source="Bengio et al. 2023; Deleu et al. 2022", needs_prefixes=True,
              backend="posterior_lm.train.objectives:DetailedBalance"),
    Objective(name="sft", about="maximum likelihood of known values", peer=True,
              backend="posterior_lm.train.sft:trainer"),
    Objective(name="ppo", about="the highest log reward, by PPO without a critic", source="Schulman et al. 2017",
              peer=True, backend="posterior_lm.train.ppo:trainer"),
    Objective(name="rloo", about="the least reverse KL, by REINFORCE with the other draws as a baseline",
              source="Kool et al. 2019; Ahmadian et al. 2024", peer=True, backend="posterior_lm.train.own_draws:rloo"),
    Objective(name="wake", about="the least forward KL, by the policy's own weighted draws",
              source="Bornschein & Bengio 2015; Le et al. 2019", peer=True,
              backend="posterior_lm.train.own_draws:wake"),
):  # fmt: skip
    register(_entry)
