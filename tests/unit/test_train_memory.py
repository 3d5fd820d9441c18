"""What a training pass keeps, counted before it is large: parts that fit, and layers computed again where none would."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor

import posterior_lm as plm
from posterior_lm.lang.diagnostics import InferenceError
from posterior_lm.lm.hf.placement import free_memory
from posterior_lm.lm.hf.transformers import TransformersModel
from posterior_lm.train.adapter import Adapter
from posterior_lm.train.memory import Fit, fitting, kept_bytes, recomputing
from posterior_lm.train.scoring import Path, path_maker, score_paths
from tests.conftest import ROOT

GIB = 2**30


def scorer(kept: Sequence[tuple[int, int]]):
    """log q whose graph keeps bytes by draws: once and for each; the second pair where it is recomputed."""

    def score(some: Sequence[int], recomputed: bool) -> Tensor:
        once, each = kept[recomputed]
        x = torch.zeros(1, requires_grad=True, dtype=torch.float64)
        found = x
        for bytes_ in (once, *[each] * len(some)):
            found = found + (x * torch.ones(bytes_ // 8, dtype=torch.float64)).sum()
        return found

    return score


def fits(free: int | None, widest: int, kept: Sequence[tuple[int, int]] = ((8000, 80_000),) * 2) -> Fit:
    """Ten columns a draw, so 8,000 bytes a column."""
    return fitting(
        scorer(kept), [0], [0, 1, 2], lambda some: 10 * len(some), widest=widest, most=1024, free=free
    )


def test_columns_are_those_that_half_of_the_free_memory_holds() -> None:
    assert fits(None, 100) == Fit(1024)
    assert fits(GIB, 100) == Fit(1024)
    assert fits(2 * (8000 + 1024 * 8000), 100) == Fit(1024)
    assert fits(2 * (8000 + 1023 * 8000), 100) == Fit(512)
    assert fits(2 * (8000 + 200 * 8000), 100) == Fit(128)


def test_layers_are_computed_again_only_where_a_row_does_not_fit_and_that_helps() -> None:
    less = ((8000, 80_000), (8000, 8_000))
    assert fits(2 * (8000 + 300 * 8000), 300, less) == Fit(256)
    assert fits(2 * (8000 + 200 * 8000), 300, less) == Fit(1024, recomputed=True)
    assert fits(2 * (8000 + 200 * 8000), 300) == Fit(128)  # no layer of it can: a pass may still fit
    with pytest.raises(InferenceError, match="GiB for the draws of one row") as caught:
        fits(8000 + 200 * 8000, 300)
    assert [d.code for d in caught.value.diagnostics] == ["PLM626"]


@pytest.fixture
def adapter() -> Iterator[Adapter]:
    target = plm.load(ROOT / "programs" / "story_infilling.plm").given(ROW).target()
    model = target.models["base"]
    assert isinstance(model, TransformersModel)
    made = Adapter.new(model, rank=2, seed=1)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        for p in made.parameters.values():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    yield made
    made.close()


ROW = {"opening": "Tom sat in the park.", "ending": "It hurt all day."}


def paths_of(adapter: Adapter) -> list[Path]:
    support = plm.load(ROOT / "programs" / "story_infilling.plm").given(ROW).target().latents[0].support
    encode = adapter.base.tokenizer.encode
    make = path_maker(support)
    values = (" He fell and hurt his knee.", " The dog ran.", " It rained.")
    return [make(encode("Ending: It hurt.\nMiddle:"), encode(v)) for v in values]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_layers_computed_again_give_the_same_numbers_and_gradients(adapter: Adapter, dtype: str) -> None:
    """Though the adapter is off by the time of the backward pass, and so is autocast."""
    if dtype == "bfloat16":
        half = plm.load_model("tiny", dtype=dtype)
        weights = adapter.tensors()
        adapter = Adapter.new(half, rank=adapter.config.r)
        adapter.restore(weights)
    paths = paths_of(adapter)
    plain = score_paths(adapter.model(), paths).log_prob
    plain.sum().backward()
    expected = {n: p.grad.clone() for n, p in adapter.parameters.items() if p.grad is not None}
    assert expected and all(float(g.abs().max()) > 0 for g in expected.values())
    for parameter in adapter.parameters.values():
        parameter.grad = None
    with recomputing(adapter):
        again = score_paths(adapter.model(), paths).log_prob
    torch.testing.assert_close(again, plain)
    again.sum().backward()
    for name, parameter in adapter.parameters.items():
        torch.testing.assert_close(parameter.grad, expected[name])
    layers = adapter.base._forward.module.modules()
    assert not any(getattr(m, "gradient_checkpointing", False) or m.training for m in layers)


def test_what_is_kept_is_counted_once_and_less_of_it_where_layers_are_computed_again(
    adapter: Adapter,
) -> None:
    paths = paths_of(adapter)
    x = torch.ones(1000, requires_grad=True)
    assert kept_bytes(lambda: (x * 2).exp() * 3) == 4000  # exp keeps what it gave, and a number keeps nothing
    whole = kept_bytes(lambda: score_paths(adapter.model(), paths).log_prob)
    with recomputing(adapter):
        less = kept_bytes(lambda: score_paths(adapter.model(), paths).log_prob)
    assert 0 < 3 * less < whole
    twice = kept_bytes(lambda: score_paths(adapter.model(), [*paths, *paths_of(adapter)]).log_prob)
    assert 1.2 * whole < twice < 2.2 * whole


def test_free_memory_is_a_number_or_unknown() -> None:
    free = free_memory(torch.device("cpu"))
    assert free is None or 2**20 < free < 2**50
