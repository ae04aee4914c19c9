"""A command on a pseudo terminal: what a person sees, and types."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from typing import Self

import pytest

from support.waiting import PATIENCE_S


class Terminal:
    """`edgellm` on a terminal of its own, of 24 lines; 0 columns = it does not say how many."""

    def __init__(self, *arguments: str, columns: int = 0, code: str = "", **environment: str) -> None:
        """`code` runs instead, with `arguments` for `sys.argv`."""
        if os.name != "posix":
            pytest.skip("needs a POSIX terminal")
        import pty
        import termios

        self._master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (24, columns))
        self.process = subprocess.Popen(
            [sys.executable, *(["-c", code] if code else ["-m", "edgellm"]), *arguments],
            stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            env={**os.environ, "COLUMNS": "", "TERM": "dumb", **environment},
            preexec_fn=lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(slave)
        self.seen = ""

    def shows(self, text: str, timeout_s: float) -> bool:
        """Whether `text` comes in time; what was shown up to it is forgotten then."""
        try:
            self.expect(text, timeout_s)
        except AssertionError:
            return False
        return True

    def expect(self, text: str, timeout_s: float = PATIENCE_S) -> None:
        deadline = time.monotonic() + timeout_s
        while text not in self.seen:
            assert time.monotonic() < deadline, self.seen
            if select.select([self._master], [], [], 0.1)[0]:
                try:
                    self.seen += os.read(self._master, 65536).decode()
                except OSError:
                    assert text in self.seen, self.seen
        self.seen = self.seen.partition(text)[2]

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)

    def rest(self) -> str:
        """What is shown until the command ends."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            assert time.monotonic() < deadline, self.seen
            if select.select([self._master], [], [], 0.1)[0]:
                try:
                    chunk = os.read(self._master, 65536)
                except OSError:  # Linux, where nobody has the other end
                    chunk = b""
                if not chunk:
                    return self.seen
                self.seen += chunk.decode()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
