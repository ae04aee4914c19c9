"""`edgellm serve` as a process of its own, for tests of how it starts, leaves and fails."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import psutil

from support.waiting import PATIENCE_S, wait_until


@dataclass
class Command:
    """A running `edgellm serve`, its lines read as they come."""

    process: subprocess.Popen[str]
    out: list[str] = field(default_factory=list)
    err: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for stream, lines in ((self.process.stdout, self.out), (self.process.stderr, self.err)):
            if stream is None:
                continue
            threading.Thread(target=lambda s=stream, into=lines: into.extend(s), daemon=True).start()

    def wait_for(self, pattern: str) -> str:
        wait_until(lambda: re.search(pattern, "".join(self.out)) is not None or self.process.poll() is not None)
        match = re.search(pattern, "".join(self.out))
        assert match, "".join(self.out + self.err)
        return match[0]

    @property
    def url(self) -> str:
        return self.wait_for(r"http://127\.0\.0\.1:\d+(?= \()")

    def processes(self) -> list[psutil.Process]:
        """All that it started: the worker, the process of its chat template, pip."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def status(self) -> int:
        return self.process.wait(PATIENCE_S)


@contextlib.contextmanager
def serving(
    *arguments: str,
    terminal: int | None = None,
    stdout: int = subprocess.PIPE,
    stderr: int = subprocess.PIPE,
    **environment: str,
) -> Iterator[Command]:
    """In a session without a terminal, or with the one given."""
    process = subprocess.Popen(
        [sys.executable, "-m", "edgellm", "serve", *arguments],
        stdout=stdout,
        stderr=stderr,
        stdin=subprocess.DEVNULL,
        text=True,
        env={**os.environ, **environment},
        start_new_session=True,
        preexec_fn=None if terminal is None else lambda: fcntl.ioctl(terminal, termios.TIOCSCTTY, 0),
        pass_fds=() if terminal is None else (terminal,),
    )
    with process:
        command = Command(process)
        try:
            yield command
        finally:
            process.kill()
