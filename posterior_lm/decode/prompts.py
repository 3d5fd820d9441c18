"""What a decoder reads before a latent: its own distribution's context, its guide's prompt, or that after examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from attrs import evolve

from posterior_lm.graph.nodes import ChoiceScore
from posterior_lm.graph.ops import spelled
from posterior_lm.infer.drawing import contexts_of
from posterior_lm.infer.guide import check_guide
from posterior_lm.infer.schedule import prior_of
from posterior_lm.lang.diagnostics import DataError, InferenceError
from posterior_lm.target.rows import read_rows
from posterior_lm.target.segments import Computed, Known, Segment, Special, Splice, Turn, is_chat, join
from posterior_lm.target.target import Target
from posterior_lm.target.values import ABSENT, Value
from posterior_lm.train.guide import Reading
from posterior_lm.train.rows import known_draw

BETWEEN = "\n\n"
"""Between one example and the next."""

Row = Mapping[str, object]


def prior_readings(target: Target) -> dict[str, Reading]:
    """The context of each latent's own distribution; a latent that no model draws has none."""
    found: dict[str, Reading] = {}
    for info in target.latents:
        prior = prior_of(target, info.name)
        node, lm = target.graph[prior.score], prior.parts[0].lm
        if lm is not None:
            segments = target.evaluator.segments(node.inputs[0])
            found[info.name] = Reading(lm, segments, stated=False)
        elif isinstance(node, ChoiceScore) and info.lm is not None:
            segments = target.evaluator.segments(node.inputs[0])
            found[info.name] = Reading(node.lm, segments, stated=False)
    return found


def guide_readings(target: Target) -> dict[str, Reading]:
    """What the `guide` statements read, and the context of its own distribution for a latent without one.

    Raises InferenceError PLM540.
    """
    found = prior_readings(target)
    for info in target.latents:
        guide = target.graph.guides.get(info.name)
        if guide is not None and not guide.masked:
            check_guide(target, info)
            found[info.name] = Reading(guide.lm, target.evaluator.segments(guide.context), stated=True)
    return found


def with_examples(
    target: Target, readings: Mapping[str, Reading], examples: object, shots: int, rng: np.random.Generator
) -> dict[str, Reading]:
    """The readings with `shots` solved examples before each, in random order.

    `examples` is a data file or a list of rows; a row with a column for every latent is
    solved; one that does not have a latent, which is null there, is no example of it. The row that is asked about is never among its own examples. Raises InferenceError PLM771
    for no examples, DataError PLM774 for too few solved ones, and what the rows of a fit raise.
    """
    rows = _solved(target, examples)
    if len(rows) < shots:
        raise DataError.of(
            "PLM774",
            f"{shots} example{'s' * (shots != 1)} are wanted, and {len(rows)} row{'s' * (len(rows) != 1)} "
            "other than the one asked about hold a value of every latent",
            help="add a column named after each latent, or ask for fewer `shots`",
        )
    solved = [_known(target, *rows[int(k)]) for k in rng.permutation(len(rows))[:shots]]

    def having(name: str) -> list[tuple[Target, dict[str, Value]]]:
        return [(bound, values) for bound, values in solved if values.get(name, ABSENT) != ABSENT]

    return {
        name: evolve(
            reading,
            segments=_conversation(reading.segments, [_turns(*one, name) for one in having(name)])
            if is_chat(reading.segments)
            else _before(reading, [_shown(*one, name) for one in having(name)]),
        )
        for name, reading in readings.items()
    }


def _before(reading: Reading, shown: Sequence[str]) -> tuple:
    first = 0
    while first < len(reading.segments) and isinstance(reading.segments[first], Special):
        first += 1
    text = "".join(one + BETWEEN for one in shown)
    return join((*reading.segments[:first], Known(text), *reading.segments[first:]))


def _solved(target: Target, examples: object) -> list[tuple[int, Row, Row]]:
    """(number, parameters, latents) of each row that holds every latent and is not the one asked about."""
    if examples is None:
        raise InferenceError.of(
            "PLM771",
            "few_shot has no examples to show",
            help='give a file of rows that hold known latents, `examples="rows.jsonl"`',
        )
    graph = target.program
    if isinstance(examples, str):
        rows: Sequence[Row] = read_rows(examples, graph.params)
    elif isinstance(examples, Sequence) and all(isinstance(row, Mapping) for row in examples):
        rows = examples
    else:
        raise InferenceError.of(
            "PLM771", f"`examples` is a file or a list of rows, not a {type(examples).__name__}"
        )
    names = {node.name for _, node in graph.latents() if graph.param(node.name) is None}
    found: list[tuple[int, Row, Row]] = []
    for number, row in enumerate(rows):
        given = {k: v for k, v in row.items() if k not in names}
        asked = all(k in target.data and target.data[k] == v for k, v in given.items()) and bool(given)
        if not asked and names <= row.keys():
            found.append((number, given, {k: row[k] for k in names}))
    return found


def _known(target: Target, number: int, given: Row, latents: Row) -> tuple[Target, dict[str, Value]]:
    bound = target.prepared.bind_valid(target.prepared.validate(given, path=f"rows[{number}]."))
    return bound, known_draw(bound, number, latents)


def _shown(target: Target, values: Mapping[str, Value], name: str) -> str:
    """What the guide of a latent reads of a solved row, and the latent's value."""
    reading = guide_readings(target)[name]
    earlier = {k: (values[k],) for k in target.names[: target.names.index(name)]}
    ids = contexts_of(target, reading.lm, reading.segments, earlier, 1)[0][0]
    return target.models[reading.lm].tokenizer.decode(ids) + values[name].text


def _conversation(own: Sequence[Segment], shown: Sequence[Sequence[Segment]]) -> tuple[Segment, ...]:
    """Solved conversations, then the one that is asked about, all under its own system message."""
    rest = [_without_system(one) for one in (*shown, own)]
    system = own[: len(own) - len(rest[-1])]
    return join((*system, *(segment for one in rest for segment in one)))


def _without_system(segments: Sequence[Segment]) -> Sequence[Segment]:
    turns = [k for k, p in enumerate(segments) if isinstance(p, Turn)]
    if segments[0] != Turn("system"):
        return segments
    return segments[turns[1] :] if len(turns) > 1 else ()


def _turns(target: Target, values: Mapping[str, Value], name: str) -> tuple[Segment, ...]:
    """The conversation of a solved row, with the latent's value as the answer, or as what goes on with it."""
    found: list[Segment] = []
    for segment in guide_readings(target)[name].segments:
        match segment:
            case Splice(latent=other):
                found.append(Known(values[other].text))
            case Computed(node=node):
                columns = {k: (v,) for k, v in values.items()}
                found.append(Known(spelled(target.evaluator.node(node, columns, 1)[0])))
            case _:
                found.append(segment)
    last = [p for p in found if isinstance(p, Turn)][-1]
    answer = () if last == Turn("assistant") else (Turn("assistant"),)
    return (*found, *answer, Known(values[name].text))
