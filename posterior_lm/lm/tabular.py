"""A language model that is a table: small enough that every sum can be written out.

The next token depends on the last `order` tokens, and after `max_tokens` tokens
the text ends with probability one, so a program over it has finitely many values
and the laws of the language can be tested without any tolerance but rounding.
Its JSON file is checked entry by entry:

    {
      "tokens": ["a", "b", "ab", " ", "."],
      "order": 1,
      "max_tokens": 6,
      "bos": false,
      "rows": {
        "": {"a": 0.5, "b": 0.3, "<eos>": 0.2},
        "a": {"b": 0.9, "<eos>": 0.1}
      },
      "contexts": [{"after": ["a", "b"], "next": {"<eos>": 1.0}}]
    }

`rows` gives the next-token probabilities after one token ("" is: after anything);
`contexts` does the same for any number of last tokens up to `order`, written as a
list. A context that has no row falls back to its shorter end, at last to "".
Tokens that a row does not name have probability zero; a row sums to one. `"<bos>"`
may stand in a context, as its first token, where `bos` is true; without `bos` a
context at the very start of a text is simply shorter.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from attrs import field, frozen

from posterior_lm.lang.diagnostics import ModelError, error, shown
from posterior_lm.lang.source import is_text
from posterior_lm.lm.protocol import ModelIdentity, Request, Scores, eos_log_probs, unpack_branches
from posterior_lm.storage import read_object

EOS, BOS = "<eos>", "<bos>"
SUM_TOLERANCE = 1e-6  # what six printed decimals of a long row may be off by


def wrong(name: str, where: str, what: str, described: str = "tabular") -> ModelError:
    """PLM514 for one entry of a table; `described` is the module that says how tables are written."""
    return ModelError.of(
        "PLM514",
        f"the table {name} cannot be read: {what}",
        where=where or None,
        help=f"the format is described in posterior_lm/lm/{described}.py",
    )


def read_table(path: Path) -> dict[str, Any]:
    """The JSON object in a file; PLM510 where there is none, PLM514 where it is not JSON."""
    try:
        return read_object(path)
    except FileNotFoundError:
        raise ModelError.of(
            "PLM510", f"there is no table {path}", help="name an existing .json file"
        ) from None
    except OSError as problem:
        raise ModelError.of("PLM510", f"the table {path} cannot be opened: {problem.strerror}") from None
    except ValueError as problem:
        raise wrong(str(path), "", str(problem)) from None


def parse_table(
    table: dict[str, Any], name: str
) -> tuple[tuple[str, ...], int, int, bool, dict[tuple[str, ...], dict[str, float]]]:
    """Tokens, order, max_tokens, bos and the rows by context; PLM514 names the wrong entry."""
    unknown = sorted(set(table) - {"tokens", "order", "max_tokens", "bos", "rows", "contexts"})
    if unknown:
        raise wrong(name, unknown[0], f"there is no entry {unknown[0]!r} in this format")
    tokens = parse_tokens(table.get("tokens"), name)
    order = _whole(table.get("order", 0), 0, 2, "order", name)
    max_tokens = _whole(table.get("max_tokens"), 0, 10_000, "max_tokens", name)
    bos = table.get("bos", False)
    if not isinstance(bos, bool):
        raise wrong(name, "bos", "'bos' is neither true nor false")
    rows: dict[tuple[str, ...], dict[str, float]] = {}
    for context, row, where in _contexts(table, name):
        if len(context) > order:
            raise wrong(name, where, f"the context {list(context)} is longer than the order {order}")
        for i, token in enumerate(context):
            if not (token in tokens or (bos and i == 0 and token == BOS)):
                raise wrong(name, where, f"{token!r} is not one of the tokens")
        if context in rows:
            raise wrong(name, where, f"the context {list(context)} has two rows")
        rows[context] = _row(row, tokens, where, name)
    if () not in rows:
        raise wrong(name, "rows", 'the row "" is missing, to which every context falls back')
    return tokens, order, max_tokens, bos, rows


def parse_tokens(value: Any, name: str) -> tuple[str, ...]:
    """The tokens of a table; PLM514 names the wrong one."""
    if not isinstance(value, list) or not value:
        raise wrong(name, "tokens", "'tokens' is not a list of texts")
    for i, token in enumerate(value):
        if not isinstance(token, str) or not token or token in (EOS, BOS) or not is_text(token):
            raise wrong(name, f"tokens[{i}]", f"{token!r} is no token")
    if len(set(value)) < len(value):
        twice = next(t for t in value if value.count(t) > 1)
        raise wrong(name, "tokens", f"the token {twice!r} is listed twice")
    return tuple(value)


def _whole(value: Any, low: int, high: int, entry: str, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise wrong(name, entry, f"'{entry}' is not a whole number from {low} to {high}")
    return value


def _contexts(table: dict[str, Any], name: str) -> list[tuple[tuple[str, ...], Any, str]]:
    rows, lists = table.get("rows", {}), table.get("contexts", [])
    if not isinstance(rows, dict):
        raise wrong(name, "rows", "'rows' is not an object")
    if not isinstance(lists, list):
        raise wrong(name, "contexts", "'contexts' is not a list")
    found: list[tuple[tuple[str, ...], Any, str]] = [
        ((key,) if key else (), row, f"rows[{key!r}]") for key, row in rows.items()
    ]
    for i, entry in enumerate(lists):
        after = entry.get("after") if isinstance(entry, dict) else None
        if not isinstance(after, list) or "next" not in entry:
            raise wrong(
                name, f"contexts[{i}]", 'an entry of \'contexts\' is not {"after": [...], "next": {...}}'
            )
        found.append((tuple(after), entry["next"], f"contexts[{i}]"))
    return found


def _row(row: Any, tokens: tuple[str, ...], where: str, name: str) -> dict[str, float]:
    if not isinstance(row, dict):
        raise wrong(name, where, "a row is not an object of probabilities")
    for token, p in row.items():
        if token not in tokens and token != EOS:
            raise wrong(name, f"{where}[{token!r}]", f"{token!r} is not one of the tokens")
        if isinstance(p, bool) or not isinstance(p, (int, float)) or not 0 <= p <= 1 + SUM_TOLERANCE:
            raise wrong(name, f"{where}[{token!r}]", f"{shown(p)} is not a probability")
    total = math.fsum(row.values())
    if abs(total - 1) > SUM_TOLERANCE:
        raise wrong(name, where, f"the row sums to {total:.6g}, not to 1")
    return {token: p / total for token, p in row.items()}


# ------------------------------------------------------------------------------- its tokenizer


@frozen(eq=False)
class TabularTokenizer:
    """A `Tokenizer` over listed texts. Ids: the texts in order, then eos, then bos if there is one."""

    tokens: tuple[str, ...]
    bos: bool = False

    @cached_property
    def digest(self) -> str:
        canonical = json.dumps([list(self.tokens), self.bos], separators=(",", ":"))
        return hashlib.sha256(canonical.encode("ascii")).hexdigest()

    @cached_property
    def token_bytes(self) -> tuple[bytes | None, ...]:
        return (*(t.encode("utf-8") for t in self.tokens), *(None,) * (1 + self.bos))

    @property
    def vocabulary_size(self) -> int:
        return len(self.tokens) + 1 + self.bos

    @property
    def eos_id(self) -> int:
        return len(self.tokens)

    @property
    def eos_ids(self) -> tuple[int, ...]:
        return (self.eos_id,)

    @property
    def bos_id(self) -> int | None:
        return len(self.tokens) + 1 if self.bos else None

    @property
    def start_ids(self) -> tuple[int, ...]:
        return (len(self.tokens) + 1,) if self.bos else ()

    @property
    def chat(self) -> None:
        return None

    def encode(self, text: str) -> tuple[int, ...]:
        """The fewest tokens that spell the text; among those, the one whose first tokens are longest.

        Found from the right: `best[i]` is the count for `text[i:]`. Raises
        `ModelError` (PLM531) where no tokens spell it.
        """
        endless = len(text) + 1
        best = [endless] * len(text) + [0]
        chosen = [-1] * len(text)
        for i in reversed(range(len(text))):
            for k, token in enumerate(self.tokens):
                if not text.startswith(token, i) or best[i + len(token)] >= endless:
                    continue
                count = 1 + best[i + len(token)]
                longer = chosen[i] < 0 or len(token) > len(self.tokens[chosen[i]])
                if count < best[i] or (count == best[i] and longer):
                    best[i], chosen[i] = count, k
        if best[0] >= endless:
            raise ModelError(self._unspellable(text))
        ids, i = [], 0
        while i < len(text):
            ids.append(chosen[i])
            i += len(self.tokens[chosen[i]])
        return tuple(ids)

    def encode_start(self, text: str) -> tuple[int, ...]:
        """The same as `encode`: a tabular model has no dummy prefix."""
        return self.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens; eos and bos add nothing."""
        return "".join(self.tokens[i] for i in ids if i < len(self.tokens))

    def _unspellable(self, text: str):
        known = {c for token in self.tokens for c in token}
        char = next((c for c in text if c not in known), None)
        if char is None:
            message = f"no tokens of the table spell {shown(text, 40)}"
        else:
            message = f"the tokenizer cannot spell the character {char!r} (U+{ord(char):04X})"
        return error(
            "PLM531", message, help=f"the tokens of the table are: {', '.join(map(repr, self.tokens[:20]))}"
        )


