"""A support from a specification and a tokenizer; what leaves no value is an error that says which options do."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from attrs import evolve

from posterior_lm.lang.diagnostics import CompileError, Diagnostic, Label, ModelError, error, shown
from posterior_lm.lang.regex import PatternError, wrong_pattern
from posterior_lm.lang.source import Span
from posterior_lm.lang.values import FiniteSpec, PlaceSpec
from posterior_lm.lm.protocol import Tokenizer
from posterior_lm.support.base import Cache, Support
from posterior_lm.support.byte_automata import fragment
from posterior_lm.support.canonical import CanonicalSupport
from posterior_lm.support.finite import FiniteSupport, same_tokens, sorted_table
from posterior_lm.support.grammar import GrammarSupport, closing_first
from posterior_lm.support.grammar_parser import matcher
from posterior_lm.support.spec import Spec, TextSpec, language
from posterior_lm.support.text import TextSupport
from posterior_lm.support.token_automata import (
    Edges,
    can_finish,
    edges_of,
    fewest_tokens,
    lift,
    most_tokens,
    shortest_spelling,
    single_bytes,
    token_matrix,
    tokenizer_key,
)
from posterior_lm.support.tool_reach import can_finish_with_tools, drawn_columns, jumps_of
from posterior_lm.support.tools import ToolSupport

_JSON_BYTES = {*range(0x20, 0x7F), *range(0x80, 0xC0)}
"""What goes on with any text in JSON, within a character or behind it."""

_supports = Cache[tuple[object, ...], Support](64)
"""With GPT-2's vocabulary a stop string of 11 bytes takes 2.4 MB."""


def build_support(
    spec: Spec,
    tokenizer: Tokenizer | None,
    span: Span | None = None,
    spans: Mapping[str, Span] | None = None,
) -> Support:
    """The support of a type over a tokenizer; without one, values are pseudo-tokens.

    Raises `CompileError` at `span`, or at the option in `spans` that is to blame: PLM330 and
    PLM335 where no value is left, PLM331 for too many values to list, PLM332 for two values with
    the same tokens, PLM317, PLM333, PLM334 for a pattern and PLM337, PLM338 for a grammar or
    schema that cannot be used, PLM531 for a stop string or a value that the tokenizer cannot
    spell. Equal specifications over equal vocabularies share one support.
    """
    if found := spec.checks(span):
        raise CompileError(found)
    key = (spec, None if tokenizer is None else tokenizer_key(tokenizer))
    return _supports.get(key, lambda: _built(spec, tokenizer, span, spans or {}))


def _built(spec: Spec, tokenizer: Tokenizer | None, span: Span | None, spans: Mapping[str, Span]) -> Support:
    if not isinstance(spec, TextSpec):
        return _finite(spec, tokenizer, span)
    if tokenizer is None:
        raise TypeError("a text has no tokens without a tokenizer")
    if spec.tools or (spec.grammar is None and spec.json is None):
        return _text(spec, tokenizer, span, spans)
    plain = build_support(evolve(spec, grammar=None, json=None), tokenizer, span, spans)
    assert isinstance(plain, TextSupport)
    place = spans.get("grammar", spans.get("json", span))
    # What llguidance offers of a schema has an end, and single bytes spell it.
    complete = spec.json is not None and len(plain.after) == 1 and single_bytes(tokenizer) >= _JSON_BYTES
    parsed = GrammarSupport.of(plain, matcher(spec, tokenizer, place), complete=complete)
    if parsed.is_empty(closing_first(tokenizer)):
        raise CompileError(why_empty(spec, plain.edges, plain.accepting, span))
    return parsed


def _text(spec: TextSpec, tokenizer: Tokenizer, span: Span | None, spans: Mapping[str, Span]) -> Support:
    stop = None if spec.stop is None else spec.stop.encode("utf-8")
    own = () if spec.stop is None else _encode(tokenizer, spec.stop, span)
    try:
        dfa = lift(language(spec, spans.get("pattern", span)), token_matrix(tokenizer))
    except PatternError as wrong:
        raise CompileError(wrong_pattern(spec.pattern or "", wrong, spans.get("pattern", span))) from None
    columns = dfa.columns
    if spec.canonical:
        straddling = [
            t for t, spelled in enumerate(tokenizer.token_bytes) if fragment(spelled) == (True, True)
        ]
        columns[straddling] = dfa.after.shape[1] - 1
    spliced, jumps = columns, []
    if spec.tools:
        columns = drawn_columns(columns, dfa.after.shape[1] - 1, tokenizer.token_bytes, spec.tools)
        jumps = jumps_of(spliced, dfa.after.shape[1] - 1, tokenizer.token_bytes, spec.tools)
    for array in (dfa.after, columns):
        array.flags.writeable = False
    edges = edges_of(dfa.after, columns)
    hope: tuple[np.ndarray, ...] = ()
    if spec.tools:
        limits = (spec.min_tokens, spec.max_tokens)
        finish, hope = can_finish_with_tools(dfa.after, columns, dfa.accepting, limits, jumps)
    else:
        finish = can_finish(edges, dfa.accepting, spec.min_tokens, spec.max_tokens)
    if not finish[0, 0]:
        raise CompileError(why_empty(spec, edges, dfa.accepting, span))
    support = TextSupport(
        ending=spec.end,
        min_tokens=spec.min_tokens,
        max_tokens=spec.max_tokens,
        stop_ids=() if stop is None else _stop_ids(stop, own, tokenizer),
        after=dfa.after,
        columns=columns,
        accepting=dfa.accepting,
        edges=edges,
        finish=finish,
    )
    if spec.may_end and not support.accepts(ids := _encode(tokenizer, str(spec.mark), span)):
        message = f"end={spec.mark!r} has {len(ids)} token{'s' * (len(ids) != 1)}, and an item {spec.min_tokens} to {spec.max_tokens}"
        help = (
            f"write tokens={min(spec.min_tokens, len(ids))}..{max(spec.max_tokens, len(ids))}, or another end"
        )
        raise CompileError.of("PLM330", message, span, "the list could not end", help=help)
    if spec.tools:
        return ToolSupport.of(support, spliced, spec.tools, hope, tokenizer)
    if not spec.canonical:
        return support
    canonical = CanonicalSupport(support, tokenizer)
    if not canonical.possible:
        raise CompileError(why_empty(spec, edges, dfa.accepting, span))
    return canonical


