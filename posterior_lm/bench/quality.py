"""Figures of texts alone, on texts that are cleaned alike for every method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np


def cleaned(texts: Sequence[str]) -> list[str]:
    """Texts as every metric sees them."""
    from posterior_lm.baselines.cleaning import clean

    return [clean(text) for text in texts]


def of_set(texts: Sequence[str]) -> dict[str, float]:
    """How much texts for the same prompt differ: semantic diversity, distinct-2, self-BLEU."""
    from posterior_lm.metrics.diversity import distinct, self_bleu, semantic_diversity

    kept = cleaned(texts)
    return {
        "diversity": float(semantic_diversity(kept)),
        "distinct_2": float(distinct(kept, 2)),
        "self_bleu": float(self_bleu(kept)),
    }


def against_reference(texts: Sequence[str], reference: str, bert: Path | None = None) -> dict[str, float]:
    """Means over texts of how near they are to one reference; BERTScore where a model's folder is given."""
    from posterior_lm.metrics.overlap import bleu4, gleu4

    kept, (true,) = cleaned(texts), cleaned([reference])
    found = {
        "bleu4": float(np.mean([bleu4(text, [true]) for text in kept])),
        "gleu4": float(np.mean([gleu4(text, [true]) for text in kept])),
    }
    if bert is not None:
        from posterior_lm.metrics.bertscore import bert_score

        found["bert_score"] = float(np.mean(bert_score(kept, [true] * len(kept), model=bert).f1))
    return found


def means(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of every figure over the rows that have it."""
    names = dict.fromkeys(name for figures in found for name in figures)
    return {name: float(np.mean([f[name] for f in found if name in f])) for name in names}
