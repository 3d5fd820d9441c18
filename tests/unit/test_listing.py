"""Rows whose posterior is listed: which programs have such rows, and what is shown of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posterior_lm.api.query import loads
from posterior_lm.infer.guide import PriorGuide
from posterior_lm.train import enumerated
from posterior_lm.train.adapter import Adapter
from posterior_lm.train.enumerated import EnumeratedRows, shares
from posterior_lm.train.guide import PolicyGuide
from posterior_lm.train.parallel import World
from posterior_lm.train.policy import load_policy
from posterior_lm.train.replay import Entry, Replay
from posterior_lm.train.rows import Rows
from posterior_lm.train.settings import MANY, settings_of
from posterior_lm.train.trainer import Trainer
from tests.unit.test_fit import DIGIT, DIGITS, RULE, RULES, SMALL, WORD, WORDS, fitted


def bound(program: str = RULE, data: list[Any] = RULES) -> Rows:
    query = loads(program)
    return Rows(query.prepared, [query.prepared.validate(row) for row in data])


def listing_of(rows: Rows, pairs: int = 30) -> EnumeratedRows | None:
    return EnumeratedRows.of(rows, range(len(rows)), pairs, 0)


@pytest.fixture(scope="module")
def rows() -> Rows:
    return bound()


@pytest.fixture(scope="module")
def listing(rows: Rows) -> EnumeratedRows:
    found = listing_of(rows)
    assert found is not None
    return found


@pytest.fixture
def trainer(rows: Rows, listing: EnumeratedRows, request: pytest.FixtureRequest) -> Trainer:
    settings = settings_of({**SMALL, "rank": 16, "steps": 60, "sleep": 1.0, "pairs": 30})
    adapter = Adapter.new(rows.program.models["base"], rank=16, seed=0)
    request.addfinalizer(adapter.close)
    ready = settings.resolved(exact=False, listed=MANY)
    return Trainer(rows, range(len(rows)), adapter, ready, None, World(), enumerated=listing)


def learnt(listing: EnumeratedRows, trainer: Trainer, replay: Replay | None = None) -> Replay:
    empty = Replay(64, 1000) if replay is None else replay
    return listing.learn(0, range(listing.groups), empty, World(), trainer.balancer.scored)


# ------------------------------------------------------------------------------- which programs


def test_a_list_holds_most_of_a_prior_that_all_rows_share(listing: EnumeratedRows, rows: Rows) -> None:
    target = rows.target(3)
    prior = np.exp(
        PriorGuide(target).log_prob({"rule": [target.value_of("rule", v) for v in listing.values]})
    )
    assert len(set(listing.values)) == len(listing.values) <= enumerated.MOST
    assert listing.mass == pytest.approx(prior.sum()) and enumerated.MASS < listing.mass < 1
    assert sorted(listing.numbers) == list(range(6)) and listing.groups == 6


@pytest.mark.parametrize(
    ("program", "data"),
    [
        pytest.param(WORD, WORDS, id="a prior that reads the row"),
        pytest.param(DIGIT, DIGITS, id="a finite type"),
        pytest.param(RULE.replace('base("Instruction:")', 'base("Once")'), RULES, id="a prior of many texts"),
        pytest.param(
            RULE.replace('base("Instruction:")', 'base("Instruction:") ^ 0.5'), RULES, id="flattened"
        ),
        pytest.param(
            RULE.replace("  observe", '  latent more: text(tokens=1..2) ~ base("Instruction:")\n  observe'),
            RULES,
            id="two latents",
        ),
    ],
)
def test_other_programs_have_none(program: str, data: list[Any]) -> None:
    assert listing_of(bound(program, data)) is None


def test_a_list_that_is_too_short_is_none(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enumerated, "MOST", 3)
    assert listing_of(rows) is None


FINITE = """lm base = "tiny"
program finite(word: text) {
  latent n: int(1..6, lead=" ") ~ poisson(2.0)
  observe word ~ base("Once there were", n)
  guide n ~ base("Once", word)
}
"""
SAID = [{"word": " cats"}, {"word": " Tom"}]


@pytest.fixture
def whole(request: pytest.FixtureRequest) -> Trainer:
    """A trainer of two rows that are listed whole."""
    rows = bound(FINITE, SAID)
    adapter = Adapter.new(rows.program.models["base"], rank=2, seed=0)
    request.addfinalizer(adapter.close)
    settings = settings_of({**SMALL, "scope": "rows"}).resolved(exact=False, listed=2, rows=2)
    listing = EnumeratedRows.whole(rows, [0, 1], 30, 0)
    return Trainer(rows, [0, 1], adapter, settings, None, World(), enumerated=listing)


def test_a_short_finite_type_is_listed_whole(whole: Trainer) -> None:
    """Whatever its prior is; the shares are the posterior itself, of every value and to the last digit."""
    rows, found = whole.rows, whole.enumerated
    assert found is not None and found.mass == 1.0 and len(found.values) == 6 and found.groups == 2
    few = EnumeratedRows.whole(rows, [0, 1], 3, 0)
    assert few is not None and few.groups == 1, "a step shows about as many values as it has draws"
    replay = learnt(found, whole)
    batch = found.batch(0, [0, 1], replay)
    assert len(batch.draws) == 12
    for place, number in enumerate(found.step_rows(0)):
        exact = loads(FINITE).given(SAID[number]).using("exact").draw(seed=0).draws
        share = np.exp(exact.log_reward - np.logaddexp.reduce(exact.log_reward))
        wanted = {v.ids: p for v, p in zip(exact.values["n"], share, strict=True)}
        own = {
            d.paths[0].ids: w
            for d, w in zip(batch.draws[6 * place :][:6], batch.weights[6 * place :][:6], strict=True)
        }
        assert own == pytest.approx(wanted, rel=1e-6, abs=1e-12)
        assert max(wanted.values()) > 0.3 > 0.05 > min(wanted.values()), "it says something"


def test_which_rows_were_listed_whole_is_kept(whole: Trainer) -> None:
    whole.step("sleep")
    state = json.loads(json.dumps(whole.state()))
    whole.shown = set()
    whole.restore(whole.tensors(), whole.arrays(), state)
    assert whole.shown == {0, 1}


def test_a_whole_list_that_takes_too_long_is_none() -> None:
    """By the time of a few values, for all values of all rows."""
    rows = bound(FINITE, SAID)
    assert EnumeratedRows.whole(rows, [0, 1], 30, 0, seconds=60.0) is not None
    assert EnumeratedRows.whole(rows, [0, 1], 30, 0, seconds=1e-6) is None


def test_a_buffer_without_room_for_a_whole_list_has_none(tmp_path: Path) -> None:
    """A list of which it kept a part would be another posterior's."""
    for capacity, listed in ((6, True), (5, False)):
        made = loads(FINITE).fit(
            SAID, tmp_path / str(capacity), steps=2, certify_draws=10, draws=8, seeds=4, capacity=capacity
        )
        assert ("are listed" in made.manifest.note) == listed


