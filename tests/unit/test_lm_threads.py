"""Threads: the same numbers whatever order they work in, and how many of them a model is given."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from transformers.modeling_outputs import BaseModelOutputWithPast

from posterior_lm.lm.hf.forward import Forward
from posterior_lm.lm.hf.packed import read_lines
from posterior_lm.lm.hf.transformers import TransformersModel
from posterior_lm.lm.tiny import WEIGHTS


@pytest.fixture(scope="module")
def tiny() -> TransformersModel:
    return TransformersModel.from_folder(WEIGHTS, device="cpu")


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_a_place_that_many_lines_read_has_one_gradient(
    tiny: TransformersModel, two_threads: None, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """400 continuations of one context read its last column: threads that add to it in turn must not race."""
    made: list[torch.Tensor] = []

    width = tiny._forward.module.config.hidden_size

    def call(self: Forward, part: object, *, input_ids: torch.Tensor, **options: object) -> object:
        made.append(torch.zeros(*input_ids.shape, width, requires_grad=True))
        return BaseModelOutputWithPast(last_hidden_state=made[-1])

    monkeypatch.setattr(Forward, "call", call)
    context = tuple(int(i) for i in rng.integers(10, 400, 20))
    lines = [(context, (int(i),), 1) for i in rng.permutation(400)]
    weights = torch.as_tensor(rng.normal(size=(len(lines), width)), dtype=torch.float32)
    found = []
    for _ in range(8):
        ((numbers, read),) = read_lines(tiny._forward, lines, packed=True, columns=4096)
        assert len(numbers) == len(lines)
        (read.states * weights).sum().backward()
        found.append(made[-1].grad)
    assert torch.count_nonzero(found[0].abs().sum(dim=2)) == 1
    assert all(torch.equal(found[0], other) for other in found[1:])
