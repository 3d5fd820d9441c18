"""Contexts that begin alike and texts of several sentences, against a slow or hand-made reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import posterior_lm as plm
from posterior_lm.lm.hf.packed import shared_beginnings
from posterior_lm.target.target import Target
from posterior_lm.train.adapter import Adapter
from posterior_lm.train.scoring import path_maker, score_paths
from posterior_lm.train.simulated_texts import Shape, draw_texts
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def target() -> Target:
    row = {"opening": "Tom sat in the park.", "ending": "It hurt all day."}
    return plm.load(ROOT / "programs" / "story_infilling.plm").given(row).target()


def test_a_shared_beginning_changes_no_number(target: Target) -> None:
    model, support = target.models["base"], target.latents[0].support
    encode = model.tokenizer.encode
    make = path_maker(support)
    start = "Beginning: One morning, Tom walked to the garden with his dog.\nEnding: "
    contexts = [
        start + e for e in ("He fell.\nMiddle:", "She had to fix it.\nMiddle:", "It was late.\nMiddle:")
    ]
    contexts.append("Beginning: Mia sat.\nEnding: It rained.\nMiddle:")
    values = (" He fell and hurt his knee.", " The dog ran.")
    paths = [make(encode(c), encode(v)) for c in contexts for v in values]
    # Some cluster must share a part of its contexts and not the whole, or this shows nothing.
    lines = [(path.context, path.ids, len(path.chosen)) for path in paths]
    assert any(
        len({paths[n].context for n in members}) > 1 and shared > 0
        for shared, members in shared_beginnings(lines)
    )
    adapter = Adapter.new(model, rank=2, seed=1)
    try:
        with torch.no_grad():
            generator = torch.Generator().manual_seed(0)
            for p in adapter.parameters.values():
                p.add_(0.1 * torch.randn(p.shape, generator=generator))
            together = score_paths(adapter.model(), paths, ends=True)
            for n, path in enumerate(paths):
                alone = score_paths(adapter.model(), [path], ends=True)
                assert float(together.log_prob[n]) == pytest.approx(float(alone.log_prob[0]), abs=1e-4)
                assert together.end_log_prob is not None and alone.end_log_prob is not None
                width = alone.end_log_prob.shape[1]
                assert torch.allclose(together.end_log_prob[n, :width], alone.end_log_prob[0], atol=1e-4)
    finally:
        adapter.close()


def test_lines_with_a_long_beginning_share_it_more_widely() -> None:
    def widest(shared: int) -> int:
        lines = [(tuple(range(shared)), (k,) * 12, 13) for k in range(256)]
        found = [(together, len(members)) for together, members in shared_beginnings(lines)]
        assert sum(members for _, members in found) == 256 and {together for together, _ in found} == {shared}
        return max(together + 12 * members for together, members in found)

    assert 170 < widest(20) <= 192
    assert 550 < widest(200) <= 600
    assert 740 < widest(400) <= 768


def test_simulated_texts_have_as_many_sentences_as_the_rows(target: Target) -> None:
    speller, model = target.evaluator.spellers["base"], target.models["base"]
    shape = Shape.of(["She fell. It hurt.", "He ran. It was late."], speller)
    assert shape.stop == "." and shape.signs == (2, 2)
    rngs = [np.random.default_rng(k) for k in range(20)]
    contexts = [speller.text("One day, Tom sat in the park.", first=True)] * 20
    drawn = draw_texts(rngs, model, speller, contexts, [""] * 20, [" "] * 20, shape)
    kept = [one.text for one in drawn if one.text is not None]
    assert len(kept) >= 10
    assert all(t.count(".") == 2 and t.endswith(".") for t in kept)
    assert all(one.log_prob < 0 for one in drawn)