@pytest.mark.parametrize(
    ("program", "data"),
    [
        pytest.param(WORD, WORDS, id="a text"),
        pytest.param(FINITE.replace("1..6", "1..300"), SAID, id="a long one"),
        pytest.param(
            FINITE.replace("(word: text)", "(word: text, most: int)").replace("1..6", "1..most"),
            [{**SAID[0], "most": 5}, {**SAID[1], "most": 6}],
            id="another range in each row",
        ),
        pytest.param(
            FINITE.replace("  observe", '  latent m: int(1..2, lead=" ") ~ uniform(1, 2)\n  observe'),
            SAID,
            id="two latents",
        ),
        pytest.param(
            'lm base = "tiny"\nprogram some(word: text, many: bool) {\n  if many {\n'
            '    latent n: int(1..6, lead=" ") ~ base("There were")\n    observe word ~ base(n)\n'
            '  } else {\n    observe word ~ base("There was")\n  }\n}\n',
            [{**SAID[0], "many": True}, {**SAID[1], "many": False}],
            id="a row without it",
        ),
    ],
)
def test_other_types_are_not_listed_whole(program: str, data: list[Any]) -> None:
    assert EnumeratedRows.whole(bound(program, data), range(len(data)), 30, 0) is None


def test_a_policy_of_rows_of_a_finite_type_learns_from_the_whole_list(tmp_path: Path) -> None:
    """And is nearer to the posterior for it than by as many steps of draws."""
    kl = {}
    for listed in (None, 0.0):
        query = loads(FINITE.replace("1..6", "1..60").replace("poisson(2.0)", "geometric(0.05)"))
        made = query.fit(SAID, tmp_path / str(listed), steps=20, seed=0, certify_draws=10, listed=listed)
        assert ("all 60 values are listed" in made.manifest.note) == (listed is None)
        policy = load_policy(made.folder, query.prepared)
        each = []
        for row in SAID:
            exact = query.given(row).using("exact").draw(seed=0).draws
            guide = PolicyGuide.of(query.given(row).target(), policy.adapter)
            share = np.exp(exact.log_reward - np.logaddexp.reduce(exact.log_reward))
            each.append(float(np.sum(share * (np.log(share) - guide.log_prob(exact.values)))))
        policy.adapter.close()
        kl[listed] = float(np.mean(each))
    assert kl[None] < 0.7 * kl[0.0], kl


