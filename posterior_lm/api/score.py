"""The log reward of given values, one number per statement."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from attrs import frozen

from posterior_lm.lang.diagnostics import DataError, error, nearest

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

        def number(x: float) -> float | None:
            return None if x == float("-inf") else x

        return {
            "program": self.program,
            "fingerprint": self.fingerprint,
            "log_reward": number(self.log_reward),
            "terms": [
                {"statement": info.label, "line": info.span.line, "log_reward": number(x)}
                for info, x in self.terms
            ],
        }


def score(target: Target, values: Mapping[str, str | int]) -> Score:
    """See `Query.score`. Raises DataError PLM601, PLM602 or PLM610 for the values."""
    names = target.names
    found = []
    for name in values:
        if name not in names:
            close = nearest(name, names)
            found.append(
                error(
                    "PLM602",
                    f"`{target.program.name}` has no latent `{name}`",
                    where=name,
                    help=f"did you mean `{close}`?"
                    if close
                    else f"its latents are {', '.join(names) or 'none'}",
                )
            )
    for info in target.latents:
        if info.name not in values:
            found.append(
                error(
                    "PLM601",
                    f"the latent `{info.name}` has no value to score",
                    info.span,
                    where=info.name,
                    help=f"give it with `--value {info.name}=TEXT`",
                )
            )
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
