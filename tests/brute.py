"""A second, slow reading of `language.md`: the log reward by walking the syntax tree.

It shares nothing with `graph`, `support` and `target`: only the parser, a table's
`next_log_probs` and its tokenizer. Tables are the only models it knows. Assignments
map ground names (`z`, `z[0]`, `z[1][0]`) to the token ids of a text, and to the number,
truth value or string of a finite type; every number is in nats.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from posterior_lm.lang import ast
from posterior_lm.lang.parser import parse
from posterior_lm.lang.source import Source

Ids = tuple[int, ...]
Assigned = Ids | float | str | None  # None of a latent in a branch that is not taken
Assignment = Mapping[str, Assigned]
LN0 = -math.inf


@dataclass(frozen=True)
class Declared:
    """A latent of one row: what it may be."""

    name: str
    kind: str  # text | int | one_of | bool | real
    model: object
    low: float = 0
    high: float = 0
    grid: int = 0
    lead: str = ""
    choices: tuple[str, ...] = ()
    stop: str | None = None
    ending: str = "value"
    chars: str | None = None
    canonical: bool = False
    optional: bool = False

    @property
    def width(self) -> float:
        """Of a cell of a real."""
        return (self.high - self.low) / self.grid

    def data(self) -> list[float | str]:
        if self.kind == "bool":
            return [False, True]
        if self.kind == "real":
            return [round(self.low + (k + 0.5) * self.width, 9) for k in range(self.grid)]
        return list(range(self.low, self.high + 1)) if self.kind == "int" else list(self.choices)

    def datum(self, value: Assigned) -> float | str:
        """What expressions see."""
        return self.text(value) if self.kind == "text" else value

    def text(self, value: Assigned) -> str:
        """What a context sees, but for the tokens."""
        if self.kind != "text":
            return f"{self.lead}{value}"
        tokens = self.model.tokenizer.tokens
        return "".join(tokens[i] for i in value if i < len(tokens))

    def holds(self, ids: Assigned) -> bool:
        """Whether it is a value of the declared type."""
        if self.kind != "text":
            return ids in self.data()
        tokens = self.model.tokenizer.tokens
        if not self.low <= len(ids) <= self.high or any(i >= len(tokens) for i in ids):
            return False
        text = body = self.text(ids)
        if self.stop is not None:
            if self.stop not in text or text.index(self.stop) != len(text) - len(self.stop):
                return False
            body = text[: len(text) - len(self.stop)]
        if self.chars is not None and any(c not in self.chars for c in body):
            return False
        return not self.canonical or self.model.tokenizer.encode(text) == tuple(ids)

    def values(self) -> list[Assigned]:
        """Every value."""
        return [None, *self._values()] if self.optional else self._values()

    def _values(self) -> list[Assigned]:
        if self.kind != "text":
            return self.data()
        usable = range(len(self.model.tokenizer.tokens))
        lengths = range(self.low, self.high + 1)
        return [ids for n in lengths for ids in itertools.product(usable, repeat=n) if self.holds(ids)]


@dataclass(frozen=True)
class Piece:
    """A part of a text: known text, text that depends on latents, a latent, bos or eos."""

    kind: str  # known | computed | latent | bos | eos
    text: str = ""


@dataclass(frozen=True)
class Env:
    """What names mean: params hold values, lets hold expressions, rows hold mappings."""

    params: Mapping[str, object] = field(default_factory=dict)
    types: Mapping[str, ast.TypeExpr] = field(default_factory=dict)
    rows: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    lets: Mapping[str, tuple[ast.Expr, Env]] = field(default_factory=dict)
    latents: Mapping[str, Declared] = field(default_factory=dict)
    index: tuple[int, ...] = ()
    before: Env | None = None
    """What names mean in the row before of the innermost plate; None in its first row."""
    branches: int = 0
    taken: bool = True


class Brute:
    """One program with data and models."""

    def __init__(self, source: str, data: Mapping[str, object], models: Mapping[str, object]) -> None:
        module, found = parse(Source("brute", source))
        assert module is not None and not found, found
        self.module = module
        self.models = models
        self.values: Assignment | None = None
        self.found: dict[str, Declared] = {}
        params, types = {}, {}
        for p in module.program.params:
            params[p.name.id] = data[p.name.id] if p.name.id in data else self.eval(p.default, Env())
            types[p.name.id] = p.type
        self.env = Env(params, types)

    # ------------------------------------------------------------- answers

    def declared(self) -> dict[str, Declared]:
        """Every latent by ground name, in the order of drawing: statement by statement, then row by row."""
        self.values, self.found = None, {}
        order: list[tuple[int, Declared]] = []
        self._body(self.module.program.body, self.env, 1.0, order)
        return {d.name: d for _, d in sorted(order, key=lambda pair: pair[0])}

    def terms(self, assignment: Assignment) -> list[float]:
        """One number per latent, observe, factor and condition statement."""
        self.values = assignment
        return self._body(self.module.program.body, self.env, 1.0, [])[0]

    def log_reward(self, assignment: Assignment) -> float:
        return add(self.terms(assignment))

    def assignments(self) -> Iterator[dict[str, Assigned]]:
        """All of them."""
        declared = self.declared()
        for values in itertools.product(*(d.values() for d in declared.values())):
            yield dict(zip(declared, values, strict=True))

    def log_evidence(self) -> float:
        return log_sum(self.log_reward(a) for a in self.assignments())

    # ------------------------------------------------------------- statements

    def _body(
        self, body: Sequence[ast.Statement], env: Env, power: float, order: list
    ) -> tuple[list[float], Env]:
        """The terms of some statements, and what names mean after them."""
        out: list[float] = []
        before: ast.Statement | None = None
        for s in body:
            behind, before = before, s
            match s:
                case ast.If() | ast.Else():
                    # Where nothing is taken nothing is asked, so a test may read what is not there.
                    asked = env.taken and self.values is not None
                    test = (
                        bool(self.eval(s.test if isinstance(s, ast.If) else behind.test, env))
                        if asked
                        else False
                    )
                    taken = env.taken and test == isinstance(s, ast.If)
                    inner, _ = self._body(
                        s.body, replace(env, branches=env.branches + 1, taken=taken), power, order
                    )
                    out += inner
                case ast.Latent() if not env.taken or self.values is None:
                    declared = self._declare(s, env)
                    env = replace(env, latents={**env.latents, s.name.id: declared},
                                  types={**env.types, s.name.id: s.type})  # fmt: skip
                    order.append((s.span.start, declared))
                    out.append(0.0 if self.values is None or self.values[declared.name] is None else LN0)
                case ast.Latent():
                    declared = self._declare(s, env)
                    env = replace(env, latents={**env.latents, s.name.id: declared},
                                  types={**env.types, s.name.id: s.type})  # fmt: skip
                    order.append((s.span.start, declared))
                    if self.values[declared.name] is None:  # impossible, whatever else it says
                        out.append(LN0)
                        env = replace(env, taken=False)
                        continue
                    inside = declared.holds(self.values[declared.name])
                    out.append(times(power, self._dist(s.name, s.dist, env)) if inside else LN0)
                case ast.Observe() if self.values is not None and env.taken:
                    out.append(times(power, self._dist(s.value, s.dist, env)))
                case ast.Prefer() if self.values is not None and env.taken:
                    out.append(times(power, self._order(s.items, s.dist, env)))
                case ast.Factor() if self.values is not None and env.taken:
                    out.append(times(power, float(self.eval(s.value, env))))
                case ast.Condition() if self.values is not None and env.taken:
                    out.append(0.0 if self.eval(s.value, env) else LN0)
                case ast.Observe() | ast.Prefer() | ast.Factor() | ast.Condition():
                    out.append(0.0)
                case ast.Temper():
                    inner, env = self._body(s.body, env, power * self.eval(s.exponent, env), order)
                    out += inner
                case ast.Plate():
                    sums, after = [0.0] * leaves(s.body), None
                    for i, row in enumerate(env.params[s.table.id]):
                        table = env.types[s.table.id]
                        types = {f"{s.row.id}.{c.name.id}": c.type for c in table.columns}
                        inner = replace(env, rows={**env.rows, s.row.id: row}, index=(*env.index, i),
                                        types={**env.types, **types}, before=after)  # fmt: skip
                        terms, after = self._body(s.body, inner, power, order)
                        sums = [add(pair) for pair in zip(sums, terms, strict=True)]
                    out += sums
                case ast.Let():
                    env = replace(env, lets={**env.lets, s.name.id: (s.value, env)})
        return out, env

    def _declare(self, s: ast.Latent, env: Env) -> Declared:
        found = replace(self._declared(s, env), optional=env.branches > 0)
        self.found[found.name] = found
        return found

    def _declared(self, s: ast.Latent, env: Env) -> Declared:
        name = s.name.id + "".join(f"[{i}]" for i in env.index)
        options = {o.name: o.value for o in s.type.options}
        dist = s.dist
        while not isinstance(dist, ast.Call) or dist.function.id in ("choice", "mix"):
            match dist:
                case ast.PowerExpr(base=base):
                    dist = base
                case ast.IfExpr(then=first) | ast.Binary(left=first):
                    dist = first
                case ast.Call(args=args):
                    dist = args[-2] if len(args) > 1 else args[0]
        model = self.models.get(dist.function.id) or next(iter(self.models.values()))
        lead = self.eval(options["lead"], env) if "lead" in options else ""
        if s.type.name == "int":
            low, high = self.eval(s.type.args[0].low, env), self.eval(s.type.args[0].high, env)
            return Declared(name, "int", model, low, high, lead=lead)
        if s.type.name == "bool":
            return Declared(name, "bool", model)
        if s.type.name == "real":
            low, high = self.eval(s.type.args[0].low, env), self.eval(s.type.args[0].high, env)
            return Declared(name, "real", model, low, high, self.eval(options["grid"], env))
        if s.type.name == "one_of":
            return Declared(name, "one_of", model, choices=tuple(a.value for a in s.type.args))
        low, high = self.eval(options["tokens"].low, env), self.eval(options["tokens"].high, env)
        plain = {k: self.eval(v, env) for k, v in options.items() if k not in ("tokens",)}
        stop = plain.get("stop")
        ending = "stop" if stop is not None else plain.get("end", "eos")
        return Declared(name, "text", model, low, high, stop=stop, ending=ending,
                        chars=plain.get("chars"), canonical=plain.get("canonical", False))  # fmt: skip

    # ------------------------------------------------------------- distributions

    def _dist(self, value: ast.Expr, dist: ast.Expr, env: Env) -> float:
        """log dist(value)."""
        if isinstance(dist, ast.PowerExpr):
            return times(self.eval(dist.exponent, env), self._dist(value, dist.base, env))
        if isinstance(dist, ast.IfExpr):
            return self._dist(value, dist.then if self.eval(dist.test, env) else dist.orelse, env)
        if isinstance(dist, ast.Binary):
            return add([self._dist(value, dist.left, env), self._dist(value, dist.right, env)])
        name = dist.function.id
        if name == "mix":
            w = self.eval(dist.args[0], env)
            a, b = (self._dist(value, part, env) for part in dist.args[1:])
            return log_sum([ln(w) + a] * (w > 0) + [ln(1 - w) + b] * (w < 1))
        if name in self.models:
            latent = self._latent(value, env)
            ends = latent is not None and latent.ending == "eos"
            return self._lm(self.models[name], dist.args, [value], ends, env)
        if name == "choice":
            inner, power = dist.args[0], 1.0
            while isinstance(inner, ast.PowerExpr):
                inner, power = inner.base, power * self.eval(inner.exponent, env)
            model = self.models[inner.function.id]
            data, lead = self._finite(value, env)
            scores = {d: times(power, self._lm_text(model, inner.args, f"{lead}{d}", env)) for d in data}
            found = self.eval(value, env)
            return scores[found] - log_sum(scores.values()) if found in scores else LN0
        return self._pmf(name, self.eval(value, env), dist.args, value, env)

    def _order(self, items: Sequence[ast.Expr], dist: ast.Expr, env: Env) -> float:
        """log P(the items in this order): each place goes to one of those left, in proportion to exp(beta score)."""
        if isinstance(dist, ast.PowerExpr):
            return times(self.eval(dist.exponent, env), self._order(items, dist.base, env))
        if dist.function.id == "mix":
            w = self.eval(dist.args[0], env)
            a, b = (self._order(items, part, env) for part in dist.args[1:])
            return log_sum([ln(w) + a] * (w > 0) + [ln(1 - w) + b] * (w < 1))
        beta, scores = self.eval(dist.args[1], env), []
        for item in items:
            inner = replace(env, lets={**env.lets, "it": (item, env)})
            scores.append(beta * self.eval(dist.args[0], inner))
        return sum(x - log_sum(scores[k:]) for k, x in enumerate(scores))

    def _finite(self, value: ast.Expr, env: Env) -> tuple[list[object], str]:
        latent = self._latent(value, env)
        if latent is not None:
            return latent.data(), latent.lead
        key = f"{value.row.id}.{value.column}" if isinstance(value, ast.Field) else value.id
        type_ = env.types[key]
        if type_.name == "one_of":
            return [a.value for a in type_.args], ""
        low, high = (self.eval(e, env) for e in (type_.args[0].low, type_.args[0].high))
        lead = next((o.value.value for o in type_.options if o.name == "lead"), "")
        return list(range(low, high + 1)), lead

    def _pmf(self, name: str, v: object, args: Sequence[ast.Expr], value: ast.Expr, env: Env) -> float:
        if name == "categorical":
            probs = [float(self.eval(a, env)) for a in self._items(args[0], env)]
            data, _ = self._finite(value, env)
            return ln(probs[data.index(v)]) if v in data else LN0
        numbers = [self.eval(a, env) for a in args]
        match name:
            case "uniform":
                data = list(range(numbers[0], numbers[1] + 1)) if numbers else self._finite(value, env)[0]
                return ln(1 / len(data)) if v in data else LN0
            case "poisson":
                return ln(numbers[0] ** v * math.exp(-numbers[0]) / math.factorial(v)) if v >= 0 else LN0
            case "geometric":
                return ln((1 - numbers[0]) ** v * numbers[0]) if v >= 0 else LN0
            case "binomial":
                n, p = numbers
                return ln(math.comb(n, v) * p**v * (1 - p) ** (n - v)) if 0 <= v <= n else LN0
            case "bernoulli":
                return ln(numbers[0] if v == 1 else 1 - numbers[0]) if v in (0, 1) else LN0
            case "normal" | "beta":
                declared = self._latent(value, env)
                if declared is None or declared.kind != "real":
                    return ln(density(name, *numbers, v))
                half = declared.width / 2
                return ln(below(name, *numbers, v + half) - below(name, *numbers, v - half))
        raise AssertionError(name)

    def _items(self, expr: ast.Expr, env: Env) -> Sequence[ast.Expr]:
        while isinstance(expr, ast.Name):
            expr, env = env.lets[expr.id]
        return expr.items

    def _latent(self, expr: ast.Expr, env: Env) -> Declared | None:
        """The latent that an expression names, through lets."""
        while isinstance(expr, ast.Name) and expr.id in env.lets:
            expr, env = env.lets[expr.id]
        return env.latents.get(expr.id) if isinstance(expr, ast.Name) else None

    # ------------------------------------------------------------- language models

    def _lm(
        self, model: object, context: Sequence[ast.Expr], text: Sequence[ast.Expr], ends: bool, env: Env
    ) -> float:
        pieces = [p for e in context for p in self.pieces(e, env)]
        return self._score(model, self._start(model, pieces, env),
                           self._ids(model, [p for e in text for p in self.pieces(e, env)], env), ends)  # fmt: skip

    def _lm_text(self, model: object, context: Sequence[ast.Expr], text: str, env: Env) -> float:
        pieces = [p for e in context for p in self.pieces(e, env)]
        return self._score(model, self._start(model, pieces, env), model.tokenizer.encode(text), False)

    def _score(self, model: object, context: Ids, text: Ids, ends: bool) -> float:
        eos = len(model.tokenizer.tokens)
        total, ids = 0.0, context
        for token in (*text, eos) if ends else text:
            total += float(model.next_log_probs(ids)[token])
            ids = (*ids, token)
        return total

    def _start(self, model: object, pieces: Sequence[Piece], env: Env) -> Ids:
        """The context's tokens, begun as the tokenizer begins, or with bos by hand; never empty."""
        ids = self._ids(model, pieces, env)
        kept = [p for p in pieces if p.kind != "known" or p.text]
        if model.tokenizer.bos and not (kept and kept[0].kind == "bos"):
            ids = (len(model.tokenizer.tokens) + 1, *ids)
        return ids or (len(model.tokenizer.tokens),)

    def _ids(self, model: object, pieces: Sequence[Piece], env: Env) -> Ids:
        """Known neighbours joined; a latent as its own tokens where the tokenizer is its own."""
        tokenizer, ids, known = model.tokenizer, (), ""
        for p in (*pieces, None):
            if p is not None and p.kind == "known":
                known += p.text
                continue
            ids, known = ids + tokenizer.encode(known), ""
            if p is None:
                break
            if p.kind == "computed":
                ids += tokenizer.encode(p.text)
            elif p.kind == "latent":
                declared = self.found[p.text]
                own = declared.model.tokenizer
                same = (own.tokens, own.bos) == (tokenizer.tokens, tokenizer.bos)
                value = self.values[p.text]
                ids += value if same and declared.kind == "text" else tokenizer.encode(declared.text(value))
            else:
                ids += (len(tokenizer.tokens) + (p.kind == "bos"),)
        return ids

    # ------------------------------------------------------------- expressions

    def pieces(self, expr: ast.Expr, env: Env) -> list[Piece]:
        match expr:
            case ast.ListExpr(items=items):
                return [p for i in items for p in self.pieces(i, env)]
            case ast.Marker(kind=kind):
                return [Piece(kind)]
            case ast.Name(id=name) if name in env.lets:
                return self.pieces(*env.lets[name])
            case ast.Name(id=name) if name in env.latents:
                return [Piece("latent", env.latents[name].name)]
            case ast.Call(function=ast.Name(id="previous")):
                return self.pieces(*_before(expr, env))
            case ast.IfExpr() if not self.moves(expr.test, env):
                return self.pieces(expr.then if self.eval(expr.test, env) else expr.orelse, env)
        text = spell(self.eval(expr, env))
        return [Piece("computed" if self.moves(expr, env) else "known", text)]

    def moves(self, expr: object, env: Env) -> bool:
        """Whether an expression mentions a latent, through lets too."""
        match expr:
            case ast.Name(id=name) if name in env.lets:
                return self.moves(*env.lets[name])
            case ast.Name(id=name):
                return name in env.latents
            case ast.Call(function=ast.Name(id="previous")):
                return self.moves(*_before(expr, env))
            case ast.Node():
                return any(
                    self.moves(getattr(expr, a.name), env) for a in expr.__attrs_attrs__ if a.name != "span"
                )
            case tuple():
                return any(self.moves(e, env) for e in expr)
        return False

    def eval(self, expr: ast.Expr, env: Env) -> object:
        match expr:
            case ast.Literal(value=value):
                return value
            case ast.Name(id=name) if name in env.lets:
                return self.eval(*env.lets[name])
            case ast.Name(id=name) if name in env.latents:
                declared = env.latents[name]
                return declared.datum(self.values[declared.name])
            case ast.Name(id=name):
                return env.params[name]
            case ast.Field(row=row, column=column):
                return env.rows[row.id][column]
            case ast.Marker():
                return ""
            case ast.ListExpr():
                shown = []
                for p in self.pieces(expr, env):
                    latent = self.found[p.text] if p.kind == "latent" else None
                    shown.append(latent.text(self.values[p.text]) if latent else p.text)
                return "".join(shown)
            case ast.Unary(op=op, operand=operand):
                value = self.eval(operand, env)
                return (not value) if op == "not" else -value
            case ast.IfExpr():
                return self.eval(expr.then if self.eval(expr.test, env) else expr.orelse, env)
            case ast.Binary(op="and"):
                return self.eval(expr.left, env) and self.eval(expr.right, env)
            case ast.Binary(op="or"):
                return self.eval(expr.left, env) or self.eval(expr.right, env)
            case ast.Binary():
                return _binary(expr.op, self.eval(expr.left, env), self.eval(expr.right, env))
            case ast.Call(function=ast.Name(id="previous")):
                return self.eval(*_before(expr, env))
            case ast.Call(function=function, args=args):
                return self._call(function.id, args, env)
        raise AssertionError(expr)

    def _call(self, name: str, args: Sequence[ast.Expr], env: Env) -> object:
        if name == "log_prob":
            return self._dist(args[0], args[1], env)
        if name == "tokens":
            latent = self._latent(args[0], env)
            if latent is not None and latent.kind == "text":
                return len(self.values[latent.name])
            return len(next(iter(self.models.values())).tokenizer.encode(self.eval(args[0], env)))
        values = [self.eval(a, env) for a in args]
        match name:
            case "contains":
                return values[0].find(values[1]) >= 0
            case "starts_with":
                return values[0][: len(values[1])] == values[1]
            case "ends_with":
                return values[1] == "" or values[0][-len(values[1]) :] == values[1]
            case "count":
                return len(values[0].split(values[1])) - 1 if values[1] else 0
            case "words":
                return len(re.findall(r"\S+", values[0]))
            case "chars":
                return sum(1 for _ in values[0])
            case "matches":
                return bool(re.match(f"(?:{values[1]})\\Z", values[0]))
            case "similarity":
                a, b = (Counter(re.findall(r"\w+", v.lower())) for v in values)
                dot = sum(a[w] * b[w] for w in a.keys() & b.keys())
                size = math.hypot(*a.values()) * math.hypot(*b.values()) if a and b else 0.0
                return dot / size if size else 0.0
            case "abs":
                return values[0] if values[0] >= 0 else -values[0]
            case "min":
                return sorted(values)[0]
            case "max":
                return sorted(values)[-1]
            case "log":
                return ln(values[0])
            case "sigmoid":
                return 1 / (1 + math.exp(-values[0]))
            case "exp":
                return math.e ** values[0]
        raise AssertionError(name)


