"""A generative model of short English documents with exact log-probabilities.

`sample(rng)` draws one `Document`; its `log_prob` (nats) is the exact
log-probability of its text under the whole world, because every text has one
derivation only.
"""

from .choice import Table, mixture, phrase
from .document import Document, enumerate_documents, run_sampled
from .tasks import TASKS, entropy_rate, sample, sample_task

__all__ = [
    "TASKS",
    "Document",
    "Table",
    "entropy_rate",
    "enumerate_documents",
    "mixture",
    "phrase",
    "run_sampled",
    "sample",
    "sample_task",
]
