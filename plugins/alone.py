"""One set-up at a time for each environment."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where two at a time are not noticed
    fcntl = None  # type: ignore[assignment]


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Wait until no other process is in such a block; who has to wait says for whom. The file stays."""
    with lock.open("a+", encoding="utf-8") as file:
        if fcntl is not None:
            _enter(file.fileno(), lock)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _enter(descriptor: int, lock: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"Another set-up runs here (process {lock.read_text('utf-8') or 'unknown'}), waiting for it", flush=True)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
