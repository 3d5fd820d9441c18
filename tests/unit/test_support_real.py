"""Supports over three real tokenizers; skipped, saying so, where these are absent."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from posterior_lm.lang.diagnostics import CompileError, ModelError
from posterior_lm.lang.values import ChoiceSpec, IntSpec
from posterior_lm.lm.protocol import Tokenizer
from posterior_lm.lm.tokenizers import load_tokenizer
from posterior_lm.support.base import Support
from posterior_lm.support.build import build_support
from posterior_lm.support.spec import TextSpec
from tests.conftest import shared_model

SENTENCES = (
    " Then the cat saw a dog.",
    " went to the park with Tim, and then home.",
    " \"Hello\", she said to her mom, 'I am 3 years old'.",
)


@pytest.fixture(params=["gpt2-tokenizer", "stories260k-hf", "tinystories656k-hf"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return load_tokenizer(shared_model(request.param))


def walk(support: Support, rng: np.random.Generator) -> tuple[int, ...]:
    state, ids = support.start(), []
    while not support.may_stop(state):
        tokens = np.flatnonzero(support.allowed(state))
        assert len(tokens), f"a dead end after {ids}"
        ids.append(int(rng.choice(tokens)))
        state = support.advance(state, ids[-1])
    return tuple(ids)


def spelled(tokenizer: Tokenizer, ids: tuple[int, ...]) -> bytes:
    return b"".join(tokenizer.token_bytes[i] for i in ids)


@pytest.mark.parametrize("stop", [".", ", and", "é.", "\n\n"])
def test_random_walks_end_with_the_first_stop(
    tokenizer: Tokenizer, stop: str, rng: np.random.Generator
) -> None:
    try:
        support = build_support(TextSpec(2, 12, stop, "stop"), tokenizer)
    except CompileError as problem:
        assert problem.diagnostics[0].code == "PLM531"
        return
    assert spelled(tokenizer, support.stop_ids) == stop.encode()
    for _ in range(30):
        ids = walk(support, rng)
        text = spelled(tokenizer, ids)
        assert text.find(stop.encode()) == len(text) - len(stop.encode())
        assert 2 <= len(ids) <= 12 and support.accepts(ids)
        assert not set(ids) & {*tokenizer.eos_ids, *tokenizer.start_ids}


def test_the_tokenizers_own_sentences_are_inside(tokenizer: Tokenizer) -> None:
    plain = build_support(TextSpec(1, 40, ".", "stop"), tokenizer)
    canonical = build_support(TextSpec(1, 40, ".", "stop", canonical=True), tokenizer)
    for sentence in SENTENCES:
        ids = tokenizer.encode(sentence)
        held = [i for i, t in enumerate(ids[:-1]) if b"." in tokenizer.token_bytes[t]]
        whole = tokenizer.token_bytes[ids[-1]].endswith(b".") and not held
        assert plain.accepts(ids) == whole
        assert canonical.accepts(ids) == whole
        assert not plain.accepts((*ids, ids[0]))
        assert plain.accepts(plain.cut(ids, 3)) and len(plain.cut(ids, 3)) == 3 + len(plain.stop_ids)


def test_other_spellings_are_not_canonical(tokenizer: Tokenizer) -> None:
    canonical = build_support(TextSpec(1, 40, ".", "stop", canonical=True), tokenizer)
    plain = build_support(TextSpec(1, 40, ".", "stop"), tokenizer)
    pieces = tokenizer.token_bytes
    ids = tuple(pieces.index(bytes([b])) for b in b"the cat.")
    assert plain.accepts(ids) and not canonical.accepts(ids)


def test_canonical_walks_read_back(rng: np.random.Generator) -> None:
    for name in ("stories260k-hf", "tinystories656k-hf"):
        tokenizer = load_tokenizer(shared_model(name))
        support = build_support(TextSpec(3, 8, ".", "stop", canonical=True), tokenizer)
        for _ in range(20):
            ids = walk(support, rng)
            assert tokenizer.encode(tokenizer.decode(ids)) == ids and support.accepts(ids)


def test_finite_types_round_trip(tokenizer: Tokenizer) -> None:
    for spec in (IntSpec(0, 120), IntSpec(-5, 5, lead=""), ChoiceSpec(("objective", "subjective", " yes"))):
        support = build_support(spec, tokenizer)
        data = [support.datum(ids) for ids in support.values()]
        assert data == [spec.datum(i) for i in range(spec.size)]
        for datum, ids in zip(data, support.values(), strict=True):
            assert support.ids_of(datum) == ids and tokenizer.decode(ids) == spec.spelling(spec.number(datum))


@pytest.mark.parametrize(
    "pattern", [r" [A-Z][a-zA-Z ,'\"0-9]*\.", r"(?i)( ?[a-zéü€]+[,.]?)+", r"\W\w+( \w+)*(.|\n)?"]
)
def test_walks_match_the_pattern_and_the_tokenizers_own_spellings_are_accepted(
    tokenizer: Tokenizer, pattern: str, rng: np.random.Generator
) -> None:
    support = build_support(TextSpec(1, 20, pattern=pattern), tokenizer)
    for _ in range(30):
        ids = walk(support, rng)
        assert re.fullmatch(pattern, spelled(tokenizer, ids).decode())
    for text in (*SENTENCES, " Ünder the café.", "a € b"):
        try:
            ids = tokenizer.encode(text)
        except ModelError:
            continue
        wanted = re.fullmatch(pattern, spelled(tokenizer, ids).decode()) is not None
        assert support.accepts(ids) == (wanted and len(ids) <= 20)


def test_walks_of_a_schema_are_json(tokenizer: Tokenizer, rng: np.random.Generator) -> None:
    schema = {
        "type": "object",
        "properties": {
            "name": {"enum": ["Tim", "Zoë"]},
            "age": {"type": "integer", "minimum": 3, "maximum": 12},
        },
        "required": ["name", "age"],
        "additionalProperties": False,
        "x-guidance": {"whitespace_flexible": False},
    }
    if not any(b"{" in (piece or b"") for piece in tokenizer.token_bytes):
        with pytest.raises(CompileError, match="PLM330"):
            build_support(TextSpec(4, 40, json=json.dumps(schema)), tokenizer)
        return
    support = build_support(TextSpec(4, 40, json=json.dumps(schema)), tokenizer)
    for _ in range(10):
        value = json.loads(spelled(tokenizer, walk(support, rng)))
        assert value["name"] in ("Tim", "Zoë") and 3 <= value["age"] <= 12
    ids = tokenizer.encode('{"name":"Tim","age":7}')
    assert support.accepts(ids) == (spelled(tokenizer, ids) == b'{"name":"Tim","age":7}')
    assert not support.accepts(tokenizer.encode('{"name":"Tim","age":2}'))
