"""Segments as tokens (language.md §3.1).

Known neighbours are joined as strings and tokenised together; a latent's tokens
are spliced in as they are; what follows a latent is tokenised on its own. Only
the first text of a sequence gets the tokenizer's own beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

from attrs import frozen

from posterior_lm.lang.diagnostics import ModelError
from posterior_lm.lang.source import Span
from posterior_lm.lm.protocol import Tokenizer
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


Segment = Known | Splice | Computed | Special


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


@frozen(eq=False)
class Speller:
    """Tokens of segments under one tokenizer, with its encodings remembered."""

    tokenizer: Tokenizer
    own: frozenset[str]
    """Latents whose values hold tokens of this very tokenizer."""
    _encode: Callable[[str], tuple[int, ...]]
    _encode_start: Callable[[str], tuple[int, ...]]

    @classmethod
    def of(cls, tokenizer: Tokenizer, own: frozenset[str]) -> Speller:
        return cls(
            tokenizer,
            own,
            lru_cache(maxsize=65536)(tokenizer.encode),
            lru_cache(maxsize=4096)(tokenizer.encode_start),
        )

    def text(self, text: str, *, first: bool) -> tuple[int, ...]:
        """Tokens of a text; `first` where it begins the sequence."""
        return self._encode_start(text) if first else self._encode(text)

    def value(self, latent: str, value: Value) -> tuple[int, ...]:
        """A value's tokens: its own, or this tokenizer's spelling of its text; never with a dummy prefix."""
        return value.ids if latent in self.own else self.text(value.text, first=False)

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

    def spell(
        self,
        segments: Sequence[Segment],
        latent: Callable[[str], Value],
        computed: Callable[[int], str],
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
                    ids += self.text(text, first=first)
                case Special():
                    ids += (self.special(segment),)
                    first = first and segment.kind == "bos"
                    continue
            first = False
        return ids

    def context(
        self, segments: Sequence[Segment], latent: Callable[[str], Value], computed: Callable[[int], str]
    ) -> tuple[tuple[int, ...], bool]:
        """A context's tokens from the start of the sequence, and whether the sequence is still empty.

        A `bos` by hand at the front stands for the one that the tokenizer adds by
        itself; an empty context is the start token, or end-of-text without one.
        """
        start = self.tokenizer.start_ids
        if start and segments and isinstance(segments[0], Special) and segments[0].kind == "bos":
            start = ()
        ids = start + self.spell(segments, latent, computed, first=True)
        # A latent begins the sequence even where its value is empty: what follows it has no dummy prefix.
        empty = all(
            p.kind == "bos" if isinstance(p, Special) else isinstance(p, Computed) and not computed(p.node)
            for p in segments
        )
        if not ids:
            if not self.tokenizer.eos_ids:
                raise ModelError.of(
                    "PLM513",
                    "the context is empty and the tokenizer has neither a begin- nor an end-of-text token",
                    help="give the context some text",
                )
            ids = self.tokenizer.eos_ids[:1]
        return ids, empty
