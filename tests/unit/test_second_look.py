"""A second look at draws: what it finds, what it leaves alone, and what `auto` makes of it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attrs import evolve

import posterior_lm as plm
from posterior_lm.api.query import Query
from posterior_lm.infer.auto import _helped, affords
from posterior_lm.infer.base import run
from posterior_lm.infer.draws import Draws, MixtureReport, SecondLook
from posterior_lm.infer.exact import Exact
from posterior_lm.infer.importance import Importance
from posterior_lm.infer.listing import is_whole, listed_early
from posterior_lm.infer.mixture import FLOOR, Mixture
from posterior_lm.infer.second_look import SEVERAL, _lacking, looked
from posterior_lm.infer.verdict import level
from posterior_lm.infer.weights import logsumexp
from posterior_lm.infer.wider_guides import FlatGuide, ListGuide, elsewhere, flatter
from posterior_lm.lm.tabular import TabularModel

RARE = TabularModel.from_dict(
    {
        "tokens": ["a", "b", "r", "y", *"cdefgh"],
        "order": 1,
        "max_tokens": 30,
        "rows": {
            "": {"a": 0.6, "b": 0.3999, "r": 0.0001},
            "a": {"a": 0.5, "b": 0.499999, "y": 0.000001},
            "b": {"a": 0.3, "b": 0.699999, "y": 0.000001},
            "r": {"y": 0.9, "a": 0.06, "b": 0.04},
            "y": {"<eos>": 1.0},
        },
    }
)
"""One token in ten thousand draws explains a y."""


def asked(body: str, params: str = "") -> Query:
    return plm.loads(f'lm base = "unused"\nprogram p({params}) {{ {body} }}').lm(base=RARE)


RARE_TOKEN = asked('latent z: text(tokens=1..1, end="free", chars="abr") ~ base() observe "y" ~ base(z)')
WIDE = asked('latent z: text(tokens=16..16, end="free", chars="ab") ~ base()')
"""Sixty thousand texts: too many to list for a thousand draws."""
WIDE_RARE = asked(
    'latent z: text(tokens=16..16, end="free", chars="abr") ~ base() factor if starts_with(z, "r") then 14 else 0'
)


TWO = asked(
    'latent n: int(0..2) ~ categorical([0.9, 0.09, 0.01]) latent z: text(tokens=1..3, end="free", chars="abr") ~ base()'
)


def texts() -> list[str]:
    """What the table can write with one to three of the tokens a, b, r."""
    after = {"": "abr", "a": "ab", "b": "ab", "r": "ab"}
    found, last = [], [""]
    for _ in range(3):
        last = [text + c for text in last for c in after[text[-1:]]]
        found += last
    return found


# ------------------------------------------------------------------------------- flatter proposals


@pytest.mark.parametrize("throughout", [False, True])
def test_a_flat_guide_is_a_guide(throughout: bool) -> None:
    """Its probabilities sum to one over the support, it draws what it says, and it surprises."""
    target = TWO.target()
    guide = FlatGuide(target, throughout=throughout)
    every = [(n, text) for n in range(3) for text in texts()]
    values = {"n": [target.value("n", n) for n, _ in every], "z": [target.value("z", z) for _, z in every]}
    assert logsumexp(guide.log_prob(values)) == pytest.approx(0.0, abs=1e-9)
    assert not any(guide.is_prior(info) for info in target.latents)
    drawn = guide.sample(np.random.default_rng(0), 4000)
    np.testing.assert_allclose(guide.log_prob(drawn.values), drawn.log_prob)
    own = np.array([0.9, 0.09, 0.01])
    flat = [own**power / (own**power).sum() for power in (0.5, 0.1)]
    found = [np.mean([v.datum == n for v in drawn.values["n"]]) for n in range(3)]
    share = 1.0 if throughout else 0.5
    np.testing.assert_allclose(found, (1 - share) * own + share / 2 * (flat[0] + flat[1]), atol=0.03)
    assert np.mean([v.text.startswith("r") for v in drawn.values["z"]]) > 0.02  # 0.0001 by the prior


def test_a_flat_guide_goes_on_where_every_value_is_dead() -> None:
    """As the prior does: the draws show which statement ruled them out."""
    target = asked("latent n: int(5..6) ~ binomial(2, 0.5)").target()
    drawn = FlatGuide(target).sample(np.random.default_rng(0), 5)
    assert len(drawn.values["n"]) == 5 and np.isneginf(target.log_reward(drawn.values)).all()


def test_a_mixture_with_flat_guides_is_unbiased() -> None:
    target = RARE_TOKEN.target()
    true = 0.9999 * 1e-6 + 1e-4 * 0.9
    found = [run(Mixture(100, flat=0.0), target, n=100, rng=np.random.default_rng(k)) for k in range(40)]
    ratios = np.exp([d.log_evidence for d in found]) / true  # type: ignore[arg-type]
    assert ratios.mean() == pytest.approx(1.0, abs=4 * ratios.std() / np.sqrt(40)) and ratios.std() < 0.5
    assert found[0].mixture is not None and found[0].mixture.names[1:] == tuple(
        g.name for g in flatter(target)
    )


# ------------------------------------------------------------------------------- a list that costs no more


def test_what_is_soon_listed_is_listed() -> None:
    found = listed_early(RARE_TOKEN.target(), 100)
    assert found is not None and found.exact and len(found) == 3
    assert found.log_evidence == pytest.approx(np.log(0.9999 * 1e-6 + 1e-4 * 0.9))
    some = listed_early(WIDE.target(), 1000)
    assert some is None or not is_whole(some)
    numbers = plm.loads(
        "program p() { latent n: int(0..30000) ~ uniform() factor if n == 9 then 15 else 0 }"
    ).target()
    whole = listed_early(numbers, 1000)
    assert whole is not None and len(whole) == 30001
    assert listed_early(numbers, 100) is None  # a hundred draws cost less


def test_a_wide_search_is_given_up_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model with many tokens is asked for a few dozen beginnings only."""
    opened = []
    whole = Exact.step

    def counted(self: Exact, rng: np.random.Generator, state: object) -> object:
        opened.append(self.batch)
        return whole(self, rng, state)  # type: ignore[arg-type]

    monkeypatch.setattr(Exact, "step", counted)
    query = plm.loads('lm base = "tiny"\nprogram p() { latent z: text(tokens=2..20, stop=".") ~ base() }')
    some = listed_early(query.target(), 200)
    assert some is None or not is_whole(some)
    assert sum(opened) <= 48


