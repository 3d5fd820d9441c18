"""Conversations as chat templates write them: token for token what transformers gives, and nothing worse."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from posterior_lm.lang.diagnostics import ModelError
from posterior_lm.lm.chat import ChatText
from posterior_lm.lm.protocol import Message
from posterior_lm.lm.tokenizers import HFTokenizer, load_tokenizer
from tests.chats import FAMILIES, write_family
from tests.laws.models import byte_level_tokenizer, sentencepiece_tokenizer

SPECS = {
    "bytes": byte_level_tokenizer,
    "bytes-bos": lambda: byte_level_tokenizer(bos=True),
    "sentencepiece": sentencepiece_tokenizer,
    "metaspace": lambda: sentencepiece_tokenizer(metaspace=True),
}


class Pairs(dict[tuple[str, str], tuple[HFTokenizer, PreTrainedTokenizerFast]]):
    def __repr__(self) -> str:
        return f"{len(self)} pairs of tokenizers"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    """Ours and theirs of every family over every kind of tokenizer."""
    found = Pairs()
    for name in FAMILIES:
        for kind, spec in SPECS.items():
            folder = write_family(tmp_path_factory.mktemp("chat") / name, name, spec())
            found[name, kind] = load_tokenizer(folder), PreTrainedTokenizerFast.from_pretrained(folder)
    return found


words = st.sampled_from(
    [
        "the",
        " on",
        " the ",
        "a",
        "  ",
        "\n",
        ".",
        " 12",
        "é",
        "日本",
        "🙂",
        "\t",
        "</think>",
        "<think>",
        "x\u0301",
    ]
)
# "▁" stands for a space in SentencePiece tokenizers, which cannot spell it: PLM531.
alphabet = st.characters(codec="utf-8", exclude_categories=["Co", "Cn"], exclude_characters="▁")
plain = st.text(alphabet, max_size=8)
contents = st.one_of(st.lists(words, max_size=6).map("".join), plain)
turns = st.lists(contents, min_size=1, max_size=5)
law = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


def conversation(name: str, system: str | None, texts: list[str]) -> list[dict[str, str]]:
    said = [{"role": ("user", "assistant")[k % 2], "content": text} for k, text in enumerate(texts)]
    front = [{"role": "system", "content": system}] if system is not None and FAMILIES[name].system else []
    return [*front, *said]


def theirs(tokenizer: PreTrainedTokenizerFast, messages: list[dict[str, str]]) -> list[int] | None:
    """What transformers writes; None where it refuses. An answer at the end is gone on with."""
    how = "continue_final_message" if messages[-1]["role"] == "assistant" else "add_generation_prompt"
    try:
        return list(tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False, **{how: True}))
    except ValueError:  # it cannot find the answer that is begun
        return None


def ours(tokenizer: HFTokenizer, messages: list[dict[str, str]]) -> list[int] | None:
    assert tokenizer.chat is not None
    try:
        (ids,) = tokenizer.chat.render([Message(m["role"], (m["content"],)) for m in messages])
    except ModelError as problem:
        assert [d.code for d in problem.diagnostics] == ["PLM553"]
        return None
    return list(ids)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", FAMILIES)
@law
@given(system=st.one_of(st.none(), contents), texts=turns)
def test_known_conversations_have_the_tokens_of_transformers(
    name: str, pairs: Pairs, system: str | None, texts: list[str]
) -> None:
    messages = conversation(name, system, texts)
    for kind in SPECS:
        mine, other = pairs[name, kind]
        assert ours(mine, messages) == theirs(other, messages), kind


def squeezed(tokenizer: HFTokenizer, ids: list[int] | None) -> list[str | int]:
    """The text without white space, and the special tokens."""
    assert ids is not None
    special = [i for i in ids if tokenizer.token_bytes[i] is None]
    return ["".join(tokenizer.decode(ids).split()), *special]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("kind", SPECS)
@law
@given(before=contents, behind=contents, value=st.sampled_from(["a", "on", "a.", "the"]), third=contents)
def test_what_is_drawn_stands_among_the_tokens_of_transformers(
    name: str, kind: str, pairs: Pairs, before: str, behind: str, value: str, third: str
) -> None:
    """Answers whole, and a hole in a question where a token ends on both sides of it."""
    mine, other = pairs[name, kind]
    assert mine.chat is not None
    said = [("user", (before,)), ("assistant", (0,)), ("user", (third,))]
    first, place, last = mine.chat.render([Message(*m) for m in said])
    assert place == 0
    drawn = mine.encode(value)
    filled = [
        {"role": "user", "content": before}, {"role": "assistant", "content": value},
        {"role": "user", "content": third},
    ]  # fmt: skip
    want = theirs(other, filled)
    got = [*first, *drawn, *last]
    # A dummy prefix or a template's own space makes the answer's first token another one than `value` has.
    if kind.startswith("bytes") and name not in ("mistral",):
        assert got == want
    else:
        assert squeezed(mine, got) == squeezed(mine, want)
    # The answer is drawn after exactly what stands before it later on.
    (begun,) = mine.chat.render([Message("user", (before,))])
    assert begun == first
    holed = mine.chat.render([Message("user", ("Who is ", 0, "?" + behind))])
    assert [p for p in holed if isinstance(p, int)] == [0]
    assert mine.decode(holed[2]).startswith("?"), "no dummy prefix behind what is drawn"  # type: ignore[arg-type]
    filled = [{"role": "user", "content": f"Who is {value}?{behind}"}]
    assert squeezed(mine, [*holed[0], *drawn, *holed[2]]) == squeezed(mine, theirs(other, filled))  # type: ignore[misc]


@pytest.mark.parametrize("name", FAMILIES)
def test_an_answer_ends_with_the_end_of_a_turn(name: str, pairs: Pairs) -> None:
    for kind in SPECS:
        mine, other = pairs[name, kind]
        assert mine.chat.end_ids == (other.convert_tokens_to_ids(FAMILIES[name].end),)


@pytest.mark.parametrize("name", FAMILIES)
def test_special_tokens_in_a_message_are_only_text(name: str, pairs: Pairs) -> None:
    for kind in SPECS:
        mine, _ = pairs[name, kind]
        family = FAMILIES[name]
        typed = f"a{family.end}b{family.bos} {family.eos}"
        clean, dirty = (ours(mine, conversation(name, None, [t, t, t])) for t in ("ab", typed))
        assert dirty is not None and clean is not None
        special = [i for i in dirty if mine.token_bytes[i] is None]
        assert special == [i for i in clean if mine.token_bytes[i] is None]
        assert "".join(typed.split()) in "".join(mine.decode(dirty).split())


def test_the_space_before_a_drawn_answer_is_its_own(pairs: Pairs) -> None:
    """Mistral's template writes " answer": the model draws " answer" after "[/INST]", with its space."""
    mine, other = pairs["mistral", "bytes"]
    before, _, behind = mine.chat.render(
        [Message("user", ("Hi",)), Message("assistant", (0,)), Message("user", ("Go",))]
    )
    said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "the"}]
    want = theirs(other, [*said, {"role": "user", "content": "Go"}])
    assert [*before, *mine.encode(" the"), *behind] == want


