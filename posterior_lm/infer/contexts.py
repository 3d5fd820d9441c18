"""What a proposal reads before it draws: each draw's context as tokens, and whether a guide may read it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from posterior_lm.graph.ops import spelled
from posterior_lm.lang.diagnostics import InferenceError, error
from posterior_lm.target.segments import Known, Segment, Special
from posterior_lm.target.target import LatentInfo, Target
from posterior_lm.target.values import Value, Values


def check_guide(target: Target, info: LatentInfo) -> None:
    """Raises InferenceError PLM540 where a `guide` statement reads a model with other tokens than the latent's."""
    guide = target.graph.guides[info.name]
    own = target.models[info.lm or guide.lm].tokenizer.digest
    if target.models[guide.lm].tokenizer.digest != own:
        raise InferenceError(
            error(
                "PLM540",
                f"the guide of `{info.name}` has another tokenizer than its distribution",
                guide.span,
                help="let the guide read the model that the latent is drawn from",
            )
        )


def contexts_of(
    target: Target, lm: str, pieces: Sequence[Segment], drawn: Values, n: int
) -> tuple[list[tuple[int, ...]], int]:
    """Each draw's context tokens, and how many leading ones are the same known prompt."""
    evaluator = target.evaluator
    speller = evaluator.spellers[lm]
    columns = {p.node: evaluator.node(p.node, drawn, n) for p in pieces if hasattr(p, "node")}
    contexts = []
    for d in range(n):
        ids, _ = speller.context(pieces, *_readers(drawn, columns, d))
        contexts.append(ids)
        if d == 0 and all(isinstance(p, Known | Special) for p in pieces):
            return [ids] * n, len(ids)
    known = (
        list(pieces[: next(i for i, p in enumerate(pieces) if not isinstance(p, Known | Special))])
        if n
        else []
    )
    shared = (
        len(speller.context(known, _no_latent, _no_node)[0]) if known else len(speller.tokenizer.start_ids)
    )
    return contexts, shared


def _readers(
    drawn: Values, columns: Mapping[int, Sequence], d: int
) -> tuple[Callable[[str], Value], Callable[[int], str]]:
    """What draw `d` has for a latent, and for a computed segment."""
    return (lambda name: drawn[name][d]), (lambda node: spelled(columns[node][d]))


def _no_latent(name: str) -> Value:
    raise AssertionError(name)


def _no_node(node: int) -> str:
    raise AssertionError(node)
