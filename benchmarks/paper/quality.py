"""Figures of texts alone, on texts that are cleaned alike for every method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from posterior_lm.lang.diagnostics import InferenceError

if TYPE_CHECKING:
    from posterior_lm.metrics.judge import Judge


def cleaned(texts: Sequence[str]) -> list[str]:
    """Texts as every metric sees them."""
    from posterior_lm.decode.unmasked import clean

    return [clean(text) for text in texts]


def of_set(texts: Sequence[str]) -> dict[str, float]:
    """How much texts for the same prompt differ: semantic diversity, distinct-2, self-BLEU."""
    from posterior_lm.metrics.embeddings import semantic_diversity
    from posterior_lm.metrics.ngrams import distinct, self_bleu

    kept = cleaned(texts)
    return {
        "diversity": float(semantic_diversity(kept)),
        "distinct_2": float(distinct(kept, 2)),
        "self_bleu": float(self_bleu(kept)),
    }


def against_reference(
    texts: Sequence[str], reference: str, bert: Path | None = None, *, similarity: bool = False
) -> dict[str, float]:
    """Means over texts of how near they are to one reference; BERTScore where a model's folder is given.

    `similarity` adds the mean cosine of the embeddings that `semantic_diversity` compares.
    """
    from posterior_lm.metrics.ngrams import bleu4, gleu4

    kept, (true,) = cleaned(texts), cleaned([reference])
    found = {
        "bleu4": float(np.mean([bleu4(text, [true]) for text in kept])),
        "gleu4": float(np.mean([gleu4(text, [true]) for text in kept])),
    }
    if bert is not None:
        from posterior_lm.metrics.embeddings import bert_score

        found["bert_score"] = float(np.mean(bert_score(kept, [true] * len(kept), model=bert).f1))
    if similarity:
        from posterior_lm.metrics.embeddings import load_encoder, packaged_folder

        *others, own = load_encoder(packaged_folder()).sentence_vectors([*kept, true])
        found["similarity"] = float(np.mean([one @ own for one in others]))
    return found


def judge_at(url: str, model: str, key_env: str | None) -> Judge:
    """A judge behind a URL. Raises InferenceError PLM784."""
    from posterior_lm.metrics.judge import Judge

    return Judge(url=url, model=model, key_env=key_env)


def judged(judge: Judge, texts: Sequence[str], before: str, after: str) -> tuple[dict[str, float], str]:
    """The mean rating of texts between two others, and a note of those that got none.

    A judge that is down costs its column and nothing else.
    """
    kept = cleaned(texts)
    try:
        rated = judge.rate(kept, before=[before] * len(kept), after=[after] * len(kept))
    except InferenceError as problem:
        return {}, problem.diagnostics[0].message
    missing = len(rated.failures)
    note = f"the judge left out {missing} of {len(kept)} texts: {rated.failures[0].reason}" if missing else ""
    return ({} if rated.mean is None else {"judge": rated.mean}), note


def means(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of every figure over the rows that have it."""
    names = dict.fromkeys(name for figures in found for name in figures)
    return {name: float(np.mean([f[name] for f in found if name in f])) for name in names}
