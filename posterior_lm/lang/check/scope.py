"""Names: what each one stands for where it is used, and what is wrong with it; circles of definitions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from attrs import evolve, frozen

from posterior_lm.lang import ast
from posterior_lm.lang.ast import names, nodes, statements
from posterior_lm.lang.diagnostics import Diagnostic, error, meant, nearest
from posterior_lm.lang.elsewhere import ELSEWHERE
from posterior_lm.lang.signatures import BEFORE, BUILT_IN, DISTRIBUTIONS, FUNCTIONS, ROLES
from posterior_lm.lang.source import Span
from posterior_lm.lang.typed import UNKNOWN, Binding, Constant, Findings, Value

POOLS = ", ".join(f"{f.name}(…)" for f in FUNCTIONS.values() if f.pools)
_PARTED = {"table": ("table", "column"), "shares": ("whole", "share")}
"""What has parts, and what one is called, by the type; of any other type it is a record and its field."""
_SUGGESTIONS = 50  # unknown names that get one; looking for near ones takes time


@frozen(eq=False)
class Planned:
    """A latent or let that some statement of the program makes, drawn yet or not."""

    name: str
    span: Span
    sort: str
    blocks: tuple[int, ...]  # the plates and branches around it, outermost first
    branches: frozenset[int] = frozenset()  # those that are branches

    def in_branch(self, here: Sequence[int]) -> bool:
        """Whether a block that leaves its names out of reach `here` is a branch."""
        return not self.branches.isdisjoint({*self.blocks} - {*here})


def planned(body: Iterable[ast.Statement]) -> dict[str, Planned]:
    """Every latent, let and plate row of a program by name, the first of each."""
    found: dict[str, Planned] = {}

    branches = frozenset(id(s) for s in statements(tuple(body)) if isinstance(s, ast.If | ast.Else))

    def walk(statements: Iterable[ast.Statement], blocks: tuple[int, ...]) -> None:
        for statement in statements:
            if isinstance(statement, (ast.Latent, ast.Let)):
                sort = "latent" if isinstance(statement, ast.Latent) else "let"
                name = statement.name
                found.setdefault(name.id, Planned(name.id, name.span, sort, blocks, branches))
            elif isinstance(statement, ast.Plate):
                inner = (*blocks, id(statement))
                row = statement.row
                found.setdefault(row.id, Planned(row.id, row.span, "row", inner, branches))
                walk(statement.body, inner)
            elif isinstance(statement, ast.If | ast.Else):
                walk(statement.body, (*blocks, id(statement)))
            elif isinstance(statement, ast.Temper):
                walk(statement.body, blocks)

    walk(body, ())
    return found


@frozen(eq=False)
class Closed:
    """A plate that has ended: the blocks around it and itself, outermost first, with their rows and names."""

    blocks: tuple[int, ...]
    rows: tuple[Binding | None, ...]
    """None of a branch."""
    levels: tuple[dict[str, Binding], ...]


class Scope:
    """The bindings visible at one point of the walk, the diagnostics and the findings so far."""

    def __init__(self, module: ast.Module) -> None:
        self.broken = module.broken
        self.found: list[Diagnostic] = []
        self.findings = Findings()
        self.shared = False  # whether a node stands in two places where its names mean different things
        self.levels: list[dict[str, Binding]] = [{}]
        self.blocks: list[int] = []  # the plates and branches we are inside of
        self.rows: list[Binding | None] = []  # the row of each plate
        self.closed: list[Closed] = []  # the plates that ended
        self.planned = planned(module.program.body)
        self.cyclic: frozenset[str] = frozenset()  # names whose cycle has been reported
        self.guided: ast.Expr | None = (
            None  # what a guide is, while it is looked at: it may call a masked model
        )
        self.has_lm = any(isinstance(d, ast.LmDecl) for d in module.declarations)
        self.used: set[str] = set()
        self.tools: dict[str, ast.ToolDecl] = {}  # declared tools by name
        self._reported: set[str] = set()

    # ------------------------------------------------------------ reporting

    def error(
        self, code: str, message: str, span: Span, label: str = "", *,
        secondary: Sequence[tuple[Span, str]] = (), notes: Sequence[str] = (), help: str | None = None,
    ) -> None:  # fmt: skip
        self.found.append(error(code, message, span, label, secondary=secondary, notes=notes, help=help))

    def twice(
        self, code: str, message: str, span: Span, first: Span, how: str, help: str | None = None
    ) -> None:
        """Reports what stands a second time where it may once: it is "declared", "listed" or "given"."""
        label = "declared again here" if how == "declared" else "again here"
        self.error(code, message, span, label, secondary=[(first, f"first {how} here")], help=help)

    # ------------------------------------------------------------ finding out

    def bind(self, name: ast.Name | ast.Prefer, binding: Binding) -> None:
        """Keeps what a name stands for, and what `it` does in a preference."""
        self.shared |= self.findings.bindings.setdefault(id(name), binding) is not binding

    def written(self, expr: ast.Expr | ast.Range) -> Constant | None:
        """The constant of an expression that was looked at, where literals alone spell it."""
        found = self.findings.values.get(id(expr), UNKNOWN)
        return found.constant if found.written else None

    # ------------------------------------------------------------ declaring

    def visible(self) -> dict[str, Binding]:
        """Every name in scope; inner levels hide nothing, since names are unique."""
        return {name: b for level in self.levels for name, b in level.items()}

    def get(self, name: str) -> Binding | None:
        for level in reversed(self.levels):
            if name in level:
                return level[name]
        return None

    def declare(self, binding: Binding) -> None:
        """Adds a name; the first declaration of a name wins."""
        name = binding.name
        if not name:  # a stand-in of the parser
            return
        self.bind(binding.at, binding)
        if name in BUILT_IN:
            sort = "function" if name in FUNCTIONS else "distribution"
            self.error(
                "PLM203",
                f"'{name}' is a built-in {sort}",
                binding.span,
                "cannot be given another meaning",
                help=f"choose another name, such as '{name}_'",
            )
            self._reported.add(name)
            return
        first = self.get(name)
        if first is not None:
            if first.sort == "latent" and binding.sort == "latent":
                self.error(
                    "PLM404",
                    f"'{name}' has two priors",
                    binding.span,
                    "second prior",
                    secondary=[(first.span, "first prior")],
                    help=f"to add a second term, write: observe {name} ~ …",
                )
            else:
                message, help = f"'{name}' is declared twice", "rename one of them"
                self.twice("PLM202", message, binding.span, first.span, "declared", help)
            return
        self.levels[-1][name] = binding

    # ------------------------------------------------------------ plates

    @contextmanager
    def within(self, block: int, row: Binding | None = None) -> Iterator[None]:
        """Inside a plate with its `row`, or a branch; its names are out of reach behind it, but where rows are pooled."""
        self.levels.append({})
        self.blocks.append(block)
        self.rows.append(row)
        if row is not None:
            self.declare(row)
        yield
        depth = len(self.levels) - len(self.blocks)
        if row is not None:
            self.closed.append(Closed(tuple(self.blocks), tuple(self.rows), tuple(self.levels[depth:])))
        for stack in (self.levels, self.blocks, self.rows):
            stack.pop()

    def pools(self, parts: Sequence[ast.Expr]) -> Closed | None:
        """The plate whose rows these expressions are read for, by the names of it that they hold; None without any.

        None too where no plate has all the names, which are then unknown. Reports PLM405 where two plates have.
        """
        ended = [plate for plate in self.closed if None not in plate.rows[self._shared(plate) :]]
        known = [{name for level in plate.levels[self._shared(plate) :] for name in level} for plate in ended]
        mine = [name for name in names(parts) if self.get(name.id) is None]
        mine = [name for name in mine if any(name.id in inside for inside in known)]
        if not mine:
            return None
        fit = [
            plate for plate, inside in zip(ended, known, strict=True) if all(one.id in inside for one in mine)
        ]
        fit = [plate for plate in fit if len(plate.blocks) == min(len(one.blocks) for one in fit)]
        if len(fit) > 1:
            self.error("PLM405", f"'{mine[0].id}' stands in two plates", mine[0].span, "of which rows?",
                       help="give the two different names")  # fmt: skip
        return fit[0] if fit else None

    def _shared(self, plate: Closed) -> int:
        """How many of the blocks around a plate that has ended are around the current statement too."""
        pairs = zip(plate.blocks, self.blocks, strict=False)
        return next(
            (k for k, (one, other) in enumerate(pairs) if one != other),
            min(len(plate.blocks), len(self.blocks)),
        )

    @contextmanager
    def over(self, plate: Closed) -> Iterator[tuple[Binding, ...]]:
        """Inside a plate that has ended, for each of its rows; gives those that the rows around do not settle."""
        depth = self._shared(plate)
        self.levels += plate.levels[depth:]
        self.blocks += plate.blocks[depth:]
        self.rows += plate.rows[depth:]
        yield tuple(row for row in plate.rows[depth:] if row is not None)
        inner = len(plate.blocks) - depth
        for stack in (self.levels, self.blocks, self.rows):
            del stack[len(stack) - inner :]

    # ------------------------------------------------------------ using

    def resolve(self, name: ast.Name) -> Binding | None:
        """The binding of a used name; None, once reported, where there is none."""
        binding = self.get(name.id)
        if binding is not None:
            self._use(name, binding)
        elif name.id and name.id not in self.broken:
            self._missing(name)
        return binding

    def _use(self, name: ast.Name, binding: Binding) -> None:
        self.used.add(name.id)
        self.bind(name, binding)

    def _missing(self, name: ast.Name) -> None:
        if name.id in self._reported:
            return
        plan = self.planned.get(name.id)
        if plan is not None:
            self.used.add(name.id)
            if name.id not in self.cyclic:
                self._too_early(name, plan)
            return
        self._reported.add(name.id)
        if name.id in FUNCTIONS or name.id in DISTRIBUTIONS:
            sort = "function" if name.id in FUNCTIONS else "distribution"
            self.error("PLM305", f"'{name.id}' is a {sort}, not a value", name.span,
                       "call it", help=f"write {name.id}(…)")  # fmt: skip
            return
        self.error("PLM201", f"unknown name '{name.id}'", name.span, "not declared",
                   help=self._suggestion(name.id))  # fmt: skip

    def _too_early(self, name: ast.Name, plan: Planned) -> None:
        drawn = {"latent": "drawn", "let": "given a value", "row": "a row of the plate"}[plan.sort]
        if plan.blocks != tuple(self.blocks[: len(plan.blocks)]):
            if plan.in_branch(self.blocks):
                self.error("PLM412", f"'{name.id}' belongs to a branch and is not known outside it", name.span,
                           "used outside the branch", secondary=[(plan.span, f"{drawn} here, where the branch is taken")],
                           help="move this statement into the branch")  # fmt: skip
                return
            self.error(
                "PLM405",
                f"'{name.id}' belongs to a plate and is not known outside it",
                name.span,
                "used outside the plate",
                secondary=[(plan.span, f"{drawn} here, once per row" if plan.sort != "row" else "the plate")],
                help=f"move this statement into the plate, or pool its rows behind it: {POOLS}",
            )
            return
        self.error(
            "PLM401",
            f"'{name.id}' is used before it is {drawn}",
            name.span,
            "used here",
            secondary=[(plan.span, f"{drawn} here")],
            help=f"move the {plan.sort} statement above this one",
        )

    def _suggestion(self, word: str) -> str | None:
        if len(self._reported) > _SUGGESTIONS:
            return None
        visible = self.visible()
        near = nearest(word, visible) or nearest(word, [*FUNCTIONS, *DISTRIBUTIONS])
        if near:
            return f"did you mean '{near}'?"
        for binding in visible.values():
            if binding.sort == "row":
                column = word if word in binding.columns else nearest(word, binding.columns)
                if column:
                    return f"did you mean '{binding.name}.{column}'?"
        return meant(word, self.planned, None, "'")

    def call(self, name: ast.Name, *, dist: bool) -> Binding | None:
        """The lm or `use` that a call names; None, once reported, where it is neither."""
        binding = self.get(name.id)
        if binding is not None:
            self._use(name, binding)
            if binding.sort in ("lm", "use", *(() if dist else ("tool",))) or binding.value.kind == "unknown":
                return binding
            taken = name.id in DISTRIBUTIONS or name.id in FUNCTIONS
            self.error("PLM305", f"'{name.id}' is {binding.value.shown} and cannot be called", name.span,
                       "not a function", secondary=[(binding.span, "declared here")],
                       help=f"give that one another name, and {name.id}(…) is the built-in one" if taken else None)  # fmt: skip
            return None
        if not name.id or name.id in self.broken or name.id in self._reported:
            return None
        if name.id in self.planned:
            self._missing(name)
            return None
        self._reported.add(name.id)
        lms = [b.name for b in self.levels[0].values() if b.sort in ("lm", "use")]
        pools = [[*lms, *DISTRIBUTIONS], FUNCTIONS] if dist else [[*FUNCTIONS, *ROLES, *lms], DISTRIBUTIONS]
        near = None
        if len(self._reported) <= _SUGGESTIONS:
            near = nearest(name.id, pools[0]) or nearest(name.id, pools[1])
        long = [] if near else [other for other in ELSEWHERE if len(other) > 5]
        foreign = name.id if name.id in ELSEWHERE else nearest(name.id, long)
        if foreign:
            help = ELSEWHERE[foreign]
        elif near:
            help = f"did you mean '{near}'?"
        elif dist and not self.has_lm:
            help = f'declare it above the program: lm {name.id} = "tiny"'
        elif dist and lms:
            help = f"the language models here are {', '.join(lms)}"
        else:
            help = None
        what = "distribution" if dist else "function"
        self.error("PLM201", f"unknown {what} '{name.id}'", name.span, "not declared", help=help)
        return None

    def field(self, expr: ast.Field, *, items: bool = False) -> Value:
        """The value of `row.column`, or with `items` of a field of each item of a list."""
        binding = self.resolve(expr.row)
        if binding is None or binding.value.kind == "unknown":
            return UNKNOWN
        if not binding.has_fields:
            self.error(
                "PLM305",
                f"'{expr.row.id}' is {binding.value.shown} and has no columns",
                expr.row.span,
                "not a row of a table, and no record",
                secondary=[(binding.span, "declared here")],
            )
            return UNKNOWN
        if expr.column not in binding.columns:
            if not binding.columns:
                return UNKNOWN
            kind = "record" if binding.type is None or binding.type.item else binding.type.name
            whole, part = _PARTED.get(kind, ("record", "field"))
            listed = f"its {part}s are {', '.join(binding.columns)}"
            self.error(
                "PLM204",
                f"the {whole} has no {part} '{expr.column}'",
                Span(expr.span.source, max(expr.span.start, expr.span.end - len(expr.column)), expr.span.end),
                f"not a {part}",
                secondary=[(binding.span, f"a {'row of the table' if part == 'column' else whole}")],
                help=meant(expr.column, binding.columns, listed, "'"),
            )
            return UNKNOWN
        if (
            binding.sort == "latent"
            and binding.type is not None
            and binding.type.item is not None
            and not items
        ):
            name, part = expr.row.id, expr.column
            self.error("PLM305", f"'{name}' is a list, and its fields are those of an item", expr.span, "of which item?",
                       help=f"go through it, plate one in {name} {{ … one.{part} … }}, or read one: item({name}.{part}, 0)")  # fmt: skip
            return UNKNOWN
        # What a row reads is its table.
        return evolve(binding.columns[expr.column].value, depends=binding.value.depends | {binding})


# ---------------------------------------------------------------- latents and lets that depend on one another

_SHOWN = 6  # members of a circle that a message names


def report_cycles(scope: Scope, program: ast.Program) -> None:
    """One diagnostic per circle; `scope.cyclic` keeps their names from being reported again."""
    made: dict[str, ast.Name] = {}
    reads: dict[str, dict[str, Span]] = {}
    for statement in statements(program.body):
        if isinstance(statement, ast.Latent):
            parts: object = (statement.type, statement.dist)
        elif isinstance(statement, ast.Let):
            parts = statement.value
        else:
            continue
        name = statement.name
        if name.id in made or not name.id:
            continue
        made[name.id] = name
        uses: dict[str, Span] = {}
        before = {id(n) for node in nodes(parts) if _reads_before(node) for n in nodes(node)}
        for used in names(parts):
            if id(used) not in before:
                uses.setdefault(used.id, used.span)
        reads[name.id] = uses
    graph = {name: [used for used in uses if used in made] for name, uses in reads.items()}
    for circle in _circles(graph):
        _report(scope, circle, made, reads)
    scope.cyclic = frozenset(scope.cyclic)


def _reads_before(node: ast.Node) -> bool:
    """Whether what stands in it is read of the row before, which closes no circle."""
    return isinstance(node, ast.Call) and node.function.id in BEFORE


def _report(
    scope: Scope, circle: list[str], made: dict[str, ast.Name], reads: dict[str, dict[str, Span]]
) -> None:
    scope.cyclic |= set(circle)
    if len(circle) == 1:
        name = circle[0]
        scope.error(
            "PLM403",
            f"'{name}' depends on itself",
            reads[name][name],
            "used in its own definition",
            secondary=[(made[name].span, "defined here")],
            help="read a value that is drawn before it",
        )
        return
    members = set(circle)
    circle = sorted(circle, key=lambda name: made[name].span.start)
    uses = []
    for name in circle[:_SHOWN]:
        other = next(used for used in reads[name] if used in members)
        uses.append((reads[name][other], f"'{name}' reads '{other}'"))
    quoted = [f"'{name}'" for name in circle]
    if len(quoted) > _SHOWN:
        quoted = [*quoted[:_SHOWN], f"{len(circle) - _SHOWN} more"]
    scope.error(
        "PLM402",
        f"{', '.join(quoted[:-1])} and {quoted[-1]} depend on one another",
        uses[0][0],
        uses[0][1],
        secondary=uses[1:],
        help="write one of the readings as an observe or a factor after all are drawn",
    )


def _circles(graph: dict[str, list[str]]) -> list[list[str]]:
    """Strongly connected components with an edge inside (Sharir 1981)."""
    back: dict[str, list[str]] = {node: [] for node in graph}
    for node, edges in graph.items():
        for other in edges:
            back[other].append(node)
    seen: set[str] = set()
    order = [node for root in graph for node in _reached(root, graph, seen)]
    seen = set()
    parts = [_reached(root, back, seen) for root in reversed(order)]
    return [part for part in parts if len(part) > 1 or (part and part[0] in graph[part[0]])]


def _reached(root: str, graph: dict[str, list[str]], seen: set[str]) -> list[str]:
    """What is not `seen` yet from a root on, every node after what it alone leads to; without recursion."""
    stack, found = [(root, False)], []
    while stack:
        node, done = stack.pop()
        if done:
            found.append(node)
        elif node not in seen:
            seen.add(node)
            stack += [(node, True), *((other, False) for other in graph[node])]
    return found
