"""JSON lists of very many items, written in a thread while the event loop goes on."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import msgspec


def json_list(items: Iterable[object], slice_size: int) -> msgspec.Raw:
    """The list as JSON. Call it in a thread, with as few items to a slice as are written in about a millisecond.

    Python's lock is let go between slices, and of the items no more than a slice are held at a time.
    """
    rest = iter(items)
    slices = iter(lambda: list(itertools.islice(rest, slice_size)), [])
    return msgspec.Raw(b"[%b]" % b",".join(msgspec.json.encode(part)[1:-1] for part in slices))
