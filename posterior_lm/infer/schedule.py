"""Which terms of the log reward belong to which latent: its own distribution, and what else is known once it is.

A term is split at its sums (a plate's rows) and its fixed powers, so that what one row
observes is known before the next row's latent is drawn.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from attrs import evolve, frozen

from posterior_lm.graph.nodes import ChoiceScore, DistScore, Latent, LmScore, Mix, Node, Power, Segments, Sum
from posterior_lm.lang.diagnostics import InferenceError, InternalError
from posterior_lm.target.functions import is_nan, share
from posterior_lm.target.restrict import PrefixTests
from posterior_lm.target.target import Target
from posterior_lm.target.values import Values


@frozen
class Part:
    """A score that a latent may be drawn from, and the powers around it inside the mixture."""

    node: int
    exponent: float
    lm: str | None
    """The model of a language model; None of the other distributions."""
    shares: tuple[tuple[int, bool], ...] = ()
    """The `Mix` nodes around it, outermost first, and whether it is in the first part of each."""


@frozen
class Prior:
    """The node of `latent z ~ d`, the product of the powers around it, and what d is made of.

    Of a product of distributions the node is that of the first factor.
    """

    node: int
    exponent: float
    parts: tuple[Part, ...]
    """One, or those of a mixture."""
    adds_up: bool = True
    """Whether the parts with their shares and powers make up all of the node."""

    @property
    def lm(self) -> str | None:
        """The model that a text is drawn from; None for several parts, and for the other distributions."""
        return self.parts[0].lm if len(self.parts) == 1 else None

    @property
    def score(self) -> int:
        """The score of the first part."""
        return self.parts[0].node

    @property
    def power(self) -> float:
        """That of the only part; 1 where the target's is not positive."""
        power = self.exponent * self.parts[0].exponent
        return power if power > 0 else 1.0

    def log_shares(self, target: Target, drawn: Values, n: int) -> np.ndarray:
        """(N, parts) the log of each part's share after the latents that are drawn, nats."""
        out = np.zeros((n, len(self.parts)))
        shares = {i for part in self.parts for i, _ in part.shares}
        for i in shares:
            w = target.graph[i].inputs[0]
            column = target.evaluator.node(w, drawn, n)
            # Not a number is for the target to report, of draws that have the latent.
            first = np.array(
                [1.0 if is_nan(value) else share(value, target.graph[i].span) for value in column]
            )
            with np.errstate(divide="ignore"):
                logs = {True: np.log(first), False: np.log1p(-first)}
            for k, part in enumerate(self.parts):
                for one, side in part.shares:
                    out[:, k] += logs[side] if one == i else 0.0
        return out


def prior_of(target: Target, name: str) -> Prior:
    """The prior of one latent of a bound program.

    Raises InferenceError PLM540 where a text is drawn from models of different tokens.
    """
    graph = target.graph
    for i, info in zip(graph.sink.inputs, graph.sink.terms, strict=True):
        if info.draws(name):
            found = _search(target, i, name, 1.0)
            if found is not None:
                if len(found.parts) > 1:
                    _check_tokens(target, name, found)
                return found
    raise InternalError(f"`{name}` has no prior")


def _search(target: Target, i: int, name: str, exponent: float) -> Prior | None:
    node = target.graph[i]
    match node:
        case Sum():
            for j in node.inputs:
                found = _search(target, j, name, exponent)
                if found is not None:
                    return found
            return None
        case Power():
            return _search(target, node.inputs[1], name, exponent * _fixed(target, node.inputs[0]))
        case Mix():
            latent = next(one for _, one in target.graph.latents() if one.name == name)
            branch = latent.when == node.inputs[0]  # its own term is what is in it, and 0 elsewhere
            parts = _parts(target, node.inputs[1] if branch else i)
            if not all(scores_alone(target, target.graph[part.node], name) for part in parts):
                return None
            set_aside = any(tool.output == "intervene" for tool in latent.tools)
            whole = not any(isinstance(target.graph[j], Sum) for j in _inside(target, i))
            whole = whole and all(part.exponent > 0 for part in parts)
            return Prior(i, exponent, parts, whole and not (set_aside and len(parts) > 1))
        case LmScore() | ChoiceScore() | DistScore() if scores_alone(target, node, name):
            return alone(target, i, exponent)
    return None


def alone(target: Target, i: int, exponent: float = 1.0) -> Prior:
    """A score node as what a latent is drawn from."""
    return Prior(i, exponent, _parts(target, i))


def _fixed(target: Target, i: int) -> float:
    return float(target.evaluator.fixed_value(i))  # type: ignore[arg-type]


def _parts(target: Target, i: int) -> tuple[Part, ...]:
    """What a mixture is made of, without what is known to have no share; of a product its first factor."""
    node = target.graph[i]
    match node:
        case Sum():
            return _parts(target, node.inputs[0])
        case Power():
            b = _fixed(target, node.inputs[0])
            return tuple(evolve(part, exponent=part.exponent * b) for part in _parts(target, node.inputs[1]))
        case Mix():
            sides = {True: node.inputs[1], False: node.inputs[2]}
            if node.inputs[0] in target.graph.fixed:
                w = share(target.evaluator.fixed_value(node.inputs[0]), node.span)
                if w in (0, 1):
                    return _parts(target, sides[w == 1])
            return tuple(
                evolve(part, shares=((i, side), *part.shares))
                for side, j in sides.items()
                for part in _parts(target, j)
            )
    return (Part(i, 1.0, node.lm if isinstance(node, LmScore) else None),)


