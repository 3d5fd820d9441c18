"""Preferences as observations: what orders are worth, and what is found out from them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest

import posterior_lm as plm
from posterior_lm.editors.completion import complete
from posterior_lm.editors.document import Document
from posterior_lm.editors.hover import hover
from posterior_lm.lang.driver import compile_source
from posterior_lm.lang.format import format_module
from posterior_lm.lang.source import Source
from tests.brute import Brute, log_sum
from tests.strategies import fingerprint, table

MODEL = table(("a", "b", ".", "ab"), seed=5, order=1, max_tokens=9)
OTHER = table(("a", "b", ".", "ab"), seed=9, order=1, max_tokens=9)
MODELS = {"base": MODEL, "other": OTHER}
PAIRS = {"pairs": [{"good": "ab", "bad": "b"}, {"good": "a", "bad": "ab"}, {"good": "b", "bad": "aab"}]}


def program(body: str, params: str = "pairs: table(good: text, bad: text)") -> str:
    return f'lm base = "b"\nlm other = "o"\nprogram p({params}) {{ {body} }}\n'


TEXTS = """latent z: text(tokens=1..2, end="free") ~ base()
           prefer z over "b" ~ bradley_terry(chars(it) + 0.5 * log_prob(it, other()), 0.7)
           prefer "ab" over z over "a" ~ plackett_luce(log_prob(it, other("b")), 0.5)"""
CRITERION = """latent criterion: one_of("a", "b", "ab") ~ categorical([0.5, 0.2, 0.3])
               latent beta: real(0..3, grid=6) ~ beta(2, 2)
               plate p in pairs { prefer p.good over p.bad ~ bradley_terry(log_prob(it, base(criterion)), beta) }"""
RELIABLE = """latent share: real(0..1, grid=5) ~ beta(3, 1)
              temper 0.8 { plate p in pairs {
                prefer p.good over p.bad ~ mix(share, bradley_terry(log_prob(it, base()), 2), bradley_terry(words(it), 0)) } }"""
BODIES = {"texts": TEXTS, "criterion": CRITERION, "reliable": RELIABLE}


def query(body: str, **given: object) -> plm.Query:
    return plm.loads(program(body)).lm(base=MODEL, other=OTHER).given({**PAIRS, **given})


@pytest.mark.parametrize("name", BODIES)
def test_posteriors_are_the_written_out_ones(name: str) -> None:
    brute = Brute(program(BODIES[name]), PAIRS, MODELS)
    rows = list(brute.assignments())
    logs = [brute.log_reward(row) for row in rows]
    exact = query(BODIES[name]).using("exact").draw()
    assert exact.log_evidence == pytest.approx(log_sum(logs), abs=1e-9)
    for method in ("importance", "smc"):
        found = query(BODIES[name]).using(method).draw(1500, seed=2)
        assert found.log_evidence == pytest.approx(log_sum(logs), abs=0.15), method
        first = next(iter(found.draws.values))
        wanted = dict(exact.marginal(first))
        assert 0.5 * sum(abs(p - wanted.get(v, 0)) for v, p in found.marginal(first)) < 0.08, method


def log_reward(statement: str) -> float:
    return plm.loads(program(statement, "")).lm(base=MODEL, other=OTHER).score({}).log_reward


def test_two_are_preferred_by_the_sigmoid_of_their_scores() -> None:
    found = log_reward('prefer "aaa" over "ab" ~ bradley_terry(chars(it), 0.7)')
    assert found == pytest.approx(math.log(1 / (1 + math.exp(-0.7))))
    assert log_reward('prefer "ab" over "aaa" ~ bradley_terry(chars(it), 0.7)') == pytest.approx(found - 0.7)


def test_the_orders_of_a_list_share_all_probability() -> None:
    """Plackett and Luce's ranking sums to one over the orders, and is nothing but Bradley and Terry's of two."""
    items = ('"a"', '"abb"', '"b"', '"abab"')
    score = 'chars(it) - 0.3 * count(it, "b")'
    for n in (2, 3, 4):
        orders = [log_reward(f"prefer {' over '.join(order)} ~ plackett_luce({score}, 0.6)")
                  for order in itertools.permutations(items[:n])]  # fmt: skip
        assert log_sum(orders) == pytest.approx(0, abs=1e-12)
        assert len({round(x, 9) for x in orders}) == len(orders)
    pair = [
        fingerprint(program(f'prefer "a" over "b" ~ {d}(chars(it), 2)', ""))
        for d in ("bradley_terry", "plackett_luce")
    ]
    assert pair[0] == pair[1]


def test_it_is_a_factor_written_out() -> None:
    spelled = TEXTS.split("prefer")[0] + "factor log_sigmoid(0.7 * ({} - {}))".format(
        "(chars(z) + 0.5 * log_prob(z, other()))", '(chars("b") + 0.5 * log_prob("b", other()))')  # fmt: skip
    stated = TEXTS.rsplit("prefer", 1)[0]
    assert fingerprint(program(spelled)) == fingerprint(program(stated))


def test_the_name_of_a_latent_counts_its_terminator() -> None:
    body = (
        'latent z: text(tokens=1..1) ~ base() prefer {z} over "b" ~ bradley_terry(log_prob(it, other()), 1)'
    )
    bare, listed = (query(body.format(z=z)).score({"z": "a"}).log_reward for z in ("z", "[z]"))
    assert bare != pytest.approx(listed)


def test_ties_are_a_choice_of_three() -> None:
    """Davidson's ties (1970) as the page of the language writes them: with no ties the preference itself."""
    body = """let a = 0.7 * chars("aaa") let b = 0.7 * chars("ab") let tie = log({nu}) + (a + b) / 2
              let all_three = logsumexp(a, b, tie)
              observe winner ~ categorical([exp(a - all_three), exp(b - all_three), exp(tie - all_three)])"""
    params = 'winner: one_of("first", "second", "tie")'

    def outcomes(nu: float) -> list[float]:
        made = plm.loads(program(body.replace("{nu}", str(nu)), params)).lm(base=MODEL, other=OTHER)
        return [made.given(winner=w).score({}).log_reward for w in ("first", "second", "tie")]

    assert log_sum(outcomes(0.8)) == pytest.approx(0, abs=1e-12)
    assert outcomes(0)[0] == pytest.approx(
        log_reward('prefer "aaa" over "ab" ~ bradley_terry(chars(it), 0.7)')
    )


