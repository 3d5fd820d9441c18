"""The trained terms of draws as sequences of tokens, and their log-probability with gradients.

A target gives numbers; an M-step needs their gradient too. A term is a sum of scores, each
times the powers around it, so it is enough to know each score's tokens:

    score(i)  = Σ_t log p_θ(text_t | context, text_<t), and end-of-text where the text ends with it;
    choice(i) = b score(v) − log Σ_u exp(b score(u)) over the values u of a finite type.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from attrs import frozen
from torch import Tensor

from posterior_lm.em.split_model import trained_scores
from posterior_lm.graph.nodes import ChoiceScore, LmScore
from posterior_lm.graph.ops import spelled
from posterior_lm.lang.diagnostics import InferenceError
from posterior_lm.lm.hf.packed import token_log_probs
from posterior_lm.lm.hf.transformers import TransformersModel
from posterior_lm.target.target import Target
from posterior_lm.target.values import Value, Values, count


@frozen
class Line:
    """A text after a context, as tokens; `ends`: end-of-text after it is scored too.

    `left_out` says which tokens do not count, () where all do: what a tool wrote may not.
    """

    context: tuple[int, ...]
    ids: tuple[int, ...]
    ends: bool = False
    left_out: tuple[bool, ...] = ()


@frozen
class Part:
    """`power` times the score of the picked line; with `others`, renormalised over all of them.

    `inner` is the power of the model inside a `choice`.
    """

    power: float
    lines: tuple[Line, ...]
    picked: int = 0
    renormalised: bool = False
    inner: float = 1.0


Term = tuple[Part, ...]
"""What one draw's trained terms are the sum of."""


def trained_terms(target: Target, values: Values, alias: str) -> list[Term]:
    """For each of N draws the parts that the model `alias` scores, of every statement of the program.

    Raises InferenceError PLM793 where a power is negative: then a higher likelihood would lower the bound,
    and the M-step has no maximum.
    """
    n = count(values)
    graph, evaluator = target.graph, target.evaluator
    scores = list(trained_scores(graph, alias))
    wanted: set[int] = set()
    for i, powers in scores:
        node = graph[i]
        wanted |= {*powers}
        if isinstance(node, LmScore):
            wanted |= {*evaluator.plan(i).computed}
        else:
            wanted |= {*node.inputs[1:]}
            wanted |= {p.node for p in evaluator.segments(node.inputs[0]) if hasattr(p, "node")}
    columns = evaluator.some(tuple(sorted(wanted)), values, n)
    found = []
    for d in range(n):

        def latent(name: str, d: int = d) -> Value:
            return values[name][d]

        def computed(node: int, d: int = d) -> str:
            return spelled(columns[node][d])

        parts = []
        for i, powers in scores:
            power = 1.0
            for exponent in powers:
                power *= float(columns[exponent][d])
            if power == 0:
                continue  # of a branch that is not taken there is nothing to read
            if power < 0:
                raise _negative(target, i, power)
            parts.append(_part(target, i, power, d, columns, latent, computed))
        found.append(tuple(parts))
    return found


def _part(
    target: Target, i: int, power: float, d: int, columns: Mapping[int, list], latent, computed
) -> Part:  # fmt: skip
    node, evaluator = target.graph[i], target.evaluator
    if isinstance(node, LmScore):
        plan = evaluator.plan(i)
        tokens = plan.spell(evaluator.spellers[plan.lm], latent, computed)
        return Part(power, (Line(tokens.context, tokens.text, plan.ends, tokens.left_out),))
    assert isinstance(node, ChoiceScore)
    speller = evaluator.spellers[node.lm]
    ids, empty = speller.context(evaluator.segments(node.inputs[0]), latent, computed)
    listed = evaluator.candidates(node, columns, d)
    drawn = target.graph[node.inputs[1]].KIND == "latent"  # never has a dummy prefix
    texts = [speller.text(listed.spelling(k), first=empty and not drawn) for k in range(listed.size)]
    picked = listed.number(columns[node.inputs[1]][d])
    assert picked is not None
    inner = float(columns[node.inputs[-1]][d]) if node.powered else 1.0
    return Part(power, tuple(Line(ids, t) for t in texts), picked, True, inner)


def _negative(target: Target, i: int, power: float) -> InferenceError:
    return InferenceError.of(
        "PLM793",
        f"a trained term has the power {power:g}, and the M-step would lower its probability without end",
        target.graph[i].span,
        "this score",
        help="give the observed statement a positive power",
    )


# ------------------------------------------------------------------------------- log-probabilities


def log_probs(model: TransformersModel, terms: Sequence[Term], *, columns: int = 1 << 13) -> Tensor:
    """(N,) float64 nats with gradient: each term's log-probability. Equal lines are scored once.

    `columns` bounds the tokens of one forward pass, padding included.
    """
    places: dict[Line, int] = {}
    for term in terms:
        for part in term:
            for line in part.lines:
                places.setdefault(line, len(places))
    scores = _line_scores(model, list(places), columns)
    rows = []
    for term in terms:
        total = scores.new_zeros(())
        for part in term:
            mine = part.inner * torch.stack([scores[places[line]] for line in part.lines])
            value = mine[part.picked]
            if part.renormalised:
                value = value - torch.logsumexp(mine, dim=0)
            total = total + part.power * value
        rows.append(total)
    return torch.stack(rows)


def _line_scores(model: TransformersModel, lines: Sequence[Line], columns: int) -> Tensor:
    """(L,) float64 log-probability of each line; contexts that begin alike are computed once, as for a guide."""
    forward = model._forward
    out = torch.zeros(len(lines), dtype=torch.float64, device=forward.device)
    read = [(line.context, line.ids, len(line.ids) + line.ends) for line in lines]
    for numbers, places in model.read(read, columns=columns):
        token: list[int] = []
        ends: list[bool] = []
        counts: list[bool] = []
        owner: list[int] = []
        for n in numbers:
            line = lines[n]
            size = len(line.ids)
            token += [*line.ids, *[0] * line.ends]
            ends += [*[False] * size, *[True] * line.ends]
            counts += [*(not out for out in line.left_out or [False] * size), *[True] * line.ends]
            owner += [n] * (size + line.ends)
        found, stop = token_log_probs(places, forward.tensor(token), model.tokenizer.eos_ids)
        found = torch.where(torch.as_tensor(ends, device=forward.device), stop, found)
        found = torch.where(torch.as_tensor(counts, device=forward.device), found.double(), 0.0)
        out = out.index_add(0, forward.tensor(owner), found)
    return out
