"""Puts documents into rows of a length, so that little is padded. The same documents give the same rows."""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from edgellm.adaptation.example import Example
from edgellm.adaptation.packed import Packed


def pack(examples: Sequence[Example], length: int) -> Packed:
    """Each document whole, in one row: the longest first, each into the fullest row that has room (best fit).

    `examples`: of `length` tokens at most, each with a supervised token.
    """
    rows: list[list[int]] = []
    by_room: defaultdict[int, list[int]] = defaultdict(list)  # rows that have exactly this room
    rooms: list[int] = []  # keys of it, ascending
    for index in sorted(range(len(examples)), key=lambda index: (-len(examples[index]), index)):
        size = len(examples[index])
        assert 0 < size <= length
        place = bisect.bisect_left(rooms, size)
        if place < len(rooms):
            room = rooms[place]
            row = by_room[room].pop()
            if not by_room[room]:
                del rooms[place]
        else:
            room, row = length, len(rows)
            rows.append([])
        rows[row].append(index)
        if left := room - size:
            if not by_room[left]:
                bisect.insort(rooms, left)
            by_room[left].append(row)
    return _joined([[examples[index] for index in row] for row in rows])


def one_each(examples: Iterable[Example]) -> Packed:
    """Each document in a row of its own, in their order: for evaluations, whose rows have scores."""
    return _joined([[example] for example in examples])


def _joined(rows: Sequence[Sequence[Example]]) -> Packed:
    documents = [(number, example) for row in rows for number, example in enumerate(row, start=1)]
    return Packed(
        np.concatenate([example.tokens for _, example in documents]),
        np.concatenate([example.supervised for _, example in documents]),
        np.repeat(*np.array([(number, len(example)) for number, example in documents], np.int32).T),
        np.cumsum([0, *(sum(map(len, row)) for row in rows)], dtype=np.int64),
    )
