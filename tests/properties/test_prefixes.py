"""The log reward of stopping early is the log reward of what was cut, packed or not, table or transformer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

from posterior_lm.infer.guide import PriorGuide
from posterior_lm.lm.protocol import LanguageModel
from posterior_lm.target.target import Target
from posterior_lm.target.values import Values
from tests.laws.models import MODELS, build
from tests.strategies import Bound, bound_cases, compiled, table, values_of


def cuts(target: Target, latent: str, values: Values) -> np.ndarray:
    """(N, T + 1) by definition: one `log_reward` per draw and place to stop."""
    column = values[latent]
    support = target.latent(latent).support
    out = np.full((len(column), max(len(v.ids) for v in column) + 1), -np.inf)
    for d, value in enumerate(column):
        for t in range(len(value.ids) + 1):
            ids = support.cut(value.ids, t)
            if ids is not None:
                one = {
                    name: [target.value_of(latent, ids) if name == latent else c[d]]
                    for name, c in values.items()
                }
                out[d, t] = target.log_reward(one)[0]
    return out


@settings(max_examples=40)
@given(bound_cases())
def test_prefixes_are_cuts_on_tables(bound: Bound) -> None:
    for latent in bound.target.names:
        wanted = cuts(bound.target, latent, bound.values)
        for packed in (True, False):
            got = bound.target.log_reward_prefixes(bound.values, latent, packed=packed)
            assert got.dtype == np.float64
            np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-9, err_msg=bound.case.source)


PROGRAMS = {
    "stop": """latent z: text(tokens=1..6, stop=".") ~ base(q)
               observe [" a", q] ~ base(q, z)
               factor -0.5 * log_prob(z, base())""",
    "stop of two tokens": """latent z: text(tokens=2..6, stop="e.") ~ base("a", q) ^ 1.5
                             observe q ~ base(z, " the ", q)""",
    "end of text": """temper 1.25 { latent z: text(tokens=0..5) ~ base(q)
                      observe z ~ base() observe ["a", z, q] ~ base(q, q) ^ -0.5 }
                      condition chars(z) != 1""",
    "free": """latent z: text(tokens=2..5, end="free") ~ base(q)
               observe ["a", eos] ~ base(z) observe [z, eos] ~ base(q)""",
    "twice": """latent z: text(tokens=1..4, end="free") ~ base(q)
                observe "the" ~ base(z, " ", z)
                factor if contains(z, "e") then log_prob("a", base(if chars(z) > 2 then q else "b")) else 0""",
    "several": """latent x: text(tokens=1..3, stop=" ") ~ base()
                  latent z: text(tokens=1..4) ~ base(x, q)
                  latent y: text(tokens=1..3, end="free") ~ base(z, x)
                  observe ["a", y] ~ base(x, "e", z, q)
                  observe x ~ base(z)""",
    "first": """latent z: text(tokens=0..3, end="free") ~ base()
                observe "the a" ~ base(z)
                observe q ~ base(z, q)""",
    "plate": """latent z: text(tokens=1..4, stop="e") ~ base(q)
                plate r in t { latent y: text(tokens=1..3) ~ base(z, r.a) observe [r.a, z] ~ base(y, q) }""",
}
BY_HAND = """latent z: text(tokens=0..3) ~ base(bos)
             observe q ~ base(bos, z)
             observe [z, eos] ~ base(bos, q)"""
CLOSE = 1e-4
BUILT = ("gpt2", "llama", "neox", "sliding", "mamba", "tiny")


def draws(target: Target, n: int, seed: int = 0) -> Values:
    return PriorGuide(target).sample(np.random.default_rng(seed), n).values


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp()


def bound_to(model: LanguageModel, body: str) -> Target:
    source = f'lm base = "m"\nprogram prog(q: text, t: table(a: text)) {{\n{body}\n}}'
    body_reads = {"q": "the a", "t": [{"a": "ed"}, {"a": " the"}]}
    return compiled(source, body_reads, {"base": model})


@pytest.mark.parametrize(
    ("model", "body"),
    [(m, p) for m in BUILT for p in PROGRAMS.values()] + [("tiny", BY_HAND)],
    ids=[f"{m}-{p}" for m in BUILT for p in PROGRAMS] + ["tiny-by hand"],
)
def test_prefixes_are_cuts_on_transformers(model: str, body: str, scratch: Path) -> None:
    target = bound_to(build(model, scratch), body)
    values = draws(target, 4)
    for latent in target.names:
        packed = target.log_reward_prefixes(values, latent)
        plain = target.log_reward_prefixes(values, latent, packed=False)
        wanted = cuts(target, latent, values)
        assert np.isfinite(wanted).any()
        np.testing.assert_allclose(plain, wanted, atol=CLOSE, rtol=1e-5)
        np.testing.assert_allclose(packed, wanted, atol=CLOSE, rtol=1e-5)


def test_the_last_prefix_is_the_whole_value() -> None:
    model = table(("a", "b", ".", "ab"), seed=8, order=2, max_tokens=9)
    target = compiled(
        'lm base = "b"\nprogram prog() { latent z: text(tokens=1..4, stop=".") ~ base() observe "ab" ~ base(z) }',
        {}, {"base": model},
    )  # fmt: skip
    values = draws(target, 30)
    prefixes = target.log_reward_prefixes(values)
    whole = target.log_reward(values)
    lengths = [len(v.ids) for v in values["z"]]
    assert min(lengths) < max(lengths) == prefixes.shape[1] - 1
    for row, length, reward in zip(prefixes, lengths, whole, strict=True):
        assert row[length] == pytest.approx(reward, abs=1e-12)
        assert np.isneginf(row[length + 1 :]).all()


def test_one_value_by_hand() -> None:
    """z = a b . with the stop "."; entry t is that of the first t tokens with the stop behind them."""
    model = table(("a", "b", "."), seed=4, order=2, max_tokens=9)
    target = compiled(
        'lm base = "b"\nprogram prog() { latent z: text(tokens=1..3, stop=".") ~ base("b") observe "a" ~ base(z) }',
        {}, {"base": model},
    )  # fmt: skip

    def log_p(context: tuple[int, ...], ids: tuple[int, ...]) -> float:
        return sum(float(model.next_log_probs(context + ids[:t])[ids[t]]) for t in range(len(ids)))

    wanted = [log_p((1,), z) + log_p(z, (0,)) for z in ((2,), (0, 2), (0, 1, 2), (0, 1, 2))]
    got = target.log_reward_prefixes(values_of(target, [{"z": (0, 1, 2)}]))
    np.testing.assert_allclose(got, [wanted], rtol=1e-12)


def test_names() -> None:
    model = table(("a", "b"), seed=1)
    one = 'lm base = "b"\nprogram prog() { latent z: text(tokens=1..2) ~ base() '
    target = compiled(one + "latent y: text(tokens=1..1) ~ base(z) }", {}, {"base": model})
    values = values_of(target, [{"z": (0,), "y": (1,)}])
    with pytest.raises(ValueError, match="name one"):
        target.log_reward_prefixes(values)
    with pytest.raises(KeyError):
        target.log_reward_prefixes(values, "x")
    assert target.log_reward_prefixes(values, "y").shape == (1, 2)


def test_every_kind_of_model_is_tried() -> None:
    assert set(BUILT) <= set(MODELS)
