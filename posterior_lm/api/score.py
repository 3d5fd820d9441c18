"""The log reward of given values, one number per statement."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from attrs import asdict, frozen

from posterior_lm.lang.diagnostics import DataError, error, meant
from posterior_lm.storage import plain

if TYPE_CHECKING:
    from posterior_lm.graph.nodes import TermInfo
    from posterior_lm.target.target import Target
    from posterior_lm.target.values import Value


@frozen
class Score:
    """`log_reward` is the sum of the terms; nats."""

    program: str
    fingerprint: str
    log_reward: float
    terms: tuple[tuple[TermInfo, float], ...]

    def to_json(self) -> dict[str, Any]:
        """The stable shape of `plm score --format json`; −inf becomes None."""
        terms = [{"statement": info.label, "line": info.span.line, "log_reward": x} for info, x in self.terms]
        found: dict[str, Any] = plain({**asdict(self, recurse=False), "terms": terms})
        return found


def score(target: Target, values: Mapping[str, str | int]) -> Score:
    """See `Query.score`. Raises DataError PLM601, PLM602 or PLM610 for the values."""
    names = target.names
    listed = f"its latents are {', '.join(names) or 'none'}"
    found = [
        error(
            "PLM602", f"`{target.program.name}` has no latent `{name}`", where=name,
            help=meant(name, names, listed),
        )
        for name in values
        if name not in names
    ]  # fmt: skip
    found += [
        error(
            "PLM601", f"the latent `{info.name}` has no value to score", info.span, where=info.name,
            help=f"give it with `--value {info.name}=TEXT`",
        )
        for info in target.latents
        if info.name not in values
    ]  # fmt: skip
    if found:
        raise DataError(found)
    column = {name: [_value(target, name, values[name])] for name in names}
    terms = target.terms(column)[0]
    pairs = tuple(zip(target.statements, map(float, terms), strict=True))
    return Score(target.program.name, target.program.fingerprint, float(terms.sum()), pairs)


def _value(target: Target, name: str, given: str | int) -> Value:
    """The value; of a text that a tool would have written otherwise its plain tokens, whose log reward is −∞."""
    try:
        return target.value(name, given)
    except DataError as problem:
        lm = target.latent(name).lm
        if lm is None or any(d.code != "PLM766" for d in problem.diagnostics):
            raise
        return target.value_of(name, target.models[lm].tokenizer.encode(str(given)))