# ------------------------------------------------------------------------------- what is shown


def test_a_row_is_shown_with_its_posterior(listing: EnumeratedRows, trainer: Trainer) -> None:
    replay = learnt(listing, trainer)
    for number in (2,):
        entries = replay.entries(number)
        found = np.exp([e.log_reward for e in entries])
        exact = loads(RULE).given(RULES[number]).using("exact", values=1500).draw(seed=0).draws
        wanted = dict(
            zip(
                [v.ids for v in exact.values["rule"]],
                np.exp(exact.log_reward - np.logaddexp.reduce(exact.log_reward)),
                strict=True,
            )
        )
        own = dict(zip([e.ids[0] for e in entries], found / found.sum(), strict=True))
        tv = 0.5 * sum(abs(own.get(k, 0.0) - wanted.get(k, 0.0)) for k in own.keys() | wanted.keys())
        assert tv < 0.03, number
        assert max(wanted.values()) > 0.15, "it says something"


def test_what_listing_took_is_counted(listing: EnumeratedRows, trainer: Trainer) -> None:
    assert listing.seconds > 0 and trainer.seconds == listing.seconds
    trainer.step()
    assert trainer.seconds > listing.seconds


def test_a_row_is_scored_once(listing: EnumeratedRows, trainer: Trainer) -> None:
    asked: list[int] = []

    def scored(row: int, values: Any) -> list[Entry]:
        asked.append(row)
        return trainer.balancer.scored(row, values)

    replay = listing.learn(0, [0, 2], Replay(64, 1000), World(), scored)
    assert asked == sorted({listing.step_rows(0)[0], listing.step_rows(0)[2]})
    again = listing.learn(0, range(listing.groups), replay, World(), scored)
    assert sorted(asked) == list(range(6))
    assert listing.learn(1, range(listing.groups), again, World(), scored) is again


def test_what_the_user_knew_has_its_share(listing: EnumeratedRows, trainer: Trainer, rows: Rows) -> None:
    target = rows.target(0)
    known = target.value_of("rule", listing.values[0])
    entries = trainer.balancer.scored(0, [{"rule": known}], pinned=True)
    replay = learnt(listing, trainer, Replay(64, 1000).add(0, entries))
    plain = learnt(listing, trainer)
    assert {e.ids for e in replay.entries(0)} == {e.ids for e in plain.entries(0)} | {(known.ids,)}
    assert sum(e.pinned for e in replay.entries(0)) == 1


def test_a_step_has_every_row_once_in_every_pass(rows: Rows) -> None:
    listing = listing_of(rows, pairs=20)
    assert listing is not None and listing.groups == 4
    seen = [row for step in range(6) for row in listing.step_rows(step)]
    assert all(sorted(seen[k : k + 6]) == list(range(6)) for k in range(0, 24, 6))
    assert seen[:6] != seen[6:12]


def test_shares_are_unbiased_and_sum_to_one() -> None:
    log_reward = np.log([0.6, 0.003, 0.39, 0.007]) - 40
    found = [shares(log_reward, np.random.default_rng(k)) for k in range(4000)]
    assert all(sum(w for _, w in one) == pytest.approx(1) and len(one) == 3 for one in found)
    mean = np.zeros(4)
    for one in found:
        for place, weight in one:
            mean[place] += weight / len(found)
    np.testing.assert_allclose(mean, [0.6, 0.003, 0.39, 0.007], atol=3e-4)
    assert shares(np.log([0.5, 0.5]), np.random.default_rng(0)) == [
        (0, pytest.approx(0.5)),
        (1, pytest.approx(0.5)),
    ]