def _binary(op: str, a: object, b: object) -> object:
    match op:
        case "+":
            return a + b
        case "-":
            return a - b
        case "*":
            return a * b
        case "/":
            return a / b
        case "==":
            return a == b
        case "!=":
            return a != b
        case "<":
            return a < b
        case "<=":
            return a <= b
        case ">":
            return a > b
        case ">=":
            return a >= b
    raise AssertionError(op)


def spell(value: object) -> str:
    return value if isinstance(value, str) else repr(value)


def density(name: str, first: float, second: float, x: float) -> float:
    """Of `normal(mean, sd)`, and of `beta(a, b)` with whole a and b."""
    if name == "normal":
        return math.exp(-((x - first) ** 2) / (2 * second**2)) / (second * math.sqrt(2 * math.pi))
    whole = math.factorial(first - 1) * math.factorial(second - 1) / math.factorial(first + second - 1)
    return x ** (first - 1) * (1 - x) ** (second - 1) / whole if 0 <= x <= 1 else 0.0


def below(name: str, first: float, second: float, x: float) -> float:
    """The distribution function of the same; of a beta by the sum over a binomial's tail."""
    if name == "normal":
        return 0.5 * (1 + math.erf((x - first) / (second * math.sqrt(2))))
    n, x = first + second - 1, min(1.0, max(0.0, x))
    return sum(math.comb(n, j) * x**j * (1 - x) ** (n - j) for j in range(first, n + 1))


def _before(call: ast.Call, env: Env) -> tuple[ast.Expr, Env]:
    """What `previous(value, first)` stands for, and where."""
    value, first = call.args
    return (first, env) if env.before is None else (value, env.before)


def ln(p: float) -> float:
    return math.log(p) if p > 0 else LN0


def times(power: float, term: float) -> float:
    """A power of a term; probability zero stays zero."""
    return LN0 if term == LN0 else power * term


def add(terms: object) -> float:
    terms = list(terms)
    return LN0 if LN0 in terms else math.fsum(terms)


def log_sum(logs: object) -> float:
    logs = list(logs)
    top = max(logs, default=LN0)
    return top if top == LN0 else top + math.log(math.fsum(math.exp(x - top) for x in logs))


def leaves(body: Sequence[ast.Statement]) -> int:
    """How many statements in a body add a term."""
    total = 0
    for s in body:
        if isinstance(s, ast.Block):
            total += leaves(s.body)
        elif isinstance(s, ast.Latent | ast.Observe | ast.Prefer | ast.Factor | ast.Condition):
            total += 1
    return total
