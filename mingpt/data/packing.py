"""Sequences of different lengths side by side in rows, so that little is left empty and none sees another.

Notation: T places in a row, B rows in a batch. A sequence of n + 1 ids takes n places: at each stands an id, and
its target is the id that follows.

    x          (B, T) the ids
    y          (B, T) the targets; NOT_LEARNED where there is none, or it does not count
    positions  (B, T) where each id stands in its own sequence, from 0
    owner      (B, T) the sequence in the row that it belongs to, from 1; 0 where the row is empty
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

Packed = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # x, y, positions, owner; all int64

NOT_LEARNED = -1


class Rows:
    """Sequences, and the rows that they stand in."""

    def __init__(self, sequences: Sequence[tuple[Sequence[int], Sequence[bool]]], T: int):
        """A sequence is its ids, T + 1 of them at most, and which are learned."""
        self.ids = [np.array(ids) for ids, _ in sequences]
        self.learned = [np.array(learned) for _, learned in sequences]
        self.T = T
        self.rows = pack([len(ids) - 1 for ids in self.ids], T)

    def __len__(self) -> int:
        return len(self.rows)

    def count(self) -> tuple[int, int]:
        """How many ids there are, and how many of them are learned."""
        return sum(map(len, self.ids)), sum(int(learned.sum()) for learned in self.learned)

    def batch(self, seed: int, step: int, batch_size: int) -> Packed:
        """The rows of update `step`, counted from 0: a pure function of (seed, step).

        Each epoch has a new order of the rows, in which each comes once; a batch may span two epochs.
        """
        places = (divmod(i, len(self)) for i in range(step * batch_size, (step + 1) * batch_size))
        return self.stacked(epoch_order(seed, epoch, len(self))[place] for epoch, place in places)

    def batches(self, batch_size: int) -> Iterator[Packed]:
        """All rows in order; the last batch may have fewer."""
        for i in range(0, len(self), batch_size):
            yield self.stacked(range(i, min(i + batch_size, len(self))))

    def stacked(self, numbers: Iterable[int]) -> Packed:
        both = np.stack([self.row(number) for number in numbers], axis=1)  # (4, B, T)
        return both[0], both[1], both[2], both[3]

    def row(self, number: int) -> np.ndarray:
        """x, y, positions and owner of a row: (4, T)."""
        row = np.zeros((4, self.T), dtype=np.int64)
        row[1] = NOT_LEARNED
        begin = 0
        for owner, i in enumerate(self.rows[number], start=1):
            ids, learned = self.ids[i], self.learned[i]
            end = begin + len(ids) - 1
            row[0, begin:end] = ids[:-1]
            row[1, begin:end] = np.where(learned[1:], ids[1:], NOT_LEARNED)
            row[2, begin:end] = np.arange(end - begin)
            row[3, begin:end] = owner
            begin = end
        return row


def pack(lengths: Sequence[int], T: int) -> list[list[int]]:
    """Which sequences stand in each row: the longest first, each where the least room is left (best-fit decreasing).

    >>> pack([3, 5, 2, 4], T=7)
    [[1, 2], [3, 0]]
    """
    rows: list[list[int]] = []
    with_room: list[list[int]] = [[] for _ in range(T + 1)]  # the rows in which so many more ids have a place
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        room = next((room for room in range(lengths[i], T + 1) if with_room[room]), None)
        if room is None:
            room, row = T, len(rows)
            rows.append([])
        else:
            row = with_room[room].pop()
        rows[row].append(i)
        with_room[room - lengths[i]].append(row)
    return rows


@functools.lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, rows: int) -> np.ndarray:
    """The order of the rows in an epoch."""
    return np.random.default_rng([seed, epoch]).permutation(rows)
