"""Segments as tokens (language.md §3.1).

Known neighbours are joined as strings and tokenised together; a latent's tokens
are spliced in as they are; what follows a latent is tokenised on its own. Only
the first text of a sequence gets the tokenizer's own beginning. A conversation, whose
segments begin with a `Turn`, becomes what the model's chat template writes: `Written` tokens
between latents.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from itertools import takewhile

from attrs import frozen

from posterior_lm.lang.diagnostics import InternalError, ModelError
from posterior_lm.lang.source import Span
from posterior_lm.lm.protocol import Chat, Message, Tokenizer, no_template
from posterior_lm.target.values import Value


@frozen
class Known:
    """Text that is the same for every draw."""

    text: str


@frozen
class Splice:
    """A latent's tokens."""

    latent: str


@frozen
class Computed:
    """Text that an expression over latents gives; it is tokenised on its own."""

    node: int


@frozen
class Special:
    """`bos` or `eos`, put in by hand."""

    kind: str
    span: Span


@frozen
class Turn:
    """The beginning of a message; what stands before the next one is its content."""

    role: str


@frozen
class Written:
    """Tokens that a chat template wrote, with the known text between them."""

    ids: tuple[int, ...]


Segment = Known | Splice | Computed | Special | Turn | Written

ValueOf = Callable[[str], Value]
"""A draw's value of a latent, by name."""
TextOf = Callable[[int], str]
"""A draw's text of an expression, by node."""


def is_known(segment: Segment) -> bool:
    """Whether its tokens are the same for every draw."""
    return isinstance(segment, Known | Special | Written)


def is_chat(segments: Sequence[Segment]) -> bool:
    return bool(segments) and isinstance(segments[0], Turn)


def join(segments: Sequence[Segment]) -> tuple[Segment, ...]:
    """Known neighbours as one, empty texts left out."""
    joined: list[Segment] = []
    for segment in segments:
        if isinstance(segment, Known):
            if not segment.text:
                continue
            if joined and isinstance(joined[-1], Known):
                joined[-1] = Known(joined[-1].text + segment.text)
                continue
        joined.append(segment)
    return tuple(joined)


class Unspellable(ModelError):
    """What a draw has written holds a text that this model's tokens do not spell: to the model it has probability zero."""


@frozen(eq=False)
class Speller:
    """Tokens of segments under one tokenizer, with its encodings remembered."""

    tokenizer: Tokenizer
    own: frozenset[str]
    """Latents whose values hold tokens of this very tokenizer."""
    _encode: Callable[[str], tuple[int, ...]]
    _encode_start: Callable[[str], tuple[int, ...]]
    _conversation: Callable[[tuple[Segment, ...]], tuple[Segment, ...]]

    @classmethod
    def of(cls, tokenizer: Tokenizer, own: frozenset[str]) -> Speller:
        return cls(
            tokenizer,
            own,
            lru_cache(maxsize=65536)(tokenizer.encode),
            lru_cache(maxsize=4096)(tokenizer.encode_start),
            lru_cache(maxsize=4096)(partial(_conversation, tokenizer)),
        )

    def text(self, text: str, *, first: bool) -> tuple[int, ...]:
        """Tokens of a text; `first` where it begins the sequence."""
        return self._encode_start(text) if first else self._encode(text)

    def value(self, latent: str, value: Value) -> tuple[int, ...]:
        """A value's tokens: its own, or this tokenizer's spelling of its text; never with a dummy prefix."""
        return value.ids if latent in self.own else self._drawn(value.text, first=False)

    def _drawn(self, text: str, *, first: bool) -> tuple[int, ...]:
        try:
            return self.text(text, first=first)
        except ModelError as problem:
            raise Unspellable(problem.diagnostics) from None

    def special(self, segment: Special) -> int:
        tokenizer = self.tokenizer
        found = tokenizer.bos_id if segment.kind == "bos" else next(iter(tokenizer.eos_ids), None)
        if found is None:
            raise ModelError.of(
                "PLM513",
                f"this model's tokenizer has no `{segment.kind}` token",
                segment.span,
                "put in by hand here",
                help=f"leave `{segment.kind}` out, or choose a model that has one",
            )
        return found

    def laid_out(self, segments: Sequence[Segment]) -> tuple[Segment, ...]:
        """The segments themselves, or those of the conversation that they are.

        Raises ModelError PLM550 for a model without a chat template, and what `Chat.render` raises.
        """
        return self._conversation(tuple(segments)) if is_chat(segments) else tuple(segments)

    def turn_ids(self, segments: Sequence[Segment]) -> tuple[int, ...]:
        """The token that ends an answer to a conversation; () where there is none, and of other contexts."""
        return _chat_of(self.tokenizer).end_ids if is_chat(segments) else ()

    def spell(
        self,
        segments: Sequence[Segment],
        latent: ValueOf,
        computed: TextOf,
        *,
        first: bool,
    ) -> tuple[int, ...]:
        """The tokens of segments for one draw; `first` where nothing stands before them."""
        ids: tuple[int, ...] = ()
        for segment in segments:
            match segment:
                case Known(text=text):
                    ids += self.text(text, first=first)
                case Splice(latent=name):
                    ids += self.value(name, latent(name))
                case Computed(node=node):
                    text = computed(node)
                    if not text:
                        continue
                    ids += self._drawn(text, first=first)
                case Written(ids=written):
                    ids += written
                case Special():
                    ids += (self.special(segment),)
                    first = first and segment.kind == "bos"
                    continue
            first = False
        return ids

    def context(
        self, segments: Sequence[Segment], latent: ValueOf, computed: TextOf
    ) -> tuple[tuple[int, ...], bool]:
        """A context's tokens from the start of the sequence, and whether the sequence is still empty."""
        return self.front(segments).context(latent, computed)

    def front(self, segments: Sequence[Segment]) -> Front:
        """A context as far as it is the same for every draw.

        A `bos` by hand at the front stands for the one that the tokenizer adds by
        itself; an empty context is the start token, or end-of-text without one. How a conversation
        begins is for its template to say.
        """
        segments = self.laid_out(segments)
        known = tuple(takewhile(is_known, segments))
        by_hand = bool(known) and (isinstance(known[0], Written) or _is_bos(known[0]))
        ids = () if by_hand else self.tokenizer.start_ids
        ids += self.spell(known, _no_latent, _nothing_computed, first=True)
        return Front(self, ids, all(map(_is_bos, known)), segments[len(known) :])


