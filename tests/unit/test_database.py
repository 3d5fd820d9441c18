"""The database of known posteriors: what its files hold, that two ways agree, and the runner that uses it."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from posterior_lm import load
from posterior_lm.infer import importance
from posterior_lm.infer.base import Info
from posterior_lm.infer.verdict import LEVELS
from posterior_lm.lang.diagnostics import DataError
from posterior_lm.validate.database import Answer, Entry, entries, read_answer
from posterior_lm.validate.trials import Run, Trials, summary, trials
from posteriors import brute, make
from tests.cli import ROOT, plm
from tests.conftest import SHARED

FOLDER = ROOT / "posteriors"
ALL = entries(FOLDER)
MODELS = SHARED / "models"
CLASSES = {"infilling", "reverse", "tempered", "contrastive", "patterns", "json", "several_latents", "plates", "tools",
           "finite", "rare_modes", "two_modes", "conditions", "forced_stops", "heavy_tails"}  # fmt: skip
QUICK = 500
"""Values that the product lists in the suite; larger targets are listed by the slow tests."""


def title(entry: Entry) -> str:
    return f"{entry.kind}/{entry.name}"


def is_quick(entry: Entry) -> bool:
    return entry.answer.how["exact"].values <= QUICK and "hf" not in entry.program.read_text()


QUICK_ONES = [entry for entry in ALL if is_quick(entry)]
SLOW_ONES = [entry for entry in ALL if not is_quick(entry)]


def entry_of(name: str) -> Entry:
    return next(entry for entry in ALL if entry.name == name)


# ------------------------------------------------------------------------------- the files


def test_there_are_enough_targets_of_every_class() -> None:
    assert {entry.kind for entry in ALL} == CLASSES and len(ALL) >= 60
    assert len({entry.name for entry in ALL}) == len(ALL)
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert all(f"| `{kind}` |" in page for kind in CLASSES)


@pytest.mark.parametrize("entry", ALL, ids=title)
def test_a_file_holds_what_the_format_says(entry: Entry) -> None:
    answer, query = entry.answer, load(entry.program)
    target = query.graph
    assert answer.about.endswith(".") and answer.fingerprint == target.fingerprint
    query.prepared.validate(answer.given)
    assert set(answer.models) <= {lm.alias for lm in target.lms}
    assert set(answer.how) == {"exact", "brute"} and answer.left_out <= 1e-6
    assert abs(answer.how["exact"].log_evidence - answer.how["brute"].log_evidence) <= brute.FLOAT32
    assert answer.log_evidence == answer.how["exact"].log_evidence
    assert 0.99 <= math.fsum(prob for _, prob in answer.values) <= 1 + 1e-6
    for column in answer.marginals.values():
        assert 0.99 <= math.fsum(column.values()) <= 1 + 1e-6
    # A total variation of 0.3 has to mean something with a thousand draws.
    assert answer.noise(1000) < 0.15


def test_what_is_no_answer_is_refused(tmp_path: Path) -> None:
    good = json.loads((FOLDER / "finite" / "skewed_number.json").read_text())
    file = tmp_path / "x.json"
    for change, why in (
        ({"left_out": -1.0}, "`left_out` is -1.0, below 0"),
        ({"values": good["values"][:2]}, "its values hold 0."),
        ({"values": good["values"][::-1]}, "its values are not different ones, the heaviest first"),
        ({"log_evidence": "-1"}, "`log_evidence` is a text, not a finite number"),
        ({"more": 1}, "it has an unknown `more`"),
    ):
        file.write_text(json.dumps(good | change))
        with pytest.raises(DataError) as raised:
            read_answer(file)
        assert raised.value.diagnostics[0].code == "PLM823" and why in raised.value.diagnostics[0].message
    with pytest.raises(DataError, match="PLM823"):
        entries(tmp_path)
    with pytest.raises(DataError, match="has no class `finit`"):
        entries(FOLDER, ["finit"])


def test_an_answer_is_about_one_program_and_its_models(tmp_path: Path) -> None:
    for part in ("finite", "tables"):
        shutil.copytree(FOLDER / part, tmp_path / part)
    program = tmp_path / "finite" / "choice_with_lead.plm"
    (entry,) = (one for one in entries(tmp_path) if one.name == program.stem)
    assert entry_of(program.stem).prepared().graph.fingerprint == entry.answer.fingerprint
    table = tmp_path / "tables" / "digits.json"
    table.write_text(table.read_text().replace('"max_tokens": 200', '"max_tokens": 201'))
    with pytest.raises(DataError, match="digests differ"):
        entry.prepared()
    program.write_text(program.read_text().replace("0.05", "0.06"))
    with pytest.raises(DataError, match="fingerprints differ"):
        entry.prepared()


# ------------------------------------------------------------------------------- two ways


def by_sums(entry: Entry) -> None:
    try:
        assert brute.differences(title(entry), MODELS) == []
    except LookupError as absent:
        pytest.skip(str(absent))


def by_listing(entry: Entry) -> None:
    """The product's list against what is stored."""
    if "hf" in entry.program.read_text() and not MODELS.exists():
        pytest.skip(f"{MODELS} is absent")
    posterior = make.listed(entry.program, dict(entry.answer.given), MODELS)
    near = (
        1e-6
        if not any(lm.spec == "tiny" or "hf" in lm.spec for lm in load(entry.program).graph.lms)
        else 1e-4
    )
    assert posterior.log_evidence == pytest.approx(entry.answer.log_evidence, abs=near)
    found = {tuple(one.values.values()): one.weight for one in posterior.merged()}
    for value, prob in entry.answer.values:
        assert found[value] == pytest.approx(prob, abs=near)
    assert entry.answer.distance(posterior) < 10 * near


