"""The policy as a guide: the adapted model draws each latent after what its guide reads.

What it reads is the latent's `guide` statement, or a default, which shows what was observed after
the latent before it: the texts that follow it in the observed statements, each on a line of its own,
then the context of the latent's own distribution. A policy that reads left to right can then look
at everything that its value has to fit. One for many programs reads which one it is for before that (`lang/outline.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol

import numpy as np
import torch
from attrs import evolve, field, frozen

from posterior_lm.graph.nodes import ChoiceScore, LmScore, Segments
from posterior_lm.graph.ops import spelled
from posterior_lm.infer.choosers import Follow, otherwise_chosen
from posterior_lm.infer.drawing import Drawing, contexts_of
from posterior_lm.infer.guide import PriorGuide, check_guide, inside_supports, text_walk
from posterior_lm.infer.rollout import Walk, finished
from posterior_lm.infer.schedule import prior_of
from posterior_lm.infer.server_draws import keeps_rows
from posterior_lm.lang.diagnostics import InferenceError
from posterior_lm.lang.outline import outline
from posterior_lm.lm.hf.transformers import TransformersModel
from posterior_lm.lm.protocol import LanguageModel
from posterior_lm.support.base import Ending
from posterior_lm.target.segments import Computed, Known, Segment, Special, Splice, Turn, is_chat, join
from posterior_lm.target.target import LatentInfo, Target
from posterior_lm.target.values import ABSENT, Values, count, take
from posterior_lm.train.observable import observed_scores
from posterior_lm.train.scoring import Path, path_maker, score_paths

# ------------------------------------------------------------------------------- what a guide reads

BREAK = "\n"
"""Between what comes later and what comes before."""
Reads = Literal["observed", "own", "outline"]
"""What guides read beside what is stated: what was observed after the latent, the context of the latent's own
distribution alone, or an outline of the whole program before all the rest."""


@frozen
class Reading:
    """The model alias and the segments of the context that a latent's guide reads."""

    lm: str
    segments: tuple[Segment, ...]
    stated: bool
    """Whether a `guide` statement says so."""
    stop: float | None = None
    """Of a free end the nats by which end-of-text is raised, less the log of the tokens left (`scoring.stop_level`); None: it
    stops by end-of-text as it is."""
    power: float = 1.0
    """Of the model's probabilities at every choice: that which the target puts on the latent's own distribution, within
    `LEAST_POWER` and `MOST_POWER`, so that a guide which has learnt nothing is about as flat or as sharp as the prior."""


def turn_ids(target: Target, reading: Reading) -> tuple[int, ...]:
    """The token that ends an answer where the guide reads a conversation; () elsewhere: the model's own."""
    return target.evaluator.spellers[reading.lm].turn_ids(reading.segments)


def readings_of(
    target: Target, reads: Reads = "observed", stop: float | None = None, powered: bool = False
) -> Mapping[str, Reading]:
    """The reading of every latent that a language model can draw; the others keep their prior.

    With "own" a latent without a `guide` statement is read after the context of its own distribution alone,
    so that a policy that has learnt nothing is the prior; it cannot see what was observed. With `powered` readings have
    the power of the latent's prior, without it 1.

    Raises InferenceError PLM540 for a guide over another tokenizer, PLM623 where no
    latent can be drawn by a model, the guides read several models, or there is no program text to outline.
    """
    found: dict[str, Reading] = {}
    for k, info in enumerate(target.latents):
        earlier = frozenset(target.names[:k])
        reading = _stated(target, info) or _default(target, info, earlier, reads == "own")
        if reading is not None:
            found[info.name] = evolve(reading, stop=stop, power=_power(target, info.name, powered))
    models = sorted({r.lm for r in found.values()})
    if not models:
        raise InferenceError.of(
            "PLM623",
            f"`{target.program.name}` has no latent that a language model can draw",
            help="name a model with a `guide` statement, or draw with exact or importance",
        )
    if len(models) > 1:
        raise InferenceError.of(
            "PLM623",
            f"the guides read {len(models)} models, {' and '.join(f'`{m}`' for m in models)}, "
            "and a policy adapts one",
            help="let every `guide` statement read the same model",
        )
    return _outlined(target, found) if reads == "outline" else found


def _outlined(target: Target, readings: Mapping[str, Reading]) -> Mapping[str, Reading]:
    """The same with the program's outline in front of what is read, or of what the user said last."""
    checked = target.prepared.checked
    if checked is None:
        raise InferenceError.of(
            "PLM623",
            f"`{target.program.name}` has no text that a policy for many programs could read",
            help="give it as `.plm` text, or draw without this policy",
        )
    text = Known(outline(checked.module, target.data) + BREAK)
    found = {}
    for name, reading in readings.items():
        first = _front(reading.segments)
        found[name] = evolve(reading, segments=join((*first, text, *reading.segments[len(first) :])))
    return found