def _is_bos(segment: Segment) -> bool:
    return isinstance(segment, Special) and segment.kind == "bos"


def _no_latent(name: str) -> Value:
    raise InternalError(f"`{name}` is not known text")


def _nothing_computed(node: int) -> str:
    raise InternalError(f"%{node} is not known text")


@frozen(eq=False)
class Front:
    """The tokens with which a context begins in every draw, and the segments behind them, the first of which is not known."""

    speller: Speller
    ids: tuple[int, ...]
    empty: bool
    """Whether the sequence is still empty behind them."""
    rest: tuple[Segment, ...]

    @property
    def shared(self) -> int:
        """How many leading tokens every draw has in common."""
        return len(self.ids) or (0 if self.rest else 1)

    def context(self, latent: ValueOf, computed: TextOf) -> tuple[tuple[int, ...], bool]:
        """The context of one draw, and whether the sequence is still empty: see `Speller.context`."""
        ids, empty = self.ids, self.empty
        if self.rest:
            ids += self.speller.spell(self.rest, latent, computed, first=empty)
            # A latent begins the sequence even where its value is empty: what follows it has no dummy prefix.
            empty = empty and all(
                _is_bos(p) or (isinstance(p, Computed) and not computed(p.node)) for p in self.rest
            )
        if not ids:
            eos_ids = self.speller.tokenizer.eos_ids
            if not eos_ids:
                raise ModelError.of(
                    "PLM513",
                    "the context is empty and the tokenizer has neither a begin- nor an end-of-text token",
                    help="give the context some text",
                )
            ids = eos_ids[:1]
        return ids, empty


def _chat_of(tokenizer: Tokenizer) -> Chat:
    # A tokenizer of a user's own may know nothing of templates.
    found = getattr(tokenizer, "chat", None)
    if found is None:
        raise no_template()
    return found  # type: ignore[no-any-return]


def _conversation(tokenizer: Tokenizer, segments: tuple[Segment, ...]) -> tuple[Segment, ...]:
    """What the chat template writes of the messages, always with `Written` tokens in front."""
    chat = _chat_of(tokenizer)
    messages: list[tuple[str, list[str | int]]] = []
    open_: list[Segment] = []
    for segment in segments:
        match segment:
            case Turn(role=role):
                messages.append((role, []))
            case Known(text=text):
                messages[-1][1].append(text)
            case _:
                messages[-1][1].append(len(open_))
                open_.append(segment)
    pieces = chat.render([Message(role, tuple(content)) for role, content in messages])
    laid = [open_[p] if isinstance(p, int) else Written(p) for p in pieces]
    return tuple(laid if isinstance(laid[0], Written) else [Written(()), *laid])
