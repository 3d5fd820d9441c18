"""Tables whose rows are exchangeable: what each row says, and tables made anew from them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from posterior_lm.api.query import loads
from posterior_lm.train import enumerated as module
from posterior_lm.train.enumerated import EnumeratedRows, ExchangeableRows
from posterior_lm.train.parallel import World
from posterior_lm.train.replay import Replay
from posterior_lm.train.rows import Rows
from tests.unit.test_fit import PLATE, RULE, RULES, TABLES


def bound(program: str = PLATE, data: list[Any] = TABLES) -> Rows:
    query = loads(program)
    return Rows(query.prepared, [query.prepared.validate(row) for row in data])


def listing_of(rows: Rows) -> EnumeratedRows:
    found = EnumeratedRows.of(rows, range(len(rows)), 30, 0)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def rows() -> Rows:
    return bound()


@pytest.fixture(scope="module")
def listing(rows: Rows) -> EnumeratedRows:
    return listing_of(rows)


@pytest.fixture(scope="module")
def cells(listing: EnumeratedRows) -> ExchangeableRows:
    assert listing.cells is not None
    return listing.cells


def log_reward(rows: Rows, data: Any, values: Any) -> np.ndarray:
    target = rows.program.bind_valid(data)
    return target.log_reward({"rule": [target.value_of("rule", ids) for ids in values]})


# ------------------------------------------------------------------------------- which programs


@pytest.mark.parametrize(
    ("program", "data"),
    [
        pytest.param(RULE, RULES, id="no table"),
        pytest.param(PLATE, [{"examples": [row]} for row in RULES], id="tables of one row"),
        pytest.param(
            PLATE.replace("text)) {", "text), hint: text) {"),
            [{**row, "hint": "x"} for row in TABLES],
            id="another parameter",
        ),
    ],
)
def test_other_programs_have_no_cells(program: str, data: list[Any]) -> None:
    assert listing_of(bound(program, data)).cells is None


def cells_of(
    rows: Rows, listing: EnumeratedRows, most: int = 10**6, seconds: float | None = None
) -> ExchangeableRows | None:
    return ExchangeableRows.of(rows, listing.numbers, listing.values, World(), most=most, seconds=seconds)


def test_a_log_reward_that_is_no_sum_has_none(
    rows: Rows, listing: EnumeratedRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cells_of(rows, listing) is not None
    plain = module._log_reward

    def bent(rows: Rows, data: Any, values: Any) -> np.ndarray:
        found = plain(rows, data, values)
        assert found is not None
        return found + 0.01 * len(data["examples"]) ** 2

    monkeypatch.setattr(module, "_log_reward", bent)
    assert cells_of(rows, listing) is None


def test_scoring_them_has_a_limit(rows: Rows, listing: EnumeratedRows) -> None:
    scores = 9 * len(listing.values)
    assert (
        cells_of(rows, listing, most=scores) is not None and cells_of(rows, listing, most=scores - 1) is None
    )
    assert cells_of(rows, listing, seconds=1e-9) is None and cells_of(rows, listing, seconds=1e9) is not None


def test_a_table_that_means_nothing_has_none(
    rows: Rows, listing: EnumeratedRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = module._log_reward
    monkeypatch.setattr(
        module, "_log_reward", lambda r, data, v: plain(r, data, v) if data["examples"] else None
    )
    assert cells_of(rows, listing) is None


# ------------------------------------------------------------------------------- what they say


def test_rows_of_a_table_add_up(rows: Rows, listing: EnumeratedRows, cells: ExchangeableRows) -> None:
    assert len(cells.cells) == 9, "two tables share a row, and it is kept once"
    for number in range(len(rows)):
        wanted = log_reward(rows, rows.data[number], listing.values)
        np.testing.assert_allclose(cells.log_reward(cells.of_row[number]), wanted, atol=1e-3)
    assert max(abs(cells.scores).max(axis=0)) > 3, "and they say something"


def test_a_table_made_anew_could_have_one_latent(rows: Rows, cells: ExchangeableRows) -> None:
    rng = np.random.default_rng(0)
    for number in range(len(rows)):
        own = cells.of_row[number]
        made = Counter(tuple(sorted(cells.drawn(number, rng))) for _ in range(60))
        assert all(len(one) == len(own) for one in made)
        assert made[tuple(sorted(own))] >= 10
    # The tables of opposites exchange rows with each other and not with that of colors.
    opposites, colors = {c for n in (0, 1) for c in cells.of_row[n]}, set(cells.of_row[2])
    made = {c for _ in range(60) for c in cells.drawn(0, rng)}
    assert len(made & (opposites - set(cells.of_row[0]))) == 2
    assert not made & colors


def test_tables_stay_as_they_are_where_none_is_exchanged(
    cells: ExchangeableRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EXCHANGED", 0.0)
    assert all(cells.drawn(n, np.random.default_rng(n)) == own for n, own in cells.of_row.items())


def test_what_is_shown_is_the_posterior_of_the_table_it_is_shown_with(
    rows: Rows, listing: EnumeratedRows, cells: ExchangeableRows
) -> None:
    tokenizer = rows.program.models["base"].tokenizer
    by_context: dict[tuple[int, ...], dict[tuple[int, ...], float]] = {}
    for step in range(6):
        batch = listing.batch(step, range(listing.groups), Replay(8, 8))
        assert batch.rows == listing.groups == 5 and batch.weights.sum() == pytest.approx(5)
        for draw, weight in zip(batch.draws, batch.weights, strict=True):
            (path,) = draw.paths
            by_context.setdefault(path.context, {})[path.ids] = weight
    anew = 0
    for context, shown in by_context.items():
        text = tokenizer.decode(context)
        named = [
            k
            for k, c in enumerate(cells.cells)
            if f"Input: {c['input']}\n" in text and f"Output: {c['output']}\n" in text
        ]
        if len(named) != 2:
            continue
        anew += not any(set(named) == set(own) for own in cells.of_row.values())
        wanted = log_reward(rows, cells.data(named), listing.values)
        wanted = np.exp(wanted - np.logaddexp.reduce(wanted))
        exact = dict(zip(listing.values, wanted, strict=True))
        assert all(w == pytest.approx(exact[v], abs=1e-3) for v, w in shown.items() if exact[v] > 0.02)
        assert sum(exact[v] for v in shown) > 0.8
    assert anew
