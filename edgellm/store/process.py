"""A helper process that cannot outlive its block: killed with its children on an error, a timeout or Ctrl-C.

A signal that ends this process at once would leave it behind: a command line wraps its work in `ended_with_us`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType, TracebackType
from typing import Self

_GRACE_S = 1.0
_POLL_S = 0.05
_KEPT_BYTES = 256 * 1024  # of the output, from its end
_running: set[Process] = set()
_ENDINGS = ("SIGTERM", "SIGHUP")  # a service manager's, and a closed terminal's


@contextlib.contextmanager
def ended_with_us() -> Iterator[None]:
    """In the main thread: SIGTERM and SIGHUP end all helper processes, then raise SystemExit (128 + number).

    What is ignored (under nohup) stays ignored.
    """

    def end(number: int, _frame: FrameType | None) -> None:
        # Those that other threads wait for, too: nothing unwinds there.
        for process in list(_running):
            process.kill()
        raise SystemExit(128 + number)

    signals = [getattr(signal, name) for name in _ENDINGS if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in signals}
    taken = [number for number, handler in before.items() if handler is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, before[number])


class Process:
    """Runs `command` without input; stdout and stderr go to one temporary file."""

    def __init__(self, command: Sequence[str], *, env: Mapping[str, str]) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        # A session of its own, so that the whole group can be killed, and Ctrl-C reaches only us.
        self._child = subprocess.Popen(
            command,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.returncode: int | None = None
        self.output = ""
        _running.add(self)

    def __enter__(self) -> Self:
        return self

    def speaks(self, timeout_s: float) -> bool:
        """Whether it wrote something, or ended, within `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while not os.fstat(self._log.fileno()).st_size:
            if self.wait(_POLL_S):
                return True
            if time.monotonic() > deadline:
                return False
        return True

    def wait(self, timeout_s: float) -> bool:
        """Whether it ended within `timeout_s`."""
        try:
            self.returncode = self._child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._child.poll() is None:
            self._signal(signal.SIGTERM)
            self.wait(_GRACE_S)
            # Also where the leader is gone: its children may not have listened.
            self.kill()
            self.returncode = self._child.wait()
        _running.discard(self)
        with self._log as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(0, size - _KEPT_BYTES))
            self.output = log.read().decode(errors="replace")

    def kill(self) -> None:
        """End it and its children now. Nothing happens to one that ended."""
        self._signal(getattr(signal, "SIGKILL", signal.SIGTERM))

    def _signal(self, how: int) -> None:
        try:
            if sys.platform == "win32":
                self._child.terminate()
            else:
                os.killpg(self._child.pid, how)
        except ProcessLookupError:
            pass  # ended meanwhile