def _stop_ids(stop: bytes, own: tuple[int, ...], tokenizer: Tokenizer) -> tuple[int, ...]:
    """The tokenizer's own tokens for the stop string, where these spell exactly it.

    A tokenizer that changes text needs another spelling, a shortest one; where
    there is none a value can end only in a longer token and no cut can be closed.
    """
    if b"".join(tokenizer.token_bytes[i] or b"" for i in own) == stop:
        return own
    return shortest_spelling(stop, tokenizer) or ()


def _finite(spec: FiniteSpec | PlaceSpec, tokenizer: Tokenizer | None, span: Span | None) -> FiniteSupport:
    if tokenizer is None:
        encoded = np.arange(spec.size, dtype=np.int32)[:, None]
        return FiniteSupport(spec, spec.size, encoded, np.arange(spec.size), None)
    spelled = (spec.spelling(number) for number in range(spec.size))
    table, order = sorted_table([_encode(tokenizer, text, span) for text in spelled])
    twice = same_tokens(table, order)
    if twice is not None:
        first, second = (spec.spelling(number) for number in twice)
        raise CompileError.of(
            "PLM332",
            f"the tokenizer spells {first!r} and {second!r} with the same tokens",
            span,
            "these two cannot be told apart",
            help="leave one of them out, or use a model whose tokenizer changes nothing",
        )
    table.flags.writeable = False
    return FiniteSupport(spec, tokenizer.vocabulary_size, table, order, tokenizer)


def _encode(tokenizer: Tokenizer, text: str, span: Span | None) -> tuple[int, ...]:
    """`tokenizer.encode`, with what it cannot spell reported at the span."""
    try:
        return tokenizer.encode(text)
    except ModelError as problem:
        label = None if span is None else Label(span, f"spells {text!r}")
        raise CompileError(evolve(d, primary=d.primary or label) for d in problem.diagnostics) from problem


# -------------------------------------------------------------- why a text support holds nothing


def why_empty(spec: TextSpec, edges: Edges, accepting: np.ndarray, span: Span | None) -> Diagnostic:
    """The PLM330 diagnostic of an empty support, of the arrays of `TextSupport`."""
    message, help = _why(spec, edges, accepting)
    return error("PLM330", message, span, "no value is left", help=help)


def _why(spec: TextSpec, edges: Edges, accepting: np.ndarray) -> tuple[str, str]:
    """Which options leave no value together, and what to change."""
    limits = f"tokens={spec.min_tokens}..{spec.max_tokens}"
    if spec.grammar is not None or spec.json is not None:
        which = "grammar" if spec.grammar is not None else "schema"
        return (
            f"no value of {limits} satisfies the {which}",
            "allow more tokens, or choose a model whose tokens spell it; a stop string is a part of the text",
        )
    # Some text matches the pattern and the conditions, or `language` would have said that none does.
    asked = "the conditions" if spec.pattern is None else f"pattern {shown(spec.pattern, 20)}"
    matched = spec.pattern is not None or bool(spec.also)
    need = float(fewest_tokens(edges, accepting)[0])
    if np.isinf(need):
        if matched:
            return f"no tokens of this model spell a text of {asked}", "choose a model whose tokens spell it"
        after = "" if spec.chars is None else f" after characters of {shown(spec.chars, 20)}"
        return (
            f"no tokens of this model spell stop={spec.stop!r}{after}",
            "choose another stop string, or a model whose tokens spell it",
        )
    if need > spec.max_tokens:
        wider = f"write tokens={spec.min_tokens}..{max(int(need), spec.min_tokens)}"
        if matched:
            return f"no value of {limits} satisfies {asked}: the shortest has {need:.0f} tokens", wider
        return (
            f"{limits} cannot spell stop={spec.stop!r}, which needs {need:.0f} tokens",
            f"{wider}, or a shorter stop string",
        )
    if spec.canonical and spec.min_tokens <= most_tokens(edges, accepting, spec.max_tokens):
        which = f"{limits} that satisfies {asked}," if matched else limits
        return (
            f"the tokenizer itself spells no value of {which} as canonical=true asks",
            "drop canonical=true, or widen tokens=",
        )
    if matched:
        return f"no value of {limits} satisfies {asked}", "allow fewer tokens, or widen the pattern"
    options = [limits]
    if spec.stop is not None:
        options.append(f"stop={spec.stop!r}")
    if spec.chars is not None:
        options.append(f"chars={shown(spec.chars, 20)}")
    return f"no value has {' and '.join(options)}", "allow fewer tokens, or more characters"
