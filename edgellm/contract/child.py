"""Helper processes: work that may crash, hang or need much memory runs in a child that cannot outlive its block.

    with Child(python("edgellm.runtime.perplexity"), question=b"{...}") as child:
        for line in child.lines(): ...      # what the child tells, line by line
    child.end                               # how it ended: status, signal, time limit, last words on stderr

The child is killed with its own children on an error, a time limit or Ctrl-C. A signal that ends this process at once
would leave it behind, so a command line wraps its work in `ended_with_us`; a child that calls `connect` (`parent.py`)
leaves even when this process is killed. This module is part of the contract because the verbs and the plugins both
start children.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Self

from edgellm import settings
from edgellm.contract.data_limit import lifted
from edgellm.contract.own_python import marked, python

KILL: int = getattr(signal, "SIGKILL", signal.SIGTERM)
_GRACE_S = 1.0
_KILL_PATIENCE_S = 10.0
_POLL_S = 0.05
_KEPT_BYTES = 256 * 1024  # of the log, from its end
_running: set[Child] = set()
_ENDINGS = ("SIGTERM", "SIGHUP")  # a service manager's, and a closed terminal's


@dataclass(slots=True)
class Ending:
    """What the handler of `ended_with_us` and the threads that start children tell each other."""

    number: int = 0  # the signal that came; 0 = none
    held: bool = False  # the main thread is where a handler must not raise


_ending = Ending()


def is_ending() -> bool:
    """Whether a signal to end has come: a SystemExit is its handler's."""
    return bool(_ending.number)


def end_children() -> None:
    """Kill all, also those of other threads, where nothing unwinds."""
    for child in list(_running):
        child.kill()


@dataclass(frozen=True, slots=True)
class End:
    """How a child ended."""

    returncode: int  # negative: the number of the signal that killed it
    timed_out: bool = False  # it was killed by us
    stderr: str = ""  # the last 256 KiB

    @property
    def signal(self) -> str:
        """Name of the signal that killed it ("SIGSEGV"); "" where it left by itself."""
        return signal_name(-self.returncode) if self.returncode < 0 else ""

    @property
    def last_words(self) -> str:
        """The last line on stderr that is not blank; "" where it wrote nothing."""
        return last_line(self.stderr)


class Child:
    """Runs `command` from now until the block ends.

    With a `question`, that line goes to the child's stdin, which then stays open, and its stdout is read by `lines`.
    Without one there is no input, and stdout goes where stderr goes: into the log. Where it `is_held`, stdin stays open
    all the same, and its end tells the child that this process is gone.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        question: bytes | None = None,
        is_held: bool = False,
    ) -> None:
        """Raises OSError where no process can be started, or no file made for what it writes."""
        self.log = ""  # complete after the block
        self.returncode: int | None = None
        self._timed_out = False
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        self._question = question or b""
        talks = question is not None
        ending = _ending  # of the block that it starts in, which may be over when it has started
        try:
            with lifted(), _held_back():
                # A session of its own, so that the whole group can be killed, and Ctrl-C reaches only us.
                self._process = subprocess.Popen(
                    command,
                    env=marked(command, settings.variables() if env is None else env),
                    stdin=subprocess.PIPE if talks or is_held else subprocess.DEVNULL,
                    stdout=subprocess.PIPE if talks else self._file,
                    stderr=self._file,
                    start_new_session=True,
                )
                _running.add(self)
        except OSError:
            self._file.close()
            raise
        except SystemExit:
            if self in _running:
                self.kill()
                self.__exit__(None, None, None)  # nobody enters the block
            raise
        if ending.number:
            self.kill()  # the handler came before this child was on record

    def __enter__(self) -> Self:
        return self

    @property
    def pid(self) -> int:
        """Of the process, of its group and of its session."""
        return self._process.pid

    @property
    def end(self) -> End:
        """How it ended; known after the block."""
        assert self.returncode is not None
        return End(self.returncode, self._timed_out, self.log)

    def lines(self, timeout_s: float | None = None) -> Iterator[bytes]:
        """Put the question; what the child writes to stdout, until it ends. After `timeout_s` seconds it is killed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self.killed_after(timeout_s):
            # Whether the child is dead already is seen at its end.
            with contextlib.suppress(OSError):
                self._process.stdin.write(self._question + b"\n")
                self._process.stdin.flush()
            yield from self._process.stdout
            self.returncode = self._process.wait()

    @contextlib.contextmanager
    def killed_after(self, timeout_s: float | None) -> Iterator[None]:
        """The child is killed where the block takes longer; None = it may."""
        timer = threading.Timer(threading.TIMEOUT_MAX if timeout_s is None else timeout_s, self._time_out)
        timer.daemon = True
        with lifted():
            timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()

    def has_output(self, timeout_s: float) -> bool:
        """Whether it wrote into the log, or ended, within `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while not os.fstat(self._file.fileno()).st_size:
            if self.wait(_POLL_S):
                return True
            if time.monotonic() > deadline:
                return False
        return True

    def wait(self, timeout_s: float) -> bool:
        """Whether it ended within `timeout_s`."""
        try:
            # Popen's own lock would stay locked for ever if a handler raised just behind the call that takes it.
            with _held_back():
                self.returncode = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def ask_to_end(self) -> None:
        """For any thread and a handler of signals, once the child has said something: `parent.connect` tells it."""
        assert self._process.stdin is not None
        # Whether it has ended already is seen at its end. Unbuffered, as a handler may come between.
        with contextlib.suppress(OSError, ValueError):
            os.write(self._process.stdin.fileno(), b"\n")

    def kill(self) -> None:
        """End it and its children now. Nothing happens to one that ended."""
        signal_group(self._process, KILL)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with _held_back():
            try:
                if self._process.poll() is None:
                    signal_group(self._process, signal.SIGTERM)
                    self.wait(_GRACE_S)
            finally:  # Ctrl-C ends the wait, and nothing else
                self._clean_up()

    def _clean_up(self) -> None:
        self.returncode = reap(self._process, 0.0)
        _running.discard(self)
        if self._process.stdout is not None:
            self._process.stdout.close()
        with self._file as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _KEPT_BYTES))
            self.log = file.read().decode(errors="replace")

    def _time_out(self) -> None:
        self._timed_out = True
        self.kill()


def ask(
    module: str,
    *arguments: str,
    question: bytes = b"",
    env: Mapping[str, str] | None = None,
    timeout_s: float,
) -> tuple[str, End]:
    """Run a module to its end: its last line on stdout ("" where there is none), and how it ended."""
    answer = b""
    with Child(python(module, *arguments), env=env, question=question) as child:
        for line in child.lines(timeout_s):
            answer = line if line.strip() else answer
    return answer.decode(errors="replace").strip(), child.end


def signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    """Signal a process that leads a group, and all that it started. Nothing happens where none of them is left."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if sys.platform == "win32":
            process.terminate()
        else:
            os.killpg(process.pid, number)


