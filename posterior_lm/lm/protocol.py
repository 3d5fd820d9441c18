"""What every language model offers: one protocol, a few plain values.

Letters: N requests, T scored tokens, V vocabulary. Every log is natural (nats).
Token ids of a request are complete sequences: start tokens, prompt, latents and
scored text; nothing is padded, so padding can carry no meaning. End-of-text may
be several ids (`eos_ids`); its log-prob is the log-sum-exp over them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from attrs import evolve, frozen

from posterior_lm.lang.diagnostics import ModelError

if TYPE_CHECKING:
    import numpy as np


@frozen
class ModelIdentity:
    """Which model this is: what was asked for, and a digest of what was found."""

    name: str
    kind: str  # "transformers" | "tabular" | a user's own
    digest: str  # SHA-256 of configuration and weights, or of the table
    revision: str | None = None
    dtype: str = "float32"


@frozen
class Message:
    """A message of a conversation: text, and numbers for what is not known yet."""

    role: str
    content: tuple[str | int, ...]


class Unusable(Exception):
    """A chat template that is no template, fails, reaches outside its sandbox or beyond a limit; says why."""


class Refused(Exception):
    """What a template says of messages that it does not write (`raise_exception`)."""


class Chat(Protocol):
    """How a model's chat template writes a conversation."""

    @property
    def digest(self) -> str:
        """SHA-256 of the template and of the names that it reads."""
        ...

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The token that ends an answer; () where the template writes none. Raises as `render`."""
        ...

    def render(self, messages: Sequence[Message]) -> tuple[tuple[int, ...] | int, ...]:
        """Tokens up to where the answer begins, and in between the numbers of what is not known, in order.

        At least one message. An answer that is begun, as the last message, goes on. Raises `ModelError`:
        PLM551 for a template that cannot be used, PLM552 for messages that it refuses, PLM553 where it
        does not write a message as it is, PLM531.
        """
        ...


def no_template() -> ModelError:
    """PLM550, for a context with roles."""
    return ModelError.of(
        "PLM550",
        "this model has no chat template, so it does not know roles",
        help="write the context as plain text, or choose a model that was trained on conversations",
    )


class Tokenizer(Protocol):
    """Text to tokens and back, with the two ways a text can begin."""

    @property
    def digest(self) -> str:
        """SHA-256 of the vocabulary: two models share tokens exactly when these agree."""
        ...

    @property
    def vocabulary_size(self) -> int: ...

    @property
    def token_bytes(self) -> tuple[bytes | None, ...]:
        """(V,) the bytes each token adds; None for special and unusable ids."""
        ...

    @property
    def start_ids(self) -> tuple[int, ...]:
        """What the tokenizer puts at the start of a sequence: () or (bos,)."""
        ...

    @property
    def bos_id(self) -> int | None: ...

    @property
    def eos_ids(self) -> tuple[int, ...]: ...

    @property
    def chat(self) -> Chat | None:
        """The model's chat template; None without one."""
        ...

    def encode(self, text: str) -> tuple[int, ...]:
        """Tokens of a text that follows something: no special tokens, no dummy prefix.

        Raises `ModelError` (PLM531) where the vocabulary cannot spell the text.
        """
        ...

    def encode_start(self, text: str) -> tuple[int, ...]:
        """Tokens of the first text of a sequence, as the tokenizer itself begins one, without `start_ids`."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens: their bytes joined, read as UTF-8, broken bytes replaced."""
        ...


@frozen
class Branch:
    """Tokens that follow `ids[:at]` of their request instead of `ids[at:]`."""

    at: int
    ids: tuple[int, ...]


@frozen(cache_hash=True)
class Request:
    """One sequence to score: log p(ids[i] | ids[:i]) for every i >= start.

    `start` is at least 1. `shared` says how many leading tokens are a known
    prompt, the same for many requests, whose cache is worth keeping; it is at
    most `start`. Every branch has `at >= start`. Where nobody reads what is said of
    end-of-text, `ends` is false, and a model may leave NaN there.
    """

    ids: tuple[int, ...]
    start: int
    shared: int = 0
    branches: tuple[Branch, ...] = ()
    ends: bool = True


@frozen(eq=False)
class Scores:
    """Log-probs of one request, float64, nats.

    `tokens` (T,) with T = len(ids) - start; `eos` (T + 1,), where entry t is the
    log-prob of end-of-text after `ids[:start + t]`; one `Scores` per branch, whose
    `tokens` are those of the branch and whose `eos[0]` is end-of-text right at `at`.
    """

    tokens: np.ndarray
    eos: np.ndarray
    branches: tuple[Scores, ...] = ()


class Rollout(Protocol):
    """Sequences that are being extended, one token a step, with their cache."""

    @property
    def log_probs(self) -> np.ndarray:
        """(N, V) float32 or float64: log p(next token | sequence), special ids included."""
        ...

    def extend(self, rows: np.ndarray, tokens: np.ndarray) -> Rollout:
        """A rollout of M sequences: row j is sequence `rows[j]` followed by `tokens[j]`.

        Shapes: rows (M,), tokens (M,), both integers; rows may repeat, be reordered
        or leave some out. The rollout it is called on may not be used again.
        """
        ...


