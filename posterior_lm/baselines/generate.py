"""Decoding by the transformers library's own `generate`, under a support.

The support is a logits processor: what it does not allow gets −inf. Where the model's end-of-text
is several ids, one of them stands for all. A value is done where the support says so or at
end-of-text. Nothing of the model's own generation settings is used.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from attrs import field, frozen
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel
from transformers.generation import StoppingCriteria, StoppingCriteriaList

from posterior_lm.baselines.decoding import Decoding
from posterior_lm.lm.transformers import TransformersModel
from posterior_lm.lm.window import check_window
from posterior_lm.support.base import Ending, Support

ROWS = 256
"""Sequences generated side by side."""
Ids = tuple[int, ...]


def generate(
    model: TransformersModel, contexts: Sequence[Ids], support: Support, how: Decoding, *,
    keep: int, seed: int, ending: Ending,
) -> list[list[Ids]]:  # fmt: skip
    """For each context its values, best first where they are searched: one, or of beams at most `keep`.

    The number of beams is `how.beams`; other ways give one value each. Raises ModelError PLM520.
    """
    if support.must_stop(support.start()):
        return [[()] for _ in contexts]
    check_window(max(map(len, contexts)) + 1, model.max_length)
    found: list[list[Ids]] = [[] for _ in contexts]
    lengths: dict[int, list[int]] = {}
    for d, context in enumerate(contexts):
        lengths.setdefault(len(context), []).append(d)
    each = max(1, how.beams)
    with _ready(model, seed):
        for length, mine in lengths.items():
            for begin in range(0, len(mine), max(1, ROWS // each)):
                part = mine[begin : begin + max(1, ROWS // each)]
                rows = _one_batch(model, [contexts[d] for d in part], length, support, how, ending, keep)
                for d, values in zip(part, rows, strict=True):
                    found[d] = values
    return found


@contextmanager
def _ready(model: TransformersModel, seed: int) -> Iterator[None]:
    """A seeded generator of torch's own, the adapter on where the model has one, no settings of the model."""
    module = model._forward.module
    own = module.generation_config
    with ExitStack() as stack:
        devices = [model._forward.device] if model._forward.device.type == "cuda" else []
        stack.enter_context(torch.random.fork_rng(devices=devices))
        torch.manual_seed(seed)
        adapter = getattr(model._forward, "adapter", None)
        if adapter is not None:
            stack.enter_context(adapter.on())
        module.generation_config = GenerationConfig()
        try:
            yield
        finally:
            module.generation_config = own


def _one_batch(
    model: TransformersModel, contexts: Sequence[Ids], length: int, support: Support, how: Decoding,
    ending: Ending, keep: int,
) -> list[list[Ids]]:  # fmt: skip
    walked = _Walked(support, length, model.tokenizer.eos_ids if ending == "eos" else ())
    ids = model._forward.tensor([list(c) for c in contexts])
    most = support.max_tokens + 1  # end-of-text is one more
    # The limit of a support with tools is far above what its values need.
    room = most if model.max_length is None else min(most, model.max_length - length)
    config = GenerationConfig(
        max_new_tokens=room,
        do_sample=how.sampled,
        temperature=how.temperature if how.sampled else None,
        top_p=how.p if how.sampled else None,
        top_k=how.k if how.sampled else None,
        num_beams=max(1, how.beams),
        num_return_sequences=max(1, min(keep, how.beams)),
        # The sum of log probabilities, not their mean.
        length_penalty=0.0 if how.beams > 1 else None,
        early_stopping=False if how.beams > 1 else None,
        pad_token_id=0,
        eos_token_id=None,
        use_cache=True,
    )
    module: PreTrainedModel = model._forward.module
    with torch.inference_mode():
        out = module.generate(  # type: ignore[operator]
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            generation_config=config,
            logits_processor=LogitsProcessorList([_Masked(walked)]),
            stopping_criteria=StoppingCriteriaList([_Done(walked)]),
        )
    rows = out[:, length:].tolist()
    if not how.beams and any(walked.unfinished(tuple(row)) for row in rows):
        check_window(length + room + 1, model.max_length)
    values = [walked.value(tuple(row), how.beams == 0) for row in rows]
    each = len(values) // len(contexts)
    # Beams that came to a dead end, and copies of one another, are no values.
    return [
        list(dict.fromkeys(v for v in values[c * each : (c + 1) * each] if v is not None))
        for c in range(len(contexts))
    ]


@frozen(eq=False)
class _Walked:
    """Support states by the tokens after the context; None where the tokens left the support or are done."""

    support: Support
    length: int
    eos_ids: tuple[int, ...]
    states: dict[Ids, object] = field(init=False, factory=dict)

    def state(self, ids: Ids) -> object:
        """The state after these tokens."""
        if ids in self.states:
            return self.states[ids]
        if not ids:
            found: object = self.support.start()
        else:
            before = self.state(ids[:-1])
            fits = before is not None and self.goes_on(before)
            fits = fits and bool(self.support.allowed(before)[ids[-1]])
            found = self.support.advance(before, ids[-1]) if fits else None
        self.states[ids] = found
        return found

    def goes_on(self, state: object) -> bool:
        return not self.support.must_stop(state)

    def done(self, ids: Ids) -> bool:
        """Whether a value is complete with the last of these tokens, or can become none."""
        state = self.state(ids)
        return state is None or not self.goes_on(state)

    def unfinished(self, row: Ids) -> bool:
        """Whether the row ran out of room."""
        state = self.state(row)
        return state is not None and self.goes_on(state)

    def value(self, row: Ids, dead: bool) -> Ids | None:
        """The value that a generated row begins with, what fills the row left out.

        What came to a dead end is no value: None, or with `dead` the tokens up to there.
        """
        for t in range(len(row) + 1):
            state = self.state(row[:t])
            if state is None:
                return None
            if not self.goes_on(state) or (t < len(row) and row[t] in self.eos_ids):
                return row[:t] if dead or self.support.may_stop(state) else None
        return None


@frozen(eq=False)
class _Masked(LogitsProcessor):
    walked: _Walked

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (B, V) with −inf for what the support does not allow after each row (B, L)."""
        w = self.walked
        out = torch.full_like(scores, -torch.inf)
        for r, ids in enumerate(input_ids[:, w.length :].tolist()):
            state = w.state(tuple(ids))
            if state is None or not w.goes_on(state):
                out[r, 0] = 0.0  # the row is done, whatever is put behind it
                continue
            allowed = torch.as_tensor(np.flatnonzero(w.support.allowed(state)), device=scores.device)
            out[r, allowed] = scores[r, allowed]
            if w.eos_ids and w.support.may_stop(state):
                out[r, w.eos_ids[0]] = torch.logsumexp(scores[r, list(w.eos_ids)], dim=0)
        return out


@frozen(eq=False)
class _Done(StoppingCriteria):
    walked: _Walked

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: object) -> Tensor:
        """(B,) whether each row is done."""
        w = self.walked
        ended = [
            (ids[-1] in w.eos_ids or w.done(tuple(ids))) if ids else False
            for ids in input_ids[:, w.length :].tolist()
        ]
        return torch.tensor(ended, dtype=torch.bool, device=input_ids.device)
