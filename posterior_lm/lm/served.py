"""A language model behind an OpenAI-compatible server that scores prompts: vLLM, SGLang, `plm serve`.

Token ids go out and come back: a text that is cut into tokens again elsewhere drifts. `serve` probes a server before
it is used, since some score nothing, or another model, and say nothing of it. Log-probs of prompts take no whole rows of
the vocabulary; what draws inside a support does (`open`), and asks for a row for every sequence and token. Where a server
tells the likeliest tokens alone, there is what its own sampler draws (`sample`).
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any, NoReturn

import numpy as np
from attrs import evolve, field, frozen

from posterior_lm.lang.diagnostics import ModelError, meant
from posterior_lm.lm.notices import notice
from posterior_lm.lm.protocol import Drawn, ModelIdentity, Request, Scores, Tokenizer, unpack_branches
from posterior_lm.lm.score_cache import Ids, Place, ScoreCache
from posterior_lm.lm.served_http import TIMEOUT, Endpoint, RefusedRequest

NEVER = -9999.0  # what servers write for −∞
SCORED_AT_ONCE, DRAWN_AT_ONCE, TEXTS_AT_ONCE = 64, 16, 64
"""Prompts of one request: of scores, and of rows of the vocabulary; and texts that it draws after one prompt."""
LIKELIEST = (20, 5, 0)
"""Tokens that a server is asked to tell of where it draws, till it does: as many as vLLM tells, as OpenAI, or none."""
PLAIN = {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
"""Draws from the model as it is; vLLM else does what the model's folder says of sampling."""
NOISE, WORST = 0.2, 0.75
"""Nats by which log-probs may move with the batch that they are computed in, on average and each of them. Engines move by
0.05, and bfloat16, whose logits near 20 have steps of 0.125, moves an unlikely token by 0.25."""
SPARE = 2  # places of the window that a request for scores takes: end-of-text, and the token that some draw all the same
ROWS_HELP = (
    "start vLLM with --max-logprobs -1 --logprobs-mode raw_logprobs, serve the model with plm serve, "
    "or use importance, smc or mcmc, for which the server draws texts itself"
)


