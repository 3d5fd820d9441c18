"""What a task is, what a method's run of it gives, and what it is given to work with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from attrs import field, frozen

from benchmarks.paper.cells import Cell, Store
from benchmarks.paper.plans import Plan, Size
from posterior_lm.installed import find

if TYPE_CHECKING:
    from posterior_lm.api.query import Query
    from posterior_lm.lm.resolve import Asked
    from posterior_lm.metrics.judge import Judge

Row = Mapping[str, object]


@frozen
class Metric:
    """A figure: what it is in words, its unit, and which way is better ("" where neither is)."""

    name: str
    said: str
    unit: str = ""
    better: Literal["higher", "lower", ""] = ""
    digits: int = 3


@frozen(eq=False)
class Outcome:
    """Figures of one cell: `metrics` by name, averaged over `rows` data rows; `shown` for pictures."""

    metrics: Mapping[str, float]
    rows: int
    shown: Mapping[str, Any] = field(factory=dict)
    note: str = ""


@frozen(eq=False)
class Bench:
    """What every cell is run with."""

    plan: Plan
    store: Store
    models: Mapping[str, str | Asked] = field(factory=dict)
    """Models that replace a declared one, by alias."""
    data: Mapping[str, Path] = field(factory=dict)
    """Folders of real data, by name: `subj`, `arithmetic`, `bert`; and the file `stories`."""
    settings: Mapping[str, Mapping[str, object]] = field(factory=dict)
    """Settings of a fit by task that stand over the plan's: a preset."""
    say: Callable[[str], None] = lambda text: None
    judge: Judge | None = None
    """Rates infilled texts; none is asked unless one is named."""

    @property
    def lists(self) -> bool:
        """Whether posteriors of texts are compared with a list of their values: `tiny` alone, on rows of its own world.

        With another model, or with real stories, no list holds 95 % of them.
        """
        base = self.models.get("base", "tiny")
        name = base if isinstance(base, str) else base.spec
        return name == "tiny" and "stories" not in self.data

    def size(self, task: str) -> Size:
        return self.plan.sizes[task]

    def query(self, program: str) -> Query:
        """A program of `programs/` with this bench's models."""
        from posterior_lm.api.query import load

        query = load(find("programs", f"{program}.plm"))
        declared = {spec.alias for spec in query.graph.lms}
        return query.lm(**{alias: name for alias, name in self.models.items() if alias in declared})


@frozen(eq=False)
class Task:
    """One of the five tasks: what it is run on, by which methods, and what is measured."""

    name: str
    title: str
    metrics: Sequence[Metric]
    settings: Callable[[Bench], Sequence[str]]
    methods: Callable[[Bench, str], Sequence[str]]
    run: Callable[[Bench, Cell], Outcome]

    def metric(self, name: str) -> Metric:
        """The metric of that name; one without words where it is not listed."""
        return next((m for m in self.metrics if m.name == name), Metric(name, name))
