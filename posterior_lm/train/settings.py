"""What a fit is told: the adapter, the objective, how much of what is drawn, for how long.

The defaults were chosen on `tiny` and the targets of `benchmarks/targets.py`; the
page `benchmarks/README.md` has their figures.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import evolve, field, fields, frozen

from posterior_lm.infer.methods import AMORTIZED, METHODS, OBJECTIVES, renamed
from posterior_lm.lang.diagnostics import InferenceError, meant, shown
from posterior_lm.lang.values import is_number
from posterior_lm.storage import plain

MANY = 100
"""Listed rows that are enough to learn from by themselves."""
FEW = 32
"""Rows below which a policy is for them, not for the program: too few to learn, or to show, how others are answered."""
TOGETHER, AT_ONCE = 256, 4
"""Draws of a balancing step, and the rows that share them where a policy is for its rows: with fewer draws a row
its evidence is guessed, and the gradient is noise."""
SEEDS = 256
"""Draws of a row without a policy that its replay buffer begins with, where a policy is for its rows."""
TRIAL = 1 / 50
"""Share of the training of one trial."""
CHOSEN = ("sleep", "learning_rate", "balance_learning_rate")
"""Settings that nothing is tried for where one of them is stated."""
RATES = {"learning_rate": 4e-3, "balance_learning_rate": 1e-3}
"""Of models as small as `tiny`."""
ENDLESS = 1_000_000
"""Steps where a budget ends the training."""
SCOPES = ("rows", "program")


@frozen(kw_only=True)
class FitSettings:
    """Every setting of a fit; all of them are stored with the policy.

    Raises InferenceError PLM802 for an unknown name or a value out of range, by `settings_of`.
    """

    rank: int = field(default=32, metadata={"low": 1})
    """Of the LoRA adapter."""
    alpha: float | None = field(default=None, metadata={"low": 0, "above": True})
    """Scale of the adapter; twice the rank where None."""
    targets: tuple[str, ...] = ()
    """Last names of the layers to adapt; () for every linear layer but the head."""
    scope: str | None = None
    """What the policy is for: these `rows`, or any row of the `program`. None: the rows where they are fewer than `FEW`."""
    start: str | None = None
    """Folder of a policy of the same model whose weights the training begins with."""
    objective: str = "vargrad"
    lam: float = field(default=1.0, metadata={"low": 0, "above": True, "high": 1})
    """λ of `subtb`."""
    clip: float = field(default=2.0, metadata={"low": 0, "above": True})
    """Nats at which the residual of one draw stops to count for more."""
    steps: int | None = field(default=None, metadata={"low": 1})
    """None: as many as a budget holds; without one 300, or 600 where the posteriors of rows are listed, since such a
    step is cheap."""
    budget: float | None = field(default=None, metadata={"low": 0, "above": True})
    """Seconds after which training ends; the schedules then end with it. None: no limit."""
    sleep: float | None = field(default=None, metadata={"low": 0, "high": 1})
    """Share of the steps spent on simulated pairs, where the program can be simulated, and on listed rows.
    None: 0.5, or 0.9 where the posteriors of rows are listed."""
    listed: float | None = field(default=None, metadata={"low": 0, "high": 1})
    """Share of these steps spent on rows whose posterior can be listed, where a short list holds nearly all of
    the prior; all of them where nothing can be simulated. None: 1, or 0.5 of fewer than `MANY` rows, which
    alone would be learnt by heart; a policy of its rows is shown a list that leaves nothing out, and no other."""
    pairs: int = field(default=128, metadata={"low": 1})
    """Simulated pairs a step."""
    rows: int | None = field(default=None, metadata={"low": 1})
    """Data rows a step of balancing. None: 16, or `AT_ONCE` for a policy of its rows."""
    draws: int | None = field(default=None, metadata={"low": 2})
    """Draws of each of these rows. None: 16, or for a policy of its rows so many that a step has `TOGETHER`, fewer
    where a budget would not hold enough steps."""
    tempered: float = field(default=0.25, metadata={"low": 0, "high": 1})
    """Share of the draws made from a flattened policy."""
    replayed: float = field(default=0.25, metadata={"low": 0, "high": 1})
    """Share of the draws taken from the replay buffer."""
    unguided: float | None = field(default=None, metadata={"low": 0, "high": 1})
    """Share of the draws that the frozen model makes after the latents' own contexts, so that a mode which the policy
    has left comes back. None: 0.25 for a policy of its rows, else 0."""
    forward: float | None = field(default=None, metadata={"low": 0})
    """Weight, at the beginning, of the likelihood of replayed draws by their rewards; it falls to 0 at the end of the training.
    None: 1 for a policy of its rows, else 0."""
    simulated: float | None = field(default=None, metadata={"low": 0, "high": 1})
    """Share of a balancing step's rows that are simulated anew, where the simulation is exact. None: 0.5, or 0
    after a sleep phase of nothing but listed rows."""
    flattest: float = field(default=0.7, metadata={"low": 0.05, "high": 1})
    """Tempered draws have an exponent between this and 1."""
    reward_temperature: float | None = field(default=None, metadata={"low": 1})
    """Where the temperature of the reward begins; it reaches 1 after `anneal` of the balancing steps.
    None: 1 after an exact sleep phase, which it would undo, else 1.5."""
    anneal: float = field(default=0.3, metadata={"low": 0, "high": 1})
    trial: float | None = field(default=None, metadata={"low": 0, "high": 0.1})
    """Share of the training of one trial of a source or a rate (`trials.py`); 0: nothing is tried. None: a fiftieth, or 0
    where `sleep` or a rate is stated."""
    learning_rate: float | None = field(default=None, metadata={"low": 0, "above": True})
    """Highest learning rate on simulated pairs; AdamW. None: `RATES`, less for a larger model (`Adapter.scale`)."""
    balance_learning_rate: float | None = field(default=None, metadata={"low": 0, "above": True})
    """The same on rows."""
    warmup: int = field(default=10, metadata={"low": 0})
    gradient_norm: float = field(default=1.0, metadata={"low": 0, "above": True})
    """Gradients are scaled down to this norm."""
    seeds: int | None = field(default=None, metadata={"low": 0})
    """Draws of sequential Monte Carlo without a policy that a row's replay buffer begins with; None: 32 where the
    program cannot be simulated as it stands, up to `SEEDS` for a policy of its rows, else 0."""
    capacity: int | None = field(default=None, metadata={"low": 1})
    """Draws that the replay buffer keeps of a row. None: 64, or four times `SEEDS` for a policy of its rows."""
    capacity_total: int = field(default=1 << 17, metadata={"low": 1})
    max_batch_tokens: int = field(default=1 << 14, metadata={"low": 64})
    """Token columns of one forward pass; halved when memory runs out."""
    held_out: int = field(default=8, metadata={"low": 0})
    """Rows kept from training for the certificate, at most a fifth of all."""
    certify_draws: int = field(default=200, metadata={"low": 10})
    certify_rows: int = field(default=32, metadata={"low": 0})
    """Simulated rows in the certificate."""
    checkpoint_every: int = field(default=50, metadata={"low": 1})
    kl: float = field(default=0.05, metadata={"low": 0})
    """Of `ppo`: the price in reward of a nat of log q above the frozen model's; 0 maximises the reward alone."""
    epochs: int = field(default=2, metadata={"low": 1})
    """Of `ppo`: how often the draws of a step are gone through."""
    ratio: float = field(default=0.2, metadata={"low": 0, "above": True, "high": 1})
    """Of `ppo`: how far from 1 a ratio of probabilities still counts."""
    seed: int = field(default=0, metadata={"low": 0})

    def scope_of(self, count: int) -> str:
        """What a policy of so many rows is for: the program, too, where simulated pairs are asked for."""
        if self.scope is not None:
            return self.scope
        general = count >= FEW or OBJECTIVES[self.objective].peer or self.sleep or self.simulated
        return "program" if general else "rows"

    def resolved(self, *, exact: bool, listed: int = 0, rows: int = 0) -> Resolved:
        """With values for what is None: `exact` says whether an exact sleep phase comes first, `listed` of
        how many rows the posterior is listed, `rows` how many a policy is for, 0 where it is for a program."""
        exact = exact or listed > 0
        share = (1.0 if listed >= MANY else 0.5) if self.listed is None else self.listed
        alone = listed > 0 and share == 1.0
        found = {
            "steps": ENDLESS if self.budget else 600 if listed else 300,
            "sleep": 0.9 if listed else 0.0 if rows else 0.5,
            "listed": share,
            "simulated": 0.0 if alone or rows else 0.5,
            "seeds": SEEDS if rows else 0 if exact else 32,
            "reward_temperature": 1.0 if exact or rows else 1.5,
            "scope": "rows" if rows else "program",
            "rows": (some := min(rows, AT_ONCE)) or 16,
            "draws": max(2, TOGETHER // min(rows, self.rows or some)) if rows else 16,
            "capacity": 4 * SEEDS if rows else 64,
            "forward": 1.0 if rows else 0.0,
            "trial": TRIAL,
            **RATES,
            "unguided": min(0.25, 1 - self.tempered - self.replayed) if rows else 0.0,
        }
        stated = {f.name: getattr(self, f.name) for f in fields(FitSettings)}
        return Resolved(**stated | {name: value for name, value in found.items() if stated[name] is None})

    def to_json(self) -> dict[str, Any]:
        """Every setting by name, as JSON values."""
        found: dict[str, Any] = plain(self)
        return found


@frozen(kw_only=True)
class Resolved(FitSettings):
    """Settings in which nothing is left open that depends on the program."""

    scope: str
    steps: int
    sleep: float
    listed: float
    simulated: float
    seeds: int
    reward_temperature: float
    rows: int
    draws: int
    capacity: int
    unguided: float
    forward: float
    trial: float
    learning_rate: float
    balance_learning_rate: float

    def scaled(self, stated: FitSettings, scale: float) -> Resolved:
        """With rates for a model whose adapter has this `scale`, where none were `stated`."""

        def rate(name: str) -> float:
            return float(getattr(self, name)) * (scale if getattr(stated, name) is None else 1.0)

        return evolve(
            self, learning_rate=rate("learning_rate"), balance_learning_rate=rate("balance_learning_rate")
        )


WHOLE = ("seeds", "steps", "rows", "draws", "capacity")
"""Whole numbers whose default is None."""
FORMER = {**METHODS[AMORTIZED].former, "columns": "max_batch_tokens"}
"""Settings by the names of the release before."""


def with_new_names(options: Mapping[str, object]) -> dict[str, object]:
    """Options of a fit by the names that they have now, each old one with a DeprecationWarning."""
    return renamed(options, FORMER)


def settings_of(options: Mapping[str, object]) -> FitSettings:
    """Settings from options by name. Raises InferenceError PLM802 naming the one that is wrong."""
    known = {f.name: f for f in fields(FitSettings)}
    found: dict[str, object] = {}
    for name, value in with_new_names(options).items():
        if name not in known:
            raise wrong(
                f"a fit has no setting `{name}`", meant(name, known, f"its settings are {', '.join(known)}")
            )
        if name == "objective":
            if not isinstance(value, str) or value not in OBJECTIVES:
                hint = meant(str(value), OBJECTIVES, f"choose from {', '.join(OBJECTIVES)}")
                raise wrong(f"there is no objective `{value}`", hint)
            found[name] = value
        elif name == "scope":
            if value is not None and value not in SCOPES:
                raise wrong(
                    f"a policy is for {' or '.join(f'`{s}`' for s in SCOPES)}, not {shown(value)}",
                    "say `--for rows` where these rows are all that it is for, else `--for program`",
                )
            found[name] = value
        elif name == "start":
            if value is not None and not (isinstance(value, str) and value):
                raise wrong(
                    f"`start` is the folder of a policy, not {shown(value)}",
                    "give the folder that `plm fit --out` wrote",
                )
            found[name] = value
        else:
            found[name] = checked(name, value, known[name])
    if "trial" not in found and any(found.get(name) is not None for name in CHOSEN):
        found["trial"] = 0.0
    shares = FitSettings(**found)  # type: ignore[arg-type]
    parts = {"tempered": shares.tempered, "replayed": shares.replayed}
    if shares.unguided:
        parts["unguided"] = shares.unguided
    if shares.scope == "rows" and shares.simulated:
        raise wrong(
            "a policy for these rows is shown no others, and `simulated` asks for them",
            "leave out `simulated`, or say `--for program`",
        )
    if sum(parts.values()) > 1:
        raise wrong(
            f"{' and '.join(f'`{name}`' for name in parts)} are shares of the draws, and "
            f"{' and '.join(f'{share:g}' for share in parts.values())} are more than all",
            "make them add up to at most 1; the rest is drawn from the policy as it is",
        )
    return shares


def checked(name: str, value: object, setting: Any) -> object:
    """The value of a number or of names of layers, by the default and the metadata of its attrs field.

    Numbers are at least `low`, more where they lie `above` it, and at most `high`. Raises InferenceError PLM802.
    """
    default, limits = setting.default, setting.metadata
    instead = "leave it out, and it is chosen" if default in (None, ()) else f"leave it out for {default}"
    if isinstance(default, tuple):
        if isinstance(value, str):
            value = [part.strip() for part in value.split(",") if part.strip()]
        if not isinstance(value, list | tuple) or not all(isinstance(v, str) for v in value):
            raise wrong(f"`{name}` is a list of names of layers", instead)
        return tuple(value)
    if value is None and default is None:
        return None
    whole = isinstance(default, int) or name in WHOLE
    if not is_number(value) or (whole and not float(value).is_integer()):
        raise wrong(f"`{name}` is a {'whole ' * whole}number, not {shown(value)}", instead)
    low, above, high = limits["low"], limits.get("above", False), limits.get("high")
    if value < low or (above and value == low) or (high is not None and value > high):  # type: ignore[operator]
        bound = f"above {low}" if above else f"at least {low}"
        most = "" if high is None else f" and at most {high}"
        raise wrong(f"`{name}` is {bound}{most}, not {value}", instead)
    return int(value) if whole else float(value)  # type: ignore[call-overload,arg-type]


def wrong(message: str, help: str | None = None) -> InferenceError:
    """InferenceError PLM802 for a setting."""
    return InferenceError.of("PLM802", message, help=help)
