"""Tokenizers: exact bytes, no special token from text, and the same tokens as transformers gives."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from posterior_lm.lang.diagnostics import ModelError
from posterior_lm.lm.tokenizers import HFTokenizer, load_tokenizer
from tests.laws.models import SHARED, byte_level_tokenizer, sentencepiece_tokenizer, write_tokenizer

SPECIAL = ("<|endoftext|>", "<s>", "</s>", "<unk>", "<|end_story|>", "<|start_story|>", "<0x41>")
TOYS: dict[str, Callable[[], dict]] = {
    "bytes": byte_level_tokenizer,
    "bytes-bos": lambda: byte_level_tokenizer(bos=True),
    "sentencepiece": sentencepiece_tokenizer,
    "metaspace": lambda: sentencepiece_tokenizer(metaspace=True),
    "words": lambda: sentencepiece_tokenizer(fallback=False),
}
FOLDERS = ("gpt2-tokenizer", "stories260k-hf", "tinystories656k-hf", "tiny")
_known: dict[str, HFTokenizer] = {}

plain_text = st.text(st.characters(codec="utf-8"), max_size=30)
wordy_text = st.lists(
    st.sampled_from(["the", " on", " the ", "a", "  ", "\n", ".", "Once upon a time", " 12", "é", *SPECIAL]),
    max_size=8,
).map("".join)
texts = st.one_of(wordy_text, plain_text)


def folder_of(name: str, scratch: Path) -> Path:
    if name in TOYS:
        return write_tokenizer(scratch / name, TOYS[name]())
    if name == "tiny":
        from posterior_lm.lm.tiny import WEIGHTS as folder
    else:
        folder = SHARED / name
    if not (folder / "tokenizer.json").is_file():
        pytest.skip(f"{folder} is not on this machine")
    return folder


@pytest.fixture(scope="module", params=[*TOYS, *FOLDERS])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of(request.param, tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> HFTokenizer:
    return load_tokenizer(folder)


def try_encode(encode: Callable[[str], tuple[int, ...]], text: str) -> tuple[int, ...] | None:
    try:
        return encode(text)
    except ModelError as problem:
        assert [d.code for d in problem.diagnostics] == ["PLM531"]
        return None


text_law = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


@text_law
@given(text=texts)
@example(text="")
@example(text="".join(SPECIAL))
def test_tokens_spell_the_text_byte_for_byte(tokenizer: HFTokenizer, text: str) -> None:
    ids = try_encode(tokenizer.encode, text)
    if ids is None:
        return
    assert b"".join(tokenizer.token_bytes[i] for i in ids) == text.encode("utf-8")
    assert tokenizer.decode(ids) == text
    assert not {tokenizer.bos_id, *tokenizer.eos_ids} & set(ids)
    begun = tokenizer.encode_start(text)
    assert tokenizer.decode(begun) in (text, " " + text)
    assert not {tokenizer.bos_id, *tokenizer.eos_ids} & set(begun)


@text_law
@given(a=texts, b=texts)
def test_pieces_join_to_the_whole(tokenizer: HFTokenizer, a: str, b: str) -> None:
    first, second = try_encode(tokenizer.encode, a), try_encode(tokenizer.encode, b)
    whole = try_encode(tokenizer.encode, a + b)
    if first is not None and second is not None:
        assert tokenizer.decode(first + second) == a + b
        assert whole is not None and len(whole) <= len((a + b).encode("utf-8"))


@text_law
@given(char=st.characters(codec="utf-8"))
def test_byte_tokenizers_spell_every_character(char: str) -> None:
    tokenizer = _known.get("bytes") or _known.setdefault("bytes", _in_memory(byte_level_tokenizer()))
    assert tokenizer.decode(tokenizer.encode(char)) == char


def _in_memory(spec: dict) -> HFTokenizer:
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        return load_tokenizer(write_tokenizer(Path(scratch), spec))


@pytest.mark.parametrize("special", SPECIAL)
def test_a_special_string_in_a_text_is_only_text(tokenizer: HFTokenizer, folder: Path, special: str) -> None:
    for text in (special, f"a{special}b", f" {special}"):
        for encode in (tokenizer.encode, tokenizer.encode_start):
            ids = try_encode(encode, text)
            if ids is None:  # no "/" or "_" in these vocabularies, and no bytes
                assert folder.name in ("words", "tinystories656k-hf")
            else:
                assert all(tokenizer.token_bytes[i] is not None for i in ids)
                assert tokenizer.decode(ids) in (text, " " + text)


def test_the_start_is_what_transformers_writes(folder: Path, tokenizer: HFTokenizer) -> None:
    """Texts that begin with a space are left out: transformers 5 rebuilds Llama tokenizers
    with another rule for them than their tokenizer.json has, which is the one kept here."""
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(folder)
    for text in ("Once upon a time, there was a cat.", "a", "the cat\n on the  mat"):
        ids = try_encode(tokenizer.encode_start, text)
        if ids is not None:
            assert [*tokenizer.start_ids, *ids] == theirs(text)["input_ids"]


def test_a_dummy_prefix_stands_only_at_the_start(tokenizer: HFTokenizer, folder: Path) -> None:
    prefixed = folder.name in ("sentencepiece", "metaspace", "words", "stories260k-hf", "tinystories656k-hf")
    assert tokenizer.decode(tokenizer.encode_start("on")) == (" on" if prefixed else "on")
    assert tokenizer.decode(tokenizer.encode("on")) == "on"
    assert tokenizer.encode("") == tokenizer.encode_start("") == ()


@pytest.mark.parametrize(
    ("name", "start", "bos", "eos", "size"),
    [
        ("gpt2-tokenizer", (), 50256, (50256,), 50257),
        ("stories260k-hf", (1,), 1, (1, 2), 512),  # generation_config.json adds <s>
        ("tinystories656k-hf", (1,), 1, (2,), 2048),
    ],
)
def test_special_ids_of_real_tokenizers(
    name: str, start: tuple[int, ...], bos: int, eos: tuple[int, ...], size: int, tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(folder_of(name, tmp_path))
    assert (tokenizer.start_ids, tokenizer.bos_id, tokenizer.eos_ids) == (start, bos, eos)
    assert tokenizer.vocabulary_size == len(tokenizer.token_bytes) == size


def test_pieces_that_span_words_and_bytes_have_their_bytes(tmp_path: Path) -> None:
    spec = sentencepiece_tokenizer()
    tokenizer = load_tokenizer(write_tokenizer(tmp_path, spec))
    vocab = spec["model"]["vocab"]
    assert tokenizer.token_bytes[vocab["on\u2581the\u2581"]] == b"on the "
    assert tokenizer.token_bytes[vocab["<0xE6>"]] == b"\xe6"
    assert tokenizer.token_bytes[vocab["<unk>"]] is None
    assert tokenizer.encode("on the ") == (vocab["on\u2581the\u2581"],)


@pytest.mark.parametrize(
    ("text", "named"), [("on / \u65e5", "'\u65e5' (U+65E5)"), ("a\tb", "(U+0009)"), ("\ud800", "(U+D800)")]
)
def test_the_character_that_cannot_be_spelled_is_named(tmp_path: Path, text: str, named: str) -> None:
    tokenizer = load_tokenizer(write_tokenizer(tmp_path, sentencepiece_tokenizer(fallback=False)))
    for encode in (tokenizer.encode, tokenizer.encode_start):
        with pytest.raises(ModelError) as caught:
            encode(text)
        assert caught.value.diagnostics[0].code == "PLM531"
        assert named in caught.value.diagnostics[0].message


def test_a_tokenizer_that_changes_text_is_caught(tmp_path: Path) -> None:
    spec = byte_level_tokenizer() | {"normalizer": {"type": "NFC"}}
    tokenizer = load_tokenizer(write_tokenizer(tmp_path, spec))
    assert tokenizer.decode(tokenizer.encode("é")) == "é"
    with pytest.raises(ModelError) as caught:
        tokenizer.encode("e\u0301")
    assert "changes the text" in caught.value.diagnostics[0].message


def test_dropout_and_truncation_are_off(tmp_path: Path) -> None:
    spec = byte_level_tokenizer()
    spec["model"]["dropout"] = 0.9
    spec["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    tokenizer = load_tokenizer(write_tokenizer(tmp_path, spec))
    expected = load_tokenizer(write_tokenizer(tmp_path / "plain", byte_level_tokenizer())).encode(
        "the the the"
    )
    assert all(tokenizer.encode("the the the") == expected for _ in range(5))


def test_an_ordinary_added_token_is_text(tmp_path: Path) -> None:
    spec = byte_level_tokenizer()
    spec["added_tokens"].append({**spec["added_tokens"][0], "id": 263, "content": "   ", "special": False})
    tokenizer = load_tokenizer(write_tokenizer(tmp_path, spec))
    assert tokenizer.token_bytes[263] == b"   "
    assert tokenizer.encode("a   b")[1] == 263
    assert tokenizer.decode(tokenizer.encode("a   b")) == "a   b"


def test_a_special_token_that_the_model_lacks_is_left_out(tmp_path: Path) -> None:
    spec = byte_level_tokenizer()
    size = len(spec["model"]["vocab"])
    spec["added_tokens"].append({**spec["added_tokens"][0], "id": size, "content": "<pad>"})
    folder = write_tokenizer(tmp_path, spec)
    assert load_tokenizer(folder).vocabulary_size == size + 1
    (folder / "config.json").write_text(json.dumps({"vocab_size": size}))
    assert load_tokenizer(folder).vocabulary_size == len(load_tokenizer(folder).token_bytes) == size


def test_the_digest_follows_the_vocabulary(tmp_path: Path) -> None:
    spec, other = byte_level_tokenizer(), byte_level_tokenizer()
    digest = load_tokenizer(write_tokenizer(tmp_path / "a", spec, eos_token="<|endoftext|>")).digest
    other["model"]["merges"] = [" ".join(m) for m in other["model"]["merges"]]  # the older spelling
    assert load_tokenizer(write_tokenizer(tmp_path / "b", other)).digest == digest
    other["model"]["merges"] = other["model"]["merges"][:-1]
    assert load_tokenizer(write_tokenizer(tmp_path / "c", other)).digest != digest


def test_end_of_text_is_the_union_of_what_the_files_say(tmp_path: Path) -> None:
    folder = write_tokenizer(tmp_path, byte_level_tokenizer(), eos_token={"content": "<|endoftext|>"})
    (folder / "config.json").write_text(json.dumps({"eos_token_id": 7, "vocab_size": 300}))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [9, 7, 4000]}))
    tokenizer = load_tokenizer(folder)
    assert tokenizer.eos_ids == (0, 7, 9)  # an id beyond the vocabulary is dropped
    assert tokenizer.vocabulary_size == 300
    assert tokenizer.token_bytes[7] is None and tokenizer.token_bytes[299] is None


@pytest.mark.parametrize(
    ("spoil", "code", "said"),
    [
        (lambda f: (f / "tokenizer.json").unlink(), "PLM512", "holds no tokenizer"),
        (lambda f: (f / "tokenizer.json").write_text("{"), "PLM513", "not a JSON object"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "PLM513", "no vocabulary"),
        (lambda f: (f / "tokenizer_config.json").write_text("[]"), "PLM513", "tokenizer_config.json"),
        (lambda f: (f / "config.json").write_text('{"vocab_size": 100}'), "PLM513", "the model has 100"),
        (lambda f: _edit(f, continuing_subword_prefix="##"), "PLM513", "byte for byte"),
        (lambda f: _edit(f, type="Sorcery"), "PLM513", "cannot be used"),
        (
            lambda f: write_tokenizer(f, byte_level_tokenizer() | {"normalizer": {"type": "Lowercase"}}),
            "PLM513",
            "Lowercase",
        ),
    ],
)
def test_an_unusable_folder_is_said_in_one_sentence(
    tmp_path: Path, spoil: Callable, code: str, said: str
) -> None:
    folder = write_tokenizer(tmp_path, byte_level_tokenizer())
    spoil(folder)
    with pytest.raises(ModelError) as caught:
        load_tokenizer(folder)
    assert [d.code for d in caught.value.diagnostics] == [code]
    assert said in caught.value.diagnostics[0].message


def _edit(folder: Path, **changes: object) -> None:
    spec = byte_level_tokenizer()
    spec["model"] |= changes
    write_tokenizer(folder, spec)