@pytest.mark.parametrize("entry", QUICK_ONES, ids=title)
def test_two_ways_agree(entry: Entry) -> None:
    by_sums(entry)
    by_listing(entry)


@pytest.mark.slow
@pytest.mark.parametrize("entry", SLOW_ONES, ids=title)
def test_two_ways_agree_on_large_targets(entry: Entry) -> None:
    by_sums(entry)
    by_listing(entry)


def test_the_sums_know_nothing_of_the_product() -> None:
    for path in [FOLDER / "brute.py", *FOLDER.glob("*/densities.py")]:
        assert "posterior_lm" not in path.read_text().split('"""')[2].replace('"posterior_lm"', ""), path


def test_a_wrong_answer_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = brute.density_of("reverse/cause_letters")

    def without_the_last(*arguments: object) -> object:
        return list(whole(*arguments))[:-40]

    monkeypatch.setattr(brute, "density_of", lambda target: without_the_last)
    assert any("log evidence" in line for line in brute.differences("reverse/cause_letters"))


def test_an_answer_is_written_as_it_stands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for part in ("reverse", "tables"):
        shutil.copytree(FOLDER / part, tmp_path / part)
    for module in (make, brute):
        monkeypatch.setattr(module, "FOLDER", tmp_path)
    name = "reverse/number_behind_digits"
    before = (tmp_path / f"{name}.json").read_text()
    assert make.main([name]) == 0 and (tmp_path / f"{name}.json").read_text() == before
    monkeypatch.setattr(make, "summed", lambda *_: (0.0, {}, 0, True))
    assert make.main([name]) == 1 and (tmp_path / f"{name}.json").read_text() == before


# ------------------------------------------------------------------------------- distances


def answer_of(values: list[tuple[tuple[int, ...], float]]) -> Answer:
    return Answer("", {}, "", {}, {}, 0.0, 0.0, {}, tuple(values))


def test_light_neighbours_are_compared_together() -> None:
    heavy = [((5,), 0.5), ((0,), 0.3)]
    light = [((k,), 0.004) for k in (1, 2, 3, 4, 9, 8, 7)]
    places, probs = answer_of(heavy + light).cells
    # 0 alone; 1 to 3 until there is a hundredth; 4 before a heavy one; 5 alone; 7 to 9.
    assert places == {(0,): 0, (1,): 1, (2,): 1, (3,): 1, (4,): 2, (5,): 3, (7,): 4, (8,): 4, (9,): 4}
    np.testing.assert_allclose(probs, [0.3, 0.012, 0.004, 0.5, 0.012])


def test_the_likely_half_is_the_fewest_values() -> None:
    values, prob = answer_of([((2,), 0.4), ((1,), 0.3), ((0,), 0.3)]).likely
    assert values == {(2,), (1,)} and prob == pytest.approx(0.7)


# ------------------------------------------------------------------------------- trials