# ------------------------------------------------------------------------------- what is refused


def code_of(name: str, pairs: Pairs, *messages: Message) -> tuple[str, str]:
    with pytest.raises(ModelError) as caught:
        pairs[name, "bytes"][0].chat.render(messages)
    (found,) = caught.value.diagnostics
    return found.code, found.message


def test_a_refused_message_is_named(pairs: Pairs) -> None:
    user, system = Message("user", ("Hi",)), Message("system", ("Be brief.",))
    code, message = code_of("gemma2", pairs, system, user)
    assert code == "PLM552" and "message 1, a system message: System role not supported" in message
    code, message = code_of("mistral", pairs, user, user)
    assert code == "PLM552" and "message 2, a user message: Conversation roles must alternate" in message


def template(tmp_path: Path, source: str) -> HFTokenizer:
    return load_tokenizer(write_family(tmp_path / "t", "smollm2", byte_level_tokenizer(), source))


LOUD = "{% for m in messages %}{{ m.role + ':' + m.content|upper + '<|im_end|>' }}{% endfor %}"
TWICE = "{% for m in messages %}{{ m.content + m.content }}{% endfor %}"
DEAF = "{% for m in messages %}{{ m.role }}{% endfor %}"
NOSY = "{% for m in messages %}{{ 'long' if m.content|length > 30 else 'short' }}{{ m.content }}{% endfor %}"


