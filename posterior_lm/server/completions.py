"""`POST /v1/completions` as OpenAI and vLLM have it: continuations of prompts, and log-probs of every position.

A prompt is a text, token ids or a list of either. `prompt_logprobs` and `logprobs` say how many of the likeliest
tokens are told of at each place beside its own: 0 none, -1 the whole vocabulary; `prompt_logprob_token_ids` names
others, and `prompt_logprob_start` the first place of a prompt that is told of. All are natural logs of
probabilities before the temperature; -9999 stands for −∞, which JSON has not. A field that would change an answer
and is not known is refused.
"""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Annotated, Any

import numpy as np
from attrs import frozen

from posterior_lm.lang.diagnostics import DataError, ModelError, meant
from posterior_lm.lm.protocol import Branch, LanguageModel, Rollout
from posterior_lm.lm.protocol import Request as Scored
from posterior_lm.server.programs import fields_of
from posterior_lm.storage import Stored

Ids = tuple[int, ...]
NEUTRAL: dict[str, tuple[object, ...]] = {
    "best_of": (1,), "frequency_penalty": (0,), "logit_bias": ({},), "min_p": (0,), "presence_penalty": (0,),
    "repetition_penalty": (1,), "stream": (False,), "suffix": ("",), "top_k": (0, -1), "top_p": (1,),
    "return_tokens_as_token_ids": (True,),
}  # fmt: skip
"""Fields of other servers, with the values of them that change nothing here."""
SILENT = ("user", "skip_special_tokens", "spaces_between_special_tokens")
"""Fields that change no number."""
NEVER = -9999.0
"""What vLLM and OpenAI write for −∞."""
MOST_PROMPTS = 1024
MOST_TOKENS = 4096

_Many = Annotated[int, Stored(low=-1)]


@frozen
class Asked:
    """The fields of a request that are known."""

    prompt: Any
    model: str | None = None
    max_tokens: Annotated[int, Stored(low=0, high=MOST_TOKENS)] = 16
    temperature: Annotated[float, Stored(low=0)] = 1.0
    n: Annotated[int, Stored(low=1, high=128)] = 1
    seed: Annotated[int, Stored(low=0)] | None = None
    echo: bool = False
    logprobs: _Many | None = None
    prompt_logprobs: _Many | None = None
    prompt_logprob_token_ids: tuple[int, ...] | None = None
    prompt_logprob_start: Annotated[int, Stored(low=0)] = 0
    return_token_ids: bool = False
    add_special_tokens: bool = True
    dense_logprobs: bool = False
    """The log-probs after the last token of a prompt as base64 of little-endian float32, a tenth of their JSON."""


def complete(body: object, models: Mapping[str, LanguageModel]) -> dict[str, Any]:
    """The answer to a request. Raises DataError PLM831 for what is wrong with it, ModelError for what the model refuses."""
    if isinstance(body, dict):
        body = {
            k: v for k, v in body.items() if k not in SILENT and v is not None and v not in NEUTRAL.get(k, ())
        }
    asked: Asked = fields_of(Asked, body)
    name = next(iter(models)) if asked.model is None and len(models) == 1 else asked.model
    if name is None or name not in models:
        help = meant(str(name), models, f"it serves {', '.join(models)}")
        raise ModelError.of(
            "PLM510", f"this server does not serve the model {name!r}", where="model", help=help
        )
    model = models[name]
    prompts = _prompts(asked, model)
    _check_ids("prompt_logprob_token_ids", asked.prompt_logprob_token_ids or (), model)
    before = _prompt_rows(asked, model, prompts)
    if asked.dense_logprobs:
        dense = model.open(prompts, shared=_alike(prompts)).log_probs
        drawn: list[Drawn] = [((), "length", [])] * (len(prompts) * asked.n)
    else:
        drawn = _drawn(asked, model, prompts)
    choices: list[dict[str, Any]] = []
    for i, prompt in enumerate(prompts):
        for j in range(asked.n):
            ids, reason, rows = drawn[i * asked.n + j]
            shown = (prompt if asked.echo else ()) + ids
            choice: dict[str, Any] = {
                "index": len(choices), "text": model.tokenizer.decode(shown), "finish_reason": reason,
                "logprobs": None,
            }  # fmt: skip
            if asked.logprobs is not None:
                own = [*(before[i] if asked.echo else []), *rows]
                choice["logprobs"] = _told(shown, own)
            if asked.prompt_logprobs is not None:
                choice["prompt_logprobs"] = [
                    row and {str(t): {"logprob": p} for t, p in row.items()} for row in before[i]
                ]
            if asked.dense_logprobs:
                choice["dense_logprobs"] = base64.b64encode(dense[i].astype("<f4").tobytes()).decode()
            if asked.return_token_ids:
                choice |= {"prompt_token_ids": list(prompt), "token_ids": list(ids)}
            choices.append(choice)
    read, written = sum(map(len, prompts)), sum(len(d[0]) for d in drawn)
    return {
        "id": f"cmpl-{os.urandom(8).hex()}", "object": "text_completion", "created": int(time.time()), "model": name,
        "choices": choices,
        "usage": {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written},
    }  # fmt: skip


