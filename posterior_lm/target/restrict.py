"""What conditions rule out: values, by masks built into supports, and the beginnings that no completion can save.

A narrowed support is for whoever draws: proposals, guides, exact enumeration. The log reward keeps
the term of the condition, which is 0 for all of its values, and the declared type, so the posterior
and its evidence are what they were.

`words(z) <= 16` is lost at the seventeenth word, long before z is whole. A beginning is refused only
where every completion makes a condition false, whatever the latents drawn later turn out to be.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from attrs import evolve, field, frozen

from posterior_lm.graph.conditions import Conjunct, conjuncts, known_text, text_test
from posterior_lm.graph.graph import RewardGraph
from posterior_lm.graph.nodes import Input, Latent, RowField, TermInfo
from posterior_lm.lang.diagnostics import CompileError
from posterior_lm.lang.regex import PatternError
from posterior_lm.lm.protocol import LanguageModel
from posterior_lm.support.base import Support
from posterior_lm.support.build import build_support
from posterior_lm.support.finite import FiniteSupport, kept_values
from posterior_lm.support.spec import Regular, Spec, TextSpec
from posterior_lm.target.certainty import Beginning, Certainty, Parts, blamed, holds
from posterior_lm.target.prefix_values import Between, Text
from posterior_lm.target.values import Value, Values

if TYPE_CHECKING:
    from posterior_lm.target.target import LatentInfo, Target

TRIED_FOR_MASKS = 100_000
"""Values of a finite latent that conditions are tried on: about a second. Above that they are tested as drawn."""
EMPTY = {"PLM330", "PLM335"}
"""Codes that say that no value is left."""


@frozen
class _Masked:
    """A latent of a grounded graph with the parts of conditions that are masks on it."""

    latent: Latent
    spec: Spec
    support: Support
    parts: tuple[Conjunct, ...]


def narrowed(
    program: RewardGraph,
    graph: RewardGraph,
    specs: Mapping[str, Spec],
    supports: Mapping[str, Support],
    models: Mapping[str, LanguageModel],
) -> dict[str, Support]:
    """The supports by latent with every mask of the grounded graph built in; the others as they are.

    Raises CompileError PLM340 where a condition leaves no value whatever the data. Where
    that comes from the data, or an automaton would be too large, the support stays wide:
    the log reward of what breaks the condition is −∞ all the same.
    """
    found = dict(supports)
    of_latent: dict[str, list[Conjunct]] = {}
    for part in conjuncts(graph):
        for reading in part.readings:
            if reading.kind == "mask":
                of_latent.setdefault(reading.latent, []).append(part)
    for _, latent in graph.latents():
        parts = of_latent.get(latent.name, [])
        if not parts:
            continue
        masked = _Masked(latent, specs[latent.name], supports[latent.name], tuple(parts))
        narrow = _narrow(graph, masked, models)
        if narrow is not None:
            found[latent.name] = narrow
        elif _whatever_the_data(program, masked):
            raise CompileError(blamed(latent, parts, _leaves(graph, masked, models)))
    return found


def _narrow(graph: RewardGraph, masked: _Masked, models: Mapping[str, LanguageModel]) -> Support | None:
    """The support under the masks, as it is where they cannot be built; None where no value is left."""
    if isinstance(masked.support, FiniteSupport):
        return _finite(graph, masked, masked.support)
    assert masked.latent.lm is not None and isinstance(masked.spec, TextSpec)
    regulars = tuple(dict.fromkeys(r for part in masked.parts if (r := _regular(graph, part)) is not None))
    tokenizer = models[masked.latent.lm].tokenizer
    try:
        return build_support(evolve(masked.spec, also=regulars), tokenizer, span=masked.latent.span)
    except PatternError:
        return masked.support
    except CompileError as problem:
        return None if any(d.code in EMPTY for d in problem.diagnostics) else masked.support


def _regular(graph: RewardGraph, part: Conjunct) -> Regular | None:
    """The part as a language of texts; None where its pattern is none that an automaton can follow."""
    test = text_test(graph, part.node, part.negated)
    assert test is not None
    other = known_text(graph, test.other)
    if other is None:
        return None  # an operation that has no value stays in the graph, and the evaluator names it
    if test.op == "equals":
        regular = Regular("matches", re.escape(other), test.negated)
    else:
        regular = Regular(test.op, other, test.negated)  # type: ignore[arg-type]
    try:
        regular.dfa()
    except (PatternError, re.error):
        return None
    return regular


def _finite(graph: RewardGraph, masked: _Masked, support: FiniteSupport) -> Support | None:
    if support.size > TRIED_FOR_MASKS:
        return support
    spec, name = support.spec, masked.latent.name
    return kept_values(
        support, lambda place: holds(graph, name, spec.spelling(place), spec.datum(place), masked.parts)
    )


def _leaves(
    graph: RewardGraph, masked: _Masked, models: Mapping[str, LanguageModel]
) -> Callable[[Parts], bool]:
    return lambda parts: _narrow(graph, evolve(masked, parts=tuple(parts)), models) is not None


def _whatever_the_data(program: RewardGraph, masked: _Masked) -> bool:
    """Whether neither the latent's type nor its masks read a parameter."""
    base = masked.latent.name.split("[", 1)[0]
    roots = [i for i, latent in program.latents() if latent.name.split("[", 1)[0] == base]
    roots += [program.sink.inputs[part.term] for part in masked.parts]
    return not any(isinstance(program[i], Input | RowField) for i in program.ancestors(*roots))