def test_a_budget_ends_a_list_and_spares_a_look() -> None:
    assert listed_early(RARE_TOKEN.target(), 100, 0.0) is None
    draws = evolve(run(Importance(), WIDE.target(), n=200, rng=np.random.default_rng(0)), seconds=4.0)
    assert affords(None, draws) and affords(2.1, draws) and not affords(1.9, draws)


def test_a_look_goes_past_no_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws that took nearly all of it are not looked at again."""
    whole = Importance.step

    def slow(self: Importance, rng: np.random.Generator, state: Any) -> Any:
        time.sleep(0.15)
        return whole(self, rng, state)

    monkeypatch.setattr(Importance, "step", slow)
    query = WIDE.using("importance")
    assert query.draw(256, budget=0.8).draws.second_look is None  # four steps of 64
    assert query.draw(256, budget=60.0).draws.second_look is not None


# ------------------------------------------------------------------------------- what a look finds


def test_what_no_draw_found_is_found_by_flatter_proposals() -> None:
    target = WIDE_RARE.target()
    for seed in range(3):
        draws = run(Importance(), target, n=500, rng=np.random.default_rng(seed))
        if any(value.text.startswith("r") for value in draws.values["z"]):
            continue
        assert level(draws) in ("good", "usable")  # by their own numbers all is well
        found = looked(target, draws, None, np.random.default_rng(100 + seed), None)
        look = found.second_look
        assert look is not None and look.draws == 62 and not look.listed
        assert look.missed(found.log_evidence_se) > 0.5 and level(found) == "bad"
        assert look.log_ratio > 0.5


def test_a_list_says_what_draws_miss() -> None:
    target = RARE_TOKEN.target()
    draws = run(Importance(), target, n=200, rng=np.random.default_rng(0))
    found = looked(target, draws, None, np.random.default_rng(1), listed_early(target, 200))
    assert found.second_look is not None and found.second_look.listed == 3
    assert found.second_look.heavy == pytest.approx(0.9e-4 / (0.9e-4 + 0.9999e-6), abs=1e-6)
    assert (
        level(found) == "bad" and "a list of all 3 values" in RARE_TOKEN.using("importance").draw(200).verdict
    )


def test_what_is_missed_widens_what_is_said() -> None:
    """An interval holds what a list shows that the draws lack, and no error of the evidence is named."""
    posterior = RARE_TOKEN.using("importance").draw(200, seed=0)
    true = 0.9e-4 / (0.9e-4 + 0.9999e-6)
    found = posterior.prob(lambda row: row["z"] == "r")
    assert found.value == 0.0 and found.low < 1e-9 and true <= found.high < 1.0
    assert posterior.log_evidence_se == np.inf
    assert posterior.draws.log_evidence_se is not None and posterior.draws.log_evidence_se < 0.1


@pytest.mark.parametrize("query", [WIDE, TWO], ids=["wide", "listed"])
def test_sound_draws_are_not_alarmed(query: Query) -> None:
    for seed in range(4):
        posterior = query.using("importance").draw(400, seed=seed)
        look = posterior.draws.second_look
        assert look is not None and look.missed(posterior.log_evidence_se) == 0.0


def test_a_look_changes_no_draw() -> None:
    target = WIDE.target()
    plain = run(Importance(), target, n=200, rng=np.random.default_rng(4))
    seen = WIDE.using("importance").draw(200, seed=4).draws
    assert seen.second_look is not None and seen.values == plain.values
    np.testing.assert_array_equal(seen.log_weights, plain.log_weights)
    few = WIDE.using("importance").draw(20, seed=4).draws
    assert few.second_look is None


def test_a_value_that_the_program_cannot_weigh_ends_no_run() -> None:
    """A second draw that makes a term NaN is no mistake of the draws."""
    query = asked(
        'latent z: text(tokens=16..16, end="free", chars="abr") ~ base() factor log(0.5 - count(z, "r"))'
    )
    draws = query.using("importance").draw(300, seed=0).draws
    assert draws.second_look is None and np.isfinite(draws.log_weights).any()


def test_what_is_missed_needs_more_than_chance() -> None:
    assert SecondLook(100, 1.0, 0.2, 0.0).missed(0.1) == pytest.approx(1 - np.exp(-1.0))
    assert SecondLook(100, 1.0, 0.5, 0.0).missed(0.1) == 0.0  # within three standard errors
    assert SecondLook(100, 1.0, 0.2, 0.0).missed(0.3) == 0.0
    assert SecondLook(100, -2.0, 0.2, 0.05).missed(None) == 0.0
    assert SecondLook(100, -2.0, 0.2, 0.2).missed(None) == pytest.approx(0.2)
    assert SecondLook(0, 0.0, 0.0, 0.2, listed=9).missed(None) == 0.0  # chance leaves as much of a list out


def test_a_look_is_saved_with_its_draws(tmp_path: Path) -> None:
    posterior = WIDE.using("importance").draw(200, seed=4)
    posterior.save(tmp_path)
    again = plm.Posterior.load(tmp_path)
    assert again.draws.second_look == posterior.draws.second_look and again.verdict == posterior.verdict


# ------------------------------------------------------------------------------- auto


def test_auto_lists_what_costs_no_more() -> None:
    query = asked('latent z: text(tokens=1..5, end="free") ~ base() observe "y" ~ base(z)')
    posterior = query.draw(seed=0)
    assert posterior.method == "exact" and "for no more than 1000 draws cost" in posterior.reason
    assert posterior.draws.certificate is not None and posterior.draws.certificate.complete


def test_auto_lets_flatter_proposals_help() -> None:
    posterior = WIDE_RARE.draw(500, seed=0)
    alone = WIDE_RARE.using("importance").draw(500, seed=0)
    assert alone.log_evidence is not None and posterior.log_evidence is not None
    true = float(np.log(0.9999 + 1e-5 * np.exp(14)))  # a tenth of the texts that begin with r go on
    assert alone.log_evidence < true - 2 and posterior.log_evidence == pytest.approx(true, abs=0.5)
    assert posterior.method == "mixture" and "so wider ones propose too" in posterior.reason


def test_auto_leaves_sound_draws_as_they_are() -> None:
    posterior = WIDE.draw(300, seed=3)
    assert posterior.method == "smc" and "propose too" not in posterior.reason
    np.testing.assert_array_equal(
        posterior.draws.log_weights, WIDE.using("smc").draw(300, seed=3).draws.log_weights
    )


# ------------------------------------------------------------------------------- texts that are scored elsewhere too


def half(likely: str) -> TabularModel:
    """Each token has a probability of 0.24, or 0.01."""
    row = {c: 0.24 if c in likely else 0.01 for c in "abcdefgh"}
    return TabularModel.from_dict(
        {"tokens": list("abcdefgh"), "order": 0, "max_tokens": 30, "rows": {"": row}}
    )


def mixture(own: str) -> Query:
    """Half a(z) and half b(z), with `own` of the two as the prior; both are seen through the evidence, which is 1."""
    return plm.loads(
        f"""lm a = "unused" lm b = "unused"
        program p() {{
          latent z: text(tokens=8..8, end="free") ~ {own}()
          factor logsumexp(log_prob(z, a()), log_prob(z, b())) - log(2.0) - log_prob(z, {own}())
        }}"""
    ).lm(a=half("abcd"), b=half("efgh"))


@pytest.mark.parametrize("own", ["a", "b"])
def test_each_half_of_a_mixture_of_models_is_found(own: str) -> None:
    for method in ("importance", "smc"):
        posterior = mixture(own).using(method).draw(1000, seed=0)
        assert posterior.log_evidence == pytest.approx(-np.log(2), abs=0.01), "its half, by draws that agree"
        assert level(posterior.draws) == "bad" and "miss about 50%" in posterior.verdict
    posterior = mixture(own).draw(1000, seed=0)
    assert posterior.log_evidence == pytest.approx(0.0, abs=0.1)
    assert level(posterior.draws) in ("good", "usable")
    assert posterior.prob(lambda row: row["z"][0] in "abcd").value == pytest.approx(0.5, abs=0.08)
    assert "what else scores it" in posterior.verdict


def test_what_scores_a_text_elsewhere_is_a_guide() -> None:
    """It draws by the other model, says with which probability, and reads nothing that is drawn later."""
    target = mixture("a").target()
    (guide,) = elsewhere(target)
    drawn = guide.sample(np.random.default_rng(0), 2000)
    np.testing.assert_allclose(guide.log_prob(drawn.values), drawn.log_prob)
    texts = [v.text for v in drawn.values["z"]]
    assert np.mean([c in "efgh" for text in texts for c in text]) == pytest.approx(0.96, abs=0.01)
    np.testing.assert_allclose(
        drawn.log_prob, [sum(np.log(0.24 if c in "efgh" else 0.01) for c in t) for t in texts]
    )
    later = plm.loads(
        """lm a = "unused" lm b = "unused"
        program p() {
          latent z: text(tokens=2..2, end="free") ~ a()
          latent y: text(tokens=2..2, end="free") ~ a(z)
          observe z ~ b(y)
          observe y ~ b(z)
          observe [z, "a"] ~ b()
        }"""
    ).lm(a=half("abcd"), b=half("efgh"))
    (guide,) = elsewhere(later.target())
    assert set(guide.scores) == {"y"}, "what reads y cannot draw z before it, nor what scores more than z"
    drawn = guide.sample(np.random.default_rng(1), 500)
    assert np.mean([v.text[0] in "abcd" for v in drawn.values["z"]]) > 0.9
    assert np.mean([v.text[0] in "efgh" for v in drawn.values["y"]]) > 0.9


# ------------------------------------------------------------------------------- likely values that were listed

HIDDEN = asked(
    'latent z: text(tokens=16..16, end="free", chars="ab") ~ base() ^ 2 factor if z == "abababababababab" then 22 else 0'
)
"""A text that hardly any draw is, and that weighs more than all others."""


def test_a_list_proposes_what_it_holds() -> None:
    target = TWO.target()
    every = [(n, text) for n in range(3) for text in ("a", "ab")]
    values = {
        "n": tuple(target.value("n", n) for n, _ in every),
        "z": tuple(target.value("z", z) for _, z in every),
    }
    guide = ListGuide(values, np.log(np.array([1, 2, 3, 4, 5, 6]) / 21))
    drawn = guide.sample(np.random.default_rng(0), 3000)
    np.testing.assert_allclose(guide.log_prob(drawn.values), drawn.log_prob)
    found = [(v.datum, w.text) for v, w in zip(drawn.values["n"], drawn.values["z"], strict=True)]
    assert found.count((2, "ab")) / 3000 == pytest.approx(6 / 21, abs=0.03)
    other = {"n": (target.value("n", 0),), "z": (target.value("z", "b"),)}
    assert guide.log_prob(other).tolist() == [-np.inf]


def test_a_mixture_with_listed_values_is_unbiased() -> None:
    target = RARE_TOKEN.target()
    listed = listed_early(target, 100)
    assert listed is not None
    true = 0.9999 * 1e-6 + 1e-4 * 0.9
    one = evolve(listed, values={"z": listed.values["z"][:1]}, log_reward=listed.log_reward[:1])
    found = [run(Mixture(100, listed=one), target, n=100, rng=np.random.default_rng(k)) for k in range(40)]
    ratios = np.exp([d.log_evidence for d in found]) / true  # type: ignore[arg-type]
    # A rare draw of the prior has its part in the mean.
    assert ratios.mean() == pytest.approx(1.0, abs=4 * ratios.std() / np.sqrt(40) + 1e-3)
    assert ratios.std() < 0.3 and found[0].mixture is not None
    assert found[0].mixture.names == ("prior", "the likeliest values")


def test_what_was_listed_and_never_drawn_is_missed() -> None:
    target = HIDDEN.target()
    draws = run(Importance(), target, n=400, rng=np.random.default_rng(3))
    assert not any(v.text == "ab" * 8 for v in draws.values["z"])
    best = target.value("z", "ab" * 8)
    reward = target.log_reward({"z": (best,)})
    listed = Draws({"z": (best,)}, reward, reward, "exact")
    look = looked(target, draws, None, np.random.default_rng(0), listed).second_look
    assert look is not None and draws.log_evidence is not None
    share = 1 / (1 + np.exp(draws.log_evidence - reward[0]))
    assert look.heavy >= share - 1e-9 and share > 0.1
    common = Draws({"z": draws.values["z"][:1]}, draws.log_reward[:1], draws.log_reward[:1], "exact")
    sound = looked(target, draws, None, np.random.default_rng(0), common).second_look
    assert sound is not None and sound.heavy < share


def test_heavy_values_that_were_drawn_are_not_missed() -> None:
    target = TWO.target()
    draws = run(Importance(), target, n=800, rng=np.random.default_rng(0))
    whole = run(Exact(100), target, n=1, rng=np.random.default_rng(0))
    seen = draws.shares
    heavy = [share for value, share in whole.shares.items() if share > SEVERAL / 800 and value not in seen]
    assert not heavy and len(whole) > 30
    assert draws.log_evidence is not None
    assert _lacking(draws, whole.values, whole.log_reward, draws.log_evidence) == 0.0


@pytest.mark.parametrize("flat", [0.0, FLOOR])
def test_flatter_proposals_keep_their_floor_or_are_given_up(flat: float) -> None:
    """What a surprise only takes reward from needs none."""
    query = asked('latent z: text(tokens=16..16, end="free", chars="ab") ~ base() factor -3 * count(z, "ba")')
    draws = run(Mixture(400, flat=flat), query.target(), n=400, rng=np.random.default_rng(1))
    assert draws.mixture is not None
    prior, *others = draws.mixture.shares
    assert len(others) == 2 and prior > 0.5
    assert all(share == pytest.approx(flat, abs=0.02) for share in others)
    assert len(draws) == (400 if flat else 50)


@pytest.mark.parametrize(
    ("gained", "second", "missing", "better"),
    [(4.0, 20, False, True), (-4.0, 300, False, False), (0.0, 300, False, True), (0.0, 20, False, False),
     (0.0, 20, True, True), (-4.0, 20, True, False)],
)  # fmt: skip
def test_what_finds_more_or_is_worth_more_is_taken(
    gained: float, second: int, missing: bool, better: bool
) -> None:
    """Equal weights, so an ESS is a number of draws; `gained` nats of evidence by the second ones."""

    def equal(n: int, log_evidence: float, **more: Any) -> Draws:
        value = TWO.target().value("n", 0)
        return Draws({"n": (value,) * n}, np.full(n, log_evidence), np.zeros(n), "importance", **more)

    look = SecondLook(100, 1.0, 0.1, 0.5) if missing else None
    mixed = MixtureReport(("prior", "other"), (0.5, 0.5), 10)
    assert _helped(equal(100, 0.0, second_look=look), equal(second, gained, mixture=mixed)) is better
    alone = MixtureReport(("prior", "other"), (1.0, 0.0), 10)
    assert not _helped(equal(100, 0.0, second_look=look), equal(second, gained, mixture=alone))


# ------------------------------------------------------------------------------- chains


def test_chains_are_held_against_a_list() -> None:
    """They cannot leave the texts without an r, and agree: the list shows it."""
    chains = RARE_TOKEN.using("mcmc", steps=80, move="independence").draw(400, seed=0).draws
    look = chains.second_look
    assert look is not None and look.listed == 3 and look.heavy > 0.9
    assert level(chains) == "bad"
    sound = TWO.using("mcmc", steps=200).draw(400, seed=0).draws
    assert sound.second_look is not None and sound.second_look.listed and level(sound) == "usable"


def test_chains_miss_what_was_listed_and_never_held() -> None:
    target = HIDDEN.target()
    draws = HIDDEN.using("mcmc", steps=200, chains=4).draw(600, seed=0).draws
    assert not any(v.text == "ab" * 8 for v in draws.values["z"])
    best = target.value("z", "ab" * 8)
    reward = target.log_reward({"z": (best,)})
    look = looked(
        target, draws, None, np.random.default_rng(0), Draws({"z": (best,)}, reward, reward, "exact")
    ).second_look
    plain = looked(target, draws, None, np.random.default_rng(0), None).second_look
    assert look is not None and look.heavy > 0.5
    assert plain is not None and not plain.missed(None)


# ------------------------------------------------------------------------------- spellings

SPELLINGS = TabularModel.from_dict(
    {
        "tokens": ["a", "b", "ab", "c"],
        "order": 1,
        "max_tokens": 6,
        "rows": {
            "": {"a": 0.5, "b": 0.198, "ab": 0.002, "c": 0.3},
            "a": {"b": 1.0},
            "b": {"c": 0.001, "a": 0.999},
            "ab": {"c": 0.9, "a": 0.1},
            "c": {"c": 0.001, "a": 0.999},
        },
    }
)
"""Before the observed c the text ab has 0.0005 spelled a, b and 0.0018 as its tokenizer spells it; c has 0.0003."""
TWICE = (
    'lm base = "unused"\nprogram p() {{ latent z: text(tokens=1..2, end="free", pattern="ab|c"{}) ~ base() '
    'observe "c" ~ base(z) }}'
)


def test_the_spelling_that_no_draw_has_is_scored(tmp_path: Path) -> None:
    query = plm.loads(TWICE.format("")).lm(base=SPELLINGS)
    posterior = query.using("importance").draw(10, seed=0)
    assert all(len(v.ids) != 1 or v.text == "c" for v in posterior.draws.values["z"]), "the seed has no ab"
    (one,) = posterior.draws.respelled
    assert one.datum == ("ab",)
    assert one.log_reward == pytest.approx(np.log(0.0005 + 0.0018))
    assert one.left_out == pytest.approx(18 / 23)
    assert posterior.log_evidence is not None
    assert one.share == pytest.approx(0.0023 / (np.exp(posterior.log_evidence) + 0.0018))
    assert (
        posterior.verdict.startswith("Do not trust this")
        and "No draw spells 'ab' as the tokenizer does" in posterior.verdict
    )
    assert level(posterior.draws) == "bad" and posterior.log_evidence_se == np.inf
    (shown,) = posterior.to_json()["respelled"]
    assert shown == {
        "values": {"z": "ab"},
        "log_reward": one.log_reward,
        "share": one.share,
        "left_out": one.left_out,
    }
    posterior.save(tmp_path)
    assert plm.Posterior.load(tmp_path).draws.respelled == (one,)


def test_nothing_is_said_of_spellings_that_were_drawn_or_cannot_be() -> None:
    query = plm.loads(TWICE.format("")).lm(base=SPELLINGS)
    for whole in (query.using("exact").draw(), query.using("importance").draw(3000, seed=1)):
        assert whole.draws.respelled == () and "spells" not in whole.verdict
    alone = (
        plm.loads(TWICE.format(", canonical=true")).lm(base=SPELLINGS).using("importance").draw(10, seed=0)
    )
    assert alone.draws.respelled == ()