def _inside(target: Target, i: int) -> Iterator[int]:
    """The nodes between a mixture and its scores."""
    yield i
    node = target.graph[i]
    for j in node.inputs[0 if isinstance(node, Sum) else 1 :] if isinstance(node, Mix | Power | Sum) else ():
        yield from _inside(target, j)


def _check_tokens(target: Target, name: str, prior: Prior) -> None:
    info = next(one for one in target.latents if one.name == name)
    lms = {part.lm for part in prior.parts if part.lm is not None}
    if hasattr(info.support, "ids_of") or len({target.models[lm].tokenizer.digest for lm in lms}) < 2:
        return
    shown = " and ".join(f"`{lm}`" for lm in sorted(lms))
    raise InferenceError.of(
        "PLM540",
        f"`{name}` cannot be drawn from {shown} in turn: they have different tokens",
        target.graph[prior.node].span,
        "a text is drawn token by token",
        help="draw it from one of them, and score it with the other in a factor",
    )


def scores_alone(target: Target, node: Node, name: str) -> bool:
    """Whether a score node scores the value of one latent, whole and nothing beside it."""
    graph = target.graph
    value = graph[node.inputs[0 if isinstance(node, DistScore) else 1]]
    if isinstance(value, Segments):
        if len(value.inputs) != 1:
            return False
        value = graph[value.inputs[0]]
    return isinstance(value, Latent) and value.name == name


# ---------------------------------------------------------------- what is known when


@frozen
class Atom:
    """A summand of the log reward: `exponent` × the value of `node`, which the statement `term` adds."""

    node: int
    exponent: float
    term: int


@frozen(eq=False)
class Stage:
    """What becomes known with one latent: its own distribution, and everything else that then can be computed.

    `tests` are those of the others that need no model, so a false one is found for nothing.
    """

    prior: Atom
    others: tuple[Atom, ...]
    tests: tuple[Atom, ...]


def stages(target: Target) -> tuple[Stage, ...]:
    """One stage per latent, in order. What depends on no latent is in none."""
    graph = target.graph
    place = {info.node: k for k, info in enumerate(target.latents)}
    own = {prior_of(target, name).node: k for k, name in enumerate(target.names)}
    priors: dict[int, Atom] = {}
    others: list[list[Atom]] = [[] for _ in target.latents]
    stack = [(i, 1.0, k) for k, i in enumerate(graph.sink.inputs)]
    while stack:
        i, exponent, term = stack.pop()
        node = graph[i]
        if isinstance(node, Sum):
            stack += [(j, exponent, term) for j in node.inputs]
        elif isinstance(node, Power) and node.inputs[0] in graph.fixed:
            stack.append((node.inputs[1], exponent * _fixed(target, node.inputs[0]), term))
        elif (reads := [place[j] for j in graph.ancestors(i) if j in place]) and i not in graph.fixed:
            atom = Atom(i, exponent, term)
            # Another statement may read a prior's node too, and there it is no prior.
            if i in own and graph.sink.terms[term].keyword == "latent":
                priors[own[i]] = atom
            else:
                others[max(reads)].append(atom)
    return tuple(
        Stage(
            priors[k], tuple(reversed(mine)), tuple(a for a in reversed(mine) if _needs_no_model(target, a))
        )
        for k, mine in enumerate(others)
    )


def _needs_no_model(target: Target, atom: Atom) -> bool:
    return not any(
        isinstance(target.graph[j], LmScore | ChoiceScore) for j in target.graph.ancestors(atom.node)
    )


def log_terms(
    target: Target, atoms: tuple[Atom, ...], values: Values, n: int
) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """(N, K) nats that the atoms add, by statement; and the scores computed for it, by node (N,)."""
    columns = target.evaluator.some([a.node for a in atoms], values, n)
    out = np.zeros((n, len(target.statements)))
    for atom in atoms:
        column = np.array(columns[atom.node], dtype=np.float64)
        # A term of −inf stays so whatever its power, even 0.
        out[:, atom.term] += np.where(np.isneginf(column), -np.inf, atom.exponent * np.nan_to_num(column))
    scores = {
        i: np.array(column, dtype=np.float64)
        for i, column in columns.items()
        if isinstance(target.graph[i], LmScore | ChoiceScore)
    }
    return out, scores


MASKS = {"pattern", "grammar", "json", "chars"}
"""Options of a type that leave a text some of the tokens: how much of the model's mass they are tells particles apart."""


def on_the_way(target: Target) -> str | None:
    """What particles can be told before they are whole, in words that follow a comma; None where there is nothing."""
    for info in target.latents:
        if info.support is not target.evaluator.supports[info.name]:
            return f"a condition leaves `{info.name}` only some of the tokens"
        latent = target.graph[info.node]
        assert isinstance(latent, Latent)
        if latent.tools or MASKS & {*latent.options}:
            return f"the type of `{info.name}` allows only some of the tokens"
        if info.type == "text" and not PrefixTests.of(target, info.name).empty:
            return f"a condition can rule out the beginnings of `{info.name}`"
    for info, stage in list(zip(target.latents, stages(target), strict=True))[:-1]:
        if stage.others:
            return f"`{info.name}` is weighed before the next latent is drawn"
    return None
