"""What a masked model proposes has the probability that is said, and weights that sum to the evidence.

The tables of the proposal and of the target are unlike each other, so nothing is right by chance.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from posterior_lm.infer.auto import infer
from posterior_lm.infer.base import run
from posterior_lm.infer.guide import PriorGuide
from posterior_lm.infer.importance import Importance, log_weights
from posterior_lm.infer.mixture import Mixture
from posterior_lm.lang.diagnostics import InferenceError
from posterior_lm.lm.protocol import Blanks
from posterior_lm.lm.tabular import TabularModel
from posterior_lm.target.target import Target
from tests.brute import Brute, log_sum
from tests.strategies import assigned, compiled, masked_table, table, values_of

MODEL = table(("a", "b", ".", "ab"), seed=51, order=2, max_tokens=30)
MASKED = masked_table(MODEL, seed=52, longest=5)
MODELS = {"base": MODEL, "d": MASKED}
PROGRAMS = {
    "stop": 'latent z: text(tokens=1..3, stop=".") ~ base("a") guide z ~ d("a", z, "ab") observe "ab" ~ base("a", z)',
    "stop of two tokens": 'latent z: text(tokens=2..4, stop="b.") ~ base() ^ 1.7 guide z ~ d(z, "a") factor -0.4 * chars(z)',
    "end of text": 'latent z: text(tokens=0..3) ~ base("b") guide z ~ d("b", z) observe "a" ~ base(z)',
    "free": 'latent z: text(tokens=1..3, end="free") ~ base("b") guide z ~ d("b", z, "a") observe "a" ~ base(z)',
    "characters": 'latent z: text(tokens=1..3, chars="a", stop="b") ~ base() guide z ~ d(z)',
    "condition": 'latent z: text(tokens=1..3) ~ base() guide z ~ d("a", z, "a") condition contains(z, "ba")',
    "latents around": """latent x: text(tokens=1..2, stop="b") ~ base() latent y: text(tokens=1..1) ~ base(x)
                         latent z: text(tokens=1..2) ~ base(x) guide z ~ d(x, z, y) observe y ~ base(x, z)""",
    "computed": """latent x: text(tokens=1..1) ~ base() latent z: text(tokens=1..2) ~ base(x)
                   guide z ~ d(if contains(x, "a") then "ab" else "", z, [".", x])""",
}  # fmt: skip
cases = pytest.mark.parametrize("body", PROGRAMS.values(), ids=PROGRAMS.keys())


def bound(body: str) -> tuple[Target, Brute]:
    source = f'lm base = "b"\nlm d = masked("d")\nprogram p() {{ {body} }}'
    return compiled(source, {}, MODELS), Brute(source, {}, MODELS)


@cases
def test_q_sums_to_one_and_the_weights_to_the_evidence(body: str) -> None:
    target, brute = bound(body)
    rows = [
        row for row in brute.assignments() if brute.log_reward(row) > -math.inf or "condition" not in body
    ]
    values = values_of(target, rows)
    guide = PriorGuide(target, reads="guide")
    log_q = guide.log_prob(values)
    assert np.exp(log_q).sum() == pytest.approx(1, abs=1e-9)
    log_w, _ = log_weights(target, values, log_q)
    assert log_sum(log_w + log_q) == pytest.approx(brute.log_evidence(), abs=1e-9)
    assert np.abs(log_q - PriorGuide(target).log_prob(values)).max() > 0.1


@cases
def test_draws_follow_q(body: str) -> None:
    """Chi-square of 4000 draws against the guide's own probabilities, bins of at least 5 expected."""
    target, brute = bound(body)
    guide, n = PriorGuide(target, reads="guide"), 4000
    proposal = guide.sample(np.random.default_rng(5), n)
    np.testing.assert_allclose(proposal.log_prob, guide.log_prob(proposal.values), rtol=1e-9, atol=1e-9)
    rows = list(brute.assignments())
    place = {tuple(row.values()): k for k, row in enumerate(rows)}
    counts = np.bincount([place[assigned(target, proposal.values, d)] for d in range(n)], minlength=len(rows))
    wanted = n * np.exp(guide.log_prob(values_of(target, rows)))
    rare = wanted < 5
    observed = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(wanted[~rare], wanted[rare].sum())
    observed, expected = observed[expected > 0], expected[expected > 0]
    assert stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 1e-5