def test_a_run_is_held_against_its_answer() -> None:
    told: list[Info] = []
    found = trials(
        [entry_of("skewed_number")], methods=["exact", "importance"], seeds=3, seed=5, progress=told.append
    )
    exact, drawn = found.runs[:3], found.runs[3:]
    for one in exact:
        assert one.level == "exact" and one.error == pytest.approx(0.0, abs=1e-9) and one.tv is not None
        assert one.tv < 1e-6 and not one.wrong and one.holds == (True, True, True)
    asked = (
        load(entry_of("skewed_number").program)
        .given(entry_of("skewed_number").answer.given)
        .using("importance")
    )
    for k, one in enumerate(drawn):
        posterior = asked.draw(seed=5 + k)
        assert posterior.log_evidence is not None and one.seed == 5 + k
        assert one.error == pytest.approx(
            posterior.log_evidence - entry_of("skewed_number").answer.log_evidence
        )
        assert one.se == posterior.draws.log_evidence_se and one.errors == pytest.approx(
            abs(one.error) / one.se
        )  # type: ignore[arg-type, operator]
        assert one.tv is not None and 0 < one.tv < 0.1 and one.level in LEVELS.values()
        (likeliest,), prob = entry_of("skewed_number").answer.values[0]
        said = asked.predict("n", seed=5 + k).estimates[likeliest]
        assert one.holds[2] == (said.low - 1e-4 <= prob <= said.high + 1e-4)
    shares = [info.fraction for info in told if info.fraction is not None]
    assert shares == sorted(shares) and shares[0] == 0.0 and shares[-1] <= 1.0


def test_a_planted_fault_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    right: Callable[..., tuple[np.ndarray, np.ndarray]] = importance.log_weights

    def flipped(*arguments: object) -> tuple[np.ndarray, np.ndarray]:
        weights, log_reward = right(*arguments)
        return -weights, log_reward

    chosen = [entry_of("skewed_number"), entry_of("counts")]
    assert summary(trials(chosen, methods=["importance"], seeds=2).runs)["wrong"] == 0
    monkeypatch.setattr(importance, "log_weights", flipped)
    assert summary(trials(chosen, methods=["importance"], seeds=2).runs)["wrong"] == 4


def test_a_list_that_is_not_the_answer_is_a_fault(tmp_path: Path) -> None:
    for part in ("finite", "tables"):
        shutil.copytree(FOLDER / part, tmp_path / part)
    asked = ("compare", "--db", tmp_path, "--class", "finite", "--method", "exact", "--seeds", 1)
    assert plm(*asked).exit_code == 0
    file = tmp_path / "finite" / "skewed_number.json"
    stored = json.loads(file.read_text())
    file.write_text(json.dumps(stored | {"log_evidence": stored["log_evidence"] + 0.01}))
    shown = plm(*asked)
    assert shown.exit_code == 1
    assert "fault: finite/skewed_number: what exact lists is 0.01 nats" in shown.stdout
    assert json.loads(plm(*asked, "--format", "json").stdout)["faults"]


def test_a_summary_counts() -> None:
    def one(**more: object) -> Run:
        return Run("k", "t", "m", 0, 2.0, 10, **more)  # type: ignore[arg-type]

    runs = [
        one(level="good", tv=0.1, error=0.1, se=0.1, holds=(True, True, True)),  # sound
        one(level="bad", tv=0.2, error=-0.1, se=0.1, holds=(True, False, False)),  # sound, and doubted
        one(level="usable", tv=0.5, error=0.0, se=0.1, holds=(True, False, True)),  # wrong by TV, and trusted
        one(level="care", tv=0.1, error=0.5, se=0.1, holds=(False, True, True)),  # wrong by its evidence
        one(level="good", tv=0.4, holds=(None, True, None)),  # a method that gives no evidence
        one(failed="PLM702"),
    ]
    found = summary(runs)
    assert (found["runs"], found["none"], found["wrong"], found["sound"]) == (6, 1, 3, 2)
    assert (found["trusted"], found["trusted_wrong"], found["sound_doubted"]) == (3, 2, 1)
    assert (found["held_evidence"], found["held_prob"], found["held_prediction"]) == (0.75, 0.6, 0.75)
    assert (
        found["error"] == pytest.approx(0.1) and found["errors"] == pytest.approx(1.0) and found["tv"] == 0.2
    )
    assert (found["seconds"], found["tokens"]) == (2.0, 10.0)
    assert found["levels"] == {"bad": 1, "care": 1, "good": 2, "usable": 1}


