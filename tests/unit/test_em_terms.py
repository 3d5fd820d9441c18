"""The terms that an M-step raises are those of the log reward, and their gradient is its gradient."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import attrs
import numpy as np
import pytest
import torch

from posterior_lm.api.query import Query, loads
from posterior_lm.em.saved import adapted, adapter_digest
from posterior_lm.em.split_model import split_model
from posterior_lm.em.trained_terms import Line, Part, log_probs, trained_terms
from posterior_lm.infer.guide import PriorGuide
from posterior_lm.lang.diagnostics import InferenceError
from posterior_lm.lm.hf.transformers import TransformersModel
from posterior_lm.lm.protocol import Request
from posterior_lm.target.target import Target
from posterior_lm.train.adapter import Adapter
from tests.unit.test_em_split_model import RATED

WORDS = """
lm base = "tiny"
program words(opening: text, ending: text) {
  latent z: text(tokens=2..4, stop=".") ~ base(opening)
  observe [" ", ending] ~ base(opening, z) ^ 0.5
  observe [ending, eos] ~ base(chars(z), " ", opening)
  guide z ~ base(opening)
}
"""
CHOSEN = """
lm base = "tiny"
program chosen(x: int(0..9), label: one_of("good", "bad", "so so")) {
  latent n: int(0..3, lead=" ") ~ categorical([0.45, 0.05, 0.2, 0.3])
  temper 0.25 + x / 10 { observe label ~ choice(base("Word ", x, n) ^ 1.5) }
}
"""
FREE = """
lm base = "tiny"
program free(opening: text, ending: text) {
  latent z: text(tokens=0..2, end="eos") ~ base(opening)
  latent n: int(2..5, lead=" ") ~ choice(base(opening, z))
  observe ending ~ base(opening, z, n)
}
"""
PLATE = """
lm base = "tiny"
program plates(rows: table(a: text, b: text)) {
  latent r: text(tokens=1..2) ~ base("Rule:")
  plate e in rows { temper 2 { observe [" ", e.b] ~ base(r, e.a) } }
}
"""
TOOLED = """
lm base = "tiny"
tool calc = calculator(trigger="=", operands=2, output="intervene")
program tooled(question: text, answer: int) {
  latent steps: text(tokens=1..12, stop=".", tools=calc) ~ base("Question: ", question, " Answer:")
  observe [" The answer is ", answer, "."] ~ base("Question: ", question, " Answer:", steps)
}
"""
BRANCHED = """
lm base = "tiny"
program branched(opening: text, ending: text) {
  latent n: int(0..1) ~ categorical([0.5, 0.5])
  if n == 1 {
    latent z: text(tokens=2..4, stop=".") ~ base(opening)
    observe [" ", ending] ~ base(opening, z) ^ 0.5
  } else {
    observe [" ", ending] ~ base(opening)
  }
}
"""
LISTED = """
lm base = "tiny"
program listed(opening: text, ending: text) {
  latent steps: list(text(tokens=1..3, stop=","), 0..2, end=".") ~ base(opening) ^ 0.7
  plate s in steps { observe " yes" ~ base(s) }
  observe [" ", ending] ~ base(opening, steps)
}
"""
STORY = {"opening": "Mia saw a cat", "ending": "She ran."}
CASES = {
    "words": (WORDS, STORY, False),
    "chosen": (CHOSEN, {"x": 7, "label": "so so"}, False),
    "free": (FREE, STORY, True),
    "plate": (PLATE, {"rows": [{"a": "cat", "b": "dog"}, {"a": "a", "b": "the end"}]}, False),
    "branched": (BRANCHED, STORY, False),
    "listed": (LISTED, STORY, True),
    "rated": (RATED, {"x": 2, "label": "bad"}, False),
}


@pytest.fixture
def adapter() -> Iterator[Adapter]:
    base = loads(RATED).prepared.models["base"]
    made = Adapter.new(base, rank=3, seed=4)
    with torch.no_grad():
        rng = torch.Generator().manual_seed(2)
        for parameter in made.parameters.values():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=rng))
    yield made
    made.close()


def bound(program: str, row: Mapping[str, object], adapter: Adapter, train_prior: bool = False) -> Target:
    query = loads(program)
    split = split_model(query.checked, train_prior=train_prior)
    query = attrs.evolve(query, module=split.module).lm(base_em=adapted(adapter))
    return query.given(row).target()


@pytest.mark.parametrize("name", CASES)
def test_they_are_the_terms_of_the_target(name: str, adapter: Adapter, rng: np.random.Generator) -> None:
    program, row, train_prior = CASES[name]
    there = bound(program, row, adapter, train_prior)
    values = PriorGuide(there).sample(rng, 12).values
    kept = [
        k
        for k, info in enumerate(there.statements)
        if info.keyword in ("observe", "latent")[: 1 + train_prior]
    ]
    wanted = there.terms(values)[:, kept].sum(axis=1)
    terms = trained_terms(there, values, "base_em")
    with torch.inference_mode():
        found = log_probs(adapter.model(), terms).numpy()
    np.testing.assert_allclose(found, wanted, atol=2e-4)
    assert np.ptp(wanted) > 0.01  # the latent matters, so a wrong context would show


def test_what_a_tool_wrote_counts_as_in_the_target(adapter: Adapter) -> None:
    row = {"question": "7 + 4 - 2 = ?", "answer": 9}
    there = bound(TOOLED, row, adapter, train_prior=True)
    values = {"steps": [there.value("steps", t) for t in (" 7 + 4 = 11.", " 4 - 2 = 2.")]}
    with torch.inference_mode():
        found = log_probs(adapter.model(), trained_terms(there, values, "base_em")).numpy()
        heard = bound(TOOLED.replace("intervene", "observe"), row, adapter, train_prior=True)
        other = log_probs(adapter.model(), trained_terms(heard, values, "base_em")).numpy()
    np.testing.assert_allclose(found, there.terms(values).sum(axis=1), atol=2e-4)
    assert (found > other + 0.01).any()


def test_a_pass_may_be_as_small_as_it_likes(adapter: Adapter, rng: np.random.Generator) -> None:
    there = bound(WORDS, STORY, adapter)
    terms = trained_terms(there, PriorGuide(there).sample(rng, 8).values, "base_em")
    with torch.inference_mode():
        whole, small = (log_probs(adapter.model(), terms, columns=c) for c in (1 << 13, 16))
    torch.testing.assert_close(whole, small, atol=1e-4, rtol=0)


def test_the_gradient_is_that_of_the_number(adapter: Adapter, rng: np.random.Generator) -> None:
    there = bound(CHOSEN, {"x": 7, "label": "bad"}, adapter)
    terms = trained_terms(there, PriorGuide(there).sample(rng, 4).values, "base_em")
    parameters = list(adapter.parameters.values())
    with adapter.on():
        log_probs(adapter.model(), terms).sum().backward()
    direction = [p.grad / torch.sqrt(sum((q.grad**2).sum() for q in parameters)) for p in parameters]  # type: ignore[union-attr,operator,arg-type]
    slope = float(sum((p.grad * d).sum() for p, d in zip(parameters, direction, strict=True)))  # type: ignore[operator]
    ends = []
    for step in (0.01, -0.01):
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p.add_(step * d)
            ends.append(float(log_probs(adapter.model(), terms).sum()))
            for p, d in zip(parameters, direction, strict=True):
                p.sub_(step * d)
    assert slope > 0.1 and (ends[0] - ends[1]) / 0.02 == pytest.approx(slope, rel=0.02)


def test_equal_lines_are_scored_once(adapter: Adapter, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    from posterior_lm.em import trained_terms as module

    scores = module._line_scores
    monkeypatch.setattr(
        module, "_line_scores", lambda m, lines, c: seen.append(len(lines)) or scores(m, lines, c)
    )
    line, other = Line((1, 5), (7, 8)), Line((1, 5), (9,), ends=True)
    terms = [(Part(1.0, (line,)),), (Part(2.0, (line,)), Part(1.0, (other,)))]
    with torch.inference_mode():
        found = log_probs(adapter.model(), terms).numpy()
    whole, ended = adapted(adapter).score([Request((1, 5, 7, 8), 2), Request((1, 5, 9), 2)])
    assert seen == [2]
    tail = float(ended.tokens.sum() + ended.eos[1])
    np.testing.assert_allclose(found, [whole.tokens.sum(), 2 * whole.tokens.sum() + tail], atol=1e-4)


def test_a_negative_power_is_refused(adapter: Adapter, rng: np.random.Generator) -> None:
    there = bound(WORDS.replace("^ 0.5", "^ -0.5"), STORY, adapter)
    with pytest.raises(InferenceError) as caught:
        trained_terms(there, PriorGuide(there).sample(rng, 2).values, "base_em")
    assert caught.value.diagnostics[0].code == "PLM793" and caught.value.diagnostics[0].primary is not None


def test_the_identity_is_of_the_weights_and_the_base(adapter: Adapter) -> None:
    first, name = adapter_digest(adapter), adapted(adapter).identity
    assert name.digest == first != adapter.base.identity.digest and name.name.endswith(first[:8])
    assert adapter_digest(adapter) == first
    with torch.no_grad():
        next(iter(adapter.parameters.values())).add_(1e-3)
    assert adapter_digest(adapter) != first
    assert isinstance(adapted(adapter), TransformersModel)


def test_the_base_model_never_sees_it(adapter: Adapter) -> None:
    request = [Request((1, 5, 7, 8), 1)]
    base = loads(RATED).prepared.models["base"]
    other = adapted(adapter).score(request)[0].tokens
    before = base.score(request)[0].tokens
    assert np.abs(other - before).max() > 1e-3
    query: Query = loads(RATED).lm(base=base)
    assert query.prepared.models["base"] is adapter.base
