"""The numbers of a page, and the heaviest draws token by token.

A posterior, its program bound to data, every term of its draws, and what a model thinks of every token that a draw
makes it score, as its shade.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from attrs import frozen

from posterior_lm.graph.nodes import LmScore
from posterior_lm.graph.ops import spelled
from posterior_lm.lang.diagnostics import DataError
from posterior_lm.lm.protocol import Request, Tokenizer
from posterior_lm.report.markup import Html, el, join, number, share, text_span
from posterior_lm.target.scores import ScorePlan
from posterior_lm.target.target import Target
from posterior_lm.target.values import Values, distinct, take

if TYPE_CHECKING:
    from posterior_lm.api.posterior import Posterior

MOST_SCORED = 5000
"""Distinct draws whose terms are computed; the heaviest, where there are more."""
SHOWN = 10
"""Draws that are shown token by token and term by term."""
_TOLERANCE = 0.05
"""Nats that a log reward may move when it is computed again in batches of another size, in 16-bit floats."""


@frozen
class Heavy:
    """A distinct token sequence among the draws: its first draw, and the weight of all its draws."""

    draw: int
    weight: float


@frozen(eq=False)
class Terms:
    """(K,) mean, standard deviation, 5 % and 95 % quantile of every term under the posterior, in nats.

    `covered` is the posterior weight of the draws that were scored; `shown` (M, K) has the
    terms of the heaviest draws.
    """

    mean: np.ndarray
    sd: np.ndarray
    low: np.ndarray
    high: np.ndarray
    covered: float
    shown: np.ndarray


@frozen(eq=False)
class Facts:
    """One posterior as a page shows it; `row` is its number in a data file."""

    posterior: Posterior
    target: Target
    given: Mapping[str, object]
    row: int | None
    heavy: tuple[Heavy, ...]
    terms: Terms
    readings: tuple[tuple[Reading, ...], ...]
    """For each shown draw, what its models read token by token."""


def gather(target: Target, posterior: Posterior, row: int | None = None) -> Facts:
    """Scores the draws term by term and the heaviest ones token by token.

    Raises DataError PLM740 where the posterior is one of another program, of other data
    or of another model than the target's.
    """
    if posterior.fingerprint != target.program.fingerprint:
        raise _other(f"another program: its fingerprint is {posterior.fingerprint[:12]}, not "
                     f"{target.program.fingerprint[:12]}")  # fmt: skip
    heavy = heaviest(posterior)
    scored = heavy[:MOST_SCORED]
    first = [h.draw for h in scored]
    terms = target.terms(take(posterior.draws.values, first))
    off = np.abs(terms.sum(axis=1) - posterior.draws.log_reward[first])
    if len(off) and not float(off.max()) <= _TOLERANCE:
        raise _other(f"other data or models: a log reward is off by {float(off.max()):.3g} nats")
    shown = heavy[:SHOWN]
    return Facts(
        posterior=posterior,
        target=target,
        given=dict(target.data),
        row=row,
        heavy=heavy,
        terms=_terms(terms, np.array([h.weight for h in scored])),
        readings=read_tokens(target, take(posterior.draws.values, [h.draw for h in shown]), len(shown)),
    )


def heaviest(posterior: Posterior) -> tuple[Heavy, ...]:
    """The distinct token sequences with a positive weight, heaviest first."""
    alive = np.flatnonzero(posterior.weights > 0)
    first, where = distinct(posterior.draws.values, alive.tolist())
    mass = np.bincount(where, weights=posterior.weights[alive]).tolist()
    return tuple(
        Heavy(d, w) for d, w in sorted(zip(first, mass, strict=True), key=lambda item: (-item[1], item[0]))
    )


def _terms(terms: np.ndarray, weights: np.ndarray) -> Terms:
    covered = float(weights.sum())
    w = weights[:, None] / covered
    mean = (w * terms).sum(axis=0)
    sd = np.sqrt((w * (terms - mean) ** 2).sum(axis=0))
    low, high = (_quantile(terms, weights / covered, q) for q in (0.05, 0.95))
    return Terms(mean, sd, low, high, min(1.0, covered), terms[:SHOWN])


def _quantile(columns: np.ndarray, weights: np.ndarray, q: float) -> np.ndarray:
    """(K,) the least value of each column (N, K) below or at which at least a share q of the weight lies."""
    found = []
    for column in columns.T:
        order = np.argsort(column, kind="stable")
        at = int(np.searchsorted(np.cumsum(weights[order]), q - 1e-12))
        found.append(column[order[min(at, len(order) - 1)]])
    return np.array(found)


def _other(what: str) -> DataError:
    return DataError.of(
        "PLM740",
        f"these draws are of {what}",
        help="report a posterior with the query that it was drawn with",
    )


# ---- the heaviest draws token by token

SHADES = (0.5, 0.2, 0.05, 0.01, 0.001)
"""Least probability of each shade but the last; the less likely, the stronger the shade."""


def tokens_view(facts: Facts) -> Html:
    """The legend, and a card for each of the heaviest draws: its terms and what was read token by token."""
    cards = [_card(facts, k) for k in range(len(facts.readings))]
    shaded = any(facts.readings)
    return join([legend() if shaded else None, *cards])


def _card(facts: Facts, shown: int) -> Html:
    """One draw: the statements whose texts a model reads, each with its tokens, then the others."""
    heavy, readings, terms = facts.heavy[shown], facts.readings[shown], facts.terms
    read, others = [], []
    for k, info in enumerate(facts.target.statements):
        value, mean = float(terms.shown[shown, k]), float(terms.mean[k])
        off = f"{number(abs(value - mean), 2)} {'above' if value > mean else 'below'} its mean over the draws"
        said = el("b", number(value, 2), title=off)
        texts = [_reading(r, value) for r in readings if r.term == k]
        if texts:
            read.append(el("dt", el("code", info.label), " ", said))
            read.append(el("dd", *texts))
        else:
            others.append(el("li", el("code", info.label), " ", said))
    rest = readings[0].left_out if readings else 0
    more = el("p", f"\u2026 and {rest} more texts that the models scored.", class_="faint") if rest else None
    total = number(float(terms.shown[shown].sum()), 2)
    title = el("h4", el("span", f"{shown + 1}", class_="rank"), f"weight {share(heavy.weight)}",
               el("span", f"log reward {total}", class_="faint"), *_finite(facts, heavy.draw))  # fmt: skip
    return el("article", title, el("dl", *read), more, el("ul", *others) if others else None, class_="draw")


def _finite(facts: Facts, draw: int) -> list[Html]:
    """The values of latents of finite types, which no model may read token by token."""
    values = facts.posterior.draws.values
    listed = [info.name for info in facts.target.latents if info.type != "text"]
    if not listed:
        return []
    return [
        el("span", el("code", name), " = ", text_span(spelled(values[name][draw].datum))) for name in listed
    ]


def legend() -> Html:
    """What each shade stands for."""
    labels = ["\u2265 50%", "20\u201350%", "5\u201320%", "1\u20135%", "0.1\u20131%",
              "< 0.1%"]  # fmt: skip
    items = [el("li", el("span", label, class_=f"tok s{k}")) for k, label in enumerate(labels)]
    what = (
        "The model\u2019s probability of each token after what stands before it, before any power or factor:"
    )
    return el("div", el("p", what), el("ul", *items, class_="legend"), class_="token-legend")


def shade(log_prob: float) -> int:
    """The number of a token's shade: 0 for likely ones, 5 for those below one in a thousand."""
    p = math.exp(log_prob)
    return next((k for k, least in enumerate(SHADES) if p >= least), len(SHADES))