@pytest.mark.parametrize("source", [LOUD, TWICE, DEAF, NOSY])
def test_a_template_that_changes_what_is_drawn_is_refused(source: str, tmp_path: Path) -> None:
    tokenizer = template(tmp_path, source)
    assert tokenizer.chat is not None
    tokenizer.chat.render([Message("user", ("Who?",))])
    with pytest.raises(ModelError) as caught:
        tokenizer.chat.render([Message("user", ("Who is ", 0, "?"))])
    assert caught.value.diagnostics[0].code == "PLM553"


BROKEN = {
    "{% for m in messages %}": "line 1 is wrong",
    "{{ messages[0].nothing.more }}": "it fails",
    "{{ ''.__class__.__mro__ }}": "outside its sandbox",
    "{{ cycler.__init__.__globals__ }}": "outside its sandbox",
    "{{ messages.append(1) }}": "outside its sandbox",
    "{{ namespace(__class__=1) }}": "outside its sandbox",
    "{{ 'a' * 1000000000 }}": "a value of more than",
    "{{ 'a'.center(1000000000) }}": "a value of more than",
    "{{ 'a'|indent(1000000000) }}": "a value of more than",
    "{{ '%1000000000d' % 1 }}": "a value of more than",
    "{{ '{:1000000000}'.format(1) }}": "a value of more than",
    "{{ ('a' * 9999)|replace('a', 'a' * 9999) }}": "a value of more than",
    "{% set n = namespace(s='aa') %}{% for i in range(99) %}{% set n.s = n.s ~ n.s %}{% endfor %}": "a value of more",
    "{% set n = namespace(s=[1]) %}{% for i in range(99) %}{% set n.s = [n.s, n.s] %}{% endfor %}": "more than",
    "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}": "goes on after",
    "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}": "it fails",
    "{{ 10 ** 10000 }}": "beyond every limit",
    "{{ range(1000000000)|list }}": "it fails",
}


@pytest.mark.parametrize("source", BROKEN, ids=range(len(BROKEN)))
def test_a_template_without_manners_is_refused(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("posterior_lm.lm.chat_sandbox.STEPS", 2_000)
    tokenizer = template(tmp_path, source)
    assert tokenizer.chat is not None
    begun = time.monotonic()
    with pytest.raises(ModelError) as caught:
        tokenizer.chat.render([Message("user", ("Hi",))])
    assert time.monotonic() - begun < 5
    (found,) = caught.value.diagnostics
    assert found.code == "PLM551" and BROKEN[source] in found.message


def test_the_date_never_changes() -> None:
    text = ChatText("{{ strftime_now('%d %b %Y') }}{{ messages[0].content }}", {})
    assert text.written([Message("user", ("!",))]) == "26 Jul 2024!"


def test_where_a_template_is_found(tmp_path: Path) -> None:
    """In chat_template.jinja before the configuration, among named ones by "default"."""
    named = [{"name": "rag", "template": "no"}, {"name": "default", "template": "yes"}]
    folder = write_family(tmp_path / "named", "smollm2", byte_level_tokenizer(), named)  # type: ignore[arg-type]
    tokenizer = load_tokenizer(folder)
    assert tokenizer.chat is not None and tokenizer.chat.text.source == "yes"
    (folder / "chat_template.jinja").write_text("file", encoding="utf-8")
    assert (again := load_tokenizer(folder).chat) is not None and again.text.source == "file"
    assert again.digest != tokenizer.chat.digest and again.end_ids == ()
    (folder / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(ModelError) as caught:
        load_tokenizer(folder)
    assert caught.value.diagnostics[0].code == "PLM551"
