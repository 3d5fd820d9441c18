"""The query: a program being built, bound and asked. Immutable; every verb gives a new one.

Each statement of the language has a method of its name; types, distributions and
expressions are written as they are in a file, so the file and the Python calls
give the same syntax tree, the same graph and the same fingerprint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from attrs import field, frozen

from posterior_lm.api.tables import records
from posterior_lm.api.watching import bar, watching
from posterior_lm.infer.request import Request, checked
from posterior_lm.lang import ast, compose
from posterior_lm.lang.diagnostics import DataError, ModelError, refuse_unknown
from posterior_lm.lang.driver import check, compile_source, load_module
from posterior_lm.lang.format import format_module
from posterior_lm.lang.source import NOWHERE, Source
from posterior_lm.shown import Shown
from posterior_lm.train.course import Course
from posterior_lm.train.settings import settings_of

if TYPE_CHECKING:
    from posterior_lm.api.engine import Score
    from posterior_lm.api.posterior import Posterior
    from posterior_lm.api.posteriors import Posteriors
    from posterior_lm.em.rounds import Round
    from posterior_lm.em.run import Tick
    from posterior_lm.em.saved import Restored
    from posterior_lm.graph.graph import RewardGraph
    from posterior_lm.infer.base import Info
    from posterior_lm.infer.guide import Guide
    from posterior_lm.lang.typed import CheckedModule
    from posterior_lm.lm.protocol import LanguageModel
    from posterior_lm.predict import Prediction, Predictions, Vote
    from posterior_lm.target.prepared import PreparedProgram
    from posterior_lm.target.target import Target
    from posterior_lm.target.values import Datum
    from posterior_lm.train.adapter import Adapter
    from posterior_lm.train.fit import Fitted
    from posterior_lm.train.progress import Progress as FitProgress
    from posterior_lm.validate.calibration import Calibration
    from posterior_lm.validate.comparison import Comparison

Verbs = Callable[["Query"], "Query"]
Rows = Any
"""A list of mappings from names of parameters to values, or a data frame, dataset or table that `records` reads."""

__all__: Sequence[str] = ["EmResult", "Query", "load", "load_em", "loads", "program"]


@frozen(slots=False, eq=False)
class _Preparation:
    """What a program is prepared from; done when it is first asked for, and shared by queries of one program."""

    module: ast.Module
    base_dir: Path | None
    models: Mapping[str, object]
    uses_allowed: bool
    paths_allowed: tuple[Path, ...] = ()
    loading_options: Mapping[str, object] = field(factory=dict)
    checked: CheckedModule | None = None

    @cached_property
    def whole(self) -> CheckedModule:
        return (self.checked or check(self.module)).without_errors()

    @cached_property
    def program(self) -> PreparedProgram:
        from posterior_lm.api.engine import prepare

        return prepare(
            self.whole, base_dir=self.base_dir, allowed=self.paths_allowed, models=self.models,
            uses_allowed=self.uses_allowed, loading=self.loading_options,
        )  # fmt: skip


@frozen(slots=False, eq=False)
class Query(Shown):
    """A program, what is known, and how to ask.

    Equality is identity; compare `fingerprint` for "the same log reward". Methods
    raise CompileError for a program that is wrong, DataError for data that is,
    ModelError for a model that cannot be had, InferenceError where numbers go wrong.
    """

    module: ast.Module
    data: Mapping[str, object] = field(factory=dict)
    models: Mapping[str, object] = field(factory=dict)
    """Models that replace a declared one, by alias: a name, a path or an object."""
    method: str | None = None
    options: Mapping[str, object] = field(factory=dict)
    base_dir: Path | None = None
    """Where relative model paths of the program start: the folder of its file."""
    uses_allowed: bool = False
    paths_allowed: tuple[Path, ...] = ()
    """Folders, beside the program's own, that files which it names may lie in."""
    policy_folder: Path | None = None
    loading_options: Mapping[str, object] = field(factory=dict)
    """Options of every transformers model that is loaded."""

    # ------------------------------------------------------------- the verbs of the language

    def _of(self, body: tuple[ast.Statement, ...]) -> Query:
        return attrs.evolve(self, module=compose.holding(self.module, body))

    def _add(self, *statements: ast.Statement) -> Query:
        return self._of((*self.module.program.body, *statements))

    def latent(self, name: str, type: str, dist: str) -> Query:
        """`latent name: type ~ dist`."""
        parts = compose.fragment(type, "type"), compose.fragment(dist, "distribution")
        return self._add(ast.Latent(compose.name(name), *parts))

    def observe(self, value: str, dist: str) -> Query:
        """`observe value ~ dist`."""
        of = compose.fragment(dist, "distribution")
        return self._add(ast.Observe(compose.fragment(value, "expression"), of))

    def prefer(self, items: Sequence[str], dist: str) -> Query:
        """`prefer a over b ~ dist`, the best of the items first."""
        values = tuple(compose.fragment(item, "expression") for item in items)
        return self._add(ast.Prefer(values, compose.fragment(dist, "distribution")))

    def factor(self, value: str) -> Query:
        """`factor value`, in nats."""
        return self._add(ast.Factor(compose.fragment(value, "expression")))

    def condition(self, value: str) -> Query:
        """`condition value`."""
        return self._add(ast.Condition(compose.fragment(value, "expression")))

    def let(self, name: str, value: str) -> Query:
        """`let name = value`."""
        return self._add(ast.Let(compose.name(name), compose.fragment(value, "expression")))

    def guide(self, name: str, dist: str) -> Query:
        """`guide name ~ dist`."""
        return self._add(ast.Guide(compose.name(name), compose.fragment(dist, "distribution")))

    def temper(self, exponent: str | float, block: Verbs | None = None) -> Query:
        """`temper exponent { … }`: the block's statements, or without one everything so far."""
        power = compose.fragment(compose.number(exponent), "expression")
        if block is None:
            return self._of(compose.tempered(self.module.program.body, power))
        return self._add(ast.Temper(power, self._block(block)))

    def plate(self, row: str, table: str, block: Verbs) -> Query:
        """`plate row in table { … }`."""
        return self._add(
            ast.Plate(compose.name(row), compose.fragment(table, "expression"), self._block(block))
        )

    def when(self, test: str, block: Verbs, orelse: Verbs | None = None) -> Query:
        """`if test { … }`, and `else { … }` where `orelse` says what stands in it."""
        branch = self._add(ast.If(compose.fragment(test, "expression"), self._block(block)))
        return branch if orelse is None else branch._add(ast.Else(self._block(orelse)))

    def _block(self, block: Verbs) -> tuple[ast.Statement, ...]:
        return block(self._of(())).module.program.body

    # ------------------------------------------------------------- composing

    def __mul__(self, other: Query) -> Query:
        """The product: log rewards add up. Data and models of the two must not contradict."""
        if not isinstance(other, Query):
            return NotImplemented
        module = compose.product(self.module, other.module)
        return attrs.evolve(
            self,
            module=module,
            data={**other.data, **self.data},
            models={**other.models, **self.models},
            uses_allowed=self.uses_allowed and other.uses_allowed,
            paths_allowed=tuple(path for path in self.paths_allowed if path in other.paths_allowed),
        )

    def __pow__(self, exponent: float) -> Query:
        """The power: the whole program tempered; conditions are unaffected."""
        return attrs.evolve(self, module=compose.power(self.module, exponent))

    # ------------------------------------------------------------- settings

    def given(self, values: Mapping[str, object] | None = None, /, **more: object) -> Query:
        """Values for parameters; later ones replace earlier ones. A table may be a data frame.

        Raises DataError PLM602 for a name that is no parameter.
        """
        found = {**(values or {}), **more}
        declared = [param.name.id for param in self.module.program.params]
        refuse_unknown(self.module.program.name.id, found, declared, "parameter", DataError, "PLM602")
        return self._asking(data={**self.data, **{name: records(value) for name, value in found.items()}})

    def lm(self, **models: str | Path | LanguageModel | tuple[object, object]) -> Query:
        """Other models for declared ones, by alias: a name, a folder, an object, or a pair (model, tokenizer)
        of transformers, whose weights are shared. Raises ModelError PLM515 for an alias that is not declared."""
        declared = [one.name.id for one in self.module.declarations if not isinstance(one, ast.ToolDecl)]
        refuse_unknown(self.module.program.name.id, models, declared, "model", ModelError, "PLM515")
        return self._resolving(models={**self.models, **models})

    def loading(self, *, dtype: str | None = None, device: str | None = None) -> Query:
        """The dtype and the device of every transformers model that is loaded, before what the program says."""
        more = {name: value for name, value in (("dtype", dtype), ("device", device)) if value is not None}
        return self._resolving(loading_options={**self.loading_options, **more})

    def using(self, method: str, **options: object) -> Query:
        """The method to infer with, and its options."""
        return self._asking(method=method, options=checked(method, options))

    def policy(self, folder: str | Path) -> Query:
        """The policy in this folder to propose with; it is read when draws are asked for.

        Auto draws from it and from the prior together, `using("gflownet")` from it alone.
        """
        return self._asking(policy_folder=Path(folder))

    def allow_use(self) -> Query:
        """Let the program's `use` statements import Python objects."""
        return self._resolving(uses_allowed=True)

    def allow_path(self, *folders: str | Path) -> Query:
        """Let files that the program names lie below these folders too, and not in its own alone."""
        return self._resolving(paths_allowed=(*self.paths_allowed, *map(Path, folders)))

    def _resolving(self, **changes: Any) -> Query:
        """The same module with other resources: what is checked already stays so."""
        found: Query = attrs.evolve(self, **changes)
        found.__dict__["_preparation"] = attrs.evolve(self._preparation, **changes)
        return found

    def _asking(self, **changes: Any) -> Query:
        """Another question to the same program, which is prepared once for all of them."""
        found: Query = attrs.evolve(self, **changes)
        found.__dict__["_preparation"] = self._preparation
        return found

    # ------------------------------------------------------------- the program

    def __repr__(self) -> str:
        params = self.module.program.params
        given = [p.name.id for p in params if p.name.id in self.data]
        without = [p.name.id for p in params if p.name.id not in self.data and p.default is None]
        parts = [f"given {', '.join(given) or 'nothing'}"]
        parts += [f"without {', '.join(without)}"] if without else []
        parts += [f"by {self.method}"] if self.method else []
        parts += [f"with the policy in {self.policy_folder}"] if self.policy_folder else []
        parts += [f"other models for {', '.join(self.models)}"] if self.models else []
        return f"<Query of {self.module.program.name.id}: {'; '.join(parts)}>"

    def __str__(self) -> str:
        """The program as `.plm` text."""
        return format_module(self.module)

    @cached_property
    def _preparation(self) -> _Preparation:
        return _Preparation(
            self.module, self.base_dir, self.models, self.uses_allowed, self.paths_allowed, self.loading_options
        )  # fmt: skip

    @property
    def checked(self) -> CheckedModule:
        """The program with what the checker knows of it. Raises CompileError holding every error."""
        return self._preparation.whole

    @property
    def prepared(self) -> PreparedProgram:
        """The program checked, lowered and optimised, once. Raises CompileError holding every error."""
        return self._preparation.program

    @property
    def graph(self) -> RewardGraph:
        """The optimised log-reward graph."""
        return self.prepared.graph

    @property
    def request(self) -> Request:
        """How draws are asked for."""
        return Request(self.method, self.options, self.policy_folder)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what the log reward is."""
        return self.graph.fingerprint

    # ------------------------------------------------------------- asking

    def target(self) -> Target:
        """The program bound to its data and models."""
        return self.prepared.bind(self.data)

    def score(self, values: Mapping[str, Datum]) -> Score:
        """The log reward of given values of the latents, term by term."""
        from posterior_lm.api.engine import score

        return score(self.target(), values)

    def draw(
        self, n: int | None = None, *, seed: int = 0, budget: float | None = None, guide: Guide | None = None,
        progress: Callable[[Info], None] | None = None,
    ) -> Posterior:  # fmt: skip
        """Draws from the posterior; `budget` is in seconds. The same seed gives the same draws."""
        from posterior_lm.api.engine import draw

        with watching(progress, "drawing") as watch:
            how: dict[str, Any] = {"seed": seed, "budget": budget, "guide": guide, "progress": watch}
            return draw(self.prepared, self.target(), self.request, n, **how)

    def draw_rows(
        self, rows: Rows, n: int | None = None, *, seed: int = 0, budget: float | None = None,
        progress: Callable[[Info], None] | None = None,
    ) -> Posteriors:  # fmt: skip
        """Draws from the posterior of each row of parameters, over what is given; `budget` is in seconds for each.

        Every row has a seed of its own, as in `plm run --data`. Raises DataError naming the row before any is drawn.
        """
        from posterior_lm.api.posteriors import draw_rows

        with watching(progress, "drawing") as watch:
            how: dict[str, Any] = {"given": self.data, "seed": seed, "budget": budget, "progress": watch}
            return draw_rows(self.prepared, self.request, records(rows), n, **how)

    def fit(
        self, rows: Rows, out: str | Path, /, *, resume: bool = False,
        watch: Callable[[FitProgress], None] | None = None, say: Callable[[str], None] | None = None,
        course: Course | None = None, **settings: object,
    ) -> Fitted:  # fmt: skip
        """Train a policy on rows of parameters and save it, certified, in the folder `out`.

        `watch` is told of every step, `say` of what is skipped; a `train.course.Course` is where the whole stands, phase by phase.
        A budget is counted from here on. `settings` are those of `train.settings.FitSettings`, over what `infer gflownet(…)` states. A
        column named after a latent holds a known good value of it.
        """
        from posterior_lm.train.fit import fit

        course, program = course or Course(), self.prepared
        chosen = settings_of({**self.request.fit_settings(program), **settings})
        with bar(course.tick is None) as move:
            if move is not None:
                course.tick = lambda stand: move(stand.done, f"{stand.phase} {stand.note}".strip())
            return fit(
                program, records(rows), out, chosen, given=self.data, resume=resume, watch=watch, say=say,
                course=course,
            )  # fmt: skip

    def em(
        self, rows: Rows, out: str | Path, /, *, resume: bool = False,
        watch: Callable[[Round], None] | None = None, tick: Tick | None = None,
        say: Callable[[str], None] | None = None, course: Course | None = None, **options: object,
    ) -> EmResult:  # fmt: skip
        """Train a guide and the model of what the program observes in turns, and save both in `out`.

        `options` are the fields of `EmSettings` and, for the E-step, of `FitSettings`, over what
        `infer gflownet(…)` states; the result's `query` asks with both. A budget holds the whole, from where
        `course` began, or from now. Raises what `em.run.train` raises.
        """
        from posterior_lm.em.run import train

        with bar(tick is None) as move:
            trained = train(
                self.prepared, self.request, records(rows), out, given=self.data, resume=resume, watch=watch,
                tick=tick or (move and (lambda number, phase, share: move(share, f"round {number}, {phase}"))),
                say=say, course=course, **options,
            )  # fmt: skip
        found = attrs.asdict(trained, recurse=False)
        return EmResult(self._restored(found.pop("restored")), **found)

    def with_em(self, folder: str | Path) -> Query:
        """The program with the model and the guide that `em` left in a folder.

        Raises DataError PLM795 for a folder that holds no result, PLM796 for one of another program or model.
        """
        from posterior_lm.em.saved import read_record, restored

        return self._restored(restored(self.prepared, Path(folder), read_record(Path(folder))))

    def _restored(self, found: Restored) -> Query:
        models = {**self.models, **found.models}
        return attrs.evolve(self, module=found.module, models=models).policy(found.guide)

    def calibrate(self, rows: Rows = (), /, **settings: Any) -> Calibration:
        """Test the method on rows that the program simulates; `settings` as in `validate.calibration`."""
        from posterior_lm.validate.calibration import calibrate

        known = records(rows)
        with watching(settings.pop("progress", None), "simulating") as watch:
            return calibrate(self.prepared, self.request, known, given=self.data, progress=watch, **settings)

    def compare(self, **settings: Any) -> Comparison:
        """Run every method beside the exact posterior; `settings` as in `validate.comparison`."""
        from posterior_lm.validate.comparison import compare

        with watching(settings.pop("progress", None), "comparing") as watch:
            return compare(self.prepared, self.request, self.data, progress=watch, **settings)

    def report(self, posterior: Posterior, path: str | Path) -> Path:
        """Write one self-contained HTML page about a posterior of this query; returns its path."""
        from posterior_lm.report import report

        return report(self.target(), posterior, path)

    def predict(
        self, name: str, *, n: int | None = None, vote: Vote = "soft", abstain: float | None = None, seed: int = 0,
        budget: float | None = None, progress: Callable[[Info], None] | None = None,
    ) -> Prediction:  # fmt: skip
        """The posterior predictive distribution of a parameter left out, or a latent's marginal.

        `vote` is soft, hard or likeliest, as `Prediction` has it. An int without bounds and a
        text are drawn, `n` times, and scored under every draw. With `abstain` there is an `answer` only
        where it is wrong with at most that probability.
        """
        from posterior_lm.predict import predict

        with watching(progress, "drawing") as watch:
            how: dict[str, Any] = {"abstain": abstain, "seed": seed, "budget": budget, "progress": watch}
            return predict(self.prepared, self.request, self.data, name, n, vote=vote, **how)

    def predict_rows(
        self, rows: Rows, name: str, *, progress: Callable[[Info], None] | None = None, **settings: Any
    ) -> Predictions:
        """`predict`, with its settings, for each row of parameters, with a seed of its own as in `plm predict --data`.

        What a column of that name holds is not shown, but `known`. Raises DataError naming the row before any is predicted.
        """
        from posterior_lm.predict import predict_rows

        with watching(progress, "drawing") as watch:
            how = {"given": self.data, "progress": watch, **settings}
            return predict_rows(self.prepared, self.request, records(rows), name, **how)


@frozen(eq=False)
class EmResult:
    """What came of EM: `query` is the program with the best round's model and guide.

    `best` is the number of the round that was kept; `stopped` says why EM ended, `notes` what was left out and why.
    """

    query: Query
    folder: Path
    rounds: tuple[Round, ...]
    best: int
    stopped: str
    interrupted: bool
    notes: tuple[str, ...]
    adapter: Adapter = field(repr=False)

    def close(self) -> None:
        """Take the trained adapter out of the model's layers; `query` cannot be asked afterwards."""
        self.adapter.close()


