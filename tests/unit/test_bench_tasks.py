"""The five tasks: their rows, how answers are read off draws, how far draws are from a listing."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.paper import data, listing, sums_data, voting
from benchmarks.paper.cells import Cell, Store
from benchmarks.paper.drawing import Drawn, decoded, proposed
from benchmarks.paper.plans import FULL, QUICK
from benchmarks.paper.policies import unfinished, untrained
from benchmarks.paper.run import open_bench, result_of
from benchmarks.paper.task import Bench
from benchmarks.paper.tasks import arithmetic, continuation, infilling, integers, subjectivity
from posterior_lm.lang.diagnostics import DataError
from tests.conftest import SHARED
from training.tiny.world import reviews


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(QUICK, Store.open(tmp_path / "out", {}))


# ---------------------------------------------------------------- rows


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_question_of_a_split_is_in_two_of_its_parts(seed: int) -> None:
    size = FULL.sizes["arithmetic"]
    found = sums_data.split(train=size.train, demos=int(size.more["demos"]), test=size.test, seed=seed)
    parts = [found.train, found.demos, *(found.test[k] for k in (3, 4, 5))]
    questions = [{str(row["question"]) for row in part} for part in parts]
    assert [len(q) for q in questions] == [len(part) for part in parts], "nor twice in one"
    assert [len(q) for q in questions] == [size.train, int(size.more["demos"]), *[size.test] * 3]
    assert sum(map(len, questions)) == len(set().union(*questions))
    operands = [{len(q.split()) // 2 for q in part} for part in questions]
    assert operands == [{3, 4}, {3, 4}, {3}, {4}, {5}], "five operands are out of distribution"
    assert not any("steps" in row for row in found.train) and all("steps" in row for row in found.demos)


def test_answers_of_sums_are_right() -> None:
    for row in sums_data.split(train=20, demos=5, test=5, seed=3).train:
        total, sign = 0, 1
        for word in str(row["question"]).removesuffix(" = ?").split():
            sign = {"+": 1, "-": -1}.get(word, sign)
            total += sign * int(word) if word.isdigit() else 0
        assert row["answer"] == total
    assert sums_data.worked_prompt(1) == "Question: 1 + 8 = ? Answer: 1 + 8 = 9. The answer is 9.\n"


@pytest.mark.parametrize("setting", sorted(infilling.KINDS))
def test_stories_to_train_on_are_none_of_those_tested(setting: str) -> None:
    kind = infilling.KINDS[setting]
    shown, tested = data.split(kind.rows, train=120, test=8, seed=1, names=kind.given)
    others, again = data.split(kind.rows, train=120, test=8, seed=2, names=kind.given)
    keys = [{data.key_of(row, kind.given) for row in rows} for rows in (shown, tested, others, again)]
    assert len(keys[1]) == 8 and keys[1] == keys[3], "every seed is tested on the same"
    assert not keys[0] & keys[1] and not keys[2] & keys[1]
    assert keys[0] != keys[2]
    assert all(str(row[kind.latent]).endswith(".") for row in tested)


def test_labels_are_nested_gold_and_not_tested_on(bench: Bench) -> None:
    full = Bench(FULL, bench.store)
    few, tested = subjectivity.rows_of(full, 10, 4)
    many, _ = subjectivity.rows_of(full, 50, 4)
    assert few == many[:10] and len(many) == 50
    assert not {r["review"] for r in many} & {r["review"] for r in tested} and len(tested) == 120
    assert all(row["label"] == reviews.gold_label(str(row["review"])) for row in [*many, *tested])
    assert {row["label"] for row in tested} == set(subjectivity.LABELS)
    assert subjectivity.rows_of(full, 10, 5)[0] != few


def test_real_reviews_are_read_from_a_folder(tmp_path: Path) -> None:
    for name, count in (("train.10", 10), ("test", 30)):
        lines = [
            {"text": f"{name} {k}", "label": k % 2, "label_text": subjectivity.LABELS[k % 2]}
            for k in range(count)
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    own = Bench(QUICK, Store(tmp_path), data={"subj": tmp_path})
    shown, tested = subjectivity.rows_of(own, 10, 0)
    assert {r["review"] for r in shown} == {f"train.10 {k}" for k in range(10)} and len(tested) == 30
    for text, said in (('{"text": 1, "label_text": "objective"}', "line 1"), ("[", "Expecting"), ('{"a": 1}', "'text'"),
                       ('{"text": "a", "label_text": "bad"}', "line 1")):  # fmt: skip
        (tmp_path / "test.jsonl").write_text(text)
        with pytest.raises(DataError, match=said) as problem:
            subjectivity.rows_of(own, 10, 0)
        assert problem.value.diagnostics[0].code == "PLM822"


def test_the_papers_own_sums_are_read_and_refused(tmp_path: Path) -> None:
    name = sums_data.PAPER_FILES["paper 5 operands"]
    (tmp_path / name).write_text('[{"str_query": "Question: 6 - 0 - 4 - 8 - 7 = ? Answer:", "num_sol": -13}]')
    assert sums_data.paper_rows(tmp_path, "paper 5 operands", 9) == [
        {"question": "6 - 0 - 4 - 8 - 7 = ?", "answer": -13}
    ]
    for text in ("[", '[{"num_sol": 1}]', '[{"str_query": 1, "num_sol": 1}]', "3"):
        (tmp_path / name).write_text(text)
        with pytest.raises(DataError, match="PLM822"):
            sums_data.paper_rows(tmp_path, "paper 5 operands", 9)
    with pytest.raises(DataError, match="PLM822"):
        sums_data.paper_rows(tmp_path / "none", "paper 5 operands", 9)


def test_the_papers_files_leak_and_ours_do_not() -> None:
    folder = SHARED / "data" / "arithmetic_with_tool"
    if not folder.exists():
        pytest.skip(f"{folder} is absent")
    shown = {one["str_query"] for name in ("1digit_34_op+-_hw.json", "1digit_34_op+-_train_50.json")
             for one in json.loads((folder / name).read_text())}  # fmt: skip
    counts = {}
    for setting in sums_data.PAPER_FILES:
        rows = sums_data.paper_rows(folder, setting, 500)
        counts[setting] = sum(f"Question: {row['question']} Answer:" in shown for row in rows)
    assert list(counts.values()) == [500, 115, 56, 0]
    assert ["leaky" in setting for setting in counts] == [c > 0 for c in counts.values()]


# ---------------------------------------------------------------- answers


def test_votes_and_averages() -> None:
    log_probs = np.log([[0.9, 0.1], [0.2, 0.3], [0.01, 0.02]])
    # Draws count alike, however likely they make both answers: (.9 + .4 + 1/3) / 3.
    assert voting.soft(log_probs) == pytest.approx([0.5444444, 0.4555556])
    assert voting.hard(log_probs) == pytest.approx([1 / 3, 2 / 3])
    assert voting.winner("ab", voting.soft(log_probs)) == "a"
    assert voting.winner("ab", voting.hard(log_probs)) == "b"
    assert voting.hard(np.array([[-1.0, -1.0], [-1.0, -2.0]])) == pytest.approx([0.75, 0.25])
    assert voting.winner("ab", np.array([0.5, 0.5])) is None, "a tie is no answer"


def test_draws_after_which_no_answer_is_possible_say_nothing() -> None:
    dead = [-math.inf, -math.inf]
    assert voting.soft(np.array([dead, [0.0, -math.inf]])) == pytest.approx([1.0, 0.0])
    assert voting.hard(np.array([dead, [0.0, -math.inf]])) == pytest.approx([1.0, 0.0])
    assert voting.winner("ab", voting.soft(np.array([dead]))) is None
    assert voting.winner("ab", voting.hard(np.array([dead]))) is None


def test_a_majority_has_no_ties_and_no_sentinel() -> None:
    assert voting.majority([3, -1, -1, None]) == -1
    assert voting.majority([3, -1]) is None
    assert voting.majority([None, None]) is None
    assert arithmetic.last_result(" 9 + 4 = 13, 13 - 8 = -5, 7.") == -5
    assert arithmetic.last_result(" 9 + 4, no result.") is None


# ---------------------------------------------------------------- draws and listings


def test_weighted_draws_are_taken_by_their_weights() -> None:
    drawn = Drawn(
        ((1,), (2,), (3,)), ("a", "b", "c"), np.array([0.7, 0.0, 0.3]), np.array([-1.0, -2.0, -3.0])
    )
    again = drawn.resampled(np.random.default_rng(0), 10)
    assert again.texts.count("a") == 7 and again.texts.count("c") == 3
    assert again.log_reward.tolist() == [-1.0] * 7 + [-3.0] * 3
    even = Drawn(((1,), (2,)), ("a", "b"), np.full(2, 0.5), np.zeros(2)).resampled(
        np.random.default_rng(1), 2
    )
    assert even.texts == ("a", "b")


def test_total_variation_of_draws_and_of_chance() -> None:
    exact = listing.Listed(((1,), (2,)), np.log([0.6, 0.3]), 0.1, 0.0)
    assert exact.of_draws([(1,), (2,), (9,)], np.array([0.6, 0.3, 0.1])) == pytest.approx(0.0)
    assert exact.of_draws([(2,), (2,)], np.array([0.5, 0.5])) == pytest.approx(0.7)
    few, many = (exact.noise(n, np.random.default_rng(0)) for n in (10, 1000))
    assert 0 < many < few / 5


def test_a_listing_is_kept_and_a_policy_is_measured_by_its_own_probabilities(bench: Bench) -> None:
    query, row = bench.query("random_benford"), {"most": 12}
    exact = listing.listed(bench, query, row, 50)
    (file,) = (bench.store.folder / "exact").iterdir()
    changed = json.loads(file.read_text()) | {"rest": 0.25}
    file.write_text(json.dumps(changed))
    assert listing.listed(bench, query, row, 50).rest == 0.25, "read, not found again"
    assert exact.rest == pytest.approx(0.0, abs=1e-6)
    target = query.given(row).target()
    p = np.log1p(1 / np.arange(1, 13))
    assert sorted(np.exp(exact.log_prob), reverse=True) == pytest.approx(p / p.sum())
    with untrained(query, target) as guide:
        own = exact.of_guide(target, guide)
        values, log_p = integers.listed(target)
        q = np.exp(guide.log_prob({"n": values}))
    assert own == pytest.approx(0.5 * np.abs(q - np.exp(log_p)).sum(), abs=1e-6) and own > 0.1


def test_benfords_first_digits() -> None:
    query = Bench(QUICK, Store(Path("unused"))).query("random_benford").given(most=99)
    values, log_p = integers.listed(query.target())
    for digit in range(1, 10):
        share = sum(math.exp(p) for v, p in zip(values, log_p, strict=True) if str(v.datum)[0] == str(digit))
        assert share == pytest.approx(math.log10(1 + 1 / digit))


def test_divergence_by_hand() -> None:
    log_q, log_p = np.log([0.5, 0.5, 1e-300]), np.log([0.25, 0.5, 0.25])
    assert integers.divergence(log_q, log_p) == pytest.approx(0.5 * math.log(2))
    assert integers.divergence(np.array([0.0, -math.inf]), np.log([0.2, 0.8])) == pytest.approx(
        -math.log(0.2)
    )


def test_corrected_draws_have_the_weights_of_the_target(bench: Bench) -> None:
    query = bench.query("tempered_continuation").given(prompt="Kate has a small dog.", beta=2.0)
    target = query.target()
    with untrained(query, target) as guide:
        raw, right = (proposed(target, guide, 400, 3, corrected=c) for c in (False, True))
        log_q = guide.log_prob({"next": [target.value_of("next", ids) for ids in raw.ids]})
    w = np.exp(raw.log_reward - log_q)
    assert raw.weights == pytest.approx(np.full(400, 1 / 400))
    assert right.weights == pytest.approx(w / w.sum(), rel=1e-3)
    assert right.ess_share == pytest.approx(w.sum() ** 2 / np.sum(w**2) / 400, rel=1e-3)
    likelier = [float(np.sum(d.weights * d.log_reward)) for d in (raw, right)]
    assert likelier[1] > likelier[0] + 0.5


def test_one_text_of_a_decoder_counts_as_often_as_it_was_asked(bench: Bench) -> None:
    bound = bench.query("tempered_continuation").given(prompt="Kate has a small dog.")
    drawn = decoded(bound, "greedy", 6, 0)
    assert len(drawn.texts) == 6 and len(set(drawn.texts)) == 1 and drawn.weights.sum() == pytest.approx(1)
    assert len(set(decoded(bound, "beam", 6, 0).texts)) == 6


def test_a_policy_that_was_interrupted_is_not_taken_for_one_that_is_done(tmp_path: Path) -> None:
    assert unfinished(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    assert not unfinished(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    assert unfinished(tmp_path)


def test_names_of_methods_say_their_exponent() -> None:
    assert continuation.parsed("gflownet b=1.5 corrected") == ("gflownet", {"beta": 1.5})
    assert continuation.parsed("mcmc b=2") == ("mcmc", {"beta": 2.0})
    assert continuation.parsed("ancestral 0.5") == ("ancestral 0.5", {})
    bench = Bench(FULL, Store(Path("unused")))
    assert set(continuation.BASELINES) < set(continuation.methods(bench, "tempered"))
    assert sum(m.startswith("gflownet") for m in continuation.methods(bench, "tempered")) == 6


# ---------------------------------------------------------------- cells of their own


def cells(*rows: tuple[str, str, str]) -> Iterator[Cell]:
    for row in rows:
        yield Cell(*row, 0)


def test_quick_cells_without_training(tmp_path: Path) -> None:
    bench = open_bench(tmp_path / "out", QUICK, models={}, data={})
    found = {}
    for cell in cells(
        ("integers", "uniform", "prompting"),
        ("continuation", "tempered", "beam"),
        ("infilling", "infilling", "exact draws"),
        ("infilling", "infilling", "prior"),
        ("subjectivity", "10 labels", "zero-shot"),
    ):
        result = result_of(bench, cell)
        assert result.state == "done", result.note
        found[cell.method] = result
    assert found["prior"].metrics["tv"] > 0.3 and found["prior"].metrics["ess_share"] < 0.7
    assert found["exact draws"].metrics["tv_draws"] < found["prior"].metrics["tv_draws"]
    assert 0.5 < found["zero-shot"].metrics["accuracy"] < 1 and found["zero-shot"].rows == 40
    assert (
        0.5 < found["prompting"].metrics["share_valid"] <= 1 and found["prompting"].metrics["kl_draws"] > 0.5
    )
    assert found["beam"].metrics["best_log_likelihood"] >= found["beam"].metrics["log_likelihood"]


@pytest.mark.slow
def test_every_quick_cell_is_done(tmp_path: Path) -> None:
    from benchmarks.paper.run import cells_of
    from benchmarks.paper.tasks import TASKS

    bench = open_bench(tmp_path / "out", QUICK, models={}, data={})
    for cell in cells_of(bench, list(TASKS.values()), 1):
        result = result_of(bench, cell)
        assert result.state == "done", (cell, result.note)
