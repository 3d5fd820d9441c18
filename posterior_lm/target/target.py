"""The target: a program bound to data and models, as a log reward over values.

Letters: N draws, T tokens, K terms. Every number is in nats, float64.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import compress
from typing import TYPE_CHECKING

import numpy as np
from attrs import frozen

from posterior_lm.graph.graph import RewardGraph
from posterior_lm.graph.nodes import TermInfo
from posterior_lm.lang.diagnostics import DataError, shown
from posterior_lm.lang.source import Span
from posterior_lm.lang.value_types import VALUE_TYPES
from posterior_lm.lang.values import FiniteSpec, GridSpec, PlaceSpec, is_number
from posterior_lm.lm.protocol import LanguageModel, MaskedModel
from posterior_lm.support.base import Support
from posterior_lm.support.finite import FiniteSupport
from posterior_lm.support.grammar import GrammarSupport
from posterior_lm.support.tools import Disagreement, ToolSupport, read
from posterior_lm.target.evaluate import Evaluator
from posterior_lm.target.prefixes import log_reward_prefixes
from posterior_lm.target.values import ABSENT, Datum, Value, Values, count, distinct, take
from posterior_lm.tools import shown_end

if TYPE_CHECKING:
    from posterior_lm.target.prepared import PreparedProgram


@frozen(eq=False)
class LatentInfo:
    """A latent of a bound program: its support and the model that spells it.

    Draws are made from `support`, which conditions have narrowed where they can; what
    the declared type allows is in the evaluator, since a value that breaks a condition
    is a value whose log reward is −∞.
    """

    name: str
    type: str
    support: Support
    lm: str | None
    node: int
    span: Span
    when: int | None = None
    """The node that says whether a draw has it; None where every draw does."""
    mark: str | None = None
    """Of a place of a list, the text that is its end and no item."""


@frozen(eq=False)
class Target:
    """log reward (N,), its terms (N, K), and the log reward of stopping early (N, T + 1)."""

    prepared: PreparedProgram
    graph: RewardGraph
    """The grounded graph: no parameters, no plates."""
    data: Mapping[str, object]
    latents: tuple[LatentInfo, ...]
    evaluator: Evaluator

    @property
    def program(self) -> RewardGraph:
        """The graph before data was bound: its fingerprint identifies the log reward."""
        return self.prepared.graph

    @property
    def models(self) -> Mapping[str, LanguageModel]:
        """The program's models by alias."""
        return self.prepared.models

    @property
    def masked(self) -> Mapping[str, MaskedModel]:
        """Those that fill masked places."""
        return self.prepared.masked

    @property
    def statements(self) -> tuple[TermInfo, ...]:
        """(K,) what each term came from."""
        return self.graph.sink.terms

    def latent(self, name: str) -> LatentInfo:
        """The latent of that name; raises KeyError."""
        for info in self.latents:
            if info.name == name:
                return info
        raise KeyError(name)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(info.name for info in self.latents)

    # ------------------------------------------------------------- numbers

    def terms(self, values: Values, scores: Mapping[int, np.ndarray] | None = None) -> np.ndarray:
        """(N, K) float64 nats: one term per statement; `log_reward` is their sum.

        Equal draws are evaluated once. `scores` are columns (N,) of score nodes that are known.
        Raises InferenceError PLM701 or PLM704.
        """
        first, where = distinct({name: values[name] for name in self.names}, range(count(values)))
        given = {i: column[first].tolist() for i, column in (scores or {}).items()}
        return self.evaluator.terms(take(values, first), len(first), given)[where]

    def log_reward(self, values: Values) -> np.ndarray:
        """(N,) float64 nats: the unnormalised log density of each draw."""
        return self.terms(values).sum(axis=1)

    def log_reward_prefixes(
        self, values: Values, latent: str | None = None, *, packed: bool = True
    ) -> np.ndarray:
        """(N, T + 1) float64 nats: the log reward of stopping `latent` after each token.

        Entry t is the log reward of `support.cut(value, t)`: the first t tokens,
        with the stop where the support has one; −inf where the value may not stop
        there, and past its own length. T is the longest value's number of tokens.
        With `packed`, terms that read the latent once are scored for all t in one
        forward pass where the model allows it. `latent` may be left out where there
        is only one; raises KeyError for an unknown name, ValueError for several.
        """
        if latent is None:
            if len(self.latents) != 1:
                raise ValueError(f"name one of the latents {list(self.names)}")
            latent = self.names[0]
        return log_reward_prefixes(self, values, self.latent(latent), packed=packed)

    # ------------------------------------------------------------- values

    def value(self, latent: str, text: Datum) -> Value:
        """The value that a text or an integer spells, in its tokenizer's own spelling.

        Where tools write into the text, drawn parts and outputs are spelled apart. Raises
        DataError PLM610 where it is outside the support, PLM766 where a tool writes something else.
        """
        info = self.latent(latent)
        support = self.evaluator.supports[latent]
        ids: tuple[int, ...] | None
        try:
            if isinstance(support, FiniteSupport):
                given = VALUE_TYPES[info.type].read(text) if isinstance(text, str) else text
                ids = support.ids_of(None if info.mark is not None and text == info.mark else given)  # type: ignore[arg-type]
            else:
                ids = self._read(info, support, str(text))
        except ValueError:  # of the support, or a whole number that is too long to be spelled
            ids = None
        if ids is None or not support.accepts(ids):
            raise DataError.of(
                "PLM610",
                f"{shown(text)} is no value of `{latent}`",
                info.span,
                "this type",
                where=latent,
                help=_instead(support.spec, VALUE_TYPES[info.type].read(str(text)))
                if isinstance(support, FiniteSupport)
                else "give a text that its grammar or schema derives; JSON is written with the characters themselves, "
                "as by json.dumps(…, ensure_ascii=False)"
                if isinstance(support, GrammarSupport)
                else "give a text with the tokens, characters and stop that its type asks for; "
                "most begin with a space",
            )
        return self.value_of(latent, ids)

    def there(self, info: LatentInfo, drawn: Values, n: int) -> np.ndarray | None:
        """(N,) bool: which draws have a latent, by those drawn before it; None for all."""
        if info.when is None:
            return None
        return np.array(self.evaluator.node(info.when, drawn, n), dtype=bool)

    def drawn(self, ids: Sequence[tuple[int, ...]]) -> dict[str, Value]:
        """The draw with these tokens of each latent, in order: nothing of one in a branch that it does not take."""
        found: dict[str, Value] = {}
        for info, own in zip(self.latents, ids, strict=True):
            there = self.there(info, {name: (value,) for name, value in found.items()}, 1)
            found[info.name] = self.value_of(info.name, own) if there is None or there[0] else ABSENT
        return found

    def made(
        self, info: LatentInfo, ids: Sequence[tuple[int, ...]], there: np.ndarray | None
    ) -> tuple[Value, ...]:
        """The values with these tokens, of N draws of which some may not be `there`."""
        known = {
            one: self.value_of(info.name, one) for one in {*(ids if there is None else compress(ids, there))}
        }
        if there is None:
            return tuple(known[one] for one in ids)
        return tuple(known[one] if here else ABSENT for one, here in zip(ids, there, strict=True))

    def _read(self, info: LatentInfo, support: Support, text: str) -> tuple[int, ...]:
        """The tokens of a given text."""
        assert info.lm is not None
        if not isinstance(support, ToolSupport):
            return tuple(self.models[info.lm].tokenizer.encode(text))
        found = read(support, text)
        if isinstance(found, Disagreement):
            message = f"the tool `{found.tool}` writes {found.written!r} after {shown_end(found.text)}, and {shown_end(text)} goes on otherwise"
            help = "give the text with the outputs that the tool writes"
            raise DataError.of("PLM766", message, info.span, "this type", where=info.name, help=help)
        return found

    def listed(self, latent: str) -> list[Value]:
        """Every value of a finite latent that its support holds, in the order of declaration."""
        support = self.latent(latent).support
        assert isinstance(support, FiniteSupport)
        return list(_listed(support))

    def value_of(self, latent: str, ids: Sequence[int]) -> Value:
        """The value with these tokens; they must be in the declared type or be cut from one."""
        info = self.latent(latent)
        ids = tuple(int(i) for i in ids)
        support = self.evaluator.supports[latent]
        if isinstance(support, FiniteSupport):
            place = support.place(ids)
            return Value(ids, support.spec.spelling(place), support.spec.datum(place))
        assert info.lm is not None
        text = self.models[info.lm].tokenizer.decode(ids)
        return Value(ids, text, None if info.mark is not None and text == info.mark else text)


