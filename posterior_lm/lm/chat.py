"""Conversations as a model's own chat template writes them, with open places for what is drawn.

The template is rendered once with a mark in each open place, and the text between the marks is
tokenised as the whole rendering would be: token for token what `apply_chat_template` of
transformers gives, wherever that can say the same. Two things it cannot say: special tokens stand
only where the template puts them, never where a message spells one; and what fills an open place
keeps its own tokens, so white space at its edges is never trimmed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from attrs import field, frozen

from posterior_lm.lang.diagnostics import ModelError, shortened
from posterior_lm.lm.protocol import Message, Refused, Unusable

if TYPE_CHECKING:
    from posterior_lm.lm.chat_sandbox import Compiled

# Characters for private use (plane 16) that stand for something else while a text is rendered.
_SPECIAL, _SPELT, _PLACE, _END = 0x100000, 0x104000, 0x108000, "\U0010fffd"
_MARKS = re.compile("[\U00100000-\U0010fffd]")
_PLACES = re.compile("([\U00108000-\U0010bfff])")
_FILLER = " Words, and 12 more.\n\n«So» 'it' \"is\"?" * 6
"""What fills a place the second time, to see that the template treats it as it treats the mark alone."""


class Refusal(Exception):
    """A conversation that a template does not write: the number of the message, and what it says."""

    def __init__(self, message: int, said: str) -> None:
        super().__init__(said)
        self.message = message


class Changed(Exception):
    """A message that a template does not write as it is: what of it, and what happens to that."""

    def __init__(self, what: str, how: str) -> None:
        super().__init__(f"{what} as it is: it {how}")


@frozen(slots=False, eq=False)
class ChatText:
    """A template and the names of special tokens that it may read, as text.

    Its methods raise `Unusable` for a template that cannot be used, `Refusal` for a
    conversation that it does not write, and `Changed` where it does not write a message as it is.
    """

    source: str = field(repr=False)
    variables: Mapping[str, str]
    specials: tuple[str, ...] = field(default=(), repr=False)
    """The special tokens of the vocabulary as they are spelled."""

    @property
    def tokens_read(self) -> set[str]:
        """The names of special tokens that the source reads, such as `bos_token`."""
        return set(re.findall(r"\b[a-z]+_token\b", self.source))

    @cached_property
    def _template(self) -> Compiled:
        from posterior_lm.lm.chat_sandbox import Compiled  # loads jinja2, which few programs need

        return Compiled(self.source)

    @cached_property
    def _spelled(self) -> re.Pattern[str] | None:
        longest_first = sorted(self.specials, key=lambda s: (-len(s), s))
        return re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def _stood_for(self, text: str, base: int) -> str:
        """The text with a mark in place of each special token that it spells."""
        if self._spelled is None:
            return text
        return self._spelled.sub(lambda found: chr(base + self.specials.index(found[0])), text)

    def _rendered(self, messages: Sequence[tuple[str, str]], prompt: bool) -> str:
        return self._template([{"role": r, "content": c} for r, c in messages], prompt, self.variables)

    def written(self, messages: Sequence[Message]) -> str:
        """What the template writes, up to where the answer begins or goes on, with a mark in each place.

        An answer that is begun (the last message is the assistant's) is cut where it goes on, as
        `continue_final_message` does.
        """
        going_on = messages[-1].role == "assistant"
        bare = [(m.role, self._content(m, "")) for m in messages]
        text = self._whole(bare, going_on)
        places = [chr(_PLACE + p) for m in messages for p in m.content if isinstance(p, int)]
        if (found := _PLACES.findall(text)) != places:
            lost = len(found) < len(places)
            raise Changed("what is drawn", "leaves it out" if lost else "writes it twice or moves it")
        if places:
            filled = [(m.role, self._content(m, _FILLER)) for m in messages]
            try:
                same = self._whole(filled, going_on) == _PLACES.sub(rf"\1{_escaped(_FILLER)}\1", text)
            except Refusal:
                same = False
            if not same:
                raise Changed("what is drawn", "looks at it or changes it")
        for k, message in enumerate(messages):
            if message.role == "assistant" and message.content and isinstance(message.content[0], int):
                text = self._closed_up(text, bare[:k], chr(_PLACE + message.content[0]))
        return self._stood_for(text, _SPECIAL)

    def _content(self, message: Message, filler: str) -> str:
        """A message's text: marks for its places and for the special tokens that it spells."""
        text = ""
        for known, place in _runs(message.content):
            if _MARKS.search(known):
                raise Changed("every character", "keeps those from U+100000 on for marks of its own")
            text += self._stood_for(known, _SPELT)
            if place is not None:
                mark = chr(_PLACE + place)
                text += mark + filler + mark if filler else mark
        return text

    def _whole(self, messages: Sequence[tuple[str, str]], going_on: bool) -> str:
        if going_on:
            role, content = messages[-1]
            # The space after the mark shows whether the template trims, as in transformers.
            messages = [*messages[:-1], (role, content + _END + " ")]
        text = self._asked(messages, not going_on)
        if not going_on:
            return text
        if text.count(_END) != 1 or content.strip() not in text:
            raise Changed("the answer that is begun", "changes it, leaves it out or writes it twice")
        before, _, after = text.partition(_END)
        return before if after.startswith(" ") else before.rstrip()

    def _asked(self, messages: Sequence[tuple[str, str]], prompt: bool) -> str:
        try:
            return self._rendered(messages, prompt)
        except Refused as refused:
            said = str(refused)
        for k in range(1, len(messages)):  # the first message without which it would have been written
            try:
                self._rendered(messages[:k], False)
            except Refused as refused:
                raise Refusal(k - 1, str(refused)) from None
        raise Refusal(len(messages) - 1, said)

    def _closed_up(self, text: str, before: Sequence[tuple[str, str]], place: str) -> str:
        """Without the white space between the generation prompt and an answer, which brings its own."""
        try:
            prompt = self._rendered(before, True)
        except Refused:
            return text
        answer = text.index(place)
        gap = text[len(prompt) : answer]
        if len(prompt) <= answer and text.startswith(prompt) and not gap.strip():
            return text[: len(prompt)] + text[answer:]
        return text

    def end(self) -> str | None:
        """The special token that ends an answer, the first behind it; None where the template writes none."""
        mark = chr(_PLACE)
        try:
            text = self._rendered([("user", "Hi"), ("assistant", mark)], False)
        except Refused:
            return None
        behind = self._stood_for(text.partition(mark)[2], _SPECIAL)
        found = next((c for c in behind if _SPECIAL <= ord(c) < _SPELT), None)
        return None if found is None else self.specials[ord(found) - _SPECIAL]


def _runs(content: Sequence[str | int]) -> list[tuple[str, int | None]]:
    """The known text before each place, neighbours joined, and the text behind the last one."""
    runs: list[tuple[str, int | None]] = []
    known = ""
    for part in content:
        if isinstance(part, int):
            runs.append((known, part))
            known = ""
        else:
            known += part
    return [*runs, (known, None)]


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\")


# ------------------------------------------------------------------------------- as tokens


@frozen(slots=False, eq=False)
class ChatTemplate:
    """The `Chat` of a tokenizer; see `posterior_lm.lm.protocol.Chat`.

    `encode` gives the tokens of a text in which the characters from `mark(0)` on stand for the
    special tokens; `follows` of what comes right behind an open place.
    """

    where: str
    text: ChatText
    ids: Mapping[str, int] = field(repr=False)
    encode: Callable[[str], tuple[int, ...]] = field(repr=False)
    follows: Callable[[str], tuple[int, ...]] = field(repr=False)

    @cached_property
    def digest(self) -> str:
        whole = [self.text.source, sorted(self.text.variables.items())]
        return hashlib.sha256(json.dumps(whole).encode("ascii")).hexdigest()

    @cached_property
    def end_ids(self) -> tuple[int, ...]:
        try:
            found = self.text.end()
        except Unusable as problem:
            raise unusable(self.where, str(problem)) from None
        return () if found is None else (self.ids[found],)

    def render(self, messages: Sequence[Message]) -> tuple[tuple[int, ...] | int, ...]:
        text = written(self.where, self.text, messages)
        pieces: list[tuple[int, ...] | int] = []
        for k, piece in enumerate(_PLACES.split(text)):
            if k % 2:
                pieces.append(ord(piece) - _PLACE)
                continue
            spelt = re.sub("[\U00104000-\U00107fff]", lambda m: self.text.specials[ord(m[0]) - _SPELT], piece)
            pieces.append(self.follows(spelt) if k else self.encode(spelt))
        return tuple(pieces)


def mark(special: int) -> str:
    """The character that stands for a special token, by its number among `ChatText.specials`."""
    return chr(_SPECIAL + special)


def is_special(character: str) -> bool:
    return _SPECIAL <= ord(character) < _SPELT


# ------------------------------------------------------------------------------- what is wrong


def written(where: str, text: ChatText, messages: Sequence[Message]) -> str:
    """What the template in `where` writes, as `ChatText.written`. Raises ModelError PLM551, PLM552, PLM553."""
    try:
        return text.written(messages)
    except Unusable as problem:
        raise unusable(where, str(problem)) from problem
    except Refusal as refused:
        raise refusal(where, messages, refused) from refused
    except Changed as problem:
        raise changed(where, problem) from problem


def unusable(where: str, why: str) -> ModelError:
    """PLM551 for the template in `where`."""
    return ModelError.of(
        "PLM551",
        f"the chat template of {where} cannot be used: {why}",
        help="mend the template, chat_template.jinja of a model's folder, or write the context without roles",
    )


def refusal(where: str, messages: Sequence[Message], refused: Refusal) -> ModelError:
    """PLM552 for the message that the template refuses."""
    role = messages[refused.message].role
    said = shortened(" ".join(str(refused).split()), 160) or "it says no more"
    return ModelError.of(
        "PLM552",
        f"the chat template of {where} refuses message {refused.message + 1}, {_article(role)}: {said}",
        help="begin the user's message with what the system should say" if role == "system"
        else "write the roles in the order that the model was trained on, user and assistant in turn",
    )  # fmt: skip


def changed(where: str, problem: Changed) -> ModelError:
    """PLM553 for a template that does not write a message as it is."""
    return ModelError.of(
        "PLM553",
        f"the chat template of {where} does not write {problem}",
        help="draw the answer that follows the conversation, or write the context without roles",
    )


def _article(role: str) -> str:
    return f"{'an' if role == 'assistant' else 'a'} {role} message"
