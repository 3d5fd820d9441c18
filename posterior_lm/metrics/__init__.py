"""Metrics: functions of lists of texts and numbers, and a judge that is asked over HTTP.

None of them draws, trains or touches a query. Packages beyond numpy are imported by the
functions that need them; where one is absent, that function says so (PLM781).
"""

from __future__ import annotations

from posterior_lm.metrics.embeddings import BertScore, bert_score, semantic_diversity
from posterior_lm.metrics.judge import Failure, Judge, Judgement
from posterior_lm.metrics.ngrams import bleu4, distinct, gleu4, self_bleu
from posterior_lm.metrics.numbers import (
    Accuracy,
    Divergence,
    EvidenceError,
    Likelihood,
    Summary,
    accuracy,
    frequencies,
    kl_to_target,
    kl_to_target_exact,
    likelihood,
    log_evidence_error,
    share_valid,
    summarise,
    total_variation,
)

__all__ = [
    "Accuracy",
    "BertScore",
    "Divergence",
    "EvidenceError",
    "Failure",
    "Judge",
    "Judgement",
    "Likelihood",
    "Summary",
    "accuracy",
    "bert_score",
    "bleu4",
    "distinct",
    "frequencies",
    "gleu4",
    "kl_to_target",
    "kl_to_target_exact",
    "likelihood",
    "log_evidence_error",
    "self_bleu",
    "semantic_diversity",
    "share_valid",
    "summarise",
    "total_variation",
]
