"""Tests wait for a state, never for a time."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE_S = 120.0  # far more than anything takes where other programs hold every processor


def wait_until(
    holds: Callable[[], object], timeout_s: float = PATIENCE_S, what: Callable[[], object] | str = ""
) -> None:
    """Return when `holds()` is true; it is asked about a hundred times a second.

    Args:
        what: said when it fails: a text, or a function that is asked then (what was printed so far, say).

    Raises:
        AssertionError: it is still false after `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline:
            raise AssertionError(f"not so after {timeout_s:g} s: {what() if callable(what) else what}")
        time.sleep(0.01)
