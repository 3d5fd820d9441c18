"""Tools with a real model: positions after a splice in every row, a short fit, and what follows it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from posterior_lm.api.query import Query, load, loads
from posterior_lm.infer.choosers import Follow, Sample
from posterior_lm.infer.rollout import roll_out
from posterior_lm.lang.diagnostics import DataError
from posterior_lm.support.base import spliced
from posterior_lm.target.target import Target
from posterior_lm.train.scoring import path_maker, score_paths
from tests.conftest import ROOT

SHORT = """lm base = "tiny"
tool calc = calculator(output="{}")
program short(question: text, answer: int) {{
  latent steps: text(tokens=3..14, chars="0123456789+-=, ", stop=".", tools=calc)
      ~ base("Question: ", question, " Answer:")
  observe [" The answer is ", answer, "."] ~ base("Question: ", question, " Answer:", steps)
}}"""
ROWS = [
    {"question": "3 + 4 - 2 = ?", "answer": 5},
    {"question": "9 + 8 = ?", "answer": 17},
    {"question": "1 - 7 + 3 = ?", "answer": -3},
    {"question": "6 + 2 - 8 = ?", "answer": 0},
]
STEPS = [
    " 3 + 4 = 7, 7 - 2 = 5.",
    " 9 + 8 = 17.",
    " 1 - 7 = -6, -6 + 3 = -3.",
    " 6 + 2 - 8 = -6.",
    " 9 + = 8.",
]


def short(output: str = "observe", row: int = 0) -> Query:
    return loads(SHORT.format(output)).given(ROWS[row])


@pytest.fixture(scope="module")
def target() -> Target:
    return short().target()


def begun(target: Target, prompt: str) -> tuple[int, ...]:
    tokenizer = target.models["base"].tokenizer
    return (*tokenizer.start_ids, *tokenizer.encode_start(prompt))


def from_scratch(
    target: Target, context: tuple[int, ...], ids: tuple[int, ...]
) -> tuple[float, float, list[float]]:
    """log q, the model's log probability, and that of each token: one pass without a cache for each place."""
    model, support = target.models["base"], target.latent("steps").support
    state, log_q, each = support.start(), 0.0, []
    for t, token in enumerate(ids):
        logits = model._forward.logits(torch.tensor([context + ids[:t]]), keep=1)[0, -1].double()  # type: ignore[attr-defined]
        log_probs = torch.log_softmax(logits, dim=-1).numpy()
        allowed = np.flatnonzero(support.allowed(state))
        log_q += float(log_probs[token] - np.logaddexp.reduce(log_probs[allowed]))
        each.append(float(log_probs[token]))
        state = support.advance(state, token)
    return log_q, sum(each), each


def test_positions_are_right_after_a_splice_in_every_row(target: Target) -> None:
    model, support = target.models["base"], target.latent("steps").support
    prompts = ["Question: 3 + 4 - 2 = ? Answer:", "Answer:", "So", "Question: 6 + 2 - 8 = ? Answer:", "9 + 8"]
    contexts = [begun(target, p) for p in prompts]
    ids = [target.value("steps", text).ids for text in STEPS]
    marks = [spliced(support, one) for one in ids]
    assert [sum(m) for m in marks] == [2, 2, 4, 2, 0], "outputs of one and of several tokens, and none"
    truth = [from_scratch(target, c, one) for c, one in zip(contexts, ids, strict=True)]
    walk = roll_out(model, contexts, support, Follow(ids), late=True)
    values, log_q, mass = walk.values, walk.log_q, walk.log_mass
    assert values == ids
    assert log_q == pytest.approx([t[0] for t in truth], abs=2e-4)
    assert log_q + mass == pytest.approx([t[1] for t in truth], abs=2e-4)
    make = path_maker(support)
    with torch.inference_mode():
        batched = score_paths(model, [make(c, one) for c, one in zip(contexts, ids, strict=True)]).log_prob  # type: ignore[arg-type]
    assert batched.numpy() == pytest.approx([t[0] for t in truth], abs=2e-4)
    alone = [
        roll_out(model, [c], support, Follow([one])).log_q[0] for c, one in zip(contexts, ids, strict=True)
    ]
    assert log_q == pytest.approx(alone, abs=2e-4)


