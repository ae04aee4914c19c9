"""Lines for a descriptor, written by a thread of its own: who says them never waits for who reads them.

A pipe that stays open and that nobody reads holds up whoever writes into it. What does not fit the queue is counted,
and told in its place once the lines before it are written.
"""

from __future__ import annotations

import atexit
import functools
import os
import sys
import threading
from collections.abc import Callable
from queue import SimpleQueue

from edgellm.contract.streams import STDOUT
from edgellm.units import counted

MOST_LINES = 4096  # that wait for a reader
PATIENCE_S = 1.0  # at the end, for a reader who may be stuck


def missing_lines(n: int) -> str:
    return f"{counted(n, 'line')} missing here: nobody read them in time"


class LineWriter:
    """Writes what it is given in that order. Its methods may be called in a handler of signals."""

    def __init__(self, descriptor: int, *, most: int = MOST_LINES) -> None:
        self.tells_lost: Callable[[int], str] = missing_lines
        self.tells_gone: Callable[[OSError], None] = lambda error: None
        self._descriptor = descriptor
        self._encoding = (sys.stdout if descriptor == STDOUT else sys.stderr).encoding or "utf-8"
        self._most = most
        # Not `Queue`, whose lock a handler of signals would wait for for ever.
        self._queue: SimpleQueue[tuple[str, int] | threading.Event] = SimpleQueue()
        self._lock = threading.RLock()
        self._lost = 0
        self._reached = threading.Event()
        self._reached.set()
        threading.Thread(target=self._write, name=f"edgellm-lines-{descriptor}", daemon=True).start()

    def put(self, text: str) -> None:
        """Write a line, or several, as soon as somebody reads."""
        with self._lock:
            if self._queue.qsize() >= self._most:
                self._lost += 1
                return
            self._tell_lost()
            self._queue.put((text, 1))

    def flush(self, patience_s: float = PATIENCE_S) -> bool:
        """Whether all that was put is written, within `patience_s` seconds: once only where nobody reads."""
        with self._lock:
            if self._reached.is_set():
                self._tell_lost()
                self._reached = threading.Event()
                self._queue.put(self._reached)
            elif not self._queue.empty():
                return False
        return self._reached.wait(patience_s)

    def _tell_lost(self) -> None:
        lost, self._lost = self._lost, 0
        if lost:
            self._queue.put((self.tells_lost(lost), lost))

    def _write(self) -> None:
        while True:
            entry = self._queue.get()
            if isinstance(entry, threading.Event):
                entry.set()
                continue
            text, n_lines = entry
            try:
                line = f"{text}\n".encode(self._encoding, errors="backslashreplace")
                while line:
                    line = line[os.write(self._descriptor, line) :]
            except BrokenPipeError as error:
                # What others write there directly is no reason to end, either.
                with open(os.devnull, "wb") as nothing:
                    os.dup2(nothing.fileno(), self._descriptor)
                self.tells_gone(error)
            except (OSError, MemoryError):  # a full disk, which may be emptied
                with self._lock:
                    self._lost += n_lines
            else:
                with self._lock:
                    self._tell_lost()


@functools.cache
def writer(descriptor: int) -> LineWriter:
    """The one of this process, flushed at its end."""
    made = LineWriter(descriptor)
    atexit.register(made.flush)
    return made
