"""Predictions of texts and of ints without bounds: what is drawn, how it is scored, and what was not drawn."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

import attrs
import numpy as np
import pytest

import posterior_lm as plm
from posterior_lm.lm.protocol import Request
from posterior_lm.lm.tabular import TabularTokenizer
from posterior_lm.predict import open_answers
from tests.strategies import table

MODEL = table(("a", "b", "ab", "."), seed=5, order=1, max_tokens=5)
WIDE = table(("a", "b", "ab", "."), seed=5, order=1, max_tokens=9)
DIGITS = table(("0", "1", "7", "-", "."), seed=6, order=1, max_tokens=5)
LATENT = 'latent z: text(tokens=1..2) ~ base("b") '


def asked(params: str, body: str, model: object = MODEL, method: str = "exact") -> plm.Query:
    return plm.loads(f'lm base = "b"\nprogram p({params}) {{ {body} }}').lm(base=model).using(method)


def texts(letters: str, longest: int) -> list[str]:
    return ["".join(t) for size in range(1, longest + 1) for t in itertools.product(letters, repeat=size)]


Spelt = Callable[[tuple[int, ...], str], Sequence[tuple[int, ...]]]
"""The tokens of every scored text, for the tokens of z and an answer."""


def truth(
    spelt: Spelt, values: Sequence[str], model: plm.TabularModel = MODEL, start: str = "b"
) -> dict[str, float]:
    """p(y) over these values from the model alone: Σ_z p(z) Π p(text | z), those of probability 0 left out."""
    encode, tokens = model.tokenizer.encode, range(len(model.tokenizer.tokens))
    begun = encode(start)
    latents = [z for size in (1, 2) for z in itertools.product(tokens, repeat=size)]
    mass = dict.fromkeys(values, 0.0)
    for z in latents:
        (own,) = model.score([Request(begun + z, len(begun))])
        prior = own.tokens.sum() + own.eos[-1]
        for y in values:
            asked = [Request(z + text, len(z)) for text in spelt(z, y)]
            mass[y] += float(np.exp(prior + sum(s.tokens.sum() for s in model.score(asked))))
    whole = sum(mass.values())
    return {y: m / whole for y, m in mass.items() if m > 0}


def plain(before: str = "a", after: str = ".", model: plm.TabularModel = MODEL) -> Spelt:
    return lambda z, y: [model.tokenizer.encode(before + y + after)]


def agrees(found: plm.Prediction, exact: Mapping[object, float], *, missing: float) -> None:
    """The listed values are in the right proportions, and `other` is about what they leave out."""
    assert set(found.probabilities) <= set(exact)
    listed = sum(exact[y] for y in found.probabilities)
    for y, p in found.probs:
        assert p / (1 - found.other) == pytest.approx(exact[y] / listed, rel=1e-6)
    assert found.other == pytest.approx(1 - listed, abs=missing)
    assert sum(found.probabilities.values()) + found.other == pytest.approx(1.0)


# ------------------------------------------------------------------- texts


def test_a_text_is_drawn_and_scored_as_the_program_scores_it() -> None:
    query = asked("y: text", LATENT + 'observe ["a", y, "."] ~ base(z)')
    exact = truth(plain(), texts("ab", 5))
    found = query.predict("y", n=800)
    agrees(found, exact, missing=0.01)
    assert found.best == max(exact, key=lambda y: exact[y]) and len(found.probs) > 5
    assert found.prob("b") > 0.02, "written as one token with the `a` before it"
    low, high = found.interval("b")  # type: ignore[misc]
    assert low <= exact["b"] <= high
    soft = np.array([p for _, p in found.probs]) / (1 - found.other)
    assert found.entropy == pytest.approx(-(soft * np.log(soft)).sum())


ENCODE = MODEL.tokenizer.encode


@pytest.mark.parametrize(
    ("params", "observed", "spelt", "values"),
    [
        ('y: text(chars="b")', '["a", y, "."]', plain(), texts("b", 4)),
        ('y: text(pattern="b+a?")', '["a", y, "."]', plain(), [t + u for t in texts("b", 4) for u in ("", "a")]),
        ('y: text(stop=".")', "y", plain("", ""), [t + "." for t in ["", *texts("ab", 6)]]),
        ("y: text(tokens=1..2)", '["a", y, "."]', plain(), [t for t in texts("ab", 4) if len(ENCODE(t)) <= 2]),
        ("y: text", '["a", y, ".b"]', plain("a", ".b"), [t for t in texts("ab.", 5) if ".b" not in t]),
        ("y: text", '[z, y, ".", z]', lambda z, y: [z + ENCODE(y + ".") + z], texts("ab", 4)),
        ("y: text", '[if chars(z) > 1 then "b" else "", "a", y, "."]',
         lambda z, y: [(ENCODE("b") if len(MODEL.tokenizer.decode(z)) > 1 else ()) + ENCODE(f"a{y}.")],
         texts("ab", 5)),
        # What follows is long, so an answer ends with its first token.
        ("y: text", '["a", y, "." , "abab" , "ab", "ab"]', plain("a", ".abababab"), texts("ab", 6)),
    ],
)  # fmt: skip
def test_texts_end_and_begin_in_every_way(
    params: str, observed: str, spelt: Spelt, values: Sequence[str]
) -> None:
    model = WIDE if "abab" in observed else MODEL
    found = asked(params, LATENT + f"observe {observed} ~ base(z)", model).predict("y", n=800)
    assert len(found.probs) >= 2
    agrees(found, truth(spelt, values, model), missing=0.03)


class Prefixing(TabularTokenizer):
    """Begins a sequence with a token of its own, as some tokenizers put a space before the first text."""

    def encode_start(self, text: str) -> tuple[int, ...]:
        return self.encode("." + text)


def test_a_text_that_begins_the_sequence_is_spelled_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    model = attrs.evolve(MODEL, tokenizer=Prefixing(MODEL.tokenizer.tokens))
    monkeypatch.setattr(open_answers, "MOST_ANSWERS", 2)
    query = asked("y: text", 'observe ["a", y, "."] ~ base()', model)
    begin = model.tokenizer.eos_ids
    values = texts("ab", 7)
    scores = model.score([Request(begin + ENCODE(f".a{y}."), 1) for y in values])
    mass = {y: float(np.exp(s.tokens.sum())) for y, s in zip(values, scores, strict=True)}
    exact = {y: m / sum(mass.values()) for y, m in mass.items() if m > 0}
    for seed in range(4):  # drawn after other tokens, answers have weights that differ more
        agrees(query.predict("y", n=1500, seed=seed), exact, missing=0.08)


def test_a_text_that_end_of_text_ends() -> None:
    found = asked('y: text(chars="ab")', LATENT + 'observe ["a", y, eos] ~ base(z)').predict("y", n=800)
    eos = MODEL.tokenizer.eos_ids
    agrees(found, truth(lambda z, y: [ENCODE("a" + y) + eos], texts("ab", 7)), missing=0.03)


def test_every_term_that_reads_the_text_counts() -> None:
    body = LATENT + 'plate r in t { observe [r.w, y, "."] ~ base(z) } condition y != "a"'
    query = asked("y: text, t: table(w: text)", body).given(t=[{"w": "a"}, {"w": "b"}])
    found = query.predict("y", n=800)
    both: Spelt = lambda z, y: [ENCODE(f"a{y}."), ENCODE(f"b{y}.")]  # noqa: E731
    agrees(found, truth(both, [t for t in texts("ab", 5) if t != "a"]), missing=0.05)
    assert "a" not in found.probabilities


def test_sampled_latents_come_near_and_intervals_say_how_near() -> None:
    query = asked("y: text", LATENT + 'observe ["a", y, "."] ~ base(z)')
    exact = truth(plain(), texts("ab", 5))
    inside = 0
    for seed in range(20):
        found = query.using("importance").predict("y", n=80, seed=seed)
        low, high = found.interval("b")  # type: ignore[misc]
        inside += low <= exact["b"] <= high
    assert inside >= 14, "20 intervals of 90 %"
    again = query.using("importance").predict("y", n=80, seed=19)
    assert again.probs == found.probs and again.other == found.other
    assert query.using("importance").predict("y", n=80, seed=18).probs != found.probs


def test_what_was_not_drawn_is_estimated_without_bias() -> None:
    """Over many small predictions, U / A averages to the true mass outside over the mass inside."""
    query = asked("y: text", LATENT + 'observe ["a", y, "."] ~ base(z)')
    exact = truth(plain(), texts("ab", 5))
    found, real = [], []
    for seed in range(80):
        one = query.predict("y", n=12, seed=seed)
        listed = sum(exact[y] for y in one.probabilities)
        found.append(one.other / (1 - one.other) * listed)  # U in units of the whole mass
        real.append(1 - listed)
    # Good's estimate is of what one draw fewer leaves out, so it may only lie a little above.
    assert np.mean(real) - 0.02 < np.mean(found) < 1.3 * np.mean(real) + 0.01
    assert np.mean(real) > 0.05


def test_rare_answers_beyond_the_listed_ones_are_counted_in_other(monkeypatch: pytest.MonkeyPatch) -> None:
    query = asked("y: text", LATENT + 'observe ["a", y, "."] ~ base(z)')
    monkeypatch.setattr(open_answers, "MOST_ANSWERS", 3)
    monkeypatch.setattr(open_answers, "MOST_RARE", 20)
    found = query.predict("y", n=1000)
    assert len(found.probs) == 3 and found.other > 0.15
    agrees(found, truth(plain(), texts("ab", 5)), missing=0.06)


def test_votes_are_cast_among_the_answers_that_were_drawn() -> None:
    query = asked("y: text", LATENT + 'observe ["a", y, "."] ~ base(z)')
    soft, hard, likeliest = (query.predict("y", n=40, vote=v) for v in ("soft", "hard", "likeliest"))
    assert soft.other == hard.other == likeliest.other > 0.01
    assert sum(hard.probabilities.values()) == pytest.approx(1 - hard.other)
    assert hard.prob(hard.best) > soft.prob(soft.best) and likeliest.interval(likeliest.best) is None


# ------------------------------------------------------------------- ints


def test_an_int_is_spelled_in_one_way_only() -> None:
    query = asked("y: int", LATENT.replace('"b"', '"1"') + 'observe ["-", y, "."] ~ base(z)', DIGITS)
    spelled = [s + t for t in texts("017", 3) for s in ("", "-") if str(int(s + t)) == s + t]
    exact = truth(plain("-", ".", DIGITS), spelled, DIGITS, "1")
    found = query.predict("y", n=800)
    assert all(isinstance(v, int) for v in found.probabilities) and min(found.probabilities) < 0
    agrees(found, {int(y): p for y, p in exact.items()}, missing=0.03)


def test_an_int_of_too_many_values_to_list_is_drawn_within_its_bounds() -> None:
    body = LATENT.replace('"b"', '"1"') + 'observe [y, "."] ~ base(z)'
    found = asked("y: int(7..20000)", body, DIGITS).predict("y", n=600)
    assert min(found.probabilities) >= 7 and max(found.probabilities) <= 20000
    spelled = [t for t in texts("017", 4) if str(int(t)) == t and 7 <= int(t) <= 20000]
    exact = truth(plain("", ".", DIGITS), spelled, DIGITS, "1")
    agrees(found, {int(y): p for y, p in exact.items()}, missing=0.05)


def test_an_answer_is_computed_after_its_steps_by_a_real_model() -> None:
    query = plm.loads("""
