"""Which terms of the log reward belong to which latent: its own distribution, and what else is known once it is.

A term is split at its sums (a plate's rows) and its fixed powers, so that what one row
observes is known before the next row's latent is drawn.
"""

from __future__ import annotations

import numpy as np
from attrs import frozen

from posterior_lm.graph.nodes import ChoiceScore, DistScore, Latent, LmScore, Node, Power, Segments, Sum
from posterior_lm.lang.diagnostics import InternalError
from posterior_lm.target.restrict import PrefixTests
from posterior_lm.target.target import Target
from posterior_lm.target.values import Values


@frozen
class Prior:
    """The score node of `latent z ~ d`, and the product of the powers around it."""

    node: int
    exponent: float
    lm: str | None
    """The model of a plain language-model prior; None for the other distributions."""


def prior_of(target: Target, name: str) -> Prior:
    """The prior of one latent of a bound program."""
    graph = target.graph
    base = name.split("[", 1)[0]
    for i, info in zip(graph.sink.inputs, graph.sink.terms, strict=True):
        if info.keyword == "latent" and info.about == base:
            found = _search(target, i, name, 1.0)
            if found is not None:
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
            b = float(target.evaluator.fixed_value(node.inputs[0]))  # type: ignore[arg-type]
            return _search(target, node.inputs[1], name, exponent * b)
        case LmScore() | ChoiceScore() | DistScore() if scores_alone(target, node, name):
            return Prior(i, exponent, node.lm if isinstance(node, LmScore) else None)
    return None


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
            b = float(target.evaluator.fixed_value(node.inputs[0]))  # type: ignore[arg-type]
            stack.append((node.inputs[1], exponent * b, term))
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


def on_the_way(target: Target) -> str | None:
    """What particles can be told before they are whole, in words that follow a comma; None where there is nothing."""
    for info in target.latents:
        if info.support is not target.evaluator.supports[info.name]:
            return f"a condition leaves `{info.name}` only some of the tokens"
        if info.type == "text" and not PrefixTests.of(target, info.name).empty:
            return f"a condition can rule out the beginnings of `{info.name}`"
    for info, stage in list(zip(target.latents, stages(target), strict=True))[:-1]:
        if stage.others:
            return f"`{info.name}` is weighed before the next latent is drawn"
    return None