def test_a_row_weighs_as_much_as_any_other(listing: EnumeratedRows, trainer: Trainer) -> None:
    replay = learnt(listing, trainer)
    batch = listing.batch(0, range(listing.groups), replay)
    assert batch.rows == 6 and batch.weights.sum() == pytest.approx(6)
    alone = listing.batch(0, [1], replay)
    assert alone.rows == 1 and alone.weights.sum() == pytest.approx(1)


# ------------------------------------------------------------------------------- training


@pytest.mark.slow
def test_the_policy_comes_near_the_posteriors(listing: EnumeratedRows, trainer: Trainer, rows: Rows) -> None:
    def forward_kl() -> float:
        found = []
        for number in range(len(rows)):
            target, entries = rows.target(number), learnt(listing, trainer).entries(number)
            log_p = np.array([e.log_reward for e in entries])
            log_p -= np.logaddexp.reduce(log_p)
            values = [target.value_of("rule", e.ids[0]) for e in entries]
            log_q = PolicyGuide.of(target, trainer.adapter).log_prob({"rule": values})
            found.append(float(np.sum(np.exp(log_p) * (log_p - log_q))))
        return float(np.mean(found))

    before = forward_kl()
    while not trainer.finished:
        assert trainer.step().stage == "sleep"
    after = forward_kl()
    assert before > 1.5 and 0 <= after < 0.2, (before, after)


def test_steps_take_turns_by_the_share_of_listed_ones(
    rows: Rows, listing: EnumeratedRows, trainer: Trainer
) -> None:
    class Simulated:
        groups = 4
        steps: list[int] = []  # noqa: RUF012

        def ready(self, step: int, slots: Any) -> bool:
            return True

        def batch(self, step: int, slots: Any) -> Any:
            self.steps.append(step)
            return listing.batch(0, [0], learnt(listing, trainer))

    settings = settings_of({**SMALL, "steps": 10, "sleep": 1.0, "pairs": 30, "listed": 0.75})
    both = Trainer(
        rows, range(6), trainer.adapter, settings.resolved(exact=False, listed=6), Simulated(), World(), enumerated=listing,  # type: ignore[arg-type]
    )  # fmt: skip
    for _ in range(8):
        both.step()
    assert Simulated.steps == [0, 4]


def test_a_fit_says_what_it_lists(tmp_path: Path) -> None:
    notes = fitted(tmp_path / "a", RULE, RULES, steps=2, sleep=1.0).notes
    assert any("values hold 97" in note for note in notes), notes
    assert not any(
        "of the prior" in n for n in fitted(tmp_path / "b", RULE, RULES, steps=2, listed=0.0).notes
    )


def test_a_program_that_cannot_be_simulated_is_compiled_from_lists(tmp_path: Path) -> None:
    program = RULE.replace('[" ", output]', '" black"').replace(", output: text", "")
    done = fitted(tmp_path / "a", program, [{"input": w} for w in ("coal", "cat", "1")], steps=2, sleep=1.0)
    assert any("nothing is simulated" in note for note in done.notes), done.notes
    lines = (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["stage"] for line in lines] == ["sleep", "sleep"]


def test_defaults_follow_from_what_is_listed() -> None:
    plain, few, many = (settings_of({}).resolved(exact=True, listed=n) for n in (0, MANY - 1, MANY))
    assert (plain.steps, plain.sleep, plain.simulated) == (300, 0.5, 0.5)
    assert (few.steps, few.sleep, few.listed, few.simulated) == (600, 0.9, 0.5, 0.5)
    assert (many.steps, many.sleep, many.listed, many.simulated) == (600, 0.9, 1.0, 0.0)
    stated = settings_of({"steps": 7, "sleep": 0.2, "listed": 0.3, "simulated": 0.1}).resolved(
        exact=True, listed=MANY
    )
    assert (stated.steps, stated.sleep, stated.listed, stated.simulated) == (7, 0.2, 0.3, 0.1)
    assert settings_of({}).resolved(exact=False, listed=MANY).reward_temperature == 1.0