def test_the_terms_count_outputs_or_leave_them_out(target: Target) -> None:
    set_ = short("intervene").target()
    context = begun(target, "Question: 3 + 4 - 2 = ? Answer:")
    for text in STEPS[:4]:
        value = target.value("steps", text)
        _, whole, each = from_scratch(target, context, value.ids)
        marks = spliced(target.latent("steps").support, value.ids)
        drawn = sum(p for p, wrote in zip(each, marks, strict=True) if not wrote)
        observed, intervened = (t.terms({"steps": [value]})[0] for t in (target, set_))
        assert observed[0] == pytest.approx(whole, abs=2e-4)
        assert intervened[0] == pytest.approx(drawn, abs=2e-4) and drawn > whole
        assert observed[1] == pytest.approx(intervened[1], abs=1e-9), "what follows reads the outputs in both"


def test_draws_hold_outputs_and_their_probability_is_known(target: Target) -> None:
    model, support = target.models["base"], target.latent("steps").support
    context = begun(target, "Question: 3 + 4 - 2 = ? Answer:")
    walk = roll_out(model, [context] * 24, support, Sample(np.random.default_rng(3)))
    ids, log_q = walk.values, walk.log_q
    assert sum(any(spliced(support, one)) for one in ids) > 20
    again = roll_out(model, [context] * 24, support, Follow(ids)).log_q
    assert again == pytest.approx(log_q, abs=2e-4)


@pytest.mark.parametrize(("output", "objective"), [("observe", "vargrad"), ("intervene", "subtb")])
def test_a_short_fit_replays_outputs(tmp_path: Path, output: str, objective: str) -> None:
    rows = [{**row, "steps": text} for row, text in zip(ROWS, STEPS, strict=False)]
    query = loads(SHORT.format(output))
    fitted = query.fit(
        rows, tmp_path / "policy", steps=4, sleep=0.5, pairs=6, draws=4, rank=2, seed=1, objective=objective,
        replayed=0.5, simulated=0.25, certify_draws=10, certify_rows=0, seeds=4,
    )  # fmt: skip
    assert fitted.folder.exists()
    posterior = query.given(ROWS[0]).policy(tmp_path / "policy").using("gflownet").draw(12, seed=0)
    support = query.given(ROWS[0]).target().latent("steps").support
    for value, reward in zip(posterior.draws.values["steps"], posterior.draws.log_reward, strict=True):
        assert support.accepts(value.ids) == np.isfinite(reward)
    assert any(any(spliced(support, v.ids)) for v in posterior.draws.values["steps"])


def test_a_known_value_that_a_tool_would_have_written_otherwise_names_its_row(tmp_path: Path) -> None:
    rows = [{**ROWS[0], "steps": STEPS[0]}, {**ROWS[1], "steps": " 9 + 8 = 18."}]
    with pytest.raises(DataError) as caught:
        loads(SHORT.format("observe")).fit(rows, tmp_path / "policy", steps=2)
    (found,) = caught.value.diagnostics
    assert found.code == "PLM766" and found.where == "rows[1]" and "' 17' after ' 9 + 8 ='" in found.message


def test_a_score_of_such_a_text_is_no_value() -> None:
    query = short()
    right, wrong = (query.score({"steps": text}) for text in (STEPS[0], " 3 + 4 = 8, 8 - 2 = 6."))
    assert np.isfinite(right.log_reward) and np.isneginf(wrong.log_reward)


def test_the_program_of_the_paper_runs(tmp_path: Path) -> None:
    query = load(ROOT / "programs" / "arithmetic_with_tool.plm").given(ROWS[0])
    posterior = query.using("importance").draw(40, seed=0)
    best = max(
        zip(posterior.draws.log_weights, posterior.draws.values["steps"], strict=True), key=lambda p: p[0]
    )[1]
    assert best.text == STEPS[0]
    assert query.report(posterior, tmp_path / "page.html").read_text(encoding="utf-8").count("7 - 2 = 5") > 0
