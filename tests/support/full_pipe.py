"""A pipe that stays open and that nobody reads."""

from __future__ import annotations

import os


def full_pipe() -> tuple[int, int]:
    """The reading and the writing end; a write waits until somebody reads."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    size = 65536
    while size:
        try:
            os.write(writing, b"x" * size)
        except BlockingIOError:
            size //= 2
    os.set_blocking(writing, True)
    return reading, writing