def test_auto_is_held_against_the_best_method_at_equal_seconds() -> None:
    def one(target: str, method: str, seconds: float, tv: float, whole: bool = False) -> Run:
        return Run("k", target, method, 0, seconds, 10, level="good", tv=tv, whole=whole)

    runs = [
        one("near", "auto", 4.0, 0.1), one("near", "smc", 1.0, 0.12),  # 0.06 in four seconds
        one("far", "auto", 1.0, 0.4), one("far", "smc", 1.0, 0.1), one("far", "importance", 1.0, 0.9),
        one("cheap", "auto", 4.0, 0.4), one("cheap", "smc", 1.0, 0.3),  # 0.15 in four seconds
        one("late", "auto", 1.0, 0.3), one("late", "exact", 9.0, 0.0, True), one("late", "smc", 9.0, 0.1),
        one("listed", "auto", 1.0, 0.3), one("listed", "exact", 1.5, 0.0, True),
    ]  # fmt: skip
    found = Trials(tuple(runs), {}, 1).near_best
    assert found == {"k/near": True, "k/far": False, "k/cheap": False, "k/late": True, "k/listed": False}
    assert not Trials(tuple(r for r in runs if r.method == "auto"), {}, 1).near_best
    assert not Trials(tuple(r for r in runs if r.method != "auto"), {}, 1).near_best
    dead = Run("k", "near", "auto", 0, 1.0, 10, failed="PLM702")
    assert Trials((dead, runs[1]), {}, 1).near_best == {"k/near": False}


# ------------------------------------------------------------------------------- the command


def small(tmp_path: Path) -> Path:
    """A database of two targets."""
    for name in ("finite/skewed_number", "plates/counts"):
        for end in ("plm", "json"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            shutil.copy(FOLDER / f"{name}.{end}", tmp_path / f"{name}.{end}")
    return tmp_path


def test_the_command_shows_classes_and_progress(tmp_path: Path) -> None:
    asked = ("compare", "--db", small(tmp_path), "--seeds", 2, "-n", 200)
    shown = plm(*asked, "--method", "importance")
    assert shown.exit_code == 0 and shown.stderr.startswith("0%  finite/skewed_number")
    lines = shown.stdout.splitlines()
    assert lines[0] == "importance  2 seeds of each target" and lines[2].split()[:2] == ["class", "runs"]
    assert [line.split()[:2] for line in lines[3:]] == [["finite", "2"], ["plates", "2"], ["all", "4"]]
    whole = json.loads(plm(*asked, "--class", "plates", "--format", "json").stdout)
    assert [one["method"] for one in whole["classes"] if one["class"] == "all"] == [
        "auto",
        "exact",
        "importance",
        "smc",
    ]
    assert {one["target"] for one in whole["targets"]} == {"plates/counts", "all"} and whole["left_out"] == {}


def test_a_target_without_its_model_is_left_out_and_said(tmp_path: Path) -> None:
    (tmp_path / "infilling").mkdir()
    for end in ("plm", "json"):
        shutil.copy(FOLDER / "infilling" / f"word_stories.{end}", tmp_path / "infilling")
    shown = plm(
        "compare", "--db", small(tmp_path), "--seeds", 1, "-n", 20, "--method", "smc", HF_HUB_OFFLINE="1"
    )
    assert shown.exit_code == 0
    assert shown.stdout.splitlines()[-1].startswith(
        "left out: infilling/word_stories: the model 'stories260k-hf'"
    )


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("--db", "--method", "smoc"), "there is no method `smoc`"),
        (("--db", "--method", "gflownet"), "--method gflownet draws from no posterior without a policy"),
        (("--db", "--class", "finit"), "has no class `finit`"),
        (("--db", "nowhere"), "nowhere is no target of the database: there is no CLASS/NAME.plm in it"),
        (("--db", "--row", "0"), "--row goes with a program, not with --db"),
        (("--db", "--dtype", "bfloat16"), "--dtype goes with a program, not with --db"),
        (("programs/random_integer.plm", "--seeds", "2"), "--seeds goes with --db"),
        ((), "Missing argument 'FILE' or '--db'"),
    ],
)
def test_what_does_not_go_together_is_refused(asked: tuple[str, ...], said: str) -> None:
    shown = plm("compare", *asked)
    assert shown.exit_code in (1, 2) and said in shown.stderr
