"""Decoders as methods: values that a model says, with equal weights, whatever the posterior is.

Latents are decoded in their order, each after what is read with the earlier ones. Their draws have a
real log reward under the frozen models, so they can be compared, and no importance weights, so they
say nothing of the evidence (`Draws.decoded`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from attrs import evolve, frozen

from posterior_lm.decode.decoding import Decoding, Ids, by_chance, decode, in_beams, likeliest, pick
from posterior_lm.decode.prompts import guide_readings, prior_readings, with_examples
from posterior_lm.decode.unmasked import UnmaskedSupport, said
from posterior_lm.infer.base import Backend, Info
from posterior_lm.infer.drawing import contexts_of
from posterior_lm.infer.draws import Draws
from posterior_lm.infer.guide import Guide, PriorGuide
from posterior_lm.infer.methods import METHODS
from posterior_lm.lang.diagnostics import InferenceError
from posterior_lm.lm.protocol import LanguageModel
from posterior_lm.support.base import Ending, Support
from posterior_lm.target.target import LatentInfo, Target
from posterior_lm.target.values import ABSENT, Value
from posterior_lm.train.guide import PolicyGuide, Reading

BATCH = 256
"""Draws by chance that are made at a time."""
Draw = tuple[dict[str, Value], bool]
"""A value of every latent so far that it has, and whether all of them are of their types."""


@frozen(eq=False)
class State:
    """What is read, which model is decoded in place of the declared one, and the draws so far."""

    target: Target
    readings: Mapping[str, Reading]
    policy: LanguageModel | None
    draws: tuple[Draw, ...] = ()
    done: bool = False


@frozen(kw_only=True, eq=False)
class Decoder:
    """`number` draws by a decoder: by chance in batches, else all at once.

    A guide that is a policy is decoded in place of the frozen model, after what its guides read; the
    log reward is the frozen model's all the same. Greedy decoding gives one draw, beams as many
    distinct ones as there are.
    """

    name: str
    how: Decoding
    number: int
    proposal: str = "prior"
    masked: bool = True
    examples: object = None
    shots: int = 0
    """Solved examples that are shown first, of `examples`."""
    batch: int = BATCH

    def init(self, rng: np.random.Generator, target: Target, guide: Guide | None) -> State:
        policy: LanguageModel | None = None
        if isinstance(guide, PolicyGuide):
            policy, readings = guide.model, dict(guide.readings)
        else:
            readings = guide_readings(target) if self.proposal == "guide" else prior_readings(target)
        if self.shots:
            readings = with_examples(target, readings, self.examples, int(self.shots), rng)
        if not self.masked:
            tooled = [i.name for i in target.latents if hasattr(i.support, "spliced")]
            if tooled:
                raise InferenceError.of(
                    "PLM775",
                    f"a tool writes parts of `{tooled[0]}`, which decoding without the mask cannot do",
                    target.latent(tooled[0]).span,
                    help="leave out masked=false",
                )
        return State(target, readings, policy)

    def step(self, rng: np.random.Generator, state: State) -> tuple[State, Info]:
        left = self.number - len(state.draws)
        made = self._draw(rng, state, min(left, self.batch) if self.how.sampled else self.number)
        draws = (*state.draws, *made)
        done = not self.how.sampled or len(draws) >= self.number
        return evolve(state, draws=draws, done=done), Info(
            done, f"{len(draws)} draws", len(draws) / self.number
        )

    def _draw(self, rng: np.random.Generator, state: State, n: int) -> list[Draw]:
        target = state.target
        draws: list[Draw] = [({}, True)] * (n if self.how.sampled else 1)
        for k, info in enumerate(target.latents):
            # Beams branch where the first text is decoded; a later one has the best of each.
            keep = n if k == 0 else 1
            columns = {name: [drawn[name] for drawn, _ in draws] for name in draws[0][0]}
            there = target.there(info, columns, len(draws))
            having = [draw for d, draw in enumerate(draws) if there is None or there[d]]
            values_of = iter(self._latent(rng, state, info, having, keep) if having else [])
            found = [
                next(values_of) if there is None or there[d] else [(ABSENT, True)] for d in range(len(draws))
            ]
            draws = [
                ({**drawn, info.name: value}, alive and fits)
                for (drawn, alive), values in zip(draws, found, strict=True)
                for value, fits in values
            ]
        return draws

    def _latent(
        self, rng: np.random.Generator, state: State, info: LatentInfo, draws: list[Draw], keep: int
    ) -> list[list[tuple[Value, bool]]]:
        """For each draw the values of the next latent, and whether they are of its type."""
        target, reading = state.target, state.readings.get(info.name)
        columns = {name: [drawn[name] for drawn, _ in draws] for name in draws[0][0]}
        if reading is None:
            candidates = [target.value_of(info.name, ids) for ids in info.support.values()]
            scores = PriorGuide(target).prior_scores(info, candidates, columns, len(draws))
            places = pick(scores, self.how, keep=keep, rng=rng)
            return [[(candidates[place], True) for place in row] for row in places]
        contexts, _ = contexts_of(target, reading.lm, reading.segments, columns, len(draws))
        model = state.policy or target.models[reading.lm]
        support: Support = info.support
        if not self.masked:
            support = UnmaskedSupport.of(support, model.tokenizer)  # type: ignore[assignment]
        ending: Ending = "stop" if support.ending == "stop" else "eos"
        turn = target.evaluator.spellers[reading.lm].turn_ids(reading.segments)
        ids = decode(model, contexts, support, self.how, keep=keep, rng=rng, ending=ending, eos_ids=turn)
        return [[self._value(target, info, one) for one in row] for row in ids]

    def _value(self, target: Target, info: LatentInfo, ids: Ids) -> tuple[Value, bool]:
        if not self.masked:
            return said(target, info, ids)
        if not target.evaluator.supports[info.name].accepts(ids):  # a grammar's dead end
            text = target.models[str(info.lm)].tokenizer.decode(ids)
            return Value(ids, text, text), False
        return target.value_of(info.name, ids), True

    def sample(self, rng: np.random.Generator, state: State, n: int) -> Draws:
        """At most n draws with equal weights; −∞ is the log reward of one that is outside its type.

        Raises InferenceError PLM776 where every beam came to a dead end.
        """
        target, draws = state.target, state.draws[:n]
        if not draws:
            raise InferenceError.of(
                "PLM776",
                f"`{self.name}` found no value: every beam came to a dead end",
                help="use more `beams`, or a decoder that draws by chance",
            )
        log_reward = np.full(len(draws), -np.inf)
        alive = [d for d, (_, fits) in enumerate(draws) if fits]
        if alive:
            columns = {name: [draws[d][0][name] for d in alive] for name in target.names}
            log_reward[alive] = np.broadcast_to(target.log_reward(columns), (len(alive),))
        values = {name: tuple(drawn[name] for drawn, _ in draws) for name in target.names}
        return Draws(values, np.zeros(len(draws)), log_reward, self.name, decoded=True)


@frozen
class _Decoder(Backend):
    """A decoder of the table of methods: how it picks tokens, and whether it reads what the guides read anyway."""

    name: str
    how: Callable[[Mapping[str, Any], int], Decoding]
    prompted: bool = False

    def build(self, target: Target, options: Mapping[str, object], n: int, batch: int | None) -> Decoder:
        known = METHODS[self.name].options
        whole = {k: o.default for k, o in known.items() if o.default is not None} | dict(options)
        more = {k: whole[k] for k in ("proposal", "masked", "examples", "shots") if k in whole}
        if self.prompted:
            more["proposal"] = "guide"
        return Decoder(name=self.name, how=self.how(whole, n), number=n, **more)  # type: ignore[arg-type]


PROMPTING = _Decoder("prompting", by_chance, prompted=True)
FEW_SHOT = _Decoder("few_shot", by_chance, prompted=True)
GREEDY = _Decoder("greedy", likeliest)
ANCESTRAL = _Decoder("ancestral", by_chance)
NUCLEUS = _Decoder("nucleus", by_chance)
TOP_K = _Decoder("top_k", by_chance)
BEAM = _Decoder("beam", in_beams)
DIVERSE_BEAM = _Decoder("diverse_beam", in_beams)