def _stated(target: Target, info: LatentInfo) -> Reading | None:
    guide = target.graph.guides.get(info.name)
    if (
        guide is None or guide.masked
    ):  # a policy is one of a causal model, and reads what it reads without a guide
        return None
    check_guide(target, info)
    return Reading(guide.lm, target.evaluator.segments(guide.context), stated=True)


def own_readings(target: Target, stop: float | None = None, powered: bool = False) -> Mapping[str, Reading]:
    """For every latent that a language model draws the context of its own distribution, whatever `guide` statements say."""
    found = ((info.name, _own(target, info)) for info in target.latents)
    return {
        name: evolve(reading, stop=stop, power=_power(target, name, powered))
        for name, reading in found
        if reading is not None
    }


LEAST_POWER, MOST_POWER = 0.5, 2.0
"""Of a guide: what is learnt is multiplied by it too."""


def _power(target: Target, name: str, powered: bool) -> float:
    return max(LEAST_POWER, min(MOST_POWER, prior_of(target, name).power)) if powered else 1.0


def _own(target: Target, info: LatentInfo) -> Reading | None:
    prior = prior_of(target, info.name)
    if info.lm is None or prior.parts[0].lm is None:
        return None
    return Reading(info.lm, target.evaluator.segments(target.graph[prior.score].inputs[0]), stated=False)


def _default(target: Target, info: LatentInfo, earlier: frozenset[str], alone: bool) -> Reading | None:
    if info.lm is None:
        return None
    whole = _own(target, info)
    if alone and whole is not None:
        return whole
    own = () if whole is None else whole.segments
    after: list[Segment] = []
    observed = observed_scores(target.graph)
    for i in target.graph.order():
        tail = _tail(target, i, info.name) if i in observed else None
        if tail is not None:
            # What later latents say is not known yet; the texts between them are.
            known = tuple(p for p in tail if _known(target, p, earlier))
            if join(known):
                after += [*_stripped(known), Known(BREAK)]
    first = _front(own)
    return Reading(info.lm, join((*first, *after, *own[len(first) :])), stated=False)


def _front(context: tuple[Segment, ...]) -> tuple[Segment, ...]:
    """What stays in front of what is shown before a context; of a conversation all before what the user said last."""
    if is_chat(context):
        turns = [k for k, p in enumerate(context) if isinstance(p, Turn)]
        asked = [k for k in turns if context[k] == Turn("user")] or turns
        return context[: asked[-1] + 1]
    return context[:1] if context and isinstance(context[0], Special) else ()


def _tail(target: Target, i: int, latent: str) -> tuple[Segment, ...] | None:
    """What stands after the latent in a score that reads it as a text, or None."""
    node, evaluator = target.graph[i], target.evaluator
    if not isinstance(node, LmScore | ChoiceScore):
        return None
    segments = list(evaluator.segments(node.inputs[0]))
    if is_chat(segments) and [p for p in segments if isinstance(p, Turn)][-1] != Turn("assistant"):
        segments.append(Turn("assistant"))
    value = node.inputs[1]
    if isinstance(node, LmScore):
        segments += evaluator.segments(value)
    elif value in target.graph.fixed:
        segments.append(Known(node.lead + spelled(evaluator.fixed_value(value))))  # type: ignore[arg-type]
    places = [k for k, p in enumerate(segments) if isinstance(p, Splice) and p.latent == latent]
    if not places or (isinstance(target.graph[value], Segments) and places[-1] == len(segments) - 1):
        return None
    return tuple(segments[places[-1] + 1 :])


def _known(target: Target, piece: Segment, earlier: frozenset[str]) -> bool:
    match piece:
        case Splice(latent=name):
            return name in earlier
        case Computed(node=node):
            needs = target.graph.ancestors(node)
            return all(n in earlier for j, n in ((i.node, i.name) for i in target.latents) if j in needs)
    return True


def _stripped(segments: tuple[Segment, ...]) -> tuple[Segment, ...]:
    """Without the white space at its beginning, which joined it to the latent."""
    kept = [Known(BREAK) if isinstance(p, Turn) else p for p in segments if not isinstance(p, Special)]
    if kept and isinstance(kept[0], Known):
        kept[0] = Known(kept[0].text.lstrip())
    return tuple(kept)


# ------------------------------------------------------------------------------- how it draws


