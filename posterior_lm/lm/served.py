"""A language model behind an OpenAI-compatible server that scores prompts: vLLM, SGLang, `plm serve`.

Token ids go out and come back: a text that is cut into tokens again elsewhere drifts. `serve` probes a server before
it is used, since some score nothing, or another model, and say nothing of it. Log-probs of prompts take no whole rows of
the vocabulary; what draws inside a support does (`open`), and asks for a row for every sequence and token.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from attrs import evolve, field, frozen

from posterior_lm.lang.diagnostics import ModelError, meant
from posterior_lm.lm.notices import notice
from posterior_lm.lm.protocol import ModelIdentity, Request, Scores, Tokenizer, unpack_branches
from posterior_lm.lm.score_cache import ScoreCache
from posterior_lm.lm.served_http import TIMEOUT, Endpoint, RefusedRequest

Ids = tuple[int, ...]
NEVER = -9999.0
"""What servers write for −∞."""
SCORED_AT_ONCE, DRAWN_AT_ONCE = 64, 16
"""Prompts of one request: of scores, and of rows of the vocabulary."""
NOISE, WORST = 0.2, 0.75
"""Nats by which log-probs may move with the batch that they are computed in, on average and each of them. Engines move by
0.05, and bfloat16, whose logits near 20 have steps of 0.125, moves an unlikely token by 0.25."""
SPARE = 2
"""Places of the window that a request for scores takes: end-of-text, and the token that some draw all the same."""
ROWS_HELP = (
    "start vLLM with --max-logprobs -1 --logprobs-mode raw_logprobs, or serve the model with plm serve"
)


@frozen(eq=False, slots=False)
class ServedModel:
    """A model of a server. `told` is what the server says of it; `ends` whether other tokens are scored at a place, `echo`
    whether prompts are scored by echoing them."""

    endpoint: Endpoint = field(repr=False)
    model: str
    tokenizer: Tokenizer = field(repr=False)
    identity: ModelIdentity
    max_length: int | None = None
    echo: bool = False
    ends: bool = True
    cache: ScoreCache | None = field(default=None, repr=False)
    packed: bool = False

    # ------------------------------------------------------------- scores

    def score(self, requests: Sequence[Request]) -> list[Scores]:
        """Scores of each request, in order; equal ones are asked for once, and what the cache has is not. PLM520, PLM560, PLM561."""
        parts = [unpack_branches(request) for request in requests]
        wanted = dict.fromkeys((p.ids, p.start) for part in parts for p in part)
        for ids, _ in wanted:
            self._check_length(ids)
        found = {} if self.cache is None else self.cache.find(list(wanted))
        new = self._scored([key for key in wanted if key not in found])
        if self.cache is not None:
            self.cache.keep(new)
        found |= new
        scores = {}
        for ids, start in wanted:
            values = found[ids, start]
            scores[ids, start] = Scores(values[: len(ids) - start].copy(), values[len(ids) - start :].copy())
        return [
            evolve(scores[trunk.ids, trunk.start], branches=tuple(scores[b.ids, b.start] for b in branches))
            for trunk, *branches in parts
        ]

    def _check_length(self, ids: Ids) -> None:
        if self.max_length is not None and len(ids) > self.max_length:
            message = f"{len(ids)} tokens are more than the {self.max_length} that {self.identity.name} takes"
            raise ModelError.of(
                "PLM520", message, help="shorten the context, or serve a model with a longer window"
            )

    def _scored(self, asked: Sequence[tuple[Ids, int]]) -> dict[tuple[Ids, int], np.ndarray]:
        """(2T + 1,) for each: log-probs of its tokens, and of end-of-text after each prefix from its start on."""
        eos = self.tokenizer.eos_ids
        jobs: dict[tuple[Ids, int], None] = {}
        for ids, start in asked:
            if not self.ends:  # one prompt for each place where the text could end
                jobs |= {((*ids[:k], e), k): None for k in range(start, len(ids) + 1) for e in eos}
            jobs[(*ids, *(eos[:1] if self.ends else ())), start] = None
        rows = dict(zip(jobs, self._rows_of_prompts(list(jobs)), strict=True))
        found = {}
        for ids, start in asked:
            own = rows[(*ids, *(eos[:1] if self.ends else ())), start]
            tokens = [own[k - start][ids[k]] for k in range(start, len(ids))]
            places = range(start, len(ids) + 1)
            if self.ends:
                ends = [[own[k - start][e] for e in eos] for k in places]
            else:
                ends = [[rows[(*ids[:k], e), k][0][e] for e in eos] for k in places]
            last = (
                np.logaddexp.reduce(np.array(ends), axis=1) if eos else np.full(len(ids) - start + 1, -np.inf)
            )
            found[ids, start] = np.array([*tokens, *last], dtype=np.float64)
        return found

    def _rows_of_prompts(self, jobs: Sequence[tuple[Ids, int]]) -> list[list[dict[int, float]]]:
        """For each prompt, at each place from its start on, the log-probs of its own token and of end-of-text."""
        chunks = [jobs[k : k + SCORED_AT_ONCE] for k in range(0, len(jobs), SCORED_AT_ONCE)]
        bodies = [self._body(chunk) for chunk in chunks]
        found: list[list[dict[int, float]]] = []
        for chunk, answer in zip(chunks, self.endpoint.post_all("/completions", bodies), strict=True):
            for (ids, start), choice in zip(chunk, choices(self.endpoint, answer, len(chunk)), strict=True):
                rows = self._told(ids, choice)
                found.append([self._row(ids, k, rows[k]) for k in range(start, len(ids))])
        return found

    def _body(self, jobs: Sequence[tuple[Ids, int]]) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.model, "prompt": [list(ids) for ids, _ in jobs], "temperature": 1.0, "return_token_ids": True,
        }  # fmt: skip
        if self.echo:
            return {**body, "max_tokens": 0, "echo": True, "logprobs": 0}
        if self.ends and self.tokenizer.eos_ids:
            body["prompt_logprob_token_ids"] = list(self.tokenizer.eos_ids)
        start = min(start for _, start in jobs)
        return {**body, "max_tokens": 0, "echo": True, "prompt_logprobs": 0, "prompt_logprob_start": start}

    def _told(self, ids: Ids, choice: dict[str, Any]) -> list[Any]:
        """What is told of every place of a prompt."""
        sent = choice.get("prompt_token_ids")
        if sent is not None and tuple(sent) != ids:
            self.endpoint.wrong(f"it answers for other tokens than the {len(ids)} that were sent")
        if self.echo:
            logprobs = choice.get("logprobs")
            rows = logprobs.get("token_logprobs") if isinstance(logprobs, dict) else None
        else:
            rows = choice.get("prompt_logprobs")
        if not isinstance(rows, list) or len(rows) != len(ids):
            many = len(rows) if isinstance(rows, list) else "none"
            self.endpoint.wrong(f"of a prompt of {len(ids)} tokens it scores {many}")
        return rows

    def _row(self, ids: Ids, place: int, row: Any) -> dict[int, float]:
        if self.echo:
            return {ids[place]: self._log_prob(row)}
        wanted = (ids[place], *(self.tokenizer.eos_ids if self.ends else ()))
        if not isinstance(row, dict):
            self.endpoint.wrong(f"it says nothing of place {place} of a prompt")
        if (missing := next((i for i in wanted if str(i) not in row), None)) is not None:
            self.endpoint.wrong(f"at place {place} of a prompt it does not score the token {missing}")
        return {i: self._log_prob(row[str(i)]) for i in wanted}

    def _log_prob(self, told: Any) -> float:
        value = told.get("logprob") if isinstance(told, dict) else told
        # A server that rounds may exceed 0 a little.
        if not isinstance(value, int | float) or isinstance(value, bool) or not value <= 0.01:
            self.endpoint.wrong(f"a log-prob is {value!r}")
        return -math.inf if value <= NEVER else float(value)

    # ------------------------------------------------------------- rows of the vocabulary

    def open(self, sequences: Sequence[Ids], *, shared: int = 0) -> ServedRollout:
        """A rollout that stands after each sequence; PLM564 where the server gives no whole rows, when they are read."""
        sequences = [tuple(s) for s in sequences]
        if not all(sequences):
            raise ValueError("a sequence of no tokens has no next token: begin with a start token")
        for ids in sequences:
            self._check_length(ids)
        return ServedRollout(self, tuple(sequences))

    def next_rows(self, sequences: Sequence[Ids]) -> np.ndarray:
        """(N, V) float32 log-probs of the next token."""
        distinct = list(dict.fromkeys(sequences))
        chunks = [distinct[k : k + DRAWN_AT_ONCE] for k in range(0, len(distinct), DRAWN_AT_ONCE)]
        size = self.tokenizer.vocabulary_size
        bodies = [
            {"model": self.model, "prompt": [list(ids) for ids in chunk], "temperature": 1.0, "max_tokens": 1,
             "logprobs": size, "return_tokens_as_token_ids": True, "dense_logprobs": True}
            for chunk in chunks
        ]  # fmt: skip
        rows = []
        for chunk, answer in zip(chunks, self.endpoint.post_all("/completions", bodies), strict=True):
            rows += [self._whole(choice) for choice in choices(self.endpoint, answer, len(chunk))]
        place = {ids: i for i, ids in enumerate(distinct)}
        return np.stack(rows)[[place[ids] for ids in sequences]] if rows else np.empty((0, size), np.float32)

    def _whole(self, choice: dict[str, Any]) -> np.ndarray:
        """(V,) of an answer. Raises ModelError PLM564 where a token is missing, PLM561 for what is no distribution."""
        size = self.tokenizer.vocabulary_size
        if isinstance(dense := choice.get("dense_logprobs"), str):
            try:
                row = np.frombuffer(base64.b64decode(dense, validate=True), "<f4")
            except ValueError:
                row = np.empty(0, np.float32)
        else:
            logprobs = choice.get("logprobs")
            top = logprobs.get("top_logprobs") if isinstance(logprobs, dict) else None
            told = top[0] if isinstance(top, list) and top and isinstance(top[0], dict) else {}
            names = (f"token_id:{i}" for i in range(size))
            values = [told.get(name, math.nan) for name in names]
            row = np.array([v if isinstance(v, int | float) else math.nan for v in values], dtype=np.float32)
            if known := int(np.isnan(row).sum()):
                self.without_rows(size - known)
        if len(row) != size or np.isnan(row).any():
            self.endpoint.wrong("the row of the vocabulary that it answers with is not whole")
        row = np.where(row <= NEVER, np.float32(-np.inf), row)
        total = float(np.logaddexp.reduce(row.astype(np.float64)))
        if abs(total) > 0.01:
            self.endpoint.wrong(
                f"the probabilities of its next tokens sum to {math.exp(min(total, 700)):.3g}"
            )
        return row

    def without_rows(self, known: int) -> None:
        """Raises ModelError PLM564."""
        raise ModelError.of(
            "PLM564",
            f"the server {self.endpoint.url} gives the log-probs of {known} next tokens, and drawing inside a support takes "
            f"all {self.tokenizer.vocabulary_size}",
            help=ROWS_HELP,
        )


@frozen(eq=False, slots=False)
class ServedRollout:
    """Sequences and the rows after them, which are asked for when they are first read."""

    model: ServedModel
    sequences: tuple[Ids, ...]

    @cached_property
    def log_probs(self) -> np.ndarray:
        """(N, V) float32."""
        return self.model.next_rows(self.sequences)

    def extend(self, rows: np.ndarray, tokens: np.ndarray) -> ServedRollout:
        longer = ((*self.sequences[r], int(t)) for r, t in zip(rows.tolist(), tokens.tolist(), strict=True))
        return self.model.open(list(longer))


def choices(endpoint: Endpoint, answer: dict[str, Any], n: int) -> list[dict[str, Any]]:
    """The n answers to n prompts, in order. Raises ModelError PLM561."""
    found = answer.get("choices")
    if not isinstance(found, list) or not all(isinstance(c, dict) for c in found):
        endpoint.wrong("its answer has no `choices`")
    if sorted(str(c.get("index")) for c in found) != sorted(map(str, range(n))):
        endpoint.wrong(f"it answers {len(found)} of {n} prompts")
    return sorted(found, key=lambda c: int(c["index"]))


# ------------------------------------------------------------------------------- before it is used


def serve(
    url: str, model: str | None, tokenizer_of: Callable[[str], Tokenizer], *, timeout: float = TIMEOUT
) -> ServedModel:
    """The model of a server, once it has shown that it scores every place of a prompt as it draws.

    `tokenizer_of` gives the tokenizer of a model by the name that the server has for it.

    Raises ModelError: PLM560 and PLM561 for a server that does not answer or wrongly, PLM562 for one that cannot score,
    PLM563 where it has no such model or tokenizer.
    """
    endpoint = Endpoint.of(url, timeout)
    told = _model_told(endpoint, model)
    name = str(told["id"])
    tokenizer = tokenizer_of(name)
    digest = told.get("tokenizer")
    if digest not in (None, tokenizer.digest):
        message = f"the tokenizer is not that of {name} on {endpoint.url}"
        raise ModelError.of("PLM563", message, help="name the model's own folder: tokenizer=…")
    window = told.get("max_model_len")
    identity = ModelIdentity(
        name=f"{name} on {endpoint.url}",
        kind="served",
        digest=hashlib.sha256(
            "\n".join([endpoint.url, name, tokenizer.digest, str(told.get("digest"))]).encode()
        ).hexdigest(),
        dtype=str(told.get("dtype", "unknown")),
    )
    length = window - SPARE if isinstance(window, int) and window > SPARE else None
    found = ServedModel(endpoint, name, tokenizer, identity, length)
    found, probe = _probed(found)
    return evolve(found, cache=ScoreCache.of(identity.digest, probe))


def _model_told(endpoint: Endpoint, model: str | None) -> dict[str, Any]:
    data = endpoint.get("/models").get("data")
    listed = [m for m in data if isinstance(m, dict) and "id" in m] if isinstance(data, list) else []
    names = [str(m["id"]) for m in listed]
    if model is None and len(listed) == 1:
        return listed[0]
    if model not in names:
        what = "no model is named" if model is None else f"it does not serve {model!r}"
        help = meant(model or "", names, f"it serves {', '.join(names) or 'none'}: model=…")
        raise ModelError.of("PLM563", f"the server {endpoint.url}: {what}", help=help)
    return listed[names.index(model)]


def _probe_prompts(tokenizer: Tokenizer) -> list[Ids]:
    """Three prompts of different lengths, of ordinary tokens from all over the vocabulary, behind the begin token."""
    plain = [i for i, piece in enumerate(tokenizer.token_bytes) if piece and i not in tokenizer.eos_ids]
    spread = [plain[k * len(plain) // 12] for k in range(12)]
    return [(*tokenizer.start_ids, *spread[:n]) for n in (5, 3, 9)]


def _probed(model: ServedModel) -> tuple[ServedModel, np.ndarray]:
    """The model as its server can be asked, and the log-probs of the first prompt's tokens. Raises ModelError PLM562."""
    prompts = [p[: model.max_length] for p in _probe_prompts(model.tokenizer)]
    model = _scoring(model, prompts[0])
    # A server that shifts places, or scores something else than it draws with, is found out by a token that it draws.
    drawn = model.endpoint.post("/completions", {
        "model": model.model, "prompt": [list(prompts[0][:-1])], "max_tokens": 1, "temperature": 0, "logprobs": 1,
        "return_tokens_as_token_ids": True, "return_token_ids": True,
    })  # fmt: skip
    choice = choices(model.endpoint, drawn, 1)[0]
    token, log_prob = _first_drawn(choice)
    alone = {p: model._scored([(p, 1)])[p, 1] for p in prompts}
    together = model._scored([(p, 1) for p in prompts])
    for p in prompts:
        if not _close(alone[p], together[p, 1]):
            _unfit(model, "prompts that are scored together get other log-probs than each by itself")
    if token is None:
        notice(
            f"the server {model.endpoint.url} does not name the tokens that it draws, so its scores are not held against them"
        )
    else:
        longer = (*prompts[0][:-1], token)
        value = model._scored([(longer, 1)])[longer, 1][len(longer) - 2]
        if not _close(value, log_prob):
            _unfit(model, f"a token that it draws with log-prob {log_prob:.3f} it scores with {value:.3f}")
    return model, alone[prompts[0]][: len(prompts[0]) - 1]


