"""Real stories in the bench: how they are cut, what is left out, and figures without a listing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from attrs import evolve

from benchmarks.paper import data, listing, stories
from benchmarks.paper.cells import Cell, Result, Store
from benchmarks.paper.claims import claims
from benchmarks.paper.drawing import proposed
from benchmarks.paper.markdown import markdown, value
from benchmarks.paper.plans import QUICK
from benchmarks.paper.policies import untrained
from benchmarks.paper.run import open_bench, result_of
from benchmarks.paper.summary import entries
from benchmarks.paper.task import Bench
from benchmarks.paper.tasks import TASKS, continuation, infilling
from posterior_lm.lang.diagnostics import DataError

NAMES = ("Tom", "Mia", "Emma", "Anna", "Ben", "Max", "Lucy", "Kate", "Sam", "Lily", "Jack", "Rose")
LONG = "The cat and the dog and the cat and the dog and the cat and the dog and the cat and the dog ran home."


@pytest.fixture
def told(tmp_path: Path) -> Path:
    """Twelve stories that fit, and three that do not: speech, a question, a middle that is too long for its type."""
    lines = [
        f"{n} played in the park. It was a windy day for {n}. {n} lost a ball.\nA dog found it. The end."
        for n in NAMES
    ]
    lines += [
        'Tom sat down. He said, "No." Then he ate. It was good.',
        "Tom sat down. He ate. Was it good? It was.",
        f"Tom sat down. It was cold. {LONG} It was late.",
    ]
    path = tmp_path / "told.jsonl"
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    return path


def bench_of(told: Path, out: Path) -> Bench:
    return Bench(QUICK, Store.open(out, {}), data={"stories": told})


def test_a_story_is_cut_at_its_sentences() -> None:
    sentences = ("Mia ran.", "It was hot.", "She fell.", "A bee came.", "It flew.")
    assert stories.CUTS["infilling"].of(sentences) == {
        "opening": "Mia ran. It was hot.", "middle": " She fell.", "ending": "A bee came.",
    }  # fmt: skip
    assert stories.CUTS["reverse"].of(sentences) == {"after": "It was hot.", "before": "Mia ran."}
    assert stories.CUTS["continuation"].of(sentences[:3]) == {
        "prompt": "Mia ran. It was hot.", "next": " She fell.",
    }  # fmt: skip
    assert stories.CUTS["infilling"].of(sentences[:3]) is None
    for other in ("Was it hot?", "Oh! It was.", 'He said "no.', "It was hot", "word " * 30 + "end."):
        assert stories.CUTS["reverse"].of((sentences[0], other)) is None, other


@pytest.mark.parametrize(
    ("text", "said"),
    [("[", "Expecting"), ('{"story": "a"}', "it has no 'text'"), ('{"text": 3}', "line 1 is no text"),
     ('{"text": "One sentence."}', "no story begins"), ("", "no story begins"), ("3", "not subscriptable")],
)  # fmt: skip
def test_a_file_of_something_else_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=said) as problem:
        open_bench(tmp_path / "out", QUICK, models={}, data={"stories": path})
    assert problem.value.diagnostics[0].code == "PLM822"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("setting", ["infilling", "reverse", "continuation"])
def test_no_story_is_trained_on_and_tested_on(told: Path, tmp_path: Path, setting: str) -> None:
    bench = bench_of(told, tmp_path / "out")
    latent = stories.CUTS[setting].latent
    seeds = [
        continuation.rows_of(bench, seed)[:2]
        if setting == "continuation"
        else infilling.rows_of(bench, setting, seed)
        for seed in (1, 2)
    ]
    for shown, tested in seeds:
        assert not {data.key_of(row) for row in shown} & {data.key_of(row) for row in tested}
        assert all(LONG not in str(row[latent]) for row in [*shown, *tested])
        # Where the latent is in a type of 25 tokens: twelve stories; both sentences of a reversed pair are plain in 14.
        assert len(tested) == bench.size("infilling" if setting != "continuation" else setting).test
        assert {str(row[latent]).startswith(" ") for row in shown} == {setting != "reverse"}
    assert seeds[0][1] == seeds[1][1], "every seed is tested on the same"
    assert seeds[0][0] != seeds[1][0]


def test_stories_that_are_too_few_are_refused(told: Path, tmp_path: Path) -> None:
    bench = bench_of(told, tmp_path / "out")
    assert stories.of_bench(bench, "infilling", ("story_infilling",), 11).said == "12 of 15 stories fit"
    with pytest.raises(DataError, match="12 stories fit, and 12 are tested on"):
        stories.of_bench(bench, "infilling", ("story_infilling",), 12)


def test_the_mean_weight_is_the_evidence(tmp_path: Path) -> None:
    bench = Bench(QUICK, Store.open(tmp_path / "out", {}))
    query, row = bench.query("random_benford"), {"most": 12}
    exact = listing.listed(bench, query, row, 50)
    target = query.given(row).target()
    with untrained(query, target) as guide:
        drawn = proposed(target, guide, 4000, 0, corrected=False)
        few = [proposed(target, guide, 4, seed, corrected=False).log_evidence for seed in range(60)]
    assert drawn.log_evidence == pytest.approx(exact.log_evidence, abs=0.15)
    assert float(np.mean(few)) < exact.log_evidence, "a bound from below"
    assert drawn.resampled(np.random.default_rng(0), 5).log_evidence == drawn.log_evidence


def test_cells_of_stories(told: Path, tmp_path: Path) -> None:
    bench = open_bench(tmp_path / "out", QUICK, models={}, data={"stories": told})
    settings = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert settings["data"] == {"stories": str(told)}
    assert not bench.lists and "exact draws" not in TASKS["infilling"].methods(bench, "infilling")
    found = {}
    for task, setting, method in (
        ("infilling", "infilling", "prior"), ("infilling", "infilling", "smc"), ("infilling", "reverse", "greedy"),
        ("continuation", "tempered", "greedy"),
    ):  # fmt: skip
        found[setting, method] = result = result_of(bench, Cell(task, setting, method, 0))
        assert result.state == "done", result.note
        assert "stories fit" in result.note
        assert ("not listed" in result.note) == (task == "infilling")
        assert not {"tv", "tv_draws"} & set(result.metrics)
    prior, smc = (found["infilling", m].metrics for m in ("prior", "smc"))
    assert prior["log_evidence"] < 0 and smc["log_evidence"] < 0
    assert 0 < prior["ess_share"] <= 1 and -1 <= prior["similarity"] <= 1
    assert "log_evidence" not in found["reverse", "greedy"].metrics
    assert all("played in the park" in row["prompt"] for row in found["tempered", "greedy"].shown["rows"])


def test_which_posteriors_are_listed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert Bench(QUICK, store).lists and Bench(QUICK, store, models={"base": "tiny"}).lists
    assert not Bench(QUICK, store, models={"base": "gpt2"}).lists
    assert not Bench(QUICK, store, data={"stories": tmp_path}).lists


def test_a_claim_without_a_listing_says_so() -> None:
    cells = [
        (
            Cell("infilling", "infilling", "gflownet", 0),
            Result("done", {"log_reward": -30.0, "log_evidence": -9.0}, 4),
        )
    ]
    (claim,) = claims(entries(cells))
    assert (claim.value, claim.reached) == (None, None)
    assert claim.to_json()["value"] is None
    assert "at most | 0.1 | – | not measured |" in markdown(entries(cells), "")


def test_an_accuracy_has_an_interval_of_its_rows() -> None:
    cell = Cell("subjectivity", "10 labels", "sft", 0)
    accuracy, other = entries([(cell, Result("done", {"accuracy": 0.53, "kl": 0.5}, 200))])
    assert accuracy.interval == pytest.approx((0.461, 0.598), abs=0.001) and other.interval is None
    assert value(accuracy, TASKS["subjectivity"].metric("accuracy")) == "53.0 % (46 to 60)"
    assert accuracy.to_json()["interval"] == accuracy.interval
    assert value(evolve(accuracy, interval=None), TASKS["subjectivity"].metric("accuracy")) == "53.0 %"
