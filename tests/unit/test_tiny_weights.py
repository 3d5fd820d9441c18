"""The shipped weights and tokenizer, and the trainer that makes them."""

import json
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")
tokenizers = pytest.importorskip("tokenizers")

from posterior_lm.lm.tiny import WEIGHTS  # noqa: E402
from training.tiny.report import Scorer, document_nats, infilling, integer_law  # noqa: E402
from training.tiny.rows import PROGRAMS, story_rows  # noqa: E402
from training.tiny.world import sample, stories  # noqa: E402


@pytest.fixture(scope="module")
def scorer():
    torch.set_num_threads(2)
    return Scorer.load(WEIGHTS)


def test_the_folder_is_small_and_has_no_pickles():
    names = {p.name for p in WEIGHTS.iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors"} <= names
    assert {"tokenizer.json", "tokenizer_config.json"} <= names
    assert not any(n.endswith((".bin", ".pt", ".pkl")) for n in names)
    assert sum(p.stat().st_size for p in WEIGHTS.iterdir()) <= 4_000_000


def test_the_tokenizer_adds_a_start_and_never_an_end(scorer):
    tokenizer = scorer.tokenizer
    ids = tokenizer("The dog.")["input_ids"]
    assert ids[0] == tokenizer.bos_token_id and tokenizer.eos_token_id not in ids
    assert tokenizer.pad_token_id is None
    assert len(tokenizer) == 1024


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        (" 3 + 42 = ?", [" 3", " +", " 4", "2", " =", " ?"]),
        (" -2, 7", [" -", "2", ",", " 7"]),
        ("dog.\n", None),
    ],
)
def test_digits_and_punctuation_are_tokens_of_their_own(scorer, text, pieces):
    found = [scorer.tokenizer.decode([i]) for i in scorer.ids(text, False)]
    assert "".join(found) == text
    if pieces is not None:
        assert found == pieces
    else:
        assert found[-2:] == [".", "\n"]


@pytest.mark.parametrize("text", ["naïve — “x” 漢字 \U0001f600", "  two  spaces\t", "http://a.b/?c=1&d"])
def test_any_text_is_spelled_and_read_back(scorer, text):
    assert scorer.tokenizer.decode(scorer.ids(text, False)) == text


def test_held_out_documents_cost_little_more_than_their_entropy(scorer):
    rng = np.random.default_rng(11)
    documents = [sample(rng) for _ in range(300)]
    ours = document_nats(scorer, documents).mean()
    assert ours / np.mean([-d.log_prob for d in documents]) < 1.06


def test_the_prior_is_a_poor_proposal_for_a_shipped_story(scorer):
    row = infilling(scorer, story_rows()[:1])[0]
    assert row["ESS/N of the prior, summed"] <= 0.1
    assert row["middles above 2 %"] >= 5
    assert row["covered"] > 0.9


def test_integers_are_far_from_uniform_and_all_possible(scorer):
    law = integer_law(scorer)
    assert law["KL(value, uniform)"] >= 0.5
    assert law["least probability, value"] > 0.0


def test_scores_agree_with_one_by_one_scores(scorer):
    texts = [" A dog ran off with the ball.", " It began to rain."]
    together = scorer.score(["One day, Tom was in the park."], texts)
    for text, value in zip(texts, together, strict=True):
        assert scorer.score(["One day, Tom was in the park."], [text])[0] == pytest.approx(value, abs=1e-4)


def test_a_run_broken_in_two_reads_the_documents_of_an_unbroken_one(tmp_path, monkeypatch):
    from training.tiny import train

    monkeypatch.setattr(train, "POOL", 12)
    tokenizer = tokenizers.Tokenizer.from_file(str(WEIGHTS / "tokenizer.json"))
    settings = train.Settings(steps=4, batch=4, warm_up=2)

    def run(start, stop, folder, resume):
        model = train.build_model(0, eos=1, bos=0)
        optimiser = train.optimiser_for(model, settings)
        progress = train.load_checkpoint(model, optimiser, folder) if resume else train.Progress()
        assert progress.step == start
        for rows in train.batches(tokenizer, settings, start):
            if progress.step == stop:
                break
            rate = train.rate_at(progress.share(settings), progress.step, settings)
            nats = train.take_step(model, optimiser, rows, rate, settings)
            progress = train.Progress(progress.step + 1, 0.0, nats)
        train.save_checkpoint(model, optimiser, progress, settings, folder)
        return model

    run(0, 2, tmp_path / "a", False)
    broken = run(2, 4, tmp_path / "a", True)
    whole = run(0, 4, tmp_path / "b", False)
    for p, q in zip(broken.parameters(), whole.parameters(), strict=True):
        assert torch.equal(p, q)


def test_shipped_rows_are_those_that_the_command_writes():
    import pathlib

    folder = pathlib.Path(__file__).parents[2] / "programs" / "data"
    for name, rows in PROGRAMS.items():
        lines = (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(line) for line in lines] == rows()


def test_every_shipped_story_is_hard_for_the_prior_in_the_world():
    for row in story_rows():
        assert stories.prior_ess(str(row["opening"]), str(row["ending"])) <= 0.06
        assert math.fsum(stories.middle_prior(str(row["opening"])).values()) == pytest.approx(1.0)
