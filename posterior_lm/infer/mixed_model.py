"""What a mixture of distributions says of the next token: its parts, each after its own context, as one model.

A text z is drawn from Σ_k w_k p_k(z), over whole texts. The chain rule of the sum is

    p(v | z_<t) = Σ_k r_k p_k(v | z_<t),   r_k ∝ w_k p_k(z_<t),

so drawing token by token from this is the same as drawing a part first and all tokens from it, but
without the part: the probability of a text is that of the mixture. Powers b_k inside the mixture
stand on each p_k, which then is not normalised; neither is the sum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from attrs import frozen

from posterior_lm.lm.protocol import LanguageModel, Request, Rollout, eos_log_probs

Ids = tuple[int, ...]


@frozen
class Strand:
    """One part of a mixture in one place: a model after a context."""

    lm: str
    context: Ids
    eos_ids: Ids
    power: float
    log_share: float


@frozen(eq=False)
class MixedModel:
    """Mixtures as a model to draw from: a sequence is the number of one of them and the tokens drawn so far.

    The log probabilities of `open` and `extend` have the columns of the vocabulary, and then one of the
    end of the text, in `eos_ids`.
    """

    models: Mapping[str, LanguageModel]
    mixtures: Sequence[tuple[Strand, ...]]

    @property
    def eos_ids(self) -> Ids:
        """The column behind the vocabulary."""
        models = {strand.lm for mixture in self.mixtures for strand in mixture}
        return (max((self.models[lm].tokenizer.vocabulary_size for lm in models), default=0),)

    def open(self, sequences: Sequence[Ids], *, shared: int = 0) -> MixedRollout:
        """A rollout after each sequence. What models share is found in the contexts, whatever `shared` says."""
        strands = [(row, one) for row, (number, *_) in enumerate(sequences) for one in self.mixtures[number]]
        drawn = [tuple(sequences[row][1:]) for row, _ in strands]
        said = np.array([one.log_share for _, one in strands])
        inner: dict[str, Rollout] = {}
        place = np.zeros(len(strands), dtype=np.int64)
        for lm in dict.fromkeys(one.lm for _, one in strands):
            mine = [k for k, (_, one) in enumerate(strands) if one.lm == lm]
            contexts = [strands[k][1].context for k in mine]
            common = _common(contexts)
            begun = [k for k in mine if drawn[k]]
            before = {k: strands[k][1].context for k in begun}
            asked = [Request(before[k] + drawn[k], len(before[k]), common, ends=False) for k in begun]
            for k, scores in zip(begun, self.models[lm].score(asked) if asked else (), strict=True):
                said[k] += strands[k][1].power * float(np.sum(scores.tokens))
            sequences_of = [context + drawn[k] for k, context in zip(mine, contexts, strict=True)]
            inner[lm] = self.models[lm].open(sequences_of, shared=common)
            place[mine] = np.arange(len(mine))
        rows = np.array([row for row, _ in strands])
        return MixedRollout.of(self, tuple(one for _, one in strands), rows, said, inner, place)


@frozen(eq=False)
class MixedRollout:
    """Where the S strands of N mixtures stand: strand k belongs to mixture `rows[k]`, in order.

    `log_r` (S,) are the logs of the r_k, nats, and `place` (S,) the rows of the rollouts `inner`.
    """

    model: MixedModel
    strands: tuple[Strand, ...]
    rows: np.ndarray
    log_r: np.ndarray
    inner: Mapping[str, Rollout]
    place: np.ndarray
    log_probs: np.ndarray
    """(N, V + 1) nats; see `MixedModel`."""

    @classmethod
    def of(
        cls, model: MixedModel, strands: tuple[Strand, ...], rows: np.ndarray, said: np.ndarray,
        inner: Mapping[str, Rollout], place: np.ndarray,
    ) -> MixedRollout:  # fmt: skip
        """With `said` (S,) the log of each strand's share times what it said of the tokens so far."""
        n, end = int(rows[-1]) + 1, model.eos_ids[0]
        total = _sums(said, rows, n)[rows]
        log_r = np.where(np.isneginf(said), -np.inf, said - np.where(np.isneginf(total), 0.0, total))
        tables = {lm: rollout.log_probs for lm, rollout in inner.items()}
        out = np.full((n, end + 1), -np.inf, dtype=np.result_type(*(t.dtype for t in tables.values())))
        turn = np.arange(len(rows)) - np.searchsorted(rows, rows)
        for k, lm in enumerate(s.lm for s in strands):
            said_here = strands[k].power * np.asarray(tables[lm][place[k]], dtype=np.float64)
            eos = strands[k].power * eos_log_probs(tables[lm][place[k]][None], strands[k].eos_ids)
            mine, row = log_r[k] + said_here[:end], out[rows[k]]
            if turn[k] == 0:
                row[: len(mine)], row[end] = mine, log_r[k] + eos[0]
            else:
                np.logaddexp(row[: len(mine)], mine, out=row[: len(mine)], casting="same_kind")
                row[end] = np.logaddexp(row[end], log_r[k] + eos[0])
        return cls(model, strands, rows, log_r, inner, place, out)

    def extend(self, rows: np.ndarray, tokens: np.ndarray) -> MixedRollout:
        """Mixture j is mixture `rows[j]` after one more token; strands that give it no probability end."""
        first, behind = np.searchsorted(self.rows, rows), np.searchsorted(self.rows, rows, side="right")
        old = np.concatenate([np.arange(a, b) for a, b in zip(first, behind, strict=True)])
        where = np.repeat(np.arange(len(rows)), behind - first)
        token = np.asarray(tokens)[where]
        said = np.empty(len(old))
        for lm, rollout in self.inner.items():
            mine = np.array([self.strands[k].lm == lm for k in old])
            said[mine] = rollout.log_probs[self.place[old[mine]], token[mine]]
        said = self.log_r[old] + np.array([self.strands[k].power for k in old]) * said
        kept = ~np.isneginf(said) | (np.isneginf(_sums(said, where, len(rows)))[where])
        old, where, token, said = old[kept], where[kept], token[kept], said[kept]
        inner, place = {}, np.zeros(len(old), dtype=np.int64)
        for lm, rollout in self.inner.items():
            mine = np.flatnonzero([self.strands[k].lm == lm for k in old])
            if len(mine):
                inner[lm] = rollout.extend(self.place[old[mine]], token[mine])
                place[mine] = np.arange(len(mine))
        strands = tuple(self.strands[k] for k in old)
        return MixedRollout.of(self.model, strands, where, said, inner, place)


def _sums(said: np.ndarray, rows: np.ndarray, n: int) -> np.ndarray:
    """(N,) the log-sum-exp of the strands of each mixture."""
    out = np.full(n, -np.inf)
    np.logaddexp.at(out, rows, said)
    return out


def _common(contexts: Sequence[Ids]) -> int:
    """How many leading tokens all contexts have."""
    first, last = min(contexts), max(contexts)
    return next(
        (k for k, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last))
    )
