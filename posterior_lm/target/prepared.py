"""A program made ready once: checked, lowered and optimised, with the models and functions that it names.

Everything that is true of a program whatever its data are is found here; rows of data are
validated and bound one by one, and nothing of the program is looked at again for a row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from attrs import evolve, field, frozen

from posterior_lm.graph.graph import RewardGraph
from posterior_lm.lang.diagnostics import PlmError
from posterior_lm.lang.format import format_module
from posterior_lm.lm.base import LanguageModel
from posterior_lm.target.bind import bind
from posterior_lm.target.binding import bind_data
from posterior_lm.target.resources import Named, Resources, resolve

if TYPE_CHECKING:
    from pathlib import Path

    from posterior_lm.lang.typed import CheckedModule
    from posterior_lm.target.target import Target

Data = Mapping[str, object]
"""Values of a program's parameters; validated ones have a value for each, of its type."""


@frozen(slots=False, eq=False)
class PreparedProgram:
    """A checked, optimised graph and its resources, which are loaded when a row is first bound.

    `checked` is None for a graph that no program text stands behind.
    """

    graph: RewardGraph
    source: Named | Resources = field(repr=False)
    checked: CheckedModule | None = field(default=None, repr=False)
    base_dir: Path | None = None
    """Where relative paths of the program start: the folder of its file."""

    @classmethod
    def of(
        cls, graph: RewardGraph, models: Mapping[str, LanguageModel],
        functions: Mapping[str, Callable[..., object]] | None = None,
    ) -> PreparedProgram:  # fmt: skip
        """A graph with resources that are there already."""
        return cls(graph, Resources(models, functions or {}))

    @cached_property
    def resources(self) -> Resources:
        """Loaded when they are first asked for. Raises ModelError and CompileError as `resolve` does."""
        return self.source if isinstance(self.source, Resources) else resolve(self.graph, self.source, self.base_dir)

    @property
    def models(self) -> Mapping[str, LanguageModel]:
        return self.resources.models

    @property
    def functions(self) -> Mapping[str, Callable[..., object]]:
        return self.resources.functions

    @cached_property
    def text(self) -> str:
        """The program as `.plm` text; empty where there is none."""
        return "" if self.checked is None else format_module(self.checked.module)

    # ------------------------------------------------------------- rows

    def validate(self, row: Data, *, path: str = "", missing: Sequence[str] = ()) -> dict[str, object]:
        """The row with a value for every parameter but those in `missing`; raises DataError as `bind_data` does."""
        return bind_data(self.graph, row, path=path, missing=missing)

    def bind(self, row: Data) -> Target:
        """The target of a row: validated, then bound. Raises DataError, and CompileError as `bind_valid` does."""
        return self.bind_valid(self.validate(row))

    def bind_valid(self, data: Data) -> Target:
        """The target of data that were validated, or made from such."""
        return bind(self, data)

    # ------------------------------------------------------------- variations

    def part(self, graph: RewardGraph) -> PreparedProgram:
        """A part or a variation of the program, over the same resources."""
        return evolve(self, graph=graph, source=self.resources)

    def with_models(self, models: Mapping[str, LanguageModel]) -> PreparedProgram:
        """The program with other models in place of those of the same alias."""
        return evolve(self, source=evolve(self.resources, models={**self.models, **models}))


# ------------------------------------------------------------------------------- many rows


class BoundRows:
    """Validated rows of one program by number, each bound when it is asked for; the last `HELD` stay bound."""

    HELD = 4096

    def __init__(self, program: PreparedProgram, data: Sequence[Data]) -> None:
        self.program, self.data = program, data
        self._held: dict[int, Target] = {}

    def __len__(self) -> int:
        return len(self.data)

    def target(self, number: int) -> Target:
        """The target of a row. Diagnostics of what is wrong with it say which row it was."""
        if number not in self._held:
            if len(self._held) >= self.HELD:
                self._held.clear()
            with in_row(number):
                self._held[number] = self.program.bind_valid(self.data[number])
        return self._held[number]

    def forget(self) -> None:
        """Bind again from now on."""
        self._held.clear()


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