def _reading(reading: Reading, term: float) -> Html:
    """A text's tokens; its own log-probability too where that is not the whole term."""
    whole = reading.parts == 1 and abs(reading.log_prob - term) < 0.005
    part = f"text {reading.part} of {reading.parts}, " if reading.parts > 1 else ""
    said = (
        None
        if whole
        else el("span", f"{part}{number(reading.log_prob, 2)} under {reading.lm}", class_="faint")
    )
    return el("div", *map(_token, reading.tokens), " " if said else None, said, class_="tokens")


def _token(token: Token) -> Html:
    p = math.exp(token.log_prob)
    shown = f"{p:.3g}" if p >= 0.001 else f"{p:.1e}"
    title = f"p = {shown}, {number(token.log_prob, 2)} nats"
    return el(
        "span", token.text.replace("\n", "\u21b5\n"), class_=f"tok s{shade(token.log_prob)}", title=title
    )


# ---- what is read token by token

END_OF_TEXT = "end of text"
"""What stands for it where it is scored."""
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
            for pair in zip(_texts(model.tokenizer, one.text), map(float, score.tokens), strict=True)
        ]
        if plan.ends:
            tokens.append(Token(END_OF_TEXT, float(score.eos[len(one.text)])))
        found.append(tuple(tokens))
    return found


def _texts(tokenizer: Tokenizer, ids: tuple[int, ...]) -> list[str]:
    """Each token's bytes as text; a part of a character is spelled `\\x` and two digits."""
    spelled = (tokenizer.token_bytes[i] for i in ids)
    return [
        tokenizer.decode([i]) or f"<{i}>" if b is None else b.decode("utf-8", "backslashreplace")
        for i, b in zip(ids, spelled, strict=True)
    ]
