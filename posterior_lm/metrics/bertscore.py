"""BERTScore: how well the tokens of a text match those of a reference in an encoder's eyes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from attrs import frozen

from posterior_lm.metrics.inputs import texts_of, wrong


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
    from posterior_lm.metrics.encoder import load_encoder

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
