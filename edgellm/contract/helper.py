"""A child that answers one question after another, a line each, for as long as the thread that started it lasts.

`Helper` is the parent's side, `answer_all` the child's. A question that takes too much processor time ends the child,
and one that takes too long on the clock, as where nothing counts processor time (Windows).
"""

from __future__ import annotations

import contextlib
import io
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import IO

from edgellm.contract.child import Child, End
from edgellm.contract.confine import confine
from edgellm.contract.data_limit import lifted
from edgellm.contract.parent import pipes


class Helper(Child):
    """To be started in a thread that lasts longer, as the child ends with that thread (`contract.confine`)."""

    def __init__(self, command: Sequence[str], ended: Callable[[], None]) -> None:
        """`ended` is called once, in a thread of its own, when the child has ended, whether it was asked or not.

        Raises:
            OSError: no process can be started; RuntimeError: no thread.
        """
        super().__init__(command, question=b"")
        self.has_ended = False
        self._ended = ended
        self._asked: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        assert self._process.stdout is not None
        # A file of the reader's own: closing one waits for the thread that reads it.
        answers = os.fdopen(os.dup(self._process.stdout.fileno()), "rb")
        try:
            with lifted():
                threading.Thread(target=self._write, name="edgellm-asker", daemon=True).start()
                threading.Thread(target=self._read, args=(answers,), name="edgellm-helper", daemon=True).start()
        except RuntimeError:
            answers.close()
            self._asked.put(None)
            self.kill()
            self.__exit__(None, None, None)
            raise

    def _write(self) -> None:
        """Whoever asks has a patience, and a child that does not read blocks its writer."""
        assert self._process.stdin is not None
        try:
            while (question := self._asked.get()) is not None:
                self._process.stdin.write(question + b"\n")
                self._process.stdin.flush()
        except MemoryError:
            self.kill()  # who asked need not wait in vain
        except (OSError, ValueError):
            pass  # it ended, which the reader tells

    def _read(self, answers: IO[bytes]) -> None:
        # For want of memory the answer ends here; who asked then ends the child.
        with answers, contextlib.suppress(MemoryError):
            for line in answers:
                self._lines.put(line)
        self.has_ended = True
        self._lines.put(b"")
        self._asked.put(None)
        self._ended()

    def answer(self, question: bytes, patience_s: float) -> bytes:
        """Neither has a line break in it. b"" where the child ended instead; it is killed after `patience_s` seconds.

        No thread is started for it: a plan for a tuning asks thousands of times.
        """
        if self.has_ended:
            return b""
        self._asked.put(question)
        try:
            line = self._lines.get(timeout=patience_s)
        except queue.Empty:
            self._time_out()
            return b""
        return line[:-1] if line.endswith(b"\n") else b""


def took_too_long(end: End) -> bool:
    """Whether a question ended the child, by its processor time or by the parent's patience."""
    return end.timed_out or end.signal == "SIGPROF"


def answer_all(answer: Callable[[bytes], bytes], *, seconds: float, memory_bytes: int) -> None:
    """For the child: answer questions until there are no more, as the parent is gone.

    Whatever it is doing, the kernel ends it where an answer takes more than `seconds` of processor time.
    """
    confine()
    up, down = pipes()
    _limit_memory(memory_bytes)
    with contextlib.suppress(BrokenPipeError), io.BufferedReader(down) as questions:  # type: ignore[type-var]
        for question in questions:
            with _ended_after(seconds):
                line = answer(question)
            up.write(line + b"\n")


def _limit_memory(memory_bytes: int) -> None:
    """Of addresses. Where the system has no such limit, or a smaller one, that stays."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))


@contextlib.contextmanager
def _ended_after(seconds: float) -> Iterator[None]:
    if not hasattr(signal, "setitimer"):
        yield
        return
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # the parent may ignore it
    signal.setitimer(signal.ITIMER_PROF, seconds)
    yield
    signal.setitimer(signal.ITIMER_PROF, 0.0)