def built_in(target: Target) -> list[TermInfo]:
    """The conditions of which a part is built into what is drawn."""
    narrow = {
        info.name for info in target.latents if info.support is not target.evaluator.supports[info.name]
    }
    terms = {
        part.term
        for part in conjuncts(target.graph)
        if any(reading.kind == "mask" and reading.latent in narrow for reading in part.readings)
    }
    return [target.statements[term] for term in sorted(terms)]


# -------------------------------------------------------- beginnings that no completion can save


ANSWERS = 1 << 16
"""Answers kept before all are forgotten; a beginning of 20 tokens takes some 300 bytes."""
TRIED_FOR_PREFIXES = 4096
"""Values of a finite latent that are tried one by one; above that none of its beginnings is refused."""

Ids = tuple[int, ...]


@frozen(eq=False)
class PrefixTests:
    """The parts of a target's conditions that the first tokens of one latent can make false."""

    target: Target = field(repr=False)
    info: LatentInfo
    parts: tuple[Conjunct, ...]
    reads: tuple[str, ...]
    """The latents drawn before that the parts read."""
    _kept: dict[tuple, bool] = field(init=False, factory=dict, repr=False)

    @classmethod
    def of(cls, target: Target, latent_name: str) -> PrefixTests:
        """The tests for a latent by its ground name; raises KeyError for an unknown one."""
        info = target.latent(latent_name)
        masked = info.support is not target.evaluator.supports[info.name]
        graph = target.graph
        parts = tuple(
            part
            for part in conjuncts(graph)
            if (kind := part.kind(info.name)) == "prefix" or (kind == "mask" and not masked)
        )
        read = graph.ancestors(*(part.node for part in parts)) if parts else set()
        reads = tuple(other.name for other in target.latents if other.node in read and other.node < info.node)
        return cls(target, info, parts, reads)

    @property
    def empty(self) -> bool:
        """Whether no beginning is ever refused."""
        return not self.parts

    def alive(self, prefixes: Sequence[Ids], earlier: Values) -> np.ndarray:
        """(N,) bool: False where no completion of these first tokens can satisfy the conditions.

        `earlier` holds N values of every latent drawn before this one. A whole value is a
        beginning too: it is its own completion.
        """
        out = np.ones(len(prefixes), dtype=bool)
        if self.empty:
            return out
        columns = [earlier[name] for name in self.reads]
        for d, prefix in enumerate(prefixes):
            past = tuple(column[d] for column in columns)
            key = (prefix, *(value.ids for value in past))
            if key not in self._kept:
                if len(self._kept) >= ANSWERS:
                    self._kept.clear()
                self._kept[key] = self._alive(prefix, dict(zip(self.reads, past, strict=True)))
            out[d] = self._kept[key]
        return out

    def _alive(self, prefix: Ids, past: Mapping[str, Value]) -> bool:
        support = self.info.support
        if isinstance(support, FiniteSupport):
            if support.size > TRIED_FOR_PREFIXES:
                return True
            values = (ids for ids in support.values() if ids[: len(prefix)] == prefix)
            return any(self._holds(past, self.target.value_of(self.info.name, ids)) for ids in values)
        return self._holds(past, self._beginning(prefix))

    def _holds(self, past: Mapping[str, Value], own: Value | Beginning) -> bool:
        graph, fixed = self.target.graph, self.target.evaluator.fixed_value
        return Certainty(graph, {**past, self.info.name: own}, fixed).allows(self.parts)

    def _beginning(self, prefix: Ids) -> Beginning:
        assert self.info.lm is not None
        text = beginning(self.target.models[self.info.lm].tokenizer.token_bytes, prefix)
        tokens = Between(len(prefix), max(len(prefix), self.info.support.max_tokens))
        return Beginning(text, tokens)


def beginning(pieces: Sequence[bytes | None], ids: Ids) -> Text:
    """The characters that are certain: one that is half spelled may still become any of several."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(b"".join(pieces[i] or b"" for i in ids))
    return Text(text, whole=False, more=1 if decoder.getstate()[0] else 0)