def _wrong(why: str, where: str) -> DataError:
    return DataError.of("PLM831", f"this request cannot be answered: {why}", where=where)


def _prompts(asked: Asked, model: LanguageModel) -> list[Ids]:
    """The prompts as tokens, each with at least one and with room for what is to be drawn."""
    given = asked.prompt
    one = isinstance(given, str) or (isinstance(given, list) and bool(given) and isinstance(given[0], int))
    listed = [given] if one else given
    if not isinstance(listed, list) or not 1 <= len(listed) <= MOST_PROMPTS:
        raise _wrong(f"`prompt` is a text, token ids, or a list of up to {MOST_PROMPTS} of either", "prompt")
    found: list[Ids] = []
    for prompt in listed:
        if isinstance(prompt, str):
            ids = model.tokenizer.encode_start(prompt)
            found.append((*(model.tokenizer.start_ids if asked.add_special_tokens else ()), *ids))
        elif isinstance(prompt, list) and all(type(i) is int for i in prompt):
            found.append(tuple(prompt))
        else:
            raise _wrong("`prompt` is a text, token ids, or a list of either", "prompt")
        _check_ids("prompt", found[-1], model)
        if not found[-1]:
            raise _wrong("a prompt has at least one token", "prompt")
        if model.max_length is not None and len(found[-1]) + asked.max_tokens > model.max_length:
            length = f"{len(found[-1])} tokens and {asked.max_tokens} to come"
            raise ModelError.of(
                "PLM520", f"{length} are more than the {model.max_length} of the model's window"
            )
    return found


def _check_ids(name: str, ids: Sequence[int], model: LanguageModel) -> None:
    size = model.tokenizer.vocabulary_size
    odd = next((i for i in ids if not 0 <= i < size), None)
    if odd is not None:
        raise _wrong(f"`{name}` has the token {odd}, and the model has those from 0 to {size - 1}", name)


# ------------------------------------------------------------------------------- log-probs

Row = dict[int, float]
"""Log-probs of some tokens after one prefix, its own token's first."""


def _prompt_rows(asked: Asked, model: LanguageModel, prompts: Sequence[Ids]) -> list[list[Row | None]]:
    """For each prompt and place, the log-probs that are told; None at places before the first."""
    if asked.prompt_logprobs is None and not (asked.echo and asked.logprobs is not None):
        return [[] for _ in prompts]
    most = max([_many(k, model) for k in (asked.prompt_logprobs, asked.logprobs if asked.echo else None)])
    start = max(1, asked.prompt_logprob_start)
    if most == 0:
        return _own_rows(model, prompts, start, asked.prompt_logprob_token_ids or ())
    found: list[list[Row | None]] = [[None] * min(start, len(p)) for p in prompts]
    live = [i for i, prompt in enumerate(prompts) if len(prompt) > start]
    rollout = model.open([prompts[i][:start] for i in live])
    for place in range(start, max(map(len, prompts))):
        going = [k for k, i in enumerate(live) if len(prompts[i]) > place]
        log_probs = rollout.log_probs
        for k in going:
            found[live[k]].append(
                _row(log_probs[k], prompts[live[k]][place], most, asked.prompt_logprob_token_ids)
            )
        rows = np.asarray(going)
        live = [live[k] for k in going]
        rollout = rollout.extend(rows, np.asarray([prompts[i][place] for i in live]))
    return found


