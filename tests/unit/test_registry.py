"""The tables of methods and objectives: an entry is all that a new one needs, and nobody else lists names."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from attrs import evolve, frozen
from torch import Tensor

from posterior_lm.api.query import load, loads
from posterior_lm.infer.base import Backend, Info, Offer
from posterior_lm.infer.draws import Draws
from posterior_lm.infer.guide import Guide, PriorGuide
from posterior_lm.infer.importance import log_weights
from posterior_lm.infer.methods import AUTO, METHODS, OBJECTIVES, Method, Objective, OptionType, register
from posterior_lm.infer.request import checked, resolve
from posterior_lm.lang.diagnostics import CompileError, InferenceError
from posterior_lm.target.target import Target
from posterior_lm.train.gflownet_batch import Loss, Trajectories, log_ratio, mean_of
from posterior_lm.train.policy import read_manifest
from posterior_lm.validate.measures import method_under_test
from tests.cli import ROOT, WALK, plm
from tests.unit.test_fit import DIGIT, DIGITS

GIVEN = ("-g", "start=a", "-g", "end=a")


@frozen
class Toy:
    """Draws from the prior, weighed, all of them at once."""

    name: str = "a name of its own"

    def init(self, rng: np.random.Generator, target: Target, guide: Guide | None) -> Target:
        return target

    def step(self, rng: np.random.Generator, state: Target) -> tuple[Target, Info]:
        return state, Info(done=True)

    def sample(self, rng: np.random.Generator, state: Target, n: int) -> Draws:
        found = PriorGuide(state).sample(rng, n)
        weights, log_reward = log_weights(state, found.values, found.log_prob)
        return Draws(found.values, weights, log_reward, self.name, found.log_prob)


class _Toy(Backend):
    def build(self, target: Target, options: Mapping[str, object], n: int, batch: int | None) -> Toy:
        return Toy()

    def applies(self, target: Target, policy: Offer | None) -> str | None:
        return "everything is drawn by a toy"


BACKEND = _Toy()
TOY = Method(
    name="toy", about="draws by a toy", backend=BACKEND, auto=5, evidence=True,
    options={"n": OptionType(kind="int", low=1, default=7)},
)  # fmt: skip


@pytest.fixture
def toy() -> Iterator[None]:
    register(TOY)
    yield
    del METHODS[TOY.name]


@frozen
class ToyLoss:
    """The mean of (log q − log R)²; `seen` counts the calls, with what the settings say of `lam`."""

    name: ClassVar[str] = "toy"
    needs_log_z: ClassVar[bool] = False
    seen: ClassVar[list[float]] = []
    lam: float

    def loss(self, trajectories: Trajectories, log_z: Tensor | None = None) -> Loss:
        t = trajectories.checked()
        self.seen.append(self.lam)
        return mean_of(log_ratio(t.alive, t.log_prob, t.log_reward).square(), t.alive)


@pytest.fixture
def toy_objective() -> Iterator[None]:
    register(Objective(name="toy", about="a toy", backend=ToyLoss))
    yield
    del OBJECTIVES["toy"]
    ToyLoss.seen.clear()


# ------------------------------------------------------------------------------- a method


def test_a_new_method_is_run_by_name(toy: None) -> None:
    result = plm("run", WALK, *GIVEN, "--method", "toy")
    assert result.exit_code == 0, result.stderr
    assert "method toy: toy was asked for" in result.stdout and " of 7, k-hat" in result.stdout
    assert " of 11, k-hat" in plm("run", WALK, *GIVEN, "--method", "toy", "-n", 11).stdout


@pytest.mark.parametrize("backend", ["tests.unit.test_registry:BACKEND", BACKEND])
def test_a_backend_is_an_object_or_the_name_of_one(backend: object) -> None:
    register(evolve(TOY, backend=backend))
    try:
        assert load(WALK).given(start="a", end="a").using("toy", n=3).draw().n == 3
    finally:
        del METHODS["toy"]


def test_a_program_states_a_new_method(toy: None, tmp_path: Path) -> None:
    def written(call: str) -> Path:
        file = tmp_path / "walk.plm"
        text = Path(WALK).read_text().rstrip().removesuffix("}") + f"  infer {call}\n}}\n"
        file.write_text(text.replace('"letters.json"', f'"{Path(WALK).parent}/letters.json"'))
        return file

    assert plm("check", written("toy(n=5)")).exit_code == 0
    found = load(written("toy(n=5)")).given(start="a", end="a").draw()
    assert (found.method, found.n) == ("toy", 5)
    for call, code in (("toy(n=0)", "PLM309"), ("toy(m=1)", "PLM206"), ("toyy()", "PLM210")):
        result = plm("check", written(call))
        assert result.exit_code == 1 and code in result.output, call


def test_others_see_a_new_method(toy: None) -> None:
    query = load(WALK).given(start="a", end="a")
    found = query.draw(5)
    assert (found.method, found.reason) == ("toy", "toy: everything is drawn by a toy")
    assert "toy" in {one.method for one in query.compare(draws=20).methods}
    calibration = query.using("toy").calibrate(simulate=16, draws=20)
    assert calibration.method == "toy" and calibration.upper is not None and calibration.weighed is not None
    for command in ("run", "predict", "report", "calibrate"):
        assert "gflownet, toy" in " ".join(plm(command, "--help").stdout.split()), command
    with pytest.raises(InferenceError, match="`n` of `toy` is at least 1"):
        checked("toy", {"n": 0})


def test_auto_asks_in_the_order_of_the_table(toy: None) -> None:
    query = load(WALK).given(start="a", end="a")
    METHODS["toy"] = evolve(TOY, auto=15)
    assert query.draw(5).method == "exact"
    METHODS["toy"] = evolve(TOY, auto=0)
    assert query.draw(5).method == "exact"


def test_a_name_is_taken_once(toy: None) -> None:
    with pytest.raises(ValueError, match="there is a method `toy` already"):
        register(TOY)
    with pytest.raises(ValueError, match="there is an objective `tb` already"):
        register(Objective(name="tb", about="", backend=ToyLoss))


def test_an_unknown_method_is_told_of_the_others() -> None:
    with pytest.raises(InferenceError) as caught:
        checked("zzz", {})
    assert caught.value.diagnostics[0].help == f"the methods are {', '.join(METHODS)}"


# ------------------------------------------------------------------------------- an objective


def test_a_new_objective_is_fitted_by_name(toy_objective: None, tmp_path: Path) -> None:
    (tmp_path / "digit.plm").write_text(DIGIT)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in DIGITS))
    where = ("fit", tmp_path / "digit.plm", "--data", tmp_path / "rows.jsonl", "--out", tmp_path / "p")
    quick = {"lam": 0.5, "sleep": 0, "certify_draws": 20, "certify_rows": 4, "held_out": 2}
    more = ["--rank", 2, "--draws", 4, *(x for k, v in quick.items() for x in ("--set", f"{k}={v}"))]
    result = plm(*where, "--objective", "toy", "--steps", 2, *more)
    assert result.exit_code == 0, result.stderr
    assert read_manifest(tmp_path / "p").settings["objective"] == "toy" and set(ToyLoss.seen) == {0.5}
    assert "vargrad, tb, subtb, db or toy; sft, ppo, rloo or wake" in " ".join(
        plm("fit", "--help").stdout.split()
    )
    text = DIGIT.rstrip().removesuffix("}") + '  infer gflownet(objective="toy")\n}\n'
    assert loads(text).graph.infer[0].options == (("objective", "toy"),)


def test_an_objective_that_is_gone_is_unknown() -> None:
    text = DIGIT.rstrip().removesuffix("}") + '  infer gflownet(objective="toy")\n}\n'
    with pytest.raises(CompileError, match="PLM309"):
        loads(text)


# ------------------------------------------------------------------------------- the tables themselves


@pytest.mark.parametrize("name", [name for name in METHODS if name != AUTO])
def test_every_method_has_a_backend_that_builds_it(name: str) -> None:
    target = load(WALK).given(start="a", end="a").target()
    backend = METHODS[name].load()
    assert isinstance(backend, Backend)
    # gflownet is importance sampling, whose guide is the policy.
    built = backend.build(target, {}, 4, None).name
    assert built == name or METHODS[name].needs_policy
    assert not METHODS[name].auto or type(backend).applies is not Backend.applies


def test_every_objective_is_what_its_entry_says() -> None:
    for name, entry in OBJECTIVES.items():
        made: Any = entry.load()
        assert made.__name__ == "trainer" if entry.peer else made.name == name
        if not entry.peer:
            sources = entry.source.split("; ")
            assert all(set(one.split()) <= set(re.findall(r"\w+\.?", made.__doc__)) for one in sources), name


def test_no_other_module_lists_names() -> None:
    """Two names in one tuple, list, set or dict are a list that a new entry would be missing from."""
    names = {*METHODS, *OBJECTIVES}
    found = []
    for path in (ROOT / "posterior_lm").rglob("*.py"):
        if path.parts[-2:] == ("infer", "methods.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            items = node.keys if isinstance(node, ast.Dict) else getattr(node, "elts", [])
            texts = {item.value for item in items if isinstance(item, ast.Constant)}
            if len(texts & names) > 1:
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}")  # type: ignore[attr-defined]
    assert found == []


# ------------------------------------------------------------------------------- options


def test_what_a_program_states_are_defaults() -> None:
    stated = loads(
        DIGIT.rstrip().removesuffix("}") + "  infer smc(particles=9, threshold=0.3)\n}\n"
    ).graph.infer
    assert resolve(stated, None, {}) == ("smc", {"particles": 9, "threshold": 0.3})
    assert resolve(stated, "smc", {"particles": 4}) == ("smc", {"particles": 4, "threshold": 0.3})
    assert resolve(stated, "mcmc", {"steps": 3}) == ("mcmc", {"steps": 3})
    assert resolve((), None, {}) == (AUTO, {})
    both = (*stated, evolve(stated[0], method="exact", options=(("values", 5),)))
    assert resolve(both, None, {}) == (AUTO, {}) and resolve(both, "exact", {})[1] == {"values": 5}


def test_how_many_draws_is_the_methods_own_default() -> None:
    asked = {name: one.draws({}) for name, one in METHODS.items()}
    assert {name for name, n in asked.items() if n != 1000} == {"beam", "diverse_beam"}
    assert METHODS["smc"].draws({"particles": 5, "n": 6}) == 5 and METHODS["mcmc"].draws({"n": 6}) == 6


def test_a_file_that_a_program_names_is_found_by_all_that_draw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lies beside the program, whatever folder the command runs in; the caller's own path starts there."""
    home, away = tmp_path / "home", tmp_path / "away"
    home.mkdir()
    away.mkdir()
    monkeypatch.chdir(away)
    infer = 'infer few_shot(n=2, shots=1, examples="known.jsonl")\n  infer mcmc(steps=8, chains=2)\n}\n'
    (home / "digit.plm").write_text(DIGIT.rstrip().removesuffix("}") + infer)
    (home / "known.jsonl").write_text('{"x": 1, "n": 2}\n{"x": 3, "n": 4}\n')
    query = load(home / "digit.plm").given(x=0).using("few_shot")
    assert query.draw(seed=1).n == 2
    assert {one.method for one in query.compare(draws=8).methods} >= {"few_shot", "mcmc"}
    way = method_under_test(query.prepared, query.request)
    assert len(way.draw(query.target(), 2, np.random.default_rng(0))) == 2
    theirs = load(home / "digit.plm").given(x=0).using("few_shot", examples="known.jsonl")
    for ask in (theirs.draw, theirs.compare):
        with pytest.raises(Exception, match="PLM801"):
            ask()
