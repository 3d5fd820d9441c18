"""Grammars and JSON schemas handed to llguidance, over any tokenizer; its complaints as diagnostics."""

from __future__ import annotations

import re
from threading import Lock
from typing import Any

from posterior_lm.lang.diagnostics import CompileError, Diagnostic, error
from posterior_lm.lang.source import Span
from posterior_lm.lang.values import read_json
from posterior_lm.lm.base import Tokenizer
from posterior_lm.support.bounded import keep
from posterior_lm.support.complaints import grammar_help, schema_help
from posterior_lm.support.lift import token_matrix, tokenizer_key
from posterior_lm.support.productive import endless_rule
from posterior_lm.support.spec import TextSpec

_KEPT = 4
"""Vocabularies kept for the parser; one takes a third of a second to build."""

_EVERY_SPELLING = '\n%llguidance {"no_forcing": true}\n'
"""Without it, where the next bytes are certain, only the tokenizer's own spelling of them is allowed."""

_vocabularies: dict[tuple[object, ...], Any] = {}
_lock = Lock()


def check_grammar(spec: TextSpec, span: Span | None) -> str | None:
    """The grammar of a type as llguidance takes it, or None where the type has none.

    Raises CompileError: PLM337 for a wrong grammar, PLM338 for a schema that is
    refused.
    """
    if spec.grammar is None and spec.json is None:
        return None
    from llguidance import LLMatcher

    if spec.json is not None:
        schema = _schema(spec.json, span)
        found = LLMatcher.grammar_from_json_schema(schema)
        failed, wrong = LLMatcher.validate_grammar_with_warnings(found)
        if failed:
            said = _sentence(wrong[0])
            raise CompileError(
                error(
                    "PLM338",
                    f"the schema is refused: {said}",
                    span,
                    "for this schema",
                    help=schema_help(said),
                )
            )
        schema = "{}" if schema.strip() == "true" else schema
        return str(LLMatcher.grammar_from_lark(f"start: %json {schema}{_EVERY_SPELLING}"))
    assert spec.grammar is not None
    if spec.grammar.lstrip().startswith("{"):
        # llguidance would take it for a grammar of its own in JSON.
        raise CompileError(
            error(
                "PLM337",
                "the grammar is JSON",
                span,
                "for this grammar",
                help="give a JSON schema with json=; a grammar is written as Lark writes it",
            )
        )
    found = LLMatcher.grammar_from_lark(spec.grammar + _EVERY_SPELLING)
    failed, wrong = LLMatcher.validate_grammar_with_warnings(found)
    if failed:
        raise CompileError(_wrong_grammar(spec.grammar, wrong[0], span))
    endless = endless_rule(spec.grammar)
    if endless is not None:
        raise CompileError(
            error(
                "PLM337",
                f"the rule `{endless}` of the grammar has no finite text",
                span,
                "for this grammar",
                help=f"give `{endless}` an alternative that ends without needing itself again",
            )
        )
    return str(found)


def matcher(spec: TextSpec, tokenizer: Tokenizer, span: Span | None) -> Any:
    """An `LLMatcher` of the type's grammar that has read nothing. Raises CompileError."""
    from llguidance import LLMatcher

    grammar = check_grammar(spec, span)
    if grammar is None:
        raise ValueError("the type has no grammar")
    found = LLMatcher(_vocabulary(tokenizer), grammar, log_level=0)
    if found.is_error():
        code = "PLM337" if spec.grammar is not None else "PLM338"
        message = f"the grammar cannot be used: {_sentence(found.get_error())}"
        raise CompileError(error(code, message, span, help="make it smaller: fewer rules and repeats"))
    return found


def _schema(text: str, span: Span | None) -> str:
    try:
        read_json(text)
    except ValueError as wrong:
        raise CompileError(
            error(
                "PLM338",
                f"the schema is not JSON: {wrong}",
                span,
                "for this schema",
                help="mend it there; `python -m json.tool FILE` reads JSON too",
            )
        ) from None
    return text


_PLACE = re.compile(r"(?:at )?(\d+)\((\d+)\): *")


def _wrong_grammar(grammar: str, wrong: str, span: Span | None) -> Diagnostic:
    found = _PLACE.match(wrong)
    if found is None:
        said = _sentence(wrong)
        message = f"the grammar is wrong: {said}"
        return error("PLM337", message, span, "for this grammar", help=grammar_help(said))
    number, column = int(found[1]), int(found[2])
    lines = grammar.splitlines()
    shown = lines[number - 1] if 0 < number <= len(lines) else ""
    return error(
        "PLM337",
        f"the grammar is wrong in line {number}, column {column}: {_sentence(wrong[found.end() :])}",
        span,
        "for this grammar",
        notes=[shown, " " * (column - 1) + "^"] if shown else [],
        help=grammar_help(wrong[found.end() :]),
    )


def _sentence(text: str) -> str:
    """The first line of a message, with the cause that stands further down, without a full stop."""
    lines = [line.strip() for line in text.strip().splitlines()]
    first = next(iter(lines), "").rstrip(".:")
    cause = next((line.removeprefix("error: ") for line in lines[1:] if line.startswith("error: ")), "")
    return f"{first}: {cause}".rstrip(".") if cause else first


def _vocabulary(tokenizer: Tokenizer) -> Any:
    """The tokens as llguidance wants them; what no text may hold is marked as special."""
    from llguidance import LLTokenizer, TokenizerWrapper

    key = tokenizer_key(tokenizer)
    with _lock:
        kept = _vocabularies.get(key)
    if kept is None:
        kept = LLTokenizer(TokenizerWrapper(_Vocabulary(tokenizer)), n_vocab=tokenizer.vocabulary_size)
        with _lock:
            keep(_vocabularies, key, kept, _KEPT)
    return kept


class _Vocabulary:
    """The attributes that llguidance reads. It spells texts only to guess ahead, so greedily will do."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        usable = {*token_matrix(tokenizer).ids.tolist()}
        self.special_token_ids = [i for i in range(tokenizer.vocabulary_size) if i not in usable]
        self.tokens = [
            spelled if i in usable else b"\xff<%d>" % i for i, spelled in enumerate(tokenizer.token_bytes)
        ]
        # Its end of text is never drawn as a token; where there is none any special one stands for it.
        self.eos_token_id = next(iter((*tokenizer.eos_ids, *self.special_token_ids)), 0)
        self.bos_token_id = None

    def __call__(self, text: str | bytes) -> list[int]:
        return []