# ------------------------------------------------------------------------------- the model


@frozen(eq=False)
class TabularModel:
    """A `LanguageModel` over a table; see `tabular_format` for the file.

    `rows` maps a context, the ids of the last tokens, to (V,) log-probs in nats.
    `max_tokens` counts the tokens since the start of the sequence, a leading bos or
    end-of-text left out.
    """

    tokenizer: TabularTokenizer
    order: int
    max_tokens: int
    rows: dict[tuple[int, ...], np.ndarray] = field(repr=False)
    identity: ModelIdentity
    max_length: None = None
    packed: bool = False

    @classmethod
    def from_dict(cls, table: dict[str, Any], *, name: str = "table") -> TabularModel:
        """The model of a table as `tabular_format` describes it; PLM514 where it is wrong."""
        tokens, order, max_tokens, bos, rows = parse_table(table, name)
        tokenizer = TabularTokenizer(tokens, bos)
        ids = {t: i for i, t in enumerate((*tokens, EOS, BOS))}
        logs = {}
        for context, row in rows.items():
            probs = np.zeros(tokenizer.vocabulary_size)
            for token, p in row.items():
                probs[ids[token]] = p
            with np.errstate(divide="ignore"):
                logs[tuple(ids[t] for t in context)] = np.log(probs)
        canonical = json.dumps(
            [list(tokens), order, max_tokens, bos, sorted((c, sorted(r.items())) for c, r in rows.items())]
        )
        digest = hashlib.sha256(canonical.encode("utf-8")).hexdigest()
        identity = ModelIdentity(name, "tabular", digest, dtype="float64")
        return cls(tokenizer, order, max_tokens, logs, identity)

    @classmethod
    def from_json(cls, path: str | Path, *, name: str | None = None) -> TabularModel:
        """The model of a JSON file; PLM510 where there is none, PLM514 where it is wrong."""
        return cls.from_dict(read_table(Path(path)), name=name or str(path))

    @classmethod
    def random(
        cls,
        tokens: Sequence[str],
        *,
        order: int = 1,
        max_tokens: int = 5,
        bos: bool = False,
        rng: np.random.Generator | int = 0,
        concentration: float = 0.5,
    ) -> TabularModel:
        """A skewed random model: Dirichlet rows, one per context; a smaller concentration is more skewed."""
        rng = np.random.default_rng(rng)
        names = [*tokens, EOS]
        contexts: list[tuple[str, ...]] = [()]
        for depth in range(order):
            longest = [c for c in contexts if len(c) == depth]
            contexts += [(*c, t) for c in longest for t in tokens]
            if bos and depth == 0:
                contexts.append((BOS,))
        entries = []
        for context in contexts:
            # Mixed with a little of the uniform, so that no token is out of the question.
            probs = 0.98 * rng.dirichlet(np.full(len(names), concentration)) + 0.02 / len(names)
            entries.append({"after": list(context), "next": dict(zip(names, probs.tolist(), strict=True))})
        table = {
            "tokens": list(tokens),
            "order": order,
            "max_tokens": max_tokens,
            "bos": bos,
            "contexts": entries,
        }
        return cls.from_dict(table, name="random table")

    def next_log_probs(self, ids: Sequence[int]) -> np.ndarray:
        """(V,) log p(next token | ids), nats."""
        ids = tuple(ids)
        if len(ids) - self._begins(ids) >= self.max_tokens:
            forced = np.full(self.tokenizer.vocabulary_size, -np.inf)
            forced[self.tokenizer.eos_id] = 0.0
            return forced
        context = ids[len(ids) - min(self.order, len(ids)) :]
        while context not in self.rows:
            context = context[1:]
        return self.rows[context]

    def _begins(self, ids: tuple[int, ...]) -> int:
        """1 where the sequence begins with bos or end-of-text, which is no token of the text."""
        return int(bool(ids) and ids[0] >= len(self.tokenizer.tokens))

    def score(self, requests: Sequence[Request]) -> list[Scores]:
        """Scores of each request, in order."""
        return [self._score(r) for r in requests]

    def _score(self, request: Request) -> Scores:
        if request.branches:
            trunk, *branches = (self._score(r) for r in unpack_branches(request))
            return Scores(trunk.tokens, trunk.eos, tuple(branches))
        ids, start = request.ids, request.start
        table = np.stack([self.next_log_probs(ids[:t]) for t in range(start, len(ids) + 1)])
        tokens = table[np.arange(len(ids) - start), list(ids[start:])]
        return Scores(tokens, eos_log_probs(table, self.tokenizer.eos_ids))

    def open(self, sequences: Sequence[tuple[int, ...]], *, shared: int = 0) -> TabularRollout:
        """A rollout that stands after each sequence (N,)."""
        return TabularRollout(self, tuple(tuple(s) for s in sequences))


@frozen(eq=False)
class TabularRollout:
    """Sequences and (N, V) next-token log-probs."""

    model: TabularModel
    sequences: tuple[tuple[int, ...], ...]
    log_probs: np.ndarray = field(init=False, repr=False)

    @log_probs.default
    def _look_up(self) -> np.ndarray:
        size = self.model.tokenizer.vocabulary_size
        rows = [self.model.next_log_probs(s) for s in self.sequences]
        return np.stack(rows) if rows else np.empty((0, size))

    def extend(self, rows: np.ndarray, tokens: np.ndarray) -> TabularRollout:
        """Row j is sequence `rows[j]` followed by `tokens[j]`."""
        pairs = zip(np.asarray(rows).tolist(), np.asarray(tokens).tolist(), strict=True)
        return TabularRollout(self.model, tuple((*self.sequences[r], t) for r, t in pairs))
