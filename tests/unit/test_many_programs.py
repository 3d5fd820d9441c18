"""One policy for several programs: it tells them apart, serves others too, and is never more than a proposal."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from posterior_lm.api.query import Query, loads
from posterior_lm.lang.diagnostics import DataError, PlmError
from posterior_lm.lm.hf.transformers import TransformersModel
from posterior_lm.train import progress as metrics
from posterior_lm.train.adapter import WEIGHTS, Adapter
from posterior_lm.train.certificate import PolicyReport
from posterior_lm.train.fit import Fitted
from posterior_lm.train.guide import PolicyGuide
from posterior_lm.train.many import Asked, fit_many
from posterior_lm.train.policy import load_policy, offer_of, read_manifest
from posterior_lm.train.settings import settings_of
from tests.cli import plm
from tests.unit.test_fit import WORD

UP = """
lm base = "tiny"
program up(x: int(0..3)) {
  latent n: int(0..3, lead=" ") ~ categorical([0.05, 0.1, 0.25, 0.6])
  factor 0 - abs(n - x) * 0.2
  guide n ~ base("Digit:")
}
"""
DOWN = UP.replace("program up", "program down").replace("0.05, 0.1, 0.25, 0.6", "0.6, 0.25, 0.1, 0.05")
EVEN = UP.replace("program up", "program even").replace("  guide", "  condition n != 1\n  guide")
ROWS = [{"x": k} for k in range(4)]
SMALL: dict[str, Any] = {
    "steps": 32, "pairs": 16, "rows": 4, "draws": 16, "rank": 4, "scope": "program", "certify_draws": 20,
    "certify_rows": 4, "seed": 1,
}  # fmt: skip


def fitted(out: Path, programs: dict[str, str] | None = None, **more: Any) -> Fitted:
    """A short fit of programs over the rows above."""
    resume, watch = more.pop("resume", False), more.pop("watch", None)
    asked = {
        name: Asked(loads(text).prepared, ROWS)
        for name, text in (programs or {"up": UP, "down": DOWN}).items()
    }
    return fit_many(asked, out, settings_of({**SMALL, **more}), resume=resume, watch=watch)


def moved(text: str) -> Query:
    """A program over a model that says it has other weights."""
    query = loads(text)
    model = query.prepared.models["base"]
    assert isinstance(model, TransformersModel)
    other = attrs.evolve(model.identity, digest="0" * 64, name="other")
    return query.lm(base=TransformersModel(model._forward, model.tokenizer, other, limits=model._limits))


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("many") / "p"
    fitted(out)
    return out


def shares(folder: Path, text: str, x: int = 1) -> np.ndarray:
    """(4,) what the policy alone draws with which probability."""
    query = loads(text)
    found = load_policy(folder, query.prepared)
    try:
        target = query.prepared.bind({"x": x})
        values = {"n": [target.value("n", k) for k in range(4)]}
        return np.exp(PolicyGuide.of(target, found.adapter).log_prob(values))
    finally:
        found.adapter.close()


# ------------------------------------------------------------------------------- the outline is read


def test_two_programs_that_differ_in_a_number_are_told_apart(policy: Path) -> None:
    """Their guides read the same, but for the outline: without it one policy would draw one thing for both."""
    up, down = shares(policy, UP), shares(policy, DOWN)
    assert np.abs(up - down).sum() / 2 > 0.25
    assert up[3] > down[3] and up[0] < down[0]


def test_the_policy_of_one_program_reads_no_outline(tmp_path: Path) -> None:
    query = loads(UP)
    adapter = Adapter.new(query.prepared.models["base"], rank=2)
    try:
        target = query.prepared.bind({"x": 1})
        plain = PolicyGuide.of(target, adapter)
        adapter.reads = "outline"
        assert PolicyGuide.of(target, adapter).readings != plain.readings
    finally:
        adapter.close()


# ------------------------------------------------------------------------------- weights stay exact


@pytest.mark.parametrize("text", [UP, EVEN], ids=["seen", "unseen"])
def test_the_evidence_is_that_of_the_list(policy: Path, text: str) -> None:
    """The mean weight of independent draws is within five standard errors of the listed evidence."""
    query = loads(text).given(x=2)
    exact = query.using("exact").draw(1).log_evidence
    draws = query.policy(policy).using("importance").draw(2000, seed=3)
    assert exact is not None and draws.method == "importance"
    weights = np.exp(draws.draws.log_weights - exact)
    assert abs(weights.mean() - 1) < 5 * weights.std() / math.sqrt(len(weights)) + 1e-6
    assert weights.std() > 0.05, "the policy is not the posterior, so this says something"


# ------------------------------------------------------------------------------- what is said of it


def test_each_program_has_a_certificate_and_others_have_not_been_seen(policy: Path) -> None:
    manifest = read_manifest(policy)
    assert [one.name for one in manifest.programs] == ["up", "down"]
    assert [one.steps for one in manifest.programs] == [16, 16] and manifest.steps == 32
    assert all(isinstance(one.checked, PolicyReport) for one in manifest.programs)
    assert type(manifest).from_json(manifest.to_json()) == manifest
    for text, level in ((UP, manifest.programs[0].checked), (EVEN, None)):
        program = loads(text).prepared
        offer = offer_of(policy, program, program.bind({"x": 1}))
        worse = level is not None and level.is_worse
        assert offer.level == ("unseen" if level is None else "worse" if worse else level.verdict.level)


def test_a_run_says_so(policy: Path, tmp_path: Path) -> None:
    (tmp_path / "even.plm").write_text(EVEN)
    asked = ("run", tmp_path / "even.plm", "-g", "x=1", "--policy", policy, "-n", 50)
    found = plm(*asked, "--method", "importance")
    assert found.exit_code == 0, found.stderr
    assert "which has not seen this program; weights correct it; warning" in found.stdout


def test_a_program_that_it_cannot_draw_for_is_refused(policy: Path) -> None:
    text = UP.replace('  guide n ~ base("Digit:")\n', "")
    with pytest.raises(PlmError, match="here is none"):
        loads(text).given(x=1).policy(policy).using("importance").draw(10)
    with pytest.raises(DataError, match="PLM625"):
        moved(EVEN).given(x=1).policy(policy).using("importance").draw(10)


# ------------------------------------------------------------------------------- budgets, resuming, beginning


def test_a_resumed_fit_is_the_one_that_was_left_alone(tmp_path: Path) -> None:
    short = {"steps": 7, "checkpoint_every": 3, "certify_draws": 10, "objective": "tb"}
    fitted(tmp_path / "whole", **short)

    def stop(progress: metrics.Progress) -> None:
        if progress.step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fitted(tmp_path / "cut", watch=stop, **short)
    done = fitted(tmp_path / "cut", resume=True, **short)
    assert [one.steps for one in done.manifest.programs] == [4, 3]
    weights = [(tmp_path / name / WEIGHTS).read_bytes() for name in ("whole", "cut")]
    assert weights[0] == weights[1]
    again = fitted(tmp_path / "cut", resume=True, **short)
    assert again.manifest == done.manifest
    with pytest.raises(DataError, match="PLM625"):
        fitted(tmp_path / "cut", {"up": UP, "even": EVEN}, resume=True, **short)


def test_a_budget_is_for_all_of_them_and_weights_are_taken_over(policy: Path, tmp_path: Path) -> None:
    done = fitted(tmp_path / "q", steps=3, budget=300.0, start=str(policy), certify_draws=10)
    assert "it began from a policy of `up, down`" in done.manifest.note
    assert [one.steps for one in done.manifest.programs] == [2, 1]
    with pytest.raises(PlmError, match="PLM628") as caught:
        fitted(tmp_path / "none", budget=1e-3)
    assert caught.value.diagnostics[0].notes[-1] == "in the program `up`"


def test_one_program_that_begins_from_it_reads_its_outline_too(policy: Path, tmp_path: Path) -> None:
    """So its first draws are the shared policy's; what it reads is stored, and its own certificate."""
    short = {**SMALL, "steps": 1, "learning_rate": 1e-9, "certify_draws": 10, "start": str(policy)}
    loads(DOWN).fit(ROWS, tmp_path / "q", **short)
    made = read_manifest(tmp_path / "q")
    assert made.outlined and not made.programs and made.checked is not None
    assert type(made).from_json(made.to_json()) == made
    np.testing.assert_allclose(shares(tmp_path / "q", DOWN), shares(policy, DOWN), atol=1e-4)
    with pytest.raises(DataError, match="PLM625"):
        load_policy(tmp_path / "q", loads(EVEN).prepared)


