"""The tabular model: its numbers by hand, its sums, its encoder, and what a wrong table is told."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posterior_lm.lang.diagnostics import ModelError
from posterior_lm.lm.protocol import Branch, Request
from posterior_lm.lm.tabular import TabularModel, TabularTokenizer

TABLE = {
    "tokens": ["a", "b"],
    "order": 2,
    "max_tokens": 3,
    "rows": {"": {"a": 0.7, "b": 0.2, "<eos>": 0.1}, "a": {"b": 1.0}},
    "contexts": [{"after": ["a", "b"], "next": {"a": 0.5, "<eos>": 0.5}}],
}


def test_rows_fall_back_to_shorter_contexts() -> None:
    model = TabularModel.from_dict(TABLE)
    eos = model.tokenizer.eos_id
    assert eos == 2 and model.tokenizer.eos_ids == (2,) and model.tokenizer.bos_id is None
    expected = {
        (): (0.7, 0.2, 0.1),
        (0,): (0, 1, 0),
        (1,): (0.7, 0.2, 0.1),
        (0, 1): (0.5, 0, 0.5),
        (1, 1): (0.7, 0.2, 0.1),
        (eos, 0): (0, 1, 0),  # a text after a bare end-of-text, where there is no bos
        (0, 1, 0): (0, 0, 1),  # three tokens: the text ends
        (eos, 0, 1): (0.5, 0, 0.5),  # and end-of-text at the start is not counted
        (eos, 0, 1, 0): (0, 0, 1),
    }
    for ids, probs in expected.items():
        np.testing.assert_allclose(np.exp(model.next_log_probs(ids)), probs)


def test_scores_by_hand() -> None:
    model = TabularModel.from_dict(TABLE)
    scores = model.score([Request((2, 0, 1), 1, branches=(Branch(1, (1,)),))])[0]
    np.testing.assert_allclose(scores.tokens, np.log([0.7, 1.0]))
    np.testing.assert_allclose(np.exp(scores.eos), [0.1, 0.0, 0.5])
    np.testing.assert_allclose(scores.branches[0].tokens, np.log([0.2]))
    np.testing.assert_allclose(np.exp(scores.branches[0].eos), [0.1, 0.1])


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("order", [0, 1, 2])
def test_all_texts_together_have_probability_one(order: int, bos: bool) -> None:
    model = TabularModel.random(
        ["a", "b", "ab"], order=order, max_tokens=4, bos=bos, rng=order, concentration=0.4
    )
    start = model.tokenizer.start_ids or model.tokenizer.eos_ids
    total, most = 0.0, 0.0
    for length in range(5):
        for ids in itertools.product(range(3), repeat=length):
            scores = model.score([Request((*start, *ids), 1)])[0]
            p = np.exp(scores.tokens.sum() + scores.eos[-1])
            total, most = total + p, max(most, p)
    assert total == pytest.approx(1.0, abs=1e-12)
    assert most > 2 / 121  # skewed, not uniform


def test_a_random_table_depends_on_its_seed_and_its_order() -> None:
    tokens = ["a", "b"]
    one, same = TabularModel.random(tokens, order=2, rng=1), TabularModel.random(tokens, order=2, rng=1)
    other = TabularModel.random(tokens, order=2, rng=2)
    assert one.identity.digest == same.identity.digest != other.identity.digest
    assert not np.allclose(one.next_log_probs((0, 0)), one.next_log_probs((1, 0)))


@given(st.lists(st.sampled_from(["a", "b", "ab", "abb", " "]), max_size=8).map("".join))
def test_the_encoder_takes_the_fewest_tokens_then_the_longest_first(text: str) -> None:
    tokenizer = TabularTokenizer(("a", "b", "ab", "abb", " "))
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    spellings = [
        [tokenizer.tokens[i] for i in candidate]
        for n in range(len(ids) + 1)
        for candidate in (itertools.product(range(5), repeat=n) if n <= 4 else [ids])
    ]
    exact = [s for s in spellings if "".join(s) == text]
    assert min(map(len, exact)) == len(ids)
    if len(ids) <= 4:
        lengths = [len(tokenizer.tokens[i]) for i in ids]
        assert lengths == max([len(p) for p in s] for s in exact if len(s) == len(ids))


def test_what_it_cannot_spell_is_named() -> None:
    with pytest.raises(ModelError) as caught:
        TabularTokenizer(("ab", "c")).encode("abz")
    assert "'z' (U+007A)" in caught.value.diagnostics[0].message
    with pytest.raises(ModelError) as caught:
        TabularTokenizer(("ab", "c")).encode("aba")
    assert "no tokens of the table spell 'aba'" in caught.value.diagnostics[0].message


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_text(json.dumps(TABLE))
    model = TabularModel.from_json(path)
    assert model.identity.digest == TabularModel.from_dict(TABLE).identity.digest
    assert model.identity.name == str(path)


@pytest.mark.parametrize(
    ("change", "where", "said"),
    [
        ({"tokens": []}, "tokens", "not a list of texts"),
        ({"tokens": ["a", "a"]}, "tokens", "'a' is listed twice"),
        ({"tokens": ["a", ""]}, "tokens[1]", "'' is no token"),
        ({"order": 3}, "order", "from 0 to 2"),
        ({"order": True}, "order", "from 0 to 2"),
        ({"max_tokens": None}, "max_tokens", "not a whole number"),
        ({"bos": 1}, "bos", "neither true nor false"),
        ({"rows": {"": {"a": 0.5}}}, "rows['']", "sums to 0.5"),
        ({"rows": {"": {"a": 1.5, "b": -0.5}}}, "rows['']['a']", "1.5 is not a probability"),
        ({"rows": {"": {"a": 0.5, "b": -0.5}}}, "rows['']['b']", "-0.5 is not a probability"),
        ({"rows": {"": {"a": 10**400}}}, "rows['']['a']", "000... is not a probability"),
        ({"rows": {"": {"a": 10**5000}}}, "rows['']['a']", "a value of type int is not a probability"),
        ({"rows": {"": {"a": 1.5e308, "b": 1.5e308}}}, "rows['']['a']", "1.5e+308 is not a probability"),
        ({"tokens": ["a", "\ud800"]}, "tokens[1]", "'\\ud800' is no token"),
        ({"rows": {"": {"a": float("nan")}}}, "rows['']['a']", "nan is not a probability"),
        ({"rows": {"": {"a": "1"}}}, "rows['']['a']", "'1' is not a probability"),
        ({"rows": {"": {"z": 1.0}}}, "rows['']['z']", "'z' is not one of the tokens"),
        ({"rows": {"z": {"a": 1.0}}}, "rows['z']", "'z' is not one of the tokens"),
        ({"rows": {"a": {"a": 1.0}}}, "rows", 'the row "" is missing'),
        ({"rows": [1]}, "rows", "not an object"),
        ({"contexts": [{"after": ["a"]}]}, "contexts[0]", "is not {"),
        (
            {"contexts": [{"after": ["a", "b", "a"], "next": {"a": 1.0}}]},
            "contexts[0]",
            "longer than the order",
        ),
        ({"contexts": [{"after": ["a"], "next": {"a": 1.0}}]}, "contexts[0]", "has two rows"),
        ({"contexts": [{"after": ["<bos>"], "next": {"a": 1.0}}]}, "contexts[0]", "'<bos>' is not one"),
        ({"row": {}}, "row", "no entry 'row'"),
    ],
)
def test_a_wrong_table_is_told_where(change: dict, where: str, said: str) -> None:
    with pytest.raises(ModelError) as caught:
        TabularModel.from_dict(TABLE | change)
    (found,) = caught.value.diagnostics
    assert (found.code, found.where) == ("PLM514", where)
    assert said in found.message


@pytest.mark.parametrize(
    ("content", "code", "said"),
    [
        (b'{"tokens":\n [}', "PLM514", "in line 2, column 3"),
        (b"[]", "PLM514", "not a JSON object"),
        (b"\xff\xfe", "PLM514", "byte 0 is not UTF-8"),
        (rb'{"tokens": ["\ud800"]}', "PLM514", "half of a surrogate pair"),
        (b'{"order": 1' + b"0" * 5000 + b"}", "PLM514", "more than 308 digits"),
        (b'{"tokens": NaN}', "PLM514", "NaN is no number that JSON has"),
        (b"[" * 100_000, "PLM514", "nested too deeply"),
        (None, "PLM510", "there is no table"),
    ],
)
def test_a_wrong_file_is_told_how(tmp_path: Path, content: bytes | None, code: str, said: str) -> None:
    path = tmp_path / "table.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        TabularModel.from_json(path)
    assert caught.value.diagnostics[0].code == code
    assert said in caught.value.diagnostics[0].message
