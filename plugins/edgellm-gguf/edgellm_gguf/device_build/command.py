"""Runs the programs of a build, one after the other: all that they say goes to a log, and steps to who waits."""

from __future__ import annotations

import contextlib
import os
import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from edgellm import settings
from edgellm.contract.child import KILL, Child
from edgellm.contract.device_build import StepProgress

_STEP = re.compile(r"\[(\d+)/(\d+)\] (.*)")  # ninja's
_ERROR = re.compile(r"\berror:|CMake Error|No space left|ERROR:|^error\b|fatal", re.IGNORECASE)
_FULL = "No space left on device"
_KEPT = 200  # lines


@dataclass(frozen=True, slots=True)
class Said:
    """How a program ended, and the end of what it said."""

    status: int
    lines: tuple[str, ...]

    def cause(self) -> str:
        """The first line with an error in it, or the last line."""
        first = next((line for line in self.lines if _ERROR.search(line)), "")
        return (first or next(iter(reversed(self.lines)), f"status {self.status}"))[:300]

    @property
    def is_of_full_disk(self) -> bool:
        return any(_FULL in line for line in self.lines)


@dataclass(slots=True)
class Command:
    """`log` gets everything that programs say; `progress` is told of steps that they count."""

    log: Path
    progress: StepProgress
    doing: str = ""
    _last: tuple[int, int] = field(default=(0, 0))

    def run(self, command: Sequence[str], env: Mapping[str, str] | None = None) -> Said:
        """Run to the end. Its children end with it, also where this is interrupted.

        Raises:
            OSError: it cannot be started, or the log cannot be written.
        """
        lines: deque[str] = deque(maxlen=_KEPT)
        with self.log.open("a", encoding="utf-8") as log:
            log.write(f"$ {' '.join(command)}\n")
            environment = settings.variables() | dict(env or {})
            with Child(command, env=environment, question=b"") as child, _whole_session_ends(child):
                for raw in child.lines():
                    line = raw.decode(errors="replace").rstrip()
                    log.write(line + "\n")
                    self._tell(line, lines)
            log.write(child.log)
        # What is wrong is more often on standard error.
        return Said(child.end.returncode, (*child.log.splitlines()[-_KEPT:], *lines))

    def _tell(self, line: str, lines: deque[str]) -> None:
        if (step := _STEP.match(line)) is not None:
            self._last = (int(step[1]), int(step[2]))
            self.progress(*self._last, step[3])
        elif line:
            lines.append(line)
            self.progress(*self._last, self.doing)


@contextlib.contextmanager
def _whole_session_ends(child: Child) -> Iterator[None]:
    """Where the block is left by an error, nothing that the child started goes on.

    Ninja gives every compiler a process group of its own: a signal to the child's group does not reach it.
    """
    try:
        yield
    except BaseException:
        child.kill()
        killed: set[int] = set()
        while hasattr(os, "getsid") and (left := set(_session(child.pid)) - killed):  # what they started meanwhile
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, KILL)
            killed |= left
        raise


def _session(leader: int) -> Iterator[int]:
    """The processes of a session."""
    for pid in psutil.pids():
        with contextlib.suppress(OSError):
            if os.getsid(pid) == leader:
                yield pid