# ------------------------------------------------------------------------------- what is refused


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    texts = {"up": UP, "down": DOWN, "sub/up": UP, "prior": UP.replace('  guide n ~ base("Digit:")\n', "")}
    table = 'tabular("table.json")'
    texts["table"] = WORD.replace('"tiny"', table)
    for name, text in texts.items():
        (tmp_path / f"{name}.plm").write_text(text)
    tokens = {"tokens": ["a", "b", " ", "."], "bos": False, "order": 1, "max_tokens": 8}
    rows = {"": {"a": 0.4, "b": 0.3, " ": 0.2, ".": 0.1}}
    (tmp_path / "table.json").write_text(json.dumps({**tokens, "rows": rows}))
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(r) + "\n" for r in ROWS))
    (tmp_path / "w.jsonl").write_text('{"opening": "a", "ending": "b"}\n')
    return tmp_path


REFUSED = {
    "fit up.plm sub/up.plm --data up=x.jsonl --out p": "error[PLM802]: up.plm and sub/up.plm are both `up`",
    "fit up.plm up.plm --data up=x.jsonl --out p": "error[PLM802]: up.plm stands twice",
    "fit up.plm down.plm --data up=x.jsonl --data dwn=x.jsonl --out p": "error[PLM802]: --data dwn: there is no program `dwn`",
    "fit up.plm down.plm --data x.jsonl --out p": "error[PLM802]: --data takes NAME=FILE, not 'x.jsonl'",
    "fit up.plm down.plm --data up=x.jsonl --out p": "error[PLM601]: ",
    "fit up.plm --data x.jsonl --data x.jsonl --out p": "error[PLM802]: --data stands twice, and there is one program",
    "fit up.plm down.plm --data up=x.jsonl --data down=x.jsonl --dry-run": "error[PLM802]: --dry-run forecasts the fit of one program",
    "fit up.plm prior.plm --data up=x.jsonl --data prior=x.jsonl --out p": "in the program `prior`",
    "fit up.plm table.plm --data up=x.jsonl --data table=w.jsonl --out p": "error[PLM516]: ",
    "fit up.plm down.plm --data up=x.jsonl --data down=x.jsonl --out p --objective ppo": "error[PLM802]: `ppo` trains on one program",
    "fit up.plm down.plm --data up=x.jsonl --data down=x.jsonl --out p --steps 1": "error[PLM802]: 1 steps are fewer",
}


