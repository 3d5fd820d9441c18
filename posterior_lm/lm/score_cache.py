"""Scores that a server gave before, on disk: a table of digests and numbers, bounded, in SQLite, which survives crashes.

A namespace is a server, a model and a tokenizer, with the scores of its probe: where those are others than they were,
another model stands behind the same name, and nothing that was kept of it is used. Texts are not kept.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from attrs import define

from posterior_lm.lm.notices import notice
from posterior_lm.lm.user_cache import cache_folder

MOST = 500_000
"""Scores that are kept; the oldest tenth goes when there are more."""
SAME = 0.01
"""Nats by which the probe of one model may move between two starts."""
_TABLES = """
create table if not exists probes (space blob primary key, value blob not null);
create table if not exists scores (key blob primary key, space blob not null, value blob not null);
"""
Ids = tuple[int, ...]
Place = tuple[Ids, int]
"""A sequence, and from where on it is scored."""


def _key(space: bytes, ids: Ids, start: int) -> bytes:
    return hashlib.sha256(space + np.array([start, *ids], "<i8").tobytes()).digest()


@define
class ScoreCache:
    """What was scored in one namespace. Where the file cannot be used there is a notice, and nothing is kept."""

    space: bytes
    most: int = MOST
    _base: sqlite3.Connection | None = None

    @classmethod
    def of(cls, name: str, probe: np.ndarray, folder: Path | None = None, most: int = MOST) -> ScoreCache:
        """The namespace of this name; what it holds is dropped where its probe was another."""
        found = cls(hashlib.sha256(name.encode()).digest(), most)
        path = (folder or cache_folder()) / "scores.sqlite3"
        for again in (False, True):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                base = sqlite3.connect(path, timeout=5.0, check_same_thread=False)
                base.executescript("pragma journal_mode=wal; pragma synchronous=normal;" + _TABLES)
                found._base = base
                found._begin(probe)
                return found
            except (OSError, sqlite3.Error) as problem:
                if again or isinstance(problem, OSError | sqlite3.OperationalError):
                    found._without(problem)
                    return found
                with suppress(OSError):  # no database: damaged, or something else of this name
                    path.unlink()
        return found

    def _begin(self, probe: np.ndarray) -> None:
        assert self._base is not None
        with self._base as base:
            row = base.execute("select value from probes where space = ?", (self.space,)).fetchone()
            if row is not None:
                kept = np.frombuffer(row[0], "<f8")
                if len(kept) == len(probe) and np.allclose(kept, probe, rtol=0.0, atol=SAME):
                    return
                base.execute("delete from scores where space = ?", (self.space,))
            base.execute(
                "insert or replace into probes values (?, ?)", (self.space, probe.astype("<f8").tobytes())
            )

    def find(self, asked: Sequence[Place]) -> dict[Place, np.ndarray]:
        """What is kept of sequences and their starts: (T + T + 1,) the tokens' scores and those of end-of-text, NaN if not asked for."""
        found: dict[Place, np.ndarray] = {}
        if self._base is None:
            return found
        try:
            for ids, start in asked:
                row = self._base.execute(
                    "select value from scores where key = ?", (_key(self.space, ids, start),)
                ).fetchone()
                if row is not None:
                    value = np.frombuffer(row[0], "<f8")
                    own = len(ids) - start
                    if len(value) == 2 * own + 1 and not np.isnan(value[:own]).any():
                        found[ids, start] = value
        except sqlite3.Error as problem:
            self._without(problem)
        return found

    def keep(self, scored: Mapping[Place, np.ndarray]) -> None:
        """Keep scores, all of them or none."""
        if self._base is None or not scored:
            return
        rows = [(_key(self.space, *k), self.space, v.astype("<f8").tobytes()) for k, v in scored.items()]
        try:
            with self._base as base:
                base.executemany("insert or replace into scores values (?, ?, ?)", rows)
                [(count,)] = base.execute("select count(*) from scores")
                if count > self.most:
                    oldest = "select rowid from scores order by rowid limit ?"
                    base.execute(
                        f"delete from scores where rowid in ({oldest})", (count - self.most * 9 // 10,)
                    )
        except sqlite3.Error as problem:
            self._without(problem)

    def _without(self, problem: Exception) -> None:
        if self._base is not None:
            self._base.close()
            self._base = None
        notice(f"scores of servers are not kept: {str(problem).lower()}")
