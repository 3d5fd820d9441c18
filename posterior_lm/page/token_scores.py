"""What a language model thinks of every token that a draw makes it score."""

from __future__ import annotations

import numpy as np
from attrs import frozen

from posterior_lm.graph.nodes import LmScore
from posterior_lm.lm.base import Request, Tokenizer
from posterior_lm.target.lm_scores import ScorePlan
from posterior_lm.target.target import Target
from posterior_lm.target.values import Values

MOST_TEXTS = 12
"""Texts of one draw that are shown: a plate over many rows has as many."""


@frozen
class Token:
    """A token as text, and its log-probability after what stands before it, in nats."""

    text: str
    log_prob: float


@frozen
class Reading:
    """One text that a model scored: the statement (its number and label), the tokens, end-of-text last if scored.

    `part` and `parts` count the texts of one statement; `left_out` those of the draw that are not shown.
    """

    term: int
    label: str
    lm: str
    tokens: tuple[Token, ...]
    part: int
    parts: int
    left_out: int = 0

    @property
    def log_prob(self) -> float:
        """The log-probability of the text, before any power or factor; nats."""
        return float(sum(token.log_prob for token in self.tokens))


def read_tokens(target: Target, values: Values, n: int) -> tuple[tuple[Reading, ...], ...]:
    """For each of n draws, the texts that its models score, in the order of the statements.

    What depends on no latent is left out, and of a distribution over a list of values
    there is nothing to read.
    """
    places = _places(target)
    left_out = max(0, len(places) - MOST_TEXTS)
    found: list[list[Reading]] = [[] for _ in range(n)]
    for term, node, part, parts in places[:MOST_TEXTS]:
        plan = target.evaluator.plan(node)
        label = target.statements[term].label
        for d, tokens in enumerate(_score(target, plan, values, n)):
            found[d].append(Reading(term, label, plan.lm, tokens, part, parts, left_out))
    return tuple(map(tuple, found))


def _places(target: Target) -> list[tuple[int, int, int, int]]:
    """(term, score node, its number within the term from 1, how many the term has), each node once."""
    graph = target.evaluator.graph
    seen: set[int] = set()
    places = []
    for term, root in enumerate(graph.sink.inputs):
        inside = graph.ancestors(root)
        nodes = [i for i in graph.order() if i in inside and i not in seen and i not in graph.fixed]
        nodes = [i for i in nodes if isinstance(graph[i], LmScore)]
        seen |= set(nodes)
        places += [(term, i, k, len(nodes)) for k, i in enumerate(nodes, start=1)]
    return places


def _score(target: Target, plan: ScorePlan, values: Values, n: int) -> list[tuple[Token, ...]]:
    """(n,) the tokens of one score node for every draw."""
    evaluator = target.evaluator
    speller, model = evaluator.spellers[plan.lm], target.models[plan.lm]
    columns = {i: evaluator.node(i, values, n) for i in plan.computed}
    spelt = [
        plan.spell(speller, lambda name, d=d: values[name][d], lambda i, d=d: str(columns[i][d]))  # type: ignore[misc]
        for d in range(n)
    ]
    scores = model.score([Request(s.ids, len(s.context), s.shared) for s in spelt])
    found = []
    for one, score in zip(spelt, scores, strict=True):
        tokens = [
            Token(*pair)
            for pair in zip(_texts(model.tokenizer, one.text), _floats(score.tokens), strict=True)
        ]
        if plan.ends:
            tokens.append(Token("end of text", float(score.eos[len(one.text)])))
        found.append(tuple(tokens))
    return found


def _floats(numbers: np.ndarray) -> list[float]:
    return [float(x) for x in numbers]


def _texts(tokenizer: Tokenizer, ids: tuple[int, ...]) -> list[str]:
    """Each token's bytes as text; a part of a character is spelled `\\x` and two digits."""
    spelled = (tokenizer.token_bytes[i] for i in ids)
    return [
        tokenizer.decode([i]) or f"<{i}>" if b is None else b.decode("utf-8", "backslashreplace")
        for i, b in zip(ids, spelled, strict=True)
    ]