def test_q_by_hand() -> None:
    """Two lengths with a stop; the places are filled from left to right, the rest masked. Tokens: a b . ab

    A fifth is shared by both lengths alike, the rest is as 64 draws of the prior are.
    """
    target, _ = bound(PROGRAMS["stop"].replace("1..3", "1..2"))

    def filled(*ids: int | None) -> np.ndarray:
        return np.exp(MASKED.fill([Blanks(ids, (ids.index(None),))])[0][0])[:4]

    first = filled(0, None, None, 3)  # of two tokens the first is no stop, and the second is one
    values = values_of(target, [{"z": (2,)}, {"z": (0, 2)}, {"z": (3, 2)}])
    drawn = PriorGuide(target).sample(np.random.default_rng(0), 64).values["z"]
    one = 0.1 + 0.8 * sum(len(value.ids) == 1 for value in drawn) / 64
    assert 0.2 < one < 0.8
    wanted = [one, *((1 - one) * first[i] / first[[0, 1, 3]].sum() for i in (0, 3))]
    np.testing.assert_allclose(PriorGuide(target, reads="guide").log_prob(values), np.log(wanted), rtol=1e-12)


def test_a_value_outside_the_support_has_no_probability() -> None:
    target, _ = bound(PROGRAMS["stop"].replace("1..3", "2..2"))
    values = {"z": tuple(target.value_of("z", ids) for ids in ((2,), (0, 1), (0, 0, 2)))}
    assert np.isneginf(PriorGuide(target, reads="guide").log_prob(values)).all()


@pytest.mark.parametrize("algorithm", (Importance(), Mixture(6000)), ids=("importance", "mixture"))
def test_the_evidence_is_right(algorithm: Importance | Mixture) -> None:
    target, brute = bound(PROGRAMS["latents around"])
    guide = PriorGuide(target, reads="guide") if isinstance(algorithm, Importance) else None
    draws = run(algorithm, target, n=6000, rng=np.random.default_rng(1), guide=guide)
    assert draws.log_evidence_se is not None and draws.log_evidence_se < 0.2
    assert abs((draws.log_evidence or 0.0) - brute.log_evidence()) < 4 * draws.log_evidence_se


def test_auto_proposes_from_the_prior_and_the_masked_model() -> None:
    """The right context decides what the prior hardly draws: the masked model, trained on such texts, draws it."""
    rare = TabularModel.from_dict(
        {
            "tokens": list("abcdefgh."), "order": 1, "max_tokens": 40,
            "rows": {"": dict.fromkeys("abcdefg.", 0.1) | {"h": 0.02, "<eos>": 0.18}, "h": {"h": 0.5, ".": 0.5}},
        }
    )  # fmt: skip
    texts = {(7,) * n + (8, 7): 1.0 for n in range(1, 12)}
    source = """lm base = "b"\nlm d = masked("d")\nprogram p() {
        latent z: text(tokens=3..9, stop=".") ~ base() guide z ~ d(z, "h")
        factor 3 * count(z, "h") }"""
    models = {"base": rare, "d": type(MASKED).of(rare.tokenizer, texts, flat=0.1)}
    target = compiled(source, {}, models)
    draws = infer(target, method="auto", options={}, n=400, rng=np.random.default_rng(0))
    assert "drawn from the prior and from the masked model d" in draws.reason
    assert draws.mixture is not None and draws.mixture.names[:2] == ("prior", "the masked model d")
    alone = infer(target, method="importance", options={}, n=400, rng=np.random.default_rng(0))
    assert (draws.ess or 0.0) > 5 * (alone.ess or 0.0)


def test_a_mixture_that_was_asked_for_needs_a_masked_guide_or_a_policy() -> None:
    target, _ = bound(PROGRAMS["stop"])
    draws = infer(target, method="mixture", options={}, n=50, rng=np.random.default_rng(0))
    assert draws.mixture is not None
    plain, _ = bound('latent z: text(tokens=1..3, stop=".") ~ base("a")')
    with pytest.raises(InferenceError, match="PLM627"):
        infer(plain, method="mixture", options={}, n=50, rng=np.random.default_rng(0))


def test_other_tokens_are_refused() -> None:
    other = table(("a", "b", ".", "ba"), seed=1)
    source = f'lm base = "b"\nlm d = masked("d")\nprogram p() {{ {PROGRAMS["stop"]} }}'
    target = compiled(source, {}, {"base": MODEL, "d": masked_table(other, seed=2, longest=3)})
    with pytest.raises(InferenceError, match=r"PLM540.*has other tokens than `z`"):
        PriorGuide(target, reads="guide").sample(np.random.default_rng(0), 3)


def test_further_tokens_of_a_masked_model_do_no_harm() -> None:
    """As the token of a mask, which its model has besides."""
    wider = table(("a", "b", ".", "ab"), seed=51, order=2, bos=True)  # its bos is one more id
    source = f'lm base = "b"\nlm d = masked("d")\nprogram p() {{ {PROGRAMS["stop"]} }}'
    plain = compiled(source, {}, MODELS)
    target = compiled(source, {}, {"base": MODEL, "d": masked_table(wider, seed=52, longest=5)})
    values = values_of(plain, list(bound(PROGRAMS["stop"])[1].assignments()))
    wanted = PriorGuide(plain, reads="guide").log_prob(values)
    np.testing.assert_allclose(PriorGuide(target, reads="guide").log_prob(values), wanted, rtol=1e-12)
