"""Overlap of a text with references in words: BLEU-4 and GLEU-4, by nltk."""

from __future__ import annotations

import re
from collections.abc import Sequence

from posterior_lm.metrics.inputs import package, texts_of

_WORD = re.compile(r"\w+|[^\w\s]")


def words(text: str) -> list[str]:
    """The words and single punctuation marks of a text, case kept; white space only divides."""
    return _WORD.findall(text)


def bleu4(text: str, references: Sequence[str]) -> float:
    """BLEU-4 of one text against one or more references; between 0 and 1, higher is closer.

    The geometric mean of the clipped precisions of 1- to 4-grams of `words`, times the
    brevity penalty against the reference that is closest in length (Papineni et al. 2002).
    A precision of 0/k counts as 0.1/k (method 1 of Chen and Cherry 2014), as in the paper
    whose tasks `python -m benchmarks.paper` repeats: one text of few words would mostly score 0
    without. So a text of fewer than four words stays below 1 even where it is a reference.
    sacrebleu smooths otherwise, and is for whole corpora: do not compare the two. Without
    any common word, and for an empty text, it is 0. Papers often print 100 times this, and
    mean it over texts. Raises DataError PLM780, and PLM781 without nltk.
    """
    texts_of([text], "text", metric="BLEU")
    listed = texts_of(references, "references", metric="BLEU")
    score = package("nltk.translate.bleu_score")
    smooth = score.SmoothingFunction(epsilon=0.1).method1
    found = words(text)
    if not found:  # nltk warns of this case, and has no value for it in some versions
        return 0.0
    return float(score.sentence_bleu([words(r) for r in listed], found, smoothing_function=smooth))


def gleu4(text: str, references: Sequence[str]) -> float:
    """GLEU-4 of one text against one or more references; between 0 and 1, higher is closer.

    The smaller of precision and recall of all 1- to 4-grams of `words` together, for the
    reference where it is largest (Wu et al. 2016, section 7). It needs no smoothing and is
    1 for a reference itself. 0 for an empty text. Raises DataError PLM780, and PLM781
    without nltk.
    """
    texts_of([text], "text", metric="GLEU")
    listed = texts_of(references, "references", metric="GLEU")
    score = package("nltk.translate.gleu_score")
    found = words(text)
    if not found:
        return 0.0
    return float(max(score.sentence_gleu([words(r)], found) for r in listed))