def test_built_from_python_it_is_the_file() -> None:
    built = plm.program("p", "pairs: table(good: text, bad: text)", lm={"base": "b", "other": "o"})
    built = built.latent("z", 'text(tokens=1..2, end="free")', "base()")
    built = built.prefer(["z", '"b"'], "bradley_terry(chars(it) + 0.5 * log_prob(it, other()), 0.7)")
    built = built.prefer(['"ab"', "z", '"a"'], 'plackett_luce(log_prob(it, other("b")), 0.5)')
    assert built.fingerprint == fingerprint(program(TEXTS))
    module = plm.loads(str(built)).module
    assert module.program == built.module.program and format_module(module) == str(built)


@pytest.mark.parametrize("change", [
    lambda s: s.replace('prefer z over "b"', 'prefer "b" over z'),
    lambda s: s.replace("0.7", "0.8"),
    lambda s: s.replace('over z over "a"', 'over "a" over z'),
])  # fmt: skip
def test_fingerprints_tell_orders_apart(change: Callable[[str], str]) -> None:
    assert fingerprint(program(TEXTS)) != fingerprint(program(change(TEXTS)))


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        ('prefer "a" over "b" ~ base()', "PLM350"),
        ('prefer "a" over "b" ~ bernoulli(0.5)', "PLM350"),
        ('prefer "a" over "b" over "c" ~ bradley_terry(chars(it), 1)', "PLM350"),
        ('prefer "a" over "b" ~ bradley_terry(2, 1)', "PLM350"),
        ('prefer "a" over "b" ~ bradley_terry(chars(it), chars(it))', "PLM350"),
        (
            'prefer "a" over "b" ~ mix(1 / chars(it), bradley_terry(chars(it), 1), bradley_terry(words(it), 1))',
            "PLM350",
        ),
        ('prefer "a" over 3 ~ bradley_terry(chars(it), 1)', "PLM350"),
        ('observe "a" ~ bradley_terry(chars("a"), 1)', "PLM350"),
        ("latent n: int(0..3) ~ plackett_luce(1, 1)", "PLM350"),
        ('prefer "a" over "b" ~ bradley_terry(chars(it))', "PLM307"),
        ('prefer "a" over "b" ~ bradley_terry(it, 1)', "PLM301"),
        ('prefer "a" over "b" ~ bradley_terry(words, 1)', "PLM305"),
        ('let it = "a" prefer "a" over "b" ~ bradley_terry(chars(it), 1)', "PLM202"),
        ('prefer "a" over "b" ~ bradley_terry(chars(it), 1) factor chars(it)', "PLM201"),
        ('prefer "a" ~ bradley_terry(chars(it), 1)', "PLM101"),
    ],
)
def test_what_the_checker_refuses(statement: str, code: str) -> None:
    assert [d.code for d in compile_source(Source("t.plm", program(statement, ""))).errors] == [code]


def test_two_impossible_texts_cannot_be_compared() -> None:
    with pytest.raises(plm.PlmError, match="PLM701"):
        log_reward('prefer "a" over "b" ~ bradley_terry(log(chars(it) - 1), 1)')


def test_editors_know_it() -> None:
    """It is told of and offered where something is compared, and has no other name."""
    text = (
        program("prefer p.good over p.bad ~ bradley_terry(words(it), 1)").replace(
            "prefer", "plate p in pairs { prefer", 1
        )
        + "}"
    )
    document, place = Document("p.plm", text), text.index("(it)") + 1
    found = hover(document, place)
    assert (
        found is not None
        and found[1] == "each of what is compared, one after the other: text; reads `p`, `pairs`"
    )
    assert "it" in {item.label for item in complete(document, place)}
    assert "it" not in {item.label for item in complete(document, text.index("p.good"))}
    with pytest.raises(plm.PlmError, match="PLM201"):
        document.rename(place, "other")
