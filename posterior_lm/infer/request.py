"""How draws are asked for: a method and its options, over what the program states, and a policy."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import evolve, field, frozen

from posterior_lm.infer.methods import AMORTIZED, AUTO, METHODS, OptionType, renamed
from posterior_lm.lang.diagnostics import InferenceError, meant, shown
from posterior_lm.lang.files import allowed_file
from posterior_lm.lang.source import NOWHERE
from posterior_lm.lang.values import is_number

if TYPE_CHECKING:
    from posterior_lm.graph.graph import InferSpec
    from posterior_lm.target.prepared import PreparedProgram


@frozen
class Request:
    """What a caller wants; `method` None leaves it to the program's `infer`, and then to auto."""

    method: str | None = None
    options: Mapping[str, object] = field(factory=dict)
    policy: Path | None = None
    """The folder of a stored policy."""

    def of(self, program: PreparedProgram) -> tuple[str, dict[str, object]]:
        """The method that runs, and its options."""
        return resolve(program.graph.infer, self.method, self.options, program.base_dir, program.allowed)

    def named(self, method: str) -> Request:
        """The same for a method by name; what was asked of another method does not concern it."""
        return evolve(self, method=method, options=self.options if method == self.method else {})

    def fit_settings(self, program: PreparedProgram) -> dict[str, object]:
        """The settings of a fit that the program and the caller state."""
        return {k: v for k, v in self.named(AMORTIZED).of(program)[1].items() if k not in RUNNING}


def seed_of_row(seed: int, row: int) -> int:
    """The seed of a row's draws: rows are independent, and none depends on which others there are."""
    if not row:
        return seed
    digest = hashlib.sha256(f"{seed} {row}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 11  # JSON readers keep 53 bits of a whole number


RUNNING = ("n",)
"""Options of the amortised method that concern drawing; the others are settings of a fit."""


def checked(method: str, options: Mapping[str, object]) -> dict[str, object]:
    """The options; raises InferenceError PLM802 for an unknown method, option or value."""
    if method not in METHODS:
        raise _unknown(f"there is no method `{method}`", method, METHODS, "the methods are")
    known, options = METHODS[method].options, renamed(options, METHODS[method].former)
    for name, value in options.items():
        if name not in known:
            raise _unknown(f"`{method}` has no option `{name}`", name, known, "its options are")
        if problem := _wrong(known[name], value):
            raise InferenceError.of(
                "PLM802", f"the option `{name}` of `{method}` {problem}, not {shown(value)}"
            )
    return options


def _unknown(what: str, name: str, known: Iterable[str], listed: str) -> InferenceError:
    help = meant(name, known, f"{listed} {', '.join(known) or 'none'}")
    return InferenceError.of("PLM802", what, help=help)


def _wrong(option: OptionType, value: object) -> str | None:
    kind, low, high = option.kind, option.low, option.high
    if kind == "int" and not (is_number(value) and float(value).is_integer()):
        return "is a whole number"
    if kind == "number" and not (is_number(value) or value == math.inf):
        return "is a number"
    if kind == "bool" and not isinstance(value, bool):
        return "is true or false"
    if kind in ("int", "number") and not ((low is None or value >= low) and (high is None or value <= high)):  # type: ignore[operator]
        return f"is at least {low}" if high is None else f"lies in {low}..{high}"
    if kind == "choice" and value not in option.choices:
        return f"is one of {', '.join(map(repr, option.choices))}"
    return None


def resolve(
    infers: Iterable[InferSpec],
    method: str | None,
    options: Mapping[str, object],
    base_dir: Path | None = None,
    allowed: tuple[Path, ...] = (),
) -> tuple[str, dict[str, object]]:
    """The method and its options: the caller's, else the program's only `infer`, else auto.

    The options that a program's `infer m(…)` states are defaults wherever m is used; files that
    they name lie in the program's folder, `base_dir`, or below one that is `allowed`, and those of
    `options` where the caller is. Raises CompileError PLM347 for a file of the program's elsewhere.
    """
    infers = tuple(infers)
    stated = {spec.method: dict(spec.options) for spec in infers}
    if method is None:
        method = next(iter(stated)) if len(stated) == 1 else AUTO
    known, former = METHODS[method].options, METHODS[method].former
    own = renamed(stated.get(method, {}), former)
    span = next((spec.span for spec in infers if spec.method == method), NOWHERE)
    own = {
        k: str(allowed_file(str(v), base_dir, allowed, span)) if known[k].file else v for k, v in own.items()
    }
    return method, {**own, **renamed(options, former)}