def reap(process: subprocess.Popen[bytes], patience_s: float) -> int:
    """The status of the leader of a group that is leaving. After `patience_s` seconds it is killed.

    What it started is killed in any case: a debugger or a copy of it would keep our pipes open. A leader that a disk or
    a driver holds in the kernel is not waited for; it counts as killed, and ends when it is let go.
    """
    try:
        status = process.wait(patience_s)
    except subprocess.TimeoutExpired:
        signal_group(process, KILL)
        try:
            status = process.wait(_KILL_PATIENCE_S)
        except subprocess.TimeoutExpired:
            return -KILL
    signal_group(process, KILL)
    if process.stdin is not None:
        # What the dead process never read is flushed into a broken pipe.
        with contextlib.suppress(OSError):
            process.stdin.close()
    return status


def signal_name(number: int) -> str:
    """ "SIGKILL"; "signal 40" where the system has no name for it."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def last_line(text: str) -> str:
    """The last line that is not blank, "" where there is none."""
    return (text.strip().splitlines() or [""])[-1].strip()


@contextlib.contextmanager
def ended_with_us() -> Iterator[Ending]:
    """In the main thread: SIGTERM and SIGHUP end all children, then raise SystemExit (128 + number).

    What is ignored (under nohup) stays ignored, and what has a handler, or gets one in the block, keeps it. Python
    drops what is raised in some places (in a `__del__`, in a callback of native code): then it is raised at the end of
    the block, and until there the `number` of what this yields tells.
    """
    global _ending  # noqa: PLW0603 - one for each block, as a thread may still look at that of the last

    def end(number: int, _frame: FrameType | None) -> None:
        _ending.number = number
        end_children()
        if not _ending.held:
            raise SystemExit(128 + number)

    signals = [getattr(signal, name) for name in _ENDINGS if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in signals}
    replaced = [number for number, handler in before.items() if handler is signal.SIG_DFL]
    for number in replaced:
        signal.signal(number, end)
    try:
        yield _ending
        if _ending.number:
            raise SystemExit(128 + _ending.number)
    finally:
        for number in replaced:
            if signal.getsignal(number) is end:
                signal.signal(number, before[number])
        if replaced:  # otherwise a block around this one has to know
            _ending = Ending()


@contextlib.contextmanager
def _held_back() -> Iterator[None]:
    """In the main thread: where a signal that ends us comes within the block, SystemExit is raised at its end.

    All children are killed when the signal comes.
    """
    if _ending.held or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = _ending.number
    _ending.held = True
    try:
        yield
    finally:
        _ending.held = False
        if _ending.number != before:
            raise SystemExit(128 + _ending.number)