class Adapting(Protocol):
    """What a guide asks of an `Adapter`, or of one that a server has."""

    reads: Reads
    stop: float | None
    powered: bool

    def model(self) -> LanguageModel: ...


@frozen(eq=False)
class PolicyGuide(PriorGuide):
    """Draws from an adapter under the supports of a target; latents without a reading keep their prior.

    `exponent` below 1 flattens every step, above 1 sharpens it; 1 is the policy itself.
    """

    model: LanguageModel = field(kw_only=True)
    """The adapted model, as `Adapter.model` gives it, or one of a server."""
    readings: Mapping[str, Reading] = field(kw_only=True)
    exponent: float = field(kw_only=True, default=1.0)

    @classmethod
    def of(cls, target: Target, adapter: Adapting, *, exponent: float = 1.0) -> PolicyGuide:
        readings = readings_of(target, adapter.reads, adapter.stop, adapter.powered)
        return cls(target, model=adapter.model(), readings=readings, exponent=exponent)

    @property
    def name(self) -> str:
        return "the policy"

    def _finite(self, info: LatentInfo, drawn: Values, n: int, alive: np.ndarray | None = None) -> Walk:
        if info.name in self.readings:
            return self._text(info, drawn, n, alive=alive)
        return PriorGuide._finite(self, info, drawn, n, alive)

    def _text(self, info: LatentInfo, drawn: Values, n: int, **options: Any) -> Walk:
        reading = self.readings[info.name]
        # What a draw has of another branch may be nothing that this context can be made of.
        alive = options.get("alive")
        rows = range(n) if alive is None else np.flatnonzero(alive).tolist()
        known = drawn if alive is None else take(drawn, rows)
        some, shared = contexts_of(self.target, reading.lm, reading.segments, known, len(rows))
        contexts: list[tuple[int, ...]] = [()] * n
        for d, context in zip(rows, some, strict=True):
            contexts[d] = context
        ending: Ending = "stop" if info.support.ending == "stop" else "eos"
        if self.exponent != 1.0 and keeps_rows(self.model):
            raise otherwise_chosen()
        # A server that draws by itself draws at the power 1, which is a proposal as well.
        power = 1.0 if keeps_rows(self.model) else self.exponent * reading.power
        found = Drawing(self.model, contexts, shared, turn_ids(self.target, reading), power)
        return text_walk(found, info.support, ending=ending, stop=reading.stop, **options)

    def by_server(self) -> list[LatentInfo]:
        served = keeps_rows(self.model)
        others = [info for info in super().by_server() if info.name not in self.readings]
        return others + [info for info in self.target.latents if served and info.name in self.readings]

    def log_prob(self, values: Values) -> np.ndarray:
        """(N,) float64 nats; −inf for a value outside the supports."""
        n = count(values)
        # One pass over whole values is for the model itself: another power, or who counts, walks along them.
        if self.exponent != 1.0 or not isinstance(self.model, TransformersModel):
            return PriorGuide.log_prob(self, values)
        rows = [int(d) for d in np.flatnonzero(inside_supports(self.target, values, n))]
        total = np.full(n, -np.inf)
        if len(rows):
            kept = {name: [column[d] for d in rows] for name, column in values.items()}
            total[rows] = self._inside(kept, len(rows))
        return total

    def _inside(self, values: Values, n: int) -> np.ndarray:
        assert isinstance(self.model, TransformersModel)
        total = np.zeros(n)
        for info in self.target.latents:
            there = [d for d, v in enumerate(values[info.name]) if v != ABSENT]
            if not there:
                continue
            mine = take(values, there)
            if info.name not in self.readings:
                drawn = {k: mine[k] for k in self.target.names[: self.target.names.index(info.name)]}
                follow = Follow([v.ids for v in mine[info.name]])
                total[there] += finished(PriorGuide._finite(self, info, drawn, len(there)), follow).log_q
                continue
            paths = paths_of(self.target, self.readings[info.name], info, mine, len(there))
            with torch.inference_mode():
                total[there] += score_paths(self.model, paths).log_prob.cpu().numpy()
        return total


def paths_of(target: Target, reading: Reading, info: LatentInfo, values: Values, n: int) -> list[Path]:
    """The paths of N values of a latent after what its guide reads."""
    drawn = {name: values[name] for name in target.names[: target.names.index(info.name)]}
    contexts, _ = contexts_of(target, reading.lm, reading.segments, drawn, n)
    make = path_maker(info.support, turn_ids(target, reading), reading.stop, reading.power)
    return [make(c, v.ids) for c, v in zip(contexts, values[info.name], strict=True)]