lm base = "tiny"
program sums(question: text, answer: int) {
  latent steps: text(tokens=3..12, chars="0123456789+-=, ", stop=".") ~ base("Question: ", question, " Answer:")
  observe [" The answer is ", answer, "."] ~ base("Question: ", question, " Answer:", steps)
}""").given(question="3 + 4 = ?")
    found = query.predict("answer", n=60)
    assert found.best == 7 and found.prob(7) > 0.7 and found.other < 0.15
    assert found.aleatoric < 0.2 < found.epistemic, "what follows the steps is sure, the steps are not"


# ------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("params", "body", "code"),
    [
        ("y: text", "observe y ~ base(z)", "PLM807"),
        ("y: text", 'observe ["a", y] ~ base(z)', "PLM807"),
        ("y: text", "observe [y, z] ~ base(z)", "PLM807"),
        ("y: text", 'observe "a" ~ base(z, y)', "PLM807"),
        ("y: text", 'observe [y, "."] ~ base(y, z)', "PLM807"),
        ("y: text", 'observe [y, "a", y, "."] ~ base(z)', "PLM807"),
        ("y: text", "factor 1", "PLM807"),
        ("y: int", "observe y ~ poisson(2)", "PLM807"),
        ("y: int", 'observe [y, "."] ~ base(z)', "PLM809"),
        ('y: text(chars="x")', 'observe [y, "."] ~ base(z)', "PLM809"),
        ("y: text", 'observe [y, "."] ~ base(z) condition chars(y) > 50', "PLM703"),
    ],
)
def test_what_cannot_be_drawn_is_coded(params: str, body: str, code: str) -> None:
    with pytest.raises(plm.PlmError) as caught:
        asked(params, LATENT + body).predict("y", n=20)
    assert [d.code for d in caught.value.diagnostics] == [code]