def having(
    targets: Sequence[Target], name: str, drawn: Sequence[dict[str, Value]], members: Sequence[int]
) -> list[int]:
    """Those of some draws, each of a target of its own, that have a latent by what is `drawn` of them; the others
    are told that they have not."""
    found: list[int] = []
    of_target: dict[int, list[int]] = {}
    for d in members:
        of_target.setdefault(id(targets[d]), []).append(d)
    for mine in of_target.values():
        info = targets[mine[0]].latent(name)
        known = () if info.when is None else drawn[mine[0]]
        columns = {other: [drawn[d][other] for d in mine] for other in known}
        there = targets[mine[0]].there(info, columns, len(mine))
        for k, d in enumerate(mine):
            if there is None or there[k]:
                found.append(d)
            else:
                drawn[d][name] = ABSENT
    return sorted(found)


def _instead(spec: FiniteSpec | PlaceSpec, given: object) -> str:
    if isinstance(spec, GridSpec) and is_number(given):
        return f"the nearest value is {spec.spelling(spec.nearest(given))}"
    return "give one of the values that its type lists"


@lru_cache(maxsize=64)
def _listed(support: FiniteSupport) -> tuple[Value, ...]:
    spec, places = support.spec, np.sort(support.order).tolist()
    return tuple(
        Value(ids, spec.spelling(k), spec.datum(k)) for ids, k in zip(support.values(), places, strict=True)
    )