@pytest.mark.parametrize("line", REFUSED)
def test_a_mistake_is_named(files: Path, line: str) -> None:
    found = plm(*line.split())
    assert found.exit_code in (1, 2) and REFUSED[line] in found.stderr, found.stderr
    assert "Traceback" not in found.stderr and not (files / "p" / "manifest.json").exists()


def test_guides_of_different_models_are_refused(tmp_path: Path) -> None:
    asked = {"up": Asked(loads(UP).prepared, ROWS), "other": Asked(moved(DOWN).prepared, ROWS)}
    with pytest.raises(DataError, match="PLM625") as caught:
        fit_many(asked, tmp_path / "p", settings_of(SMALL))
    (problem,) = caught.value.diagnostics
    assert problem.message == "the guides of `other` and of `up` read different models"
    assert len(problem.notes) == 3 and not (tmp_path / "p").exists()


def test_how_free_ends_are_ended_is_stored(tmp_path: Path) -> None:
    """By the first program that has one, also where a later one has none."""
    free = (
        'lm base = "tiny"\nprogram free(x: int(0..3)) {\n'
        '  latent z: text(tokens=1..2, end="free") ~ base("Then")\n  factor words(z) * x\n}'
    )
    many = fitted(tmp_path / "p", {"free": free, "up": UP}, steps=2)
    query = loads(free)
    found = load_policy(many.folder, query.prepared)
    try:
        assert found.adapter.stop is not None and found.adapter.stop == read_manifest(many.folder).stop
    finally:
        found.adapter.close()
