"""The bench: cells, resuming, what they add up to, claims, and a bench that is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from attrs import evolve
from click.testing import CliRunner
from click.testing import Result as Ran

from benchmarks.paper import run as running
from benchmarks.paper.__main__ import command
from benchmarks.paper.cells import Cell, Result, Store
from benchmarks.paper.claims import claims, dominances
from benchmarks.paper.markdown import markdown, table, value
from benchmarks.paper.page import page
from benchmarks.paper.plans import FULL, QUICK, SMALL
from benchmarks.paper.presets import PAPER, preset
from benchmarks.paper.published import figures
from benchmarks.paper.summary import entries, figure, mean_and_sd
from benchmarks.paper.task import Bench, Metric, Outcome, Task
from benchmarks.paper.tasks import TASKS
from posterior_lm.lang.diagnostics import DataError, InferenceError, ModelError, error
from tests.cli import plm

CELL = Cell("integers", "uniform", "gflownet b=1.5", 2)


def code_of(problem: pytest.ExceptionInfo) -> str:
    return str(problem.value.diagnostics[0].code)


# ---------------------------------------------------------------- cells


def test_a_cell_is_read_as_it_was_written(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "out", {"plan": "a"})
    made = Result(
        "done", {"kl": 0.25, "worst": math.inf, "low": -math.inf}, 7, 1.5, "rate 0.1", {"texts": ["a"]}
    )
    assert store.read(CELL) is None
    store.write(CELL, made)
    found = store.read(CELL)
    assert found is not None
    assert dict(found.metrics) == {"kl": 0.25, "worst": math.inf, "low": -math.inf}
    assert (found.state, found.rows, found.seconds, found.note) == ("done", 7, 1.5, "rate 0.1")
    assert next(iter(store.all()))[0] == CELL
    assert list((store.folder / "cells").glob("*")) == [store.folder / "cells" / CELL.file]


def test_a_figure_that_is_not_a_number_is_refused(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "out", {})
    with pytest.raises(ValueError, match="kl of integers"):
        store.write(CELL, Result("done", {"kl": math.nan}))
    assert store.read(CELL) is None


def test_a_damaged_cell_counts_as_absent(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "out", {})
    store.write(CELL, Result("done", {"kl": 1.0}))
    path = store.folder / "cells" / CELL.file
    path.write_text(path.read_text()[:40])
    assert store.read(CELL) is None
    assert list(store.all()) == []


def test_names_of_cells_are_files_and_never_shared() -> None:
    bench = Bench(FULL, Store(Path("unused")), data={"arithmetic": Path("unused")})
    cells = running.cells_of(bench, list(TASKS.values()), 2)
    names = {cell.file for cell in cells}
    assert len(names) == len(cells) > 100
    assert all(
        set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.+-")
        for name in names
    )


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"plan": {"a": 1, "b": 3}}, "plan.b was 2, now 3"), ({"plan": {"a": 1}}, "plan.b was 2, now null"),
     ({"plan": {"a": 1, "b": 2}, "model": "x"}, 'model was null, now "x"')],
)  # fmt: skip
def test_the_folder_of_another_bench_is_refused(tmp_path: Path, settings: dict, said: str) -> None:
    Store.open(tmp_path / "out", {"plan": {"a": 1, "b": 2}})
    assert Store.open(tmp_path / "out", {"plan": {"a": 1, "b": 2}}).folder == tmp_path / "out"
    with pytest.raises(DataError, match=said) as problem:
        Store.open(tmp_path / "out", settings)
    assert code_of(problem) == "PLM821"


def test_folders_with_other_files_and_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    for where in (tmp_path, tmp_path / "thesis.txt"):
        with pytest.raises(DataError) as problem:
            Store.open(where, {})
        assert code_of(problem) == "PLM821"
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "bench.json").write_text("[")
    with pytest.raises(DataError, match="damaged"):
        Store.open(tmp_path / "odd", {})


# ---------------------------------------------------------------- running


@pytest.fixture
def counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Bench, list[Cell]]:
    """A bench of one task whose methods are counted, fail or stop."""
    asked: list[Cell] = []

    def go(bench: Bench, cell: Cell) -> Outcome:
        asked.append(cell)
        if cell.method == "dead":
            raise InferenceError(error("PLM703", "every draw has weight zero"))
        if cell.method == "absent":
            raise ImportError("this needs the package nothing")
        if cell.method == "stopped" and len(asked) == 4:
            raise KeyboardInterrupt
        return Outcome({"kl": 0.5 + cell.seed}, rows=3)

    task = Task("integers", "Integers", (), lambda b: ("uniform",),
                lambda b, s: ("good", "dead", "absent", "stopped"), go)  # fmt: skip
    monkeypatch.setitem(TASKS, "integers", task)
    return Bench(QUICK, Store.open(tmp_path / "out", {})), asked


def test_what_is_done_is_not_run_again_and_a_failure_is_told(counted: tuple[Bench, list[Cell]]) -> None:
    bench, asked = counted
    cells = running.cells_of(bench, [TASKS["integers"]], 1)
    with pytest.raises(KeyboardInterrupt):
        list(running.run(bench, cells))
    seen: list[running.Progress] = []
    assert list(running.run(bench, cells, seen.append)) == cells
    # The good one is there already; the two that failed are tried again, and the one that was stopped.
    assert [c.method for c in asked] == ["good", "dead", "absent", "stopped", "dead", "absent", "stopped"]
    assert (seen[-1].done, seen[-1].of, seen[-1].failed) == (2, 4, 2)
    results = {cell.method: bench.store.read(cell) for cell in cells}
    assert results["dead"].note == "PLM703: every draw has weight zero"  # type: ignore[union-attr]
    assert results["absent"].note == "this needs the package nothing"  # type: ignore[union-attr]
    assert [results[m].state for m in ("good", "dead", "stopped")] == ["done", "failed", "done"]  # type: ignore[union-attr]


def test_seeds_come_whole_and_methods_can_be_picked(counted: tuple[Bench, list[Cell]]) -> None:
    bench, _ = counted
    cells = running.cells_of(bench, [TASKS["integers"]], 2, ["stopped", "good"])
    assert [(c.seed, c.method) for c in cells] == [(0, "good"), (0, "stopped"), (1, "good"), (1, "stopped")]
    assert running.cells_of(bench, [TASKS["integers"]], 2, ["good"], ["uniform"]) == [
        Cell("integers", "uniform", "good", seed) for seed in (0, 1)
    ]
    with pytest.raises(DataError, match="no setting `uniforn`"):
        running.cells_of(bench, [TASKS["integers"]], 1, (), ["uniforn"])
    for names, hint in ((["god"], "did you mean `good`"), (["x"], "the methods are good, dead")):
        with pytest.raises(DataError) as problem:
            running.cells_of(bench, [TASKS["integers"]], 1, names)
        assert code_of(problem) == "PLM820" and hint in str(problem.value)


# ---------------------------------------------------------------- sums


def test_means_and_spreads() -> None:
    assert mean_and_sd([2.0]) == (2.0, 0.0)
    mean, sd = mean_and_sd([1.0, 2.0, 6.0])
    assert mean == 3.0 and sd == pytest.approx(math.sqrt(7.0))
    assert mean_and_sd([1.0, math.inf]) == (math.inf, math.inf)


def results(figures_of: dict[tuple[str, str, str], dict[str, float]]) -> list[tuple[Cell, Result]]:
    return [(Cell(*key, 0), Result("done", metrics, 5, 2.0)) for key, metrics in figures_of.items()]


def test_seeds_that_failed_are_counted_apart() -> None:
    one, two, three = (Cell("integers", "uniform", "ppo", k) for k in range(3))
    found = entries([
        (one, Result("done", {"kl": 1.0}, 4, 10.0)), (two, Result("failed", seconds=1.0, note="no numbers")),
        (three, Result("done", {"kl": 2.0, "tv": 0.5}, 4, 20.0)),
    ])  # fmt: skip
    kl, tv = (
        figure(found, "integers", "uniform", "ppo", "kl"),
        figure(found, "integers", "uniform", "ppo", "tv"),
    )
    assert kl is not None and tv is not None
    assert (kl.mean, kl.seeds, kl.rows, kl.seconds) == (1.5, 2, 4, 15.0)
    assert kl.sd == pytest.approx(math.sqrt(0.5))
    assert (tv.mean, tv.seeds) == (0.5, 1)
    assert kl.note == "1 of 3 seeds failed: no numbers"
    alone = entries([(two, Result("failed", seconds=1.0, note="no numbers"))])[0]
    assert (alone.mean, alone.seeds, alone.note) == (None, 0, "no numbers")
    assert set(kl.to_json()) >= {"task", "method", "setting", "metric", "mean", "sd", "seeds", "seconds"}


def test_dominance_needs_both() -> None:
    own, key = "continuation", "tempered"
    found = entries(results({
        (own, key, "beam"): {"log_likelihood": -2.0, "diversity": 0.30},
        (own, key, "greedy"): {"log_likelihood": -1.5, "diversity": 0.00},
        (own, key, "ancestral 1"): {"log_likelihood": -4.0, "diversity": 0.45},
        (own, key, "mcmc b=2"): {"log_likelihood": -1.0, "diversity": 0.90},
        (own, key, "gflownet b=2"): {"log_likelihood": -2.5, "diversity": 0.25},
        (own, key, "gflownet b=1.25"): {"log_likelihood": -3.0, "diversity": 0.50},
    }))  # fmt: skip
    rows = {(d.baseline, d.ours): d for d in dominances(found)}
    assert len(rows) == 6, "chains are no decoding baseline"
    assert [k for k, d in rows.items() if d.dominates] == [("beam", "gflownet b=2")]
    assert [k for k, d in rows.items() if d.dominated] == [("ancestral 1", "gflownet b=1.25")]
    beam = rows["beam", "gflownet b=2"]
    assert (beam.fidelity, beam.diversity) == (pytest.approx(0.5), pytest.approx(0.05))
    (claim,) = [c for c in claims(found) if c.task == own]
    assert (claim.value, claim.aim, claim.reached) == (1.0, 0.0, False)
    assert "| tempered | beam | gflownet b=2 | +0.50 | +0.050 | **yes** |" in markdown(found, "")


@pytest.mark.parametrize(
    ("kl", "tv", "ours", "reached"),
    [(0.009, 0.08, 0.75, [True, True, True, True]), (0.011, 0.11, 0.69, [True, False, False, False])],
)
def test_aims_are_computed(kl: float, tv: float, ours: float, reached: list[bool]) -> None:
    found = entries(results({
        ("integers", "poisson", "gflownet"): {"share_valid": 1.0, "kl": kl},
        ("infilling", "infilling", "gflownet"): {"tv": tv},
        ("infilling", "reverse", "gflownet"): {"tv": 0.9},
        ("subjectivity", "10 labels", "gflownet"): {"accuracy": ours},
        ("subjectivity", "10 labels", "sft"): {"accuracy": 0.60},
        ("arithmetic", "5 operands", "gflownet"): {"accuracy": 0.9},
    }))  # fmt: skip
    got = claims(found)
    assert [c.reached for c in got] == reached
    assert [c.task for c in got] == ["integers", "integers", "infilling", "subjectivity"]
    assert got[-1].value == pytest.approx(ours - 0.60)


# ---------------------------------------------------------------- shown


def test_a_figure_is_shown_with_its_spread_and_unit() -> None:
    (entry,) = entries(results({("integers", "uniform", "base"): {"share_valid": 0.505}}))
    percent = Metric("share_valid", "", "%", "higher", 1)
    assert value(entry, percent) == "50.5 %"
    assert value(evolve(entry, seeds=3, sd=0.021), percent) == "50.5 ± 2.1 %"
    assert value(evolve(entry, mean=-3.25), Metric("x", "", digits=1)) == "−3.2"
    assert value(evolve(entry, mean=-0.0001), Metric("x", "", digits=2)) == "0.00"
    assert value(evolve(entry, mean=math.inf), percent) == "∞"
    assert table(["a"], [["x|y"]]).splitlines()[-1] == "| x\\|y |"


def test_the_page_holds_what_it_is_given_as_text() -> None:
    cells = results({("continuation", "tempered", "beam"): {"log_likelihood": -2.0, "diversity": 0.3},
                     ("continuation", "tempered", "gflownet b=2"): {"log_likelihood": -1.0, "diversity": 0.4}})  # fmt: skip
    bad = (Cell("integers", "uniform", "ppo", 0), Result("failed", note="<script>alert(1)</script>"))
    shown = {"values": [0, 1, 2], "probs": [0.7, 0.2, 0.1], "target": [0.5, 0.3, 0.2]}
    good = (Cell("integers", "uniform", "gflownet", 0), Result("done", {"kl": 0.01}, 1, 2.0, shown=shown))
    found = entries([*cells, bad, good])
    html = page(found, [*cells, bad, good], "a head")
    assert "<script" not in html and "&lt;script&gt;" in html
    assert html.count("<svg") == 2 and "http" not in html.replace("http-equiv", "").replace(
        "http://www.w3.org", ""
    )
    assert "Hu et al. 2024" in html and "the paper&#x27;s" in html
    assert "0: 0.7000, target 0.5000" in html


def test_the_papers_figures_have_sources_and_are_in_our_units() -> None:
    rows = list(figures())
    assert {f.task for f in rows} == {"integers", "infilling", "subjectivity", "arithmetic"}
    assert all(f.source and f.model for f in rows)
    shares = [
        f.value
        for f in rows
        if f.metric in ("share_valid", "accuracy", "accuracy_tool", "gleu4", "bert_score")
    ]
    assert len(shares) > 20 and all(0 <= v <= 1 for v in shares)
    by = {(f.setting, f.method): f.value for f in rows if f.metric.startswith("accuracy")}
    assert by["10 labels", "gflownet+em"] - by["10 labels", "sft"] == pytest.approx(0.109)
    assert by["5 operands", "gflownet"] - by["5 operands", "ppo"] == pytest.approx(0.351)
    assert "bleu4" not in {f.metric for f in rows}, "known from memory alone"


def test_presets_are_settings_of_a_fit() -> None:
    from posterior_lm.train.settings import settings_of

    for task, own in PAPER.items():
        made = settings_of({**QUICK.sizes[task].fit, **own})
        assert (made.rank, made.learning_rate) == (own["rank"], own["learning_rate"])
    assert preset({}, quick=False) == preset({"base": "tiny"}, quick=False) == {}
    assert "steps" in preset({"base": "gpt2"}, quick=False)["integers"]
    assert "steps" not in preset({"base": "gpt2"}, quick=True)["integers"]
    for plan in (FULL, QUICK, SMALL):
        assert set(PAPER) == set(plan.sizes) == set(TASKS)
        for size in plan.sizes.values():
            settings_of({**size.fit, "steps": size.steps, "learning_rate": size.rates[0]})


def test_layers_that_a_model_has_not_are_left_out() -> None:
    from benchmarks.paper.presets import fitting

    query = Bench(QUICK, Store(Path("unused"))).query("random_integer")
    tiny = query.prepared.models["base"]
    got = fitting(tiny, {"a": {"targets": ["k_proj", "c_attn"], "rank": 3}, "b": {"targets": ["c_fc"]}})
    assert got == {"a": {"targets": ["k_proj"], "rank": 3}, "b": {"targets": []}}
    assert fitting(tiny, {}) == {}


# ---------------------------------------------------------------- the command


def paper(*args: object) -> Ran:
    """The result of one `python -m benchmarks.paper`."""
    return CliRunner().invoke(command, [str(a) for a in args])


def test_the_old_command_names_the_new_one() -> None:
    gone = plm("bench", "paper", "--quick")
    assert gone.exit_code == 2 and "`python -m benchmarks.paper`" in gone.stderr


def test_an_interrupted_bench_is_130(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "result_of", interrupt)
    stopped = paper("--task", "integers", "--quick", "--method", "base", "--out", tmp_path / "out")
    assert stopped.exit_code == 130 and "the same command goes on" in stopped.stderr


def test_a_quick_bench_from_the_command_line(tmp_path: Path) -> None:
    out = tmp_path / "out"
    asked = ["--task", "integers", "--quick", "--method", "base", "--out", out, "--format", "json"]  # fmt: skip
    first = paper(*asked)
    assert first.exit_code == 0, first.stderr
    told = json.loads(first.stdout)
    assert (told["cells"], told["done"], told["failed"]) == (4, 4, 0)
    whole = json.loads((out / "paper.json").read_text(encoding="utf-8"))
    rows = {(r["setting"], r["method"], r["metric"]): r for r in whole["rows"]}
    assert rows["uniform", "base", "kl"]["mean"] > 0.5
    assert rows["uniform", "base", "share_valid"]["mean"] == 1.0
    assert whole["rates"] == {} and whole["plan"] == "quick"
    assert "worth nothing" in (out / "paper.md").read_text(encoding="utf-8")
    assert "## Random integers" in (out / "paper.md").read_text(encoding="utf-8")
    assert (out / "paper.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    before = {p: p.stat().st_mtime_ns for p in (out / "cells").iterdir()}
    again = paper(*asked)
    assert again.exit_code == 0 and again.stderr == ""
    assert before == {p: p.stat().st_mtime_ns for p in (out / "cells").iterdir()}
    other = paper("--task", "integers", "--method", "base", "--out", out)
    assert (
        other.exit_code == 1
        and "PLM821" in other.stderr
        and 'plan.name was "quick", now "full"' in other.stderr
    )


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [(["--task", "integer"], 1, "did you mean `integers`"), (["--task", "integers", "--method", "bas"], 1, "`base`"),
     (["--seeds", "0"], 2, "--seeds"), (["--lm", "base=no/such/model"], 1, "no/such/model"),
     (["--subj", "/nothing"], 1, "PLM822"), (["--paper-data", "/nothing"], 1, "PLM822"),
     (["--bert", "/nothing"], 1, "holds no model"), (["--lm", "other=tiny"], 1, "has no model `other`"),
     (["--judge", "http://127.0.0.1:9/v1"], 2, "--judge-model"), (["--judge-key", "KEY"], 2, "there is none"),
     (["--judge", "ftp://here", "--judge-model", "m"], 1, "PLM784"), (["--small"], 2, "two sizes")],
)  # fmt: skip
def test_what_the_command_refuses(tmp_path: Path, arguments: list[str], code: int, said: str) -> None:
    result = paper("--quick", "--out", tmp_path / "out", *arguments)
    assert result.exit_code == code and said in result.stderr
    assert not (tmp_path / "out" / "cells").exists() or not list((tmp_path / "out" / "cells").iterdir())


def test_a_model_that_cannot_be_loaded_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        running.open_bench(tmp_path / "out", QUICK, models={"base": "no/such/model"}, data={})
    assert not (tmp_path / "out").exists()
