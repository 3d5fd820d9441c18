"""Which states of an automaton are the same: the coarsest partition in which equal labels lead to equal blocks.

Source: Valmari, "Fast brief practical DFA minimization" (2012): O(m log n) for m edges between n states. Refining
every block in rounds, as Moore (1956) does, is quadratic for long chains, which patterns of fixed texts are.
"""

from __future__ import annotations

import numpy as np

DEAD = -1


class _Partition:
    """A set of elements in blocks; marked elements of a block can be split off."""

    def __init__(self, size: int) -> None:
        self.items = list(range(size))
        self.place = list(range(size))
        self.block = [0] * size
        self.first, self.past = ([0], [size]) if size else ([], [])
        self._marked = [0] * (size + 1)
        self._touched: list[int] = []

    def mark(self, item: int) -> None:
        block = self.block[item]
        at, to = self.place[item], self.first[block] + self._marked[block]
        if at < to:
            return  # marked already
        other = self.items[to]
        self.items[at], self.place[other] = other, at
        self.items[to], self.place[item] = item, to
        if not self._marked[block]:
            self._touched.append(block)
        self._marked[block] += 1

    def split(self) -> None:
        """Makes of the smaller part, the marked or the unmarked, of each touched block a block of its own."""
        for block in self._touched:
            middle = self.first[block] + self._marked[block]
            count, self._marked[block] = self._marked[block], 0
            if middle == self.past[block]:
                continue
            if count <= self.past[block] - middle:
                self.first.append(self.first[block])
                self.past.append(middle)
                self.first[block] = middle
            else:
                self.first.append(middle)
                self.past.append(self.past[block])
                self.past[block] = middle
            new = len(self.first) - 1
            for at in range(self.first[new], self.past[new]):
                self.block[self.items[at]] = new
        self._touched.clear()


def blocks(table: np.ndarray, accepting: np.ndarray) -> np.ndarray:
    """(S,) the number of each state's block, by a table (S, K) of next states, `DEAD` where there is none.

    Exact where every state reaches an accepting one; otherwise states that reach none are not merged with `DEAD`.
    """
    states = _Partition(len(table))
    for state in np.flatnonzero(accepting).tolist():
        states.mark(state)
    states.split()
    tails, labels = np.nonzero(table != DEAD)
    heads = table[tails, labels]
    by_label = np.argsort(labels, kind="stable")
    edges = _Partition(len(tails))
    if len(tails):
        edges.items = by_label.tolist()
        edges.place = np.argsort(by_label).tolist()
        starts = np.flatnonzero(np.diff(labels[by_label], prepend=-1))
        edges.first = starts.tolist()
        edges.past = [*edges.first[1:], len(tails)]
        edges.block = np.unique(labels, return_inverse=True)[1].tolist()
    into = np.argsort(heads, kind="stable").tolist()
    begins = np.searchsorted(heads[into], np.arange(len(table) + 1)).tolist()
    tail = tails.tolist()
    done_states, done_edges = 1, 0
    while done_edges < len(edges.first):
        for at in range(edges.first[done_edges], edges.past[done_edges]):
            states.mark(tail[edges.items[at]])
        states.split()
        done_edges += 1
        while done_states < len(states.first):
            for at in range(states.first[done_states], states.past[done_states]):
                state = states.items[at]
                for edge in into[begins[state] : begins[state + 1]]:
                    edges.mark(edge)
            edges.split()
            done_states += 1
    return np.array(states.block, dtype=np.int64)


def useful(table: np.ndarray, accepting: np.ndarray) -> np.ndarray:
    """(S,) the states that state 0 reaches and that reach an accepting one."""
    tails, labels = np.nonzero(table != DEAD)
    heads = table[tails, labels]
    forward = _reached(tails, heads, np.array([0]), len(table))
    return forward & _reached(heads, tails, np.flatnonzero(accepting), len(table))


def _reached(tails: np.ndarray, heads: np.ndarray, start: np.ndarray, size: int) -> np.ndarray:
    order = np.argsort(tails, kind="stable")
    begins = np.searchsorted(tails[order], np.arange(size + 1)).tolist()
    then = heads[order].tolist()
    found = np.zeros(size, dtype=bool)
    open_ = start.tolist()
    found[open_] = True
    while open_:
        state = open_.pop()
        for other in then[begins[state] : begins[state + 1]]:
            if not found[other]:
                found[other] = True
                open_.append(other)
    return found