@frozen(eq=False, slots=False)
class ServedModel:
    """A model of a server. `ends` says whether other tokens are scored at a place, `echo` whether prompts are scored by echoing
    them; `weights` is the digest that the server tells of the model itself, and `policy` its name with an adapter."""

    endpoint: Endpoint = field(repr=False)
    model: str
    tokenizer: Tokenizer = field(repr=False)
    identity: ModelIdentity
    max_length: int | None = None
    echo: bool = False
    ends: bool = True
    cache: ScoreCache | None = field(default=None, repr=False)
    packed: bool = False
    weights: str | None = None
    policy: str | None = None

    def adapted(self) -> ServedModel:
        """The same with a policy's adapter, which draws and scores nothing that is kept. PLM516 where none was named."""
        if self.policy is None:
            help = "name the model that has its adapter on the server, as --lm NAME=http://…,policy=ADAPTER"
            message = f"{self.identity.name} has no weights to put a policy's adapter on"
            raise ModelError.of("PLM516", message, help=help)
        name = f"{self.policy} on {self.endpoint.url}"
        return evolve(self, model=self.policy, cache=None, identity=evolve(self.identity, name=name))

    # ------------------------------------------------------------- scores

    def score(self, requests: Sequence[Request]) -> list[Scores]:
        """Scores of each request, in order; equal ones are asked for once, and what the cache has is not. PLM520, PLM560, PLM561."""
        parts = [unpack_branches(request) for request in requests]
        wanted = dict.fromkeys((p.ids, p.start) for part in parts for p in part)
        for ids, _ in wanted:
            self._check_length(ids)
        ending = {(p.ids, p.start) for part in parts for p in part if p.ends}
        kept = {} if self.cache is None else self.cache.find(list(wanted))
        found = {key: v for key, v in kept.items() if key not in ending or not np.isnan(v).any()}
        new = self._scored([key for key in wanted if key not in found], ending)
        if self.cache is not None:
            self.cache.keep(new)
        found |= new
        scores = {}
        for (ids, start), values in ((key, found[key]) for key in wanted):
            scores[ids, start] = Scores(values[: len(ids) - start].copy(), values[len(ids) - start :].copy())
        return [
            evolve(scores[trunk.ids, trunk.start], branches=tuple(scores[b.ids, b.start] for b in branches))
            for trunk, *branches in parts
        ]

    def _check_length(self, ids: Ids) -> None:
        if self.max_length is not None and len(ids) > self.max_length:
            message = f"{len(ids)} tokens are more than the {self.max_length} that {self.identity.name} takes"
            help = "shorten the context, or serve a model with a longer window"
            raise ModelError.of("PLM520", message, help=help)

    def _scored(self, asked: Sequence[Place], ending: Collection[Place]) -> dict[Place, np.ndarray]:
        """(2T + 1,) for each: log-probs of its tokens, and of end-of-text after each prefix from its start on; of those
        NaN where they take prompts of their own and it is not `ending`."""
        eos = self.tokenizer.eos_ids
        jobs: dict[Place, None] = {}
        for ids, start in asked:
            if not self.ends and (ids, start) in ending:  # one prompt for each place where the text could end
                jobs |= {((*ids[:k], e), k): None for k in range(start, len(ids) + 1) for e in eos}
            jobs[(*ids, *(eos[:1] if self.ends else ())), start] = None
        rows = dict(zip(jobs, self._rows_of_prompts(list(jobs)), strict=True))
        found = {}
        for ids, start in asked:
            own, places = rows[(*ids, *(eos[:1] if self.ends else ())), start], range(start, len(ids) + 1)
            if not self.ends and (ids, start) in ending:
                ends = [[rows[(*ids[:k], e), k][0][e] for e in eos] for k in places]
            else:
                ends = [[own[k - start][e] for e in eos] for k in places if self.ends]
            last = np.full(len(places), np.nan if eos else -np.inf)
            if eos and ends:
                last = np.logaddexp.reduce(np.array(ends), axis=1)
            found[ids, start] = np.array(
                [*(own[k - start][ids[k]] for k in places[:-1]), *last], dtype=np.float64
            )
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

    def _body(self, jobs: Sequence[tuple[Ids, int]], *, ends: bool = True) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.model, "prompt": [list(ids) for ids, _ in jobs], "temperature": 1.0, "return_token_ids": True,
        }  # fmt: skip
        if self.echo:
            return {**body, "max_tokens": 0, "echo": True, "logprobs": 0}
        if ends and self.ends and self.tokenizer.eos_ids:
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

    def _row(self, ids: Ids, place: int, row: Any, *, ends: bool = True) -> dict[int, float]:
        if self.echo:
            return {ids[place]: self._log_prob(row)}
        wanted = (ids[place], *(self.tokenizer.eos_ids if self.ends and ends else ()))
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
        try:
            answers = self.endpoint.post_all("/completions", bodies)
        except RefusedRequest as refused:  # vLLM has a limit, and says so
            self.without_rows(refused.diagnostics[0].message)
        for chunk, answer in zip(chunks, answers, strict=True):
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
                self.without_rows(
                    f"the server {self.endpoint.url} tells the log-probs of {size - known} next tokens of {size}"
                )
        if len(row) != size or np.isnan(row).any():
            self.endpoint.wrong("the row of the vocabulary that it answers with is not whole")
        row = np.where(row <= NEVER, np.float32(-np.inf), row)
        total = float(np.logaddexp.reduce(row.astype(np.float64)))
        if abs(total) > 0.01:
            self.endpoint.wrong(
                f"the probabilities of its next tokens sum to {math.exp(min(total, 700)):.3g}"
            )
        return row

    def without_rows(self, why: str) -> NoReturn:
        """Raises ModelError PLM564."""
        raise ModelError.of("PLM564", f"{why}, and drawing inside a type takes all of them", help=ROWS_HELP)

    # ------------------------------------------------------------- what its own sampler draws

    @cached_property
    def whole_rows(self) -> bool:
        """See `DrawingModel`; found out when it is first asked."""
        try:
            self.next_rows(_probe_prompts(self.tokenizer)[:1])
        except ModelError as problem:
            if problem.diagnostics[0].code != "PLM564":
                raise
            return False
        return True

    @cached_property
    def told(self) -> int:
        """See `DrawingModel`: the most that the server takes of `LIKELIEST`, and no more than it then tells."""
        for k in LIKELIEST:
            body = self._drawing_body(_probe_prompts(self.tokenizer)[0], 1, 1, k) | {"temperature": 0.0}
            with suppress(RefusedRequest):
                choice = choices(self.endpoint, self.endpoint.post("/completions", body), 1)[0]
                return max((len(place.likeliest) for place in self._places(choice, k)), default=0)
        return 0

    def sample(
        self, asked: Sequence[tuple[Ids, int]], tokens: int, rng: np.random.Generator
    ) -> list[list[list[Drawn]]]:
        """See `DrawingModel`. A request has one prompt and a seed of its own, since servers may use one for each of several prompts."""
        parts = [(ids, min(TEXTS_AT_ONCE, n - k)) for ids, n in asked for k in range(0, n, TEXTS_AT_ONCE)]
        bodies = []
        for ids, n in parts:
            self._check_length((*ids, 0))
            room = tokens if self.max_length is None else min(tokens, self.max_length - len(ids))
            body = self._drawing_body(ids, n, room, self.told)
            bodies.append(body | {"seed": int(rng.integers(2**31))})
        texts: list[list[Drawn]] = []
        answers = self.endpoint.post_all("/completions", bodies)
        for (_, n), body, answer in zip(parts, bodies, answers, strict=True):
            for choice in choices(self.endpoint, answer, n):
                text = self._places(choice, self.told)
                if any(len(place.likeliest) != self.told for place in text):
                    self.endpoint.wrong(f"of the {self.told} likeliest tokens it does not always tell")
                if len(text) < body["max_tokens"] and (
                    not text or text[-1].token not in self.tokenizer.eos_ids
                ):
                    self.endpoint.wrong("it does not tell the log-prob of the end-of-text that it draws")
                texts.append(text)
        given = iter(texts)
        return [[next(given) for _ in range(n)] for _, n in asked]

    def likeliest(self, asked: Sequence[tuple[Ids, int]]) -> list[list[Drawn]]:
        for ids, _ in asked:
            self._check_length(ids)
        chunks = [asked[k : k + SCORED_AT_ONCE] for k in range(0, len(asked), SCORED_AT_ONCE)]
        more = {"logprobs" if self.echo else "prompt_logprobs": self.told, "return_tokens_as_token_ids": True}
        answers = self.endpoint.post_all("/completions", [self._body(c, ends=False) | more for c in chunks])
        found = []
        for chunk, answer in zip(chunks, answers, strict=True):
            for (ids, start), choice in zip(chunk, choices(self.endpoint, answer, len(chunk)), strict=True):
                rows = self._told(ids, choice)
                others = (choice["logprobs"].get("top_logprobs") or [{}] * len(ids)) if self.echo else rows
                owns = [self._row(ids, k, rows[k], ends=False)[ids[k]] for k in range(start, len(ids))]
                found.append([*map(self._place, ids[start:], owns, others[start:])])
        if any(len(place.likeliest) != self.told for text in found for place in text):
            self.endpoint.wrong(f"of the {self.told} likeliest tokens it does not always tell")
        return found

    def _place(self, token: int, log_prob: float, others: Any, k: int | None = None) -> Drawn:
        """The token at a place, and the first k of the others, whether it is among them or not."""
        named = others.items() if isinstance(others, dict) else ()
        row = {_id(name): self._log_prob(p) for name, p in named if name.isdigit() or not _no_id(name)}
        # The token itself stands beside the k where it is none of them.
        first = sorted(row, key=lambda i: (-row[i], i == token))[: self.told if k is None else k]
        return Drawn(token, log_prob, {i: row[i] for i in first})

    def _drawing_body(self, ids: Ids, n: int, tokens: int, k: int) -> dict[str, Any]:
        return {
            "model": self.model, "prompt": [list(ids)], "n": n, "max_tokens": tokens, "logprobs": k,
            "return_tokens_as_token_ids": True, **PLAIN,
        }  # fmt: skip

    def _places(self, choice: dict[str, Any], k: int) -> list[Drawn]:
        """What was drawn at each place; of the likeliest the first k, whether the drawn one is among them or not."""
        told = choice.get("logprobs")
        told = told if isinstance(told, dict) else {}
        parts = [told.get(name) or [] for name in ("tokens", "token_logprobs", "top_logprobs")]
        tokens, log_probs, likeliest = (part if isinstance(part, list) else [] for part in parts)
        likeliest = likeliest or [{}] * len(tokens)
        if len({len(tokens), len(log_probs), len(likeliest)}) > 1 or any(map(_no_id, tokens)):
            self.endpoint.wrong("it does not name the tokens that it draws")
        values = map(self._log_prob, log_probs)
        return [
            self._place(_id(t), v, others, k) for t, v, others in zip(tokens, values, likeliest, strict=True)
        ]


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
    url: str, model: str | None, tokenizer_of: Callable[[str], Tokenizer], *, policy: str | None = None,
    timeout: float = TIMEOUT,
) -> ServedModel:  # fmt: skip
    """The model of a server, once it has shown that it scores every place of a prompt as it draws.

    `tokenizer_of` gives the tokenizer of a model by the name that the server has for it.

    Raises ModelError: PLM560 and PLM561 for a server that does not answer or wrongly, PLM562 for one that cannot score,
    PLM563 where it has no such model or tokenizer.
    """
    endpoint = Endpoint.of(url, timeout)
    told = _model_told(endpoint, model)
    if policy is not None:
        _model_told(endpoint, policy)
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
    weights = told["digest"] if isinstance(told.get("digest"), str) else None
    found = ServedModel(endpoint, name, tokenizer, identity, length, weights=weights, policy=policy)
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
    told = choice.get("logprobs")
    told = told if isinstance(told, dict) else {}
    [name], [log_prob] = ((told.get(field) or [None])[:1] for field in ("tokens", "token_logprobs"))
    alone = {p: model._scored([(p, 1)], {(p, 1)})[p, 1] for p in prompts}
    together = model._scored([(p, 1) for p in prompts], {(p, 1) for p in prompts})
    for p in prompts:
        if not _close(alone[p], together[p, 1]):
            _unfit(model, "prompts that are scored together get other log-probs than each by itself")
    if _no_id(name):
        notice(
            f"the server {model.endpoint.url} does not name the tokens that it draws, so its scores are not held against them"
        )
    else:
        longer = (*prompts[0][:-1], _id(name))
        value = model._scored([(longer, 1)], ())[longer, 1][len(longer) - 2]
        log_prob = math.nan if log_prob is None else float(log_prob)
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


def _no_id(name: object) -> bool:
    return not (isinstance(name, str) and name.startswith("token_id:") and name[9:].isdigit())


def _id(name: str) -> int:
    """The token of a name like `token_id:5`, or `5`."""
    return int(name.removeprefix("token_id:"))


def _close(a: np.ndarray | float, b: np.ndarray | float) -> bool:
    with np.errstate(invalid="ignore"):
        off = np.atleast_1d(np.where(np.equal(a, b), 0.0, np.abs(np.subtract(a, b))))  # −∞ is as far as −∞
    return bool(np.all(off < WORST) and off.mean() <= NOISE)
