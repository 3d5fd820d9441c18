"""Texts compared by their words: overlap with references (BLEU-4 and GLEU-4, by nltk), and how different texts are."""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence

import numpy as np

from posterior_lm.metrics.inputs import package, texts_of, wrong

SMOOTHING = 0.1
"""Matches that a precision of none counts as."""

NGram = tuple[str, ...]
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
    smooth = score.SmoothingFunction(epsilon=SMOOTHING).method1
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


def distinct(texts: Sequence[str], n: int = 2) -> float:
    """Distinct n-grams of `words` over all n-grams, in all texts together; higher is more diverse.

    Above 0 and at most 1 (Li et al. 2016). It falls as there are more or longer texts:
    compare equal numbers of texts. Duplicates count. Texts of fewer than n words add
    nothing; raises DataError PLM780 where no text has n.
    """
    listed = texts_of(texts, metric=f"distinct-{n}")
    _check_length(n, "try n=2")
    found = [gram for text in listed for gram in ngrams(words(text), n)]
    if not found:
        raise wrong(f"no text has {n} words", where="texts", help="use a smaller n, or longer texts")
    return len(set(found)) / len(found)


def self_bleu(texts: Sequence[str], n: int = 4) -> float:
    """Mean BLEU-n of each of N texts against all others; between 0 and 1, lower is more diverse.

    Zhu et al. 2018 (Texygen), with the precisions, the brevity penalty and the smoothing of
    `bleu4`: equal to nltk's, text by text. A duplicate makes both its copies 1. The more
    texts, the more references, and the higher it is: compare equal numbers of texts.

    Time grows with the number of words, not with N²: how often an n-gram occurs in the
    references of a text is its largest count over all texts, or the second largest where
    the text itself has that. So no sample of the texts is needed. Raises DataError PLM780
    for fewer than two texts.
    """
    listed = texts_of(texts, least=2, metric="self-BLEU")
    _check_length(n, "try n=4")
    tokens = [words(text) for text in listed]
    logs = np.zeros(len(tokens))
    for size in range(1, n + 1):
        counts = [Counter(ngrams(t, size)) for t in tokens]
        most = _two_largest(counts)
        for place, own in enumerate(counts):
            matched = sum(min(c, _elsewhere(most[gram], c)) for gram, c in own.items())
            if size == 1 and not matched:
                logs[place] = -math.inf  # nltk: no common word, no credit
            logs[place] += math.log((matched or SMOOTHING) / max(1, sum(own.values()))) / n
    lengths = sorted(map(len, tokens))
    return float(
        np.mean([math.exp(x + _brevity(len(t), lengths)) for x, t in zip(logs, tokens, strict=True)])
    )


def _check_length(n: object, help: str) -> None:
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise wrong(f"n-grams have a length of at least 1, not {n!r}", where="n", help=help)


def ngrams(tokens: Sequence[str], n: int) -> list[NGram]:
    """The n-grams of a list of words, in order."""
    return [tuple(tokens[k : k + n]) for k in range(len(tokens) - n + 1)]


def _two_largest(counts: Sequence[Counter[NGram]]) -> dict[NGram, tuple[int, int]]:
    """For each n-gram its largest count in one text, and the largest in another text."""
    most: dict[NGram, tuple[int, int]] = {}
    for own in counts:
        for gram, c in own.items():
            first, second = most.get(gram, (0, 0))
            most[gram] = (c, first) if c > first else (first, max(second, c))
    return most


def _elsewhere(most: tuple[int, int], own: int) -> int:
    """The largest count in the other texts: where two share the first place, the second is as large."""
    return most[1] if own == most[0] else most[0]


def _brevity(length: int, lengths: Sequence[int]) -> float:
    """Log of the brevity penalty against the closest length among the others; the shorter of two as close."""
    place = bisect_left(lengths, length)
    others = [lengths[k] for k in (place - 1, place + 1) if 0 <= k < len(lengths)]
    closest = min(others, key=lambda other: (abs(other - length), other))
    return 0.0 if length >= closest else (1.0 - closest / length if length else -math.inf)
