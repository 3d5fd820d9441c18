"""Answers of a type without a list of values: they are drawn, then scored under every draw.

Answers y_r are drawn after latents z_r that are resampled by their weights. The distinct
ones are the values; the program's terms score each of them under all draws, as they do
listed values, so p(y) is exact but for the latents and for the answers that were not
drawn. Their share is estimated from answers that only one draw gave (Good 1953), each
with its importance weight:

    other = U / (A + U),   A = Σ_i w_i Σ_y t_i(y),
    U = 1/R Σ_r t_r(y_r) / g_r(y_r)  over the r whose answer no other draw gave,

which has the expectation of what R − 1 draws leave out. g is the probability of drawing
the answer; one whose tokens are not those that the program scores counts 0. Intervals
take in what this estimate can err by.

Drawing proposes; the program's own terms, in which the answer and the known text around
it are tokenised together, say what an answer is worth. So the last token of the text
before the answer is taken back and drawn again with it (" The answer is " ends in a
lone space, and "7" is spelled " 7").
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import evolve, frozen

from posterior_lm.graph.graph import ParamSpec
from posterior_lm.graph.nodes import LmScore
from posterior_lm.graph.ops import spelled
from posterior_lm.infer.choosers import Sample
from posterior_lm.infer.methods import DRAWS
from posterior_lm.infer.request import Request
from posterior_lm.infer.rollout import roll_out
from posterior_lm.infer.weights import Z90, logsumexp, normalize
from posterior_lm.lang.diagnostics import CompileError, InferenceError, at
from posterior_lm.lm.protocol import Tokenizer
from posterior_lm.predict.by_draws import Kept, averaged, draw_without, gains, nothing_possible
from posterior_lm.predict.prediction import Datum, Prediction, Vote
from posterior_lm.predict.terms import Place, place_of
from posterior_lm.support.base import Support
from posterior_lm.support.build import build_support
from posterior_lm.support.spec import DEFAULT_TOKENS, TextSpec
from posterior_lm.target.prepared import Data, PreparedProgram
from posterior_lm.target.segments import Known, Speller
from posterior_lm.target.target import Target
from posterior_lm.target.values import Value, Values, take

if TYPE_CHECKING:
    from posterior_lm.infer.draws import Draws

MOST_ANSWERS = 64
"""Distinct answers that are scored under every draw, those drawn most often."""
MOST_RARE = 64
"""Answers beyond these that are scored under their own draw, to estimate the share of all of them."""


def by_drawn_answers(
    program: PreparedProgram, request: Request, param: ParamSpec, data: Data,
    n: int | None, vote: Vote, ask: Mapping[str, Any],
) -> Prediction:  # fmt: skip
    """The prediction of a text or of an int without bounds. Raises PLM807 where nothing says where it ends."""
    name = param.name
    own_end = param.type == "text" and "stop" in dict(param.options)
    place = place_of(program.graph, name, data, ended=own_end)
    if place is None:
        raise _endless(param)
    posterior = draw_without(program, request, name, data, n, ask)
    draws = posterior.draws
    rng = np.random.default_rng(ask["seed"]).spawn(1)[0]
    rows = _resampled(draws, rng, n or (DRAWS if draws.exact else len(draws)))
    bound = program.part(place.before).bind_valid({})
    answers = draw_answers(bound, place, param, draws.values, rows, rng)
    counts = Counter(a.value for a in answers if a.value is not None)
    if not counts:
        raise nothing_possible(name)
    values = _in_order(counts)[:MOST_ANSWERS]
    gained = gains(program, name, values, data, draws)
    possible = np.isfinite(gained).any(axis=0)
    if not possible.any():
        raise nothing_possible(name)
    values = [value for value, one in zip(values, possible, strict=True) if one]
    gained = gained[:, possible]
    kept = _kept(program, name, data, draws, rows, answers, values, gained, counts, rng)
    return averaged(name, values, gained, posterior, vote, kept)


def _endless(param: ParamSpec) -> InferenceError:
    return InferenceError.of(
        "PLM807",
        f"no language model writes `{param.name}` where its end is known, so it cannot be drawn",
        param.span,
        where=param.name,
        help=f'observe it with what follows, as in observe [{param.name}, "."] ~ ..., or with eos; '
        "or give it a type that lists its values, such as int(0..99)",
    )


def _resampled(draws: Draws, rng: np.random.Generator, n: int) -> list[int]:
    """n rows of the draws by weight, systematically (Kitagawa 1996)."""
    cumulated = np.cumsum(draws.normalized_weights)
    cumulated[-1] = max(1.0, cumulated[-1])
    at = (rng.random() + np.arange(n)) / n
    return np.searchsorted(cumulated, at, side="right").clip(0, len(draws) - 1).tolist()


def _in_order(counts: Counter[Any]) -> list[Datum]:
    """Most often drawn first; of equally many, numbers by size and texts by their letters."""
    return [value for value, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]


def _kept(
    program: PreparedProgram, name: str, data: Data, draws: Draws, rows: Sequence[int],
    answers: Sequence[Answer], values: Sequence[Datum], gained: np.ndarray, counts: Counter[Any],
    rng: np.random.Generator,
) -> Kept:  # fmt: skip
    """The share of all answers that the values have, with a 90 % interval."""
    place = {value: v for v, value in enumerate(values)}
    with np.errstate(divide="ignore"):
        listed = logsumexp((np.log(normalize(draws.log_weights))[:, None] + gained).reshape(-1))
    weights = np.zeros(len(answers))  # t / (g A) of each drawn answer
    rare: list[int] = []
    for r, answer in enumerate(answers):
        if answer.value in place and answer.direct:
            weights[r] = np.exp(gained[rows[r], place[answer.value]] - answer.log_prob - listed)
        elif answer.value is not None and answer.direct:
            rare.append(r)
    picked = rng.permutation(rare)[:MOST_RARE].tolist() if rare else []
    for r in picked:
        one = evolve(
            draws,
            values={latent: (column[rows[r]],) for latent, column in draws.values.items()},
            log_weights=np.zeros(1),
            log_reward=draws.log_reward[[rows[r]]],
        )
        score = gains(program, name, [answers[r].value], data, one)[0, 0]  # type: ignore[list-item]
        weights[r] = np.exp(score - answers[r].log_prob - listed) * len(rare) / len(picked)
    outside = np.array([a.value not in place or counts[a.value] == 1 for a in answers])
    lone = np.where(outside, weights, 0.0)
    ratio = float(lone.mean())
    error = Z90 * float(lone.std()) / math.sqrt(len(answers))
    # A share that as many draws as these weights are worth may all have missed, as in `intervals`.
    worth = float(weights.sum() ** 2 / max(np.sum(weights**2), 1e-300))
    most = ratio + error + 0.1 ** (-1 / max(worth, 1.0)) - 1
    return Kept(1 / (1 + ratio), 1 / (1 + most), 1 / (1 + max(0.0, ratio - error)))


# ------------------------------------------------------------------------------- drawing

INT_TOKENS = 24
"""Tokens of an integer at most, the text that ends it included."""
LONG_END = 4
"""Text behind the answer of more tokens than this is not drawn to its end: its first token ends the answer."""
WHOLE = r"0|-?[1-9][0-9]{0,17}"
"""The one spelling of an integer: no sign of 0, no leading zeros; at most 18 digits are drawn."""


@frozen
class Answer:
    """One drawn answer, None where it is no value of the type; `log_prob` of drawing it, nats.

    `direct` where its tokens are those that the program scores.
    """

    value: str | int | None
    log_prob: float
    direct: bool


@frozen
class _Head:
    """What stands before the answer of one draw.

    `ids` are the tokens that drawing goes on from; `known` those of the scored text among
    them; `back` the text of the token that was taken back; `spell` gives the tokens of the
    scored text with something behind it.
    """

    ids: tuple[int, ...]
    known: tuple[int, ...]
    back: str
    spell: Callable[[str], tuple[int, ...]]


def draw_answers(
    bound: Target, place: Place, param: ParamSpec, values: Values, rows: Sequence[int], rng: np.random.Generator
) -> list[Answer]:  # fmt: skip
    """One answer after each of the draws `rows` of the latents; `bound` is the place's own program.

    Raises InferenceError PLM809 where the model's tokens spell no value of the type.
    """
    model = bound.models[place.lm]
    heads = _heads(bound, place, values, sorted(set(rows)))
    found: dict[int, Answer] = {}
    for back in sorted({head.back for head in heads.values()}):
        mine = [r for r, row in enumerate(rows) if heads[row].back == back]
        support, end = support_of(param, place, back, model.tokenizer)
        with at(place.span, "the model writes this"):
            walk = roll_out(
                model,
                [heads[rows[r]].ids for r in mine],
                support,
                Sample(rng),
                eos_ids=_turn(bound, place.lm),
            )
        for r, path, log_q in zip(mine, walk.values, walk.log_q, strict=True):
            head = heads[rows[r]]
            text = model.tokenizer.decode(path)[len(back) :]
            text = text[: len(text) - len(end)]
            drawn = head.known + path
            direct = head.spell(text + (place.after or ""))[: len(drawn)] == drawn
            found[r] = Answer(_typed(param, text, model.tokenizer), float(log_q), direct)
    return [found[r] for r in range(len(rows))]


def _turn(bound: Target, lm: str) -> tuple[int, ...]:
    """What ends an answer to a conversation; () for one to a plain context."""
    (score,) = (one for one in bound.graph.nodes.values() if isinstance(one, LmScore))
    return bound.evaluator.spellers[lm].turn_ids(bound.evaluator.segments(score.inputs[0]))


def _heads(bound: Target, place: Place, values: Values, rows: Sequence[int]) -> dict[int, _Head]:
    """The head of each of these draws."""
    evaluator = bound.evaluator
    speller = evaluator.spellers[place.lm]
    (node,) = (i for i, one in bound.graph.nodes.items() if isinstance(one, LmScore))
    plan = evaluator.plan(node)
    last = plan.text[-1] if plan.text else None
    known = last.text if isinstance(last, Known) else ""
    segments = plan.text[:-1] if isinstance(last, Known) else plan.text
    few = take(values, rows)
    columns = evaluator.some(plan.computed, few, len(rows))
    found = {}
    for d, row in enumerate(rows):

        def latent(name: str, d: int = d) -> Value:
            return few[name][d]

        def computed(i: int, d: int = d) -> str:
            return spelled(columns[i][d])

        context, empty = speller.context(plan.context, latent, computed)
        start = context + speller.spell(segments, latent, computed, first=empty)
        spell = partial(_spelt, speller, known, empty and not segments)
        found[row] = _head(speller.tokenizer, start, known, spell, place.after)
    return found


def _spelt(speller: Speller, known: str, first: bool, rest: str) -> tuple[int, ...]:
    return speller.text(known + rest, first=first)


def _head(
    tokenizer: Tokenizer, start: tuple[int, ...], known: str, spell: Callable[[str], tuple[int, ...]],
    after: str | None,
) -> _Head:  # fmt: skip
    """With the last token of the known text taken back, where its own text can be told and holds no end."""
    ids = spell("") if known else ()
    back = tokenizer.decode(ids[-1:]) if ids else ""
    if not back or not known.endswith(back) or "\ufffd" in back or (after and after in back):
        return _Head(start + ids, ids, "", spell)
    return _Head(start + ids[:-1], ids[:-1], back, spell)


def support_of(param: ParamSpec, place: Place, back: str, tokenizer: Tokenizer) -> tuple[Support, str]:
    """What may be drawn: the text taken back, an answer of the type, and what ends it; and that end.

    Raises InferenceError PLM809 where the model's tokens spell no such value.
    """
    options = dict(param.options)
    own = options.get("stop") if param.type == "text" else None
    after = place.after
    if own is None and after is not None:
        tokens = tokenizer.encode(after)
        if len(tokens) > LONG_END and after.startswith(short := tokenizer.decode(tokens[:1])):
            after = short
    end = "" if own is not None or after is None else after
    low, high = _tokens(param) or DEFAULT_TOKENS
    if param.type == "int":
        body, high = WHOLE, INT_TOKENS
    elif (pattern := options.get("pattern")) is not None:
        body = str(pattern)
    else:
        chars = options.get("chars")
        body = r"[\s\S]" if chars is None else "[" + "".join(map(_in_class, str(chars))) + "]"
        body += "*" if low == 0 else "+" if own is None else "*"
        body += re.escape(str(own)) if own is not None else ""
    stop = str(own) if own is not None else end
    spec = TextSpec(
        min_tokens=1,
        max_tokens=high + bool(back) + (len(tokenizer.encode(end)) if end else 0),
        stop=stop or None,
        end="stop" if stop else "eos",
        pattern=f"{re.escape(back)}(?:{body}){re.escape(end)}",
    )
    try:
        return build_support(spec, tokenizer, param.span), end
    except CompileError as problem:
        if any(d.code not in ("PLM330", "PLM335") for d in problem.diagnostics):
            raise
        raise InferenceError.of(
            "PLM809",
            f"no tokens of the model spell a value of `{param.name}`, so it cannot be drawn",
            param.span,
            where=param.name,
            help="use a model that writes such values, or a type that lists them",
        ) from None


def _in_class(char: str) -> str:
    return "\\" + char if char in r"\]^-[" else char


def _typed(param: ParamSpec, text: str, tokenizer: Tokenizer) -> str | int | None:
    """The value that a drawn text is, None where it is none of the type."""
    if param.type == "text":
        low, high = _tokens(param) or (1, math.inf)
        return text if low <= len(tokenizer.encode(text) if text else ()) <= high else None
    if not re.fullmatch(WHOLE, text, re.ASCII):
        return None
    value = int(text)
    inside = (param.low is None or value >= param.low) and (param.high is None or value <= param.high)
    return value if inside else None


def _tokens(param: ParamSpec) -> tuple[int, int] | None:
    """What `tokens=` of a text says, None where it is left out."""
    given = dict(param.options).get("tokens")
    return (int(str(given[0])), int(str(given[1]))) if isinstance(given, tuple) else None
