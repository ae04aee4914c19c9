"""A helper process that cannot outlive its block: killed with its children on an error, a timeout or Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

_GRACE_S = 1.0
_POLL_S = 0.05
_KEPT_BYTES = 256 * 1024  # of the output, from its end


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
            self._kill(signal.SIGTERM)
            self.wait(_GRACE_S)
            # Also where the leader is gone: its children may not have listened.
            self._kill(getattr(signal, "SIGKILL", signal.SIGTERM))
            self.returncode = self._child.wait()
        with self._log as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(0, size - _KEPT_BYTES))
            self.output = log.read().decode(errors="replace")

    def _kill(self, how: int) -> None:
        try:
            if sys.platform == "win32":
                self._child.terminate()
            else:
                os.killpg(self._child.pid, how)
        except ProcessLookupError:
            pass  # ended meanwhile
