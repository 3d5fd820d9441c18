"""The data rows of a fit, bound when they are needed, and how they are split."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from attrs import evolve

from posterior_lm.amortize.reading import Reading, readings_of
from posterior_lm.graph.graph import RewardGraph
from posterior_lm.graph.ground import ground
from posterior_lm.graph.nodes import Total
from posterior_lm.lang.diagnostics import DataError, error
from posterior_lm.target.evaluate import Evaluator
from posterior_lm.target.prepared import BoundRows, Data, PreparedProgram, in_row
from posterior_lm.target.target import Target


class Rows(BoundRows):
    """Rows of one program by number, and what the guide reads in each."""

    def __init__(self, program: PreparedProgram, data: Sequence[Data]) -> None:
        super().__init__(program, data)
        self._readings: dict[int, tuple[Target, Mapping[str, Reading]]] = {}
        self._guides: RewardGraph | None = None

    def readings(self, number: int) -> Mapping[str, Reading]:
        """What the guide reads in that row."""
        target = self.target(number)
        found = self._readings.get(number)
        if found is None or found[0] is not target:
            if len(self._readings) >= self.HELD:
                self._readings.clear()
            with in_row(number):
                found = self._readings[number] = (target, readings_of(target))
        return found[1]

    def reader(self, number: int, data: Data) -> Target:
        """A target that can only be read by guides: that of `data`, which differs from the row in what is observed.

        Where every reading is a `guide` statement this binds the statements alone,
        which is several times faster than the whole program.
        """
        target = self.target(number)
        if not all(r.stated for r in self.readings(number).values()):
            return self.program.bind_valid(data)
        if self._guides is None:
            self._guides = guides_alone(self.program.graph)
        grounded = ground(self._guides, data)
        evaluator = Evaluator(grounded, self.program.models, target.evaluator.spellers, {})
        return evolve(target, graph=grounded, data=dict(data), evaluator=evaluator)

    def forget(self) -> None:
        """Bind again from now on, so that a resumed fit stands where this one does."""
        super().forget()
        self._readings.clear()
        for model in self.program.models.values():
            forget: Callable[[], None] | None = getattr(model, "forget", None)
            if forget is not None:
                forget()


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
