"""A program made ready once, and bound to rows of data.

Ready: checked, lowered and optimised, with the models and functions that it names. Everything that is
true of a program whatever its data are is found once; rows of data are validated and bound one by
one, and nothing of the program is looked at again for a row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from attrs import evolve, field, frozen

from posterior_lm.graph.graph import RewardGraph
from posterior_lm.graph.ground import ground
from posterior_lm.graph.nodes import MARK, WHEN, Constant, Latent
from posterior_lm.graph.passes import optimize
from posterior_lm.lang.diagnostics import CompileError, InternalError, PlmError
from posterior_lm.lang.format import format_module
from posterior_lm.lang.values import PlaceSpec, finite_spec
from posterior_lm.lm.protocol import LanguageModel, MaskedModel, ModelIdentity, Tokenizer, same_tokens
from posterior_lm.support.base import Support
from posterior_lm.support.build import build_support
from posterior_lm.support.spec import Spec, TextSpec
from posterior_lm.target.evaluate import Evaluator
from posterior_lm.target.resources import Named, Resources, resolve
from posterior_lm.target.restrict import narrowed
from posterior_lm.target.segments import Speller
from posterior_lm.target.target import LatentInfo, Target
from posterior_lm.target.validate import validate_data

if TYPE_CHECKING:
    from pathlib import Path

    from posterior_lm.lang.typed import CheckedModule

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
    allowed: tuple[Path, ...] = ()
    """Folders, beside its own, that files named by the program may lie in."""

    @classmethod
    def of(
        cls, graph: RewardGraph, models: Mapping[str, LanguageModel],
        functions: Mapping[str, Callable[..., object]] | None = None,
        masked: Mapping[str, MaskedModel] | None = None,
    ) -> PreparedProgram:  # fmt: skip
        """A graph with resources that are there already."""
        return cls(graph, Resources(models, functions or {}, masked or {}))

    @cached_property
    def resources(self) -> Resources:
        """Loaded when they are first asked for. Raises ModelError and CompileError as `resolve` does."""
        return (
            self.source
            if isinstance(self.source, Resources)
            else resolve(self.graph, self.source, self.base_dir, self.allowed)
        )

    @property
    def models(self) -> Mapping[str, LanguageModel]:
        return self.resources.models

    @property
    def masked(self) -> Mapping[str, MaskedModel]:
        """The models that fill masked places, which only guides read."""
        return self.resources.masked

    @property
    def identities(self) -> dict[str, ModelIdentity]:
        """Which model each alias is, the masked ones last."""
        scoring = {alias: model.identity for alias, model in self.models.items()}
        return scoring | {alias: model.identity for alias, model in self.masked.items()}

    @property
    def functions(self) -> Mapping[str, Callable[..., object]]:
        return self.resources.functions

    @cached_property
    def text(self) -> str:
        """The program as `.plm` text; empty where there is none."""
        return "" if self.checked is None else format_module(self.checked.module)

    def forget(self) -> None:
        """Let the models drop what they keep of earlier rows, which may change the last bits of later ones."""
        for model in self.models.values():
            forget: Callable[[], None] | None = getattr(model, "forget", None)
            if forget is not None:
                forget()

    # ------------------------------------------------------------- rows

    def validate(self, row: Data, *, path: str = "", missing: Sequence[str] = ()) -> dict[str, object]:
        """The row with a value for every parameter but those in `missing`; raises DataError as `validate_data` does."""
        return validate_data(self.graph, row, path=path, missing=missing)

    def bind(self, row: Data) -> Target:
        """The target of a row: validated, then bound. Raises DataError, and CompileError as `bind_valid` does."""
        return self.bind_valid(self.validate(row))

    def bind_valid(self, data: Data) -> Target:
        """The target of data that were validated, or made from such."""
        return bind_program(self, data)

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


# ----------------------------------------------------------------------------------- one binding


def bind_program(prepared: PreparedProgram, data: Mapping[str, object]) -> Target:
    """The target of a program for one binding of its parameters.

    `data` are validated. Conditions that can be are built into the supports that draws are made from.
    Raises CompileError PLM330 for an empty support, PLM340 for a condition that leaves no
    value of one, PLM531 for a stop or choice that the tokenizer cannot spell.
    """
    program, models, functions = prepared.graph, prepared.models, prepared.functions
    grounded = optimize(ground(program, data))
    _check_used_tools(program, functions)
    supports = {n.name: support_of(grounded, n, models) for _, n in grounded.latents()}
    specs = {n.name: spec_of(grounded, n) for _, n in grounded.latents()}
    narrow = narrowed(program, grounded, specs, supports, models)
    marks = {name: spec.mark for name, spec in specs.items() if isinstance(spec, TextSpec | PlaceSpec)}
    latents = tuple(
        LatentInfo(n.name, n.type, narrow[n.name], n.lm, i, n.span, n.when, marks.get(n.name))
        for i, n in grounded.latents()
    )
    spellers = {}
    tokenizers = {alias: model.tokenizer for alias, model in models.items()}
    tokenizers |= {alias: model.tokenizer for alias, model in prepared.masked.items()}
    for alias, tokenizer in tokenizers.items():
        own = frozenset(
            info.name
            for info in latents
            if info.lm is not None and _reads(tokenizers[info.lm], tokenizer, alias in models)
        )
        spellers[alias] = Speller.of(tokenizer, own)
    evaluator = Evaluator(grounded, models, spellers, supports, functions)
    return Target(prepared, grounded, dict(data), latents, evaluator)


def _reads(own: Tokenizer, other: Tokenizer, scores: bool) -> bool:
    """Whether a latent's tokens are those of another model; one that scores has none besides."""
    return own.digest == other.digest if scores else same_tokens(own, other)


def _check_used_tools(program: RewardGraph, functions: Mapping[str, object]) -> None:
    """Raises CompileError PLM541 for a tool that nobody allowed to be imported."""
    for _, latent in program.latents():
        for tool in latent.tools:
            if tool.kind == "use" and tool.where not in functions:
                message = f"the tool `{tool.name}` is imported from Python, which is off unless you allow it"
                raise CompileError.of("PLM541", message, latent.span, "it writes into this", help="pass --allow-use, or call `.allow_use()`")  # fmt: skip


def options_of(graph: RewardGraph, latent: Latent) -> dict[str, object]:
    """A latent's options by name; they are constants once the graph is grounded."""
    found: dict[str, object] = {}
    for name, i in zip(latent.options, latent.inputs, strict=True):
        if name == WHEN:
            continue
        node = graph[i]
        if not isinstance(node, Constant):
            raise InternalError(f"the option `{name}` of `{latent.name}` is not a constant")
        found[name] = node.value
    return found


def support_of(graph: RewardGraph, latent: Latent, models: Mapping[str, LanguageModel]) -> Support:
    """What the type of a latent of a grounded graph allows, over its own model's tokens."""
    tokenizer = models[latent.lm].tokenizer if latent.lm is not None else None
    spans = dict(latent.spans)
    return build_support(spec_of(graph, latent), tokenizer, spans.get("type", latent.span), spans)


def spec_of(graph: RewardGraph, latent: Latent) -> Spec:
    """What the type of a latent of a grounded graph asks of its values."""
    options = options_of(graph, latent)
    names = ("low", "high", "lead", "grid")
    finite = finite_spec(latent.choices, *(options.get(name) for name in names))
    if finite is not None and MARK in options:
        return PlaceSpec(finite, str(options[MARK]), bool(options["may_end"]))
    return finite or TextSpec.of(options, latent.tools)
