"""Your own language model: a class, a table, and a folder.

    python examples/03_your_own_model.py [FOLDER]

FOLDER holds a causal language model of the transformers library; without one the
packaged model's own folder is used. Prints what stands in 03_your_own_model.out.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np

import posterior_lm as plm
from posterior_lm.lm.protocol import ModelIdentity, Request, Scores, eos_log_probs, unpack_branches
from posterior_lm.lm.tabular import TabularTokenizer
from posterior_lm.lm.tiny import WEIGHTS

WALK = plm.loads('lm base = "tiny"  program walk() { latent z: text(tokens=1..12, stop="!") ~ base() ^ 2 }')
TABLE = {"tokens": ["a", "!"], "max_tokens": 9, "rows": {"": {"a": 0.7, "!": 0.2, "<eos>": 0.1}}}


class Wavering:
    """A model over "a", "b" and "!": it rarely says the same letter twice. End-of-text is token 3."""

    identity = ModelIdentity(name="wavering", kind="example", digest="0" * 64, dtype="float64")
    tokenizer = TabularTokenizer(("a", "b", "!"))
    max_length = None  # no limit
    packed = False  # branches are scored one by one

    def next_log_probs(self, ids: Sequence[int]) -> np.ndarray:
        """(V,) log p(next token | ids), in nats."""
        probs = {0: [0.1, 0.6, 0.2, 0.1], 1: [0.6, 0.1, 0.2, 0.1]}.get(ids[-1], [0.5, 0.4, 0.05, 0.05])
        return np.log(np.array(probs))

    def score(self, requests: Sequence[Request]) -> list[Scores]:
        """The log-probabilities that each request asks for."""
        return [self._one(request) for request in requests]

    def _one(self, request: Request) -> Scores:
        if request.branches:
            trunk, *branches = (self._one(one) for one in unpack_branches(request))
            return Scores(trunk.tokens, trunk.eos, tuple(branches))
        ids, start = request.ids, request.start
        rows = np.stack([self.next_log_probs(ids[:t]) for t in range(start, len(ids) + 1)])
        return Scores(rows[np.arange(len(ids) - start), list(ids[start:])], eos_log_probs(rows, (3,)))

    def open(self, sequences: Sequence[tuple[int, ...]], *, shared: int = 0) -> Growing:
        """Sequences to extend token by token."""
        return Growing(self, list(sequences))


class Growing:
    """Sequences with `log_probs` (N, V) of what may follow."""

    def __init__(self, model: Wavering, sequences: list[tuple[int, ...]]) -> None:
        self.model, self.sequences = model, sequences
        self.log_probs = np.stack([model.next_log_probs(s) for s in sequences])

    def extend(self, rows: np.ndarray, tokens: np.ndarray) -> Growing:
        return Growing(self.model, [(*self.sequences[r], int(t)) for r, t in zip(rows, tokens, strict=True)])


print("a class:")
for text, probability in WALK.lm(base=Wavering()).draw(seed=0).marginal("z")[:3]:
    print(f"{probability:6.3f}  {text}")

print("a table:")
for text, probability in WALK.lm(base=plm.TabularModel.from_dict(TABLE)).draw(seed=0).marginal("z")[:3]:
    print(f"{probability:6.3f}  {text}")

print("a folder:")
folder = sys.argv[1] if len(sys.argv) > 1 else str(WEIGHTS)
sentence = plm.program("sentence", "prompt: text", lm={"base": folder})
sentence = sentence.latent("z", 'text(tokens=1..20, stop=".")', "base(prompt) ^ 2")
print(sentence.given(prompt="Mia has a white cat.").draw(200, seed=0).marginal("z")[0][0])