@runtime_checkable
class LanguageModel(Protocol):
    """A frozen autoregressive model over a tokenizer's vocabulary."""

    @property
    def identity(self) -> ModelIdentity: ...

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def max_length(self) -> int | None:
        """Tokens that fit in the model's window; None where there is no limit."""
        ...

    @property
    def packed(self) -> bool:
        """Whether branches are scored in one packed forward pass rather than one by one."""
        ...

    def score(self, requests: Sequence[Request]) -> list[Scores]:
        """Scores of each request, in order. Raises `ModelError` (PLM520) past `max_length`."""
        ...

    def open(self, sequences: Sequence[tuple[int, ...]], *, shared: int = 0) -> Rollout:
        """A rollout that stands after each sequence (N,); the first `shared` tokens are one known prompt."""
        ...


@frozen
class Drawn:
    """A token that a model drew, and the likeliest at its place with their log-probs: none, or always equally many."""

    token: int
    log_prob: float
    likeliest: Mapping[int, float]


class DrawingModel(LanguageModel, Protocol):
    """A model that draws by itself, where it may not tell the log-probs of all next tokens; one without these members tells them."""

    @property
    def whole_rows(self) -> bool:
        """Whether a rollout of it has its `log_probs`."""
        ...

    @property
    def told(self) -> int:
        """How many likeliest tokens it tells of at each place that it draws."""
        ...

    def likeliest(self, asked: Sequence[tuple[tuple[int, ...], int]]) -> list[list[Drawn]]:
        """For each sequence and start, at each of its places from there on: its own token as if it were drawn."""
        ...

    def sample(
        self, asked: Sequence[tuple[tuple[int, ...], int]], tokens: int, rng: np.random.Generator
    ) -> list[list[list[Drawn]]]:
        """For each sequence as many continuations as are asked for, drawn at temperature 1: of at least one token and at
        most `tokens`, fewer where end-of-text, the last one then, was drawn."""
        ...


@frozen
class Blanks:
    """A text with masked places, which are None; `asked` are some of them, by their number in `ids`."""

    ids: tuple[int | None, ...]
    asked: tuple[int, ...]


@runtime_checkable
class MaskedModel(Protocol):
    """A frozen model that says what stands at masked places of a text.

    Texts are whole: what the model's tokenizer puts around one is put there by the model.
    """

    @property
    def identity(self) -> ModelIdentity: ...

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def max_length(self) -> int | None:
        """Tokens of a text that fit in the model's window; None where there is no limit."""
        ...

    def fill(self, texts: Sequence[Blanks]) -> list[np.ndarray]:
        """Of each text (A, V) log p(token at an asked place | what is not masked), one row for each; nats, float32 or float64.

        Raises `ModelError` (PLM520) past `max_length`.
        """
        ...


def same_tokens(own: Tokenizer, other: Tokenizer) -> bool:
    """Whether every token of `own` that spells something has the same id and bytes in `other`, which may have more."""
    if own.digest == other.digest:
        return True
    mine, theirs = own.token_bytes, other.token_bytes
    return len(theirs) >= len(mine) and all(a is None or a == b for a, b in zip(mine, theirs, strict=False))


def threads_of(models: Mapping[str, LanguageModel]) -> dict[str, dict[str, int]]:
    """By alias, how many threads a model was computed with, phase by phase; without those that state none."""
    found = {alias: getattr(model, "threads", None) for alias, model in models.items()}
    return {alias: numbers for alias, numbers in found.items() if numbers}


BY_CHANCE = 0.25
"""Of a guide's stopping at a free end what is by chance, as the prior's is."""


def stopping(chance: Any, said: Any) -> Any:
    """The probability that a guide stops at a free end, where the prior does by `chance` and the model's end-of-text, raised,
    has `said` so much beside the tokens: a part of either, so that a guide is never far from the prior and can learn when.
    """
    return BY_CHANCE * chance + (1 - BY_CHANCE) * said


def eos_log_probs(log_probs: np.ndarray, eos_ids: Sequence[int]) -> np.ndarray:
    """(N,) float64 log-prob of end-of-text: log-sum-exp over `eos_ids` of (N, V) log-probs."""
    import numpy as np

    if not eos_ids:
        return np.full(len(log_probs), -np.inf)
    picked = log_probs[:, list(eos_ids)].astype(np.float64)
    return np.logaddexp.reduce(picked, axis=1)


def unpack_branches(request: Request) -> list[Request]:
    """The plain requests that mean the same: the trunk, then one per branch."""
    trunk = evolve(request, branches=())
    return [
        trunk,
        *(evolve(trunk, ids=request.ids[: b.at] + b.ids, start=b.at) for b in request.branches),
    ]