def program(
    name: str, *params: str, lm: Mapping[str, str] | None = None, use: Mapping[str, str] | None = None,
    tool: Mapping[str, str] | None = None,
) -> Query:  # fmt: skip
    """An empty program to add statements to. `params` are written as in a file (`"beta: real = 1.25"`); `lm` maps an alias
    to a model's name, `use` a name to "module:function", `tool` a name to what makes it (`'calculator(trigger="=")'`).
    """
    declarations: tuple[ast.Declaration, ...] = (
        *(ast.LmDecl(compose.name(alias), ast.Literal(model)) for alias, model in (lm or {}).items()),
        *(ast.UseDecl(compose.name(alias), ast.Literal(where)) for alias, where in (use or {}).items()),
        *(ast.ToolDecl(compose.name(alias), compose.call(made)) for alias, made in (tool or {}).items()),
    )
    body = ast.Program(compose.name(name), tuple(compose.fragment(p, "parameter") for p in params), ())
    return Query(ast.Module(declarations, body, span=NOWHERE))


def load(path: str | Path) -> Query:
    """The program in a file. Raises CompileError with every error it has."""
    return _of_checked(load_module(path), Path(path).resolve().parent)


def loads(text: str, name: str = "<text>") -> Query:
    """The program in a string."""
    return _of_checked(compile_source(Source(name, text)).without_errors(), None)


def load_em(folder: str | Path) -> Query:
    """The program whose text a result of EM holds, with its trained model and its guide; `with_em` is for another."""
    from posterior_lm.em.saved import read_record

    record = read_record(Path(folder))
    # The name alone: a path in it would say in which folder the program may read files.
    return loads(record.program, Path(record.name).name).with_em(folder)


def _of_checked(checked: CheckedModule, base_dir: Path | None) -> Query:
    """The query of a checked module, which is not checked again."""
    query = Query(checked.module, base_dir=base_dir)
    query.__dict__["_preparation"] = _Preparation(checked.module, base_dir, {}, False, checked=checked)
    return query