def _scoring(model: ServedModel, prompt: Ids) -> ServedModel:
    """As the server can be asked: by prompt log-probs, and those of end-of-text beside them where it has them; else by echo."""
    try:
        body = model._body([(prompt, 1)])
        rows = choices(model.endpoint, model.endpoint.post("/completions", body), 1)[0].get("prompt_logprobs")
    except RefusedRequest:
        rows = None  # a server that takes no field it does not know may still echo
    last = rows[-1] if isinstance(rows, list) and rows else None
    ends = isinstance(last, dict) and all(str(e) in last for e in model.tokenizer.eos_ids)
    model = evolve(model, echo=rows is None, ends=ends)
    try:
        model._rows_of_prompts([(prompt, 1)])
    except ModelError as problem:
        if problem.diagnostics[0].code != "PLM561":
            raise
        _unfit(model, problem.diagnostics[0].message.split(": ", 1)[-1])
    if not ends:
        notice(
            f"the server {model.endpoint.url} scores end-of-text only by prompts of their own, one for each place"
        )
    return model


def _unfit(model: ServedModel, why: str) -> None:
    raise ModelError.of(
        "PLM562",
        f"the server {model.endpoint.url} does not score prompts: {why}",
        help="vLLM, SGLang and plm serve do, by /v1/completions; chat interfaces, llama.cpp and Ollama do not",
    )


def _first_drawn(choice: dict[str, Any]) -> tuple[int | None, float]:
    logprobs = choice.get("logprobs")
    names = (logprobs or {}).get("tokens") or [None]
    values = (logprobs or {}).get("token_logprobs") or [math.nan]
    name, value = names[0], values[0]
    if isinstance(name, str) and name.startswith("token_id:") and name[9:].isdigit():
        return int(name[9:]), float(value)
    return None, math.nan


def _close(a: np.ndarray | float, b: np.ndarray | float) -> bool:
    with np.errstate(invalid="ignore"):
        off = np.atleast_1d(np.where(np.equal(a, b), 0.0, np.abs(np.subtract(a, b))))  # −∞ is as far as −∞
    return bool(np.all(off < WORST) and off.mean() <= NOISE)