def _many(k: int | None, model: LanguageModel) -> int:
    size = model.tokenizer.vocabulary_size
    return 0 if k is None else size if k < 0 else min(k, size)


def _own_rows(
    model: LanguageModel, prompts: Sequence[Ids], start: int, others: Ids
) -> list[list[Row | None]]:
    """Of each place's own token and `others`, without a row of the vocabulary."""
    ends = others == model.tokenizer.eos_ids and len(others) == 1  # which every score has anyway
    shared = min(start, _alike(prompts))
    asked = [
        Scored(
            p,
            start,
            shared,
            () if ends else tuple(Branch(t, (o,)) for t in range(start, len(p)) for o in others),
        )
        for p in prompts
        if len(p) > start
    ]
    scores = iter(model.score(asked))
    found: list[list[Row | None]] = []
    for prompt in prompts:
        rows: list[Row | None] = [None] * min(start, len(prompt))
        if len(prompt) > start:
            score = next(scores)
            branches = iter(score.branches)
            for t, own in enumerate(prompt[start:]):
                row = {own: _json(score.tokens[t])}
                for other in others:
                    row[other] = _json(score.eos[t] if ends else next(branches).tokens[0])
                rows.append(row)
        found.append(rows)
    return found


def _alike(prompts: Sequence[Ids]) -> int:
    """How many tokens all prompts begin with."""
    columns = zip(*prompts, strict=False)
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))


def _row(log_probs: np.ndarray, own: int, most: int, others: Sequence[int] | None = None) -> Row:
    likeliest: Any = ()
    if most >= len(log_probs):
        likeliest = range(len(log_probs))
    elif most:
        top = np.argpartition(-log_probs, most - 1)[:most]
        likeliest = top[np.argsort(-log_probs[top], kind="stable")].tolist()
    return {i: _json(log_probs[i]) for i in dict.fromkeys((own, *(others or ()), *likeliest))}


def _json(log_prob: np.floating) -> float:
    return max(float(log_prob), NEVER)


def _told(ids: Sequence[int], rows: Sequence[Row | None]) -> dict[str, Any]:
    """`logprobs` of OpenAI; a token's name is `token_id:5`, since bytes of one may be no text."""
    return {
        "tokens": [f"token_id:{i}" for i in ids],
        "token_logprobs": [row and row[i] for i, row in zip(ids, rows, strict=True)],
        "top_logprobs": [row and {f"token_id:{t}": p for t, p in row.items()} for row in rows],
    }


# ------------------------------------------------------------------------------- draws


Drawn = tuple[Ids, str, list[Row]]


def _drawn(asked: Asked, model: LanguageModel, prompts: Sequence[Ids]) -> list[Drawn]:
    """For each prompt `n` continuations: their tokens, why they ended, and what is told of each place."""
    ids: list[list[int]] = [[] for _ in range(len(prompts) * asked.n)]
    reasons = ["length"] * len(ids)
    rows: list[list[Row]] = [[] for _ in ids]
    if asked.max_tokens:
        rng = np.random.default_rng(asked.seed)
        most = _many(asked.logprobs, model)
        ends = set(model.tokenizer.eos_ids)
        live = list(range(len(ids)))
        rollout: Rollout = model.open([prompts[i // asked.n] for i in live], shared=_alike(prompts))
        for step in range(asked.max_tokens):
            log_probs = rollout.log_probs
            picked = [_pick(log_probs[k], asked.temperature, rng) for k in range(len(live))]
            for k, i in enumerate(live):
                ids[i].append(picked[k])
                if asked.logprobs is not None:
                    rows[i].append(_row(log_probs[k], picked[k], most))
                if picked[k] in ends:
                    reasons[i] = "stop"
            going = np.asarray([k for k in range(len(live)) if picked[k] not in ends], dtype=np.int64)
            if not len(going) or step + 1 == asked.max_tokens:
                break
            rollout = rollout.extend(going, np.asarray(picked)[going])
            live = [live[k] for k in going]
    return [(tuple(i), reason, row) for i, reason, row in zip(ids, reasons, rows, strict=True)]


def _pick(log_probs: np.ndarray, temperature: float, rng: np.random.Generator) -> int:
    if temperature == 0:
        return int(np.argmax(log_probs))
    scaled = log_probs.astype(np.float64) / temperature
    return int(np.argmax(scaled + rng.gumbel(size=len(scaled))))
