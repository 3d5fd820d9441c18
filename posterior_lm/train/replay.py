"""A buffer of draws per data row, for training off the policy's own draws.

What is kept is a draw's tokens, its untempered log reward, and whatever else is needed to score
it again, so that a replayed draw meets the reward that it was drawn under. Half of a row's room
goes by reward and half by recency, in keeping as in drawing: the best alone would train the policy
on a few modes, the latest alone would forget what is rare (Bartoldson et al. 2025, TBA, mixes both).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from attrs import evolve, field, frozen

PREFIX = "replay."
"""Begins the name of each array of `Replay.to_arrays`, so that they can lie beside others."""


@frozen
class Entry:
    """One draw of every latent.

    `ids` holds one token sequence per latent in the target's order, spliced tool output included;
    `log_reward` is untempered, in nats; `end_log_reward` (T+1,), where the objective needs it, is the
    untempered log reward of stopping after each token, −inf where the draw has no end point; `extra`
    is JSON with what else the reward needs to be evaluated again. A `pinned` entry is dropped last.
    """

    ids: tuple[tuple[int, ...], ...]
    log_reward: float
    end_log_reward: tuple[float, ...] | None = None
    extra: str = ""
    pinned: bool = False


@frozen(eq=False)
class Replay:
    """At most `capacity` entries of a row and `total` over all rows; a value, like every state here.

    `kept` has the rows in the order of their last addition, and each row's entries in the order of
    theirs, oldest first. `dropped` counts the draws of no reward that were refused.
    """

    capacity: int
    total: int
    dropped: int = 0
    kept: Mapping[int, tuple[Entry, ...]] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        if self.capacity < 1 or self.total < 1:
            raise ValueError(
                f"a buffer has room for at least one: {self.capacity} a row, {self.total} in all"
            )

    def __len__(self) -> int:
        return sum(map(len, self.kept.values()))

    def rows(self) -> tuple[int, ...]:
        """The rows that have entries, the one added to longest ago first."""
        return tuple(self.kept)

    def entries(self, row: int) -> tuple[Entry, ...]:
        """A row's entries, the oldest first."""
        return self.kept.get(row, ())

    def add(self, row: int, entries: Iterable[Entry]) -> Replay:
        """The buffer with more draws of one row.

        A draw that the row has already (equal `ids`) replaces the old entry and is its latest; it
        stays pinned where it was. Draws with a log reward of −inf are refused and counted. ValueError
        for a log reward that is NaN or +inf: those are mistakes of whoever scored the draw.

        A row over its capacity keeps the best half and, of the others, the latest half. Over the
        total, the rows added to longest ago shrink first by the same rule, each to an even share of
        the total, so that no row is emptied while another has more. Pinned entries take their room
        first and leave last: unpinned ones of every row go before any of them.
        """
        found = {entry.ids: entry for entry in self.entries(row)}
        dropped = self.dropped
        for entry in entries:
            for log_reward in (entry.log_reward, *(entry.end_log_reward or ())):
                if not log_reward < math.inf:
                    raise ValueError(f"row {row}: a draw has the log reward {log_reward}")
            if entry.log_reward == -math.inf:
                dropped += 1
                continue
            old = found.pop(entry.ids, None)
            found[entry.ids] = evolve(entry, pinned=True) if old is not None and old.pinned else entry
        rows = dict(self.kept)
        if found:
            rows.pop(row, None)
            rows[row] = _best_and_latest(tuple(found.values()), self.capacity)
        over = sum(map(len, rows.values())) - self.total
        if over > 0:
            _shrink(rows, over, self.total)
        return evolve(self, dropped=dropped, kept=rows)

    def draw(self, rng: np.random.Generator, row: int, n: int, temperature: float = 1.0) -> list[Entry]:
        """`n` different entries of the row, or all of them where it has fewer.

        Half are drawn by softmax(log_reward / temperature) without replacement (the Gumbel-top-k
        trick of Kool et al. 2019, §2.2), the other half uniformly from the rest; an odd one falls to
        either half by a coin.
        """
        if not (n >= 0 and 0 < temperature < math.inf):
            raise ValueError(f"cannot draw {n} entries at the temperature {temperature}")
        entries = self.entries(row)
        by_reward = (n + int(rng.integers(2))) // 2
        keys = np.array([e.log_reward for e in entries]) / temperature + rng.gumbel(size=len(entries))
        order = np.argsort(-keys, kind="stable")
        rest = rng.permutation(order[by_reward:])
        return [entries[i] for i in (*order[:by_reward], *rest[: n - by_reward])]

    def to_arrays(self) -> dict[str, np.ndarray]:
        """The whole buffer as flat arrays of numbers and bytes; `from_arrays` gives it back, in order."""
        entries = [entry for row in self.kept.values() for entry in row]
        latents = [ids for entry in entries for ids in entry.ids]
        ends = [entry.end_log_reward for entry in entries]
        extras = [entry.extra.encode("utf-8", "surrogatepass") for entry in entries]
        arrays = {
            "limits": _whole([self.capacity, self.total, self.dropped]),
            "rows": _whole(self.kept),
            "row_entries": _whole(map(len, self.kept.values())),
            "log_reward": np.array([e.log_reward for e in entries], dtype=np.float64),
            "pinned": np.array([e.pinned for e in entries], dtype=np.uint8),
            "entry_latents": _whole(len(e.ids) for e in entries),
            "latent_tokens": _whole(map(len, latents)),
            "tokens": _whole(token for ids in latents for token in ids),
            "entry_ends": _whole(-1 if e is None else len(e) for e in ends),
            "end_log_reward": np.array([x for e in ends for x in e or ()], dtype=np.float64),
            "entry_bytes": _whole(map(len, extras)),
            "extra": np.frombuffer(b"".join(extras), dtype=np.uint8),
        }
        return {PREFIX + name: array for name, array in arrays.items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Replay:
        """The buffer that `to_arrays` wrote; other arrays beside its own are left alone.

        KeyError or ValueError where they are not what it wrote.
        """
        flat = {name[len(PREFIX) :]: array for name, array in arrays.items() if name.startswith(PREFIX)}
        latents = _split(flat["tokens"].tolist(), flat["latent_tokens"])
        ids = _split([tuple(latent) for latent in latents], flat["entry_latents"])
        lengths = flat["entry_ends"]
        ends = _split(flat["end_log_reward"].tolist(), np.maximum(lengths, 0))
        extras = _split(flat["extra"].tobytes(), flat["entry_bytes"])
        entries = [
            Entry(
                ids=tuple(own),
                log_reward=log_reward,
                end_log_reward=None if length < 0 else tuple(end),
                extra=bytes(extra).decode("utf-8", "surrogatepass"),
                pinned=bool(pinned),
            )
            for own, log_reward, length, end, extra, pinned in zip(
                ids, flat["log_reward"].tolist(), lengths, ends, extras, flat["pinned"], strict=True
            )
        ]
        rows = zip(flat["rows"].tolist(), _split(entries, flat["row_entries"]), strict=True)
        capacity, total, dropped = flat["limits"].tolist()
        return cls(capacity, total, dropped, {row: tuple(own) for row, own in rows})


def _best_and_latest(entries: tuple[Entry, ...], room: int) -> tuple[Entry, ...]:
    """`room` of the entries in their order: pinned ones first, then half the best, half the latest."""
    if len(entries) <= room:
        return entries
    chosen: set[int] = set()
    for pinned in (True, False):
        places = [i for i, entry in enumerate(entries) if entry.pinned == pinned]
        left = min(room - len(chosen), len(places))
        # Of equal rewards the later is the better: a buffer of one plateau still moves on.
        by_reward = sorted(places, key=lambda i: (entries[i].log_reward, i), reverse=True)
        best = set(by_reward[: (left + 1) // 2])
        others = [i for i in places if i not in best]
        chosen |= best | set(others[len(others) - (left - len(best)) :])
    return tuple(entry for i, entry in enumerate(entries) if i in chosen)


def _shrink(rows: dict[int, tuple[Entry, ...]], over: int, total: int) -> None:
    """Take `over` entries out of the rows, in place, those at the front first; see `Replay.add`."""
    share = total // len(rows)
    for least, spare_pinned in ((share, True), (0, True), (share, False)):
        for row in [row for row, entries in rows.items() if len(entries) > least]:
            entries = rows[row]
            floor = max(least, sum(e.pinned for e in entries)) if spare_pinned else least
            rows[row] = _best_and_latest(entries, max(floor, len(entries) - over))
            over -= len(entries) - len(rows[row])
            if not rows[row]:
                del rows[row]
            if not over:
                return


def _whole(numbers: Iterable[int]) -> np.ndarray:
    return np.array(list(numbers), dtype=np.int64)


def _split(flat: Sequence[Any], lengths: np.ndarray) -> list[Sequence[Any]]:
    """The sequence cut into pieces of these lengths; ValueError where they are not its own."""
    stops = list(accumulate(lengths.tolist(), initial=0))
    if stops[-1] != len(flat):
        raise ValueError(f"the lengths of a buffer sum to {stops[-1]}, and it has {len(flat)}")
    return [flat[a:b] for a, b in pairwise(stops)]
