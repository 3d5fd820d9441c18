"""The data rows of a fit, bound when they are needed, and how they are split."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from attrs import evolve

from posterior_lm.amortize.reading import Reading, readings_of
from posterior_lm.graph.graph import RewardGraph
from posterior_lm.graph.ground import ground
from posterior_lm.graph.nodes import Total
from posterior_lm.lang.diagnostics import DataError, PlmError, error
from posterior_lm.lm.base import LanguageModel
from posterior_lm.target.bind import bind
from posterior_lm.target.evaluate import Evaluator
from posterior_lm.target.target import Target

Data = Mapping[str, object]
KEPT = 4096
"""Bound rows that are remembered."""


class Rows:
    """Rows of one program by number. `target` and `readings` remember what they have bound."""

    def __init__(
        self, graph: RewardGraph, data: Sequence[Data], models: Mapping[str, LanguageModel],
        uses: Mapping[str, Callable[..., object]] | None = None,
    ) -> None:  # fmt: skip
        self.graph, self.data, self.models, self.uses = graph, data, models, uses or {}
        self._bound: dict[int, tuple[Target, Mapping[str, Reading]]] = {}
        self._guides: RewardGraph | None = None

    def __len__(self) -> int:
        return len(self.data)

    def target(self, number: int) -> Target:
        """The target of a row. Diagnostics of what is wrong with it say which row it was."""
        return self._row(number)[0]

    def readings(self, number: int) -> Mapping[str, Reading]:
        """What the guide reads in that row."""
        return self._row(number)[1]

    def _row(self, number: int) -> tuple[Target, Mapping[str, Reading]]:
        if number not in self._bound:
            if len(self._bound) >= KEPT:
                self._bound.clear()
            with in_row(number):
                target = self.bind(self.data[number])
                self._bound[number] = (target, readings_of(target))
        return self._bound[number]

    def bind(self, data: Data) -> Target:
        """The target of any data of the program."""
        return bind(self.graph, data, self.models, self.uses)

    def reader(self, number: int, data: Data) -> Target:
        """A target that can only be read by guides: that of `data`, which differs from the row in what is observed.

        Where every reading is a `guide` statement this binds the statements alone,
        which is several times faster than the whole program.
        """
        target, readings = self._row(number)
        if not all(r.stated for r in readings.values()):
            return self.bind(data)
        if self._guides is None:
            self._guides = guides_alone(self.graph)
        grounded = ground(self._guides, data)
        models = {alias: m for alias, m in self.models.items()}
        evaluator = Evaluator(grounded, models, target.evaluator.spellers, {})
        return evolve(target, graph=grounded, data=dict(data), evaluator=evaluator)

    def forget(self) -> None:
        """Bind again from now on, so that a resumed fit stands where this one does."""
        self._bound.clear()
        for model in self.models.values():
            forget: Callable[[], None] | None = getattr(model, "forget", None)
            if forget is not None:
                forget()


class in_row:
    """Errors inside the block say which row of the data they are about."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, problem: BaseException | None, trace: object) -> None:
        if isinstance(problem, PlmError):
            where = f"rows[{self.number}]"
            problem.diagnostics = tuple(
                d if d.where and d.where.startswith("rows[") else evolve(d, where=where)
                for d in problem.diagnostics
            )


def guides_alone(graph: RewardGraph) -> RewardGraph:
    """The program without its log reward: its latents, and what their guides read."""
    latents = tuple(i for i, _ in graph.latents())
    keep = graph.ancestors(*latents, *(g.context for g in graph.guides.values()))
    nodes = {i: n for i, n in graph.nodes.items() if i in keep}
    nodes[graph.total] = Total(inputs=latents)
    return graph.rebuilt(nodes)


def split(count: int, held_out: int, seed: int) -> tuple[list[int], list[int]]:
    """Row numbers to train on and to certify with: at most a fifth is held out, of few rows none."""
    order = [int(i) for i in np.random.default_rng([seed, 7]).permutation(count)]
    kept = min(held_out, count // 5)
    return sorted(order[kept:]), sorted(order[:kept])


def check_rows(data: Sequence[Data], name: str) -> None:
    """Raises DataError PLM628 where there is nothing to train on."""
    if not data:
        raise DataError(
            error(
                "PLM628",
                f"there are no rows to fit `{name}` on",
                help="give at least one row of parameters with --data; a program without parameters takes {}",
            )
        )
