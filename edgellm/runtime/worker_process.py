"""One worker as its parent sees it: a group of processes, what it says, and the thread that tells it what to do.

That thread alone writes to the worker. A pipe that a worker does not read fills up and blocks its writer, and no caller
may be held up by that: least of all an event loop, or whoever must end the worker.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import IO

from edgellm.contract.child import KILL, End, reap, signal_group
from edgellm.contract.data_limit import lifted
from edgellm.contract.own_python import marked, python
from edgellm.errors import EdgeLLMError, Overloaded, UsageError
from edgellm.runtime import wire
from edgellm.runtime.mailbox import Mailbox
from edgellm.runtime.process_usage import wanted_s
from edgellm.types.checks import CANNOT_BE_SENT

KILL_PATIENCE_S = 5.0


def worker_command() -> list[str]:
    """Raises UsageError, as `own_python.interpreter`."""
    return python("edgellm.runtime.worker")


class WorkerProcess:
    """Starts a worker and tells it what to load.

    Attributes:
        up: its frames.
        ended: it gets no more messages, as it hung or is leaving.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        launch: bytes,
        outbox: Mailbox[wire.Down],
        answer: Callable[[list[wire.Up]], None],
    ) -> None:
        """`launch` is the frame that it gets first. From `take_requests` on, the worker gets what is in `outbox`.
        `answer` gets the answer to a request that cannot be sent.

        To be called in a thread that lasts longer than the worker, which ends with it (`contract.confine`).

        Raises:
            OSError: no process can be started, or none of the threads that serve it.
        """
        # A group of its own, so that what native code starts can be killed with it, and Ctrl-C reaches only us.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=marked(command, environment),
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self.up: IO[bytes] = self._process.stdout
        # The writer's alone: closed by another thread, its number could be another file's in the middle of a frame.
        down, self._process.stdin = self._process.stdin, None
        self._outbox = outbox
        self._answer = answer
        self._loaded = threading.Event()
        self.ended = False
        try:
            if hasattr(os, "waitid"):
                threading.Thread(target=self._end_group, name="edgellm-group", daemon=True).start()
            threading.Thread(target=self._feed, args=(down, launch), name="edgellm-writer", daemon=True).start()
        except Exception as error:  # a container limits processes and threads together
            down.close()
            self.kill()
            self.reap(KILL_PATIENCE_S)
            raise OSError(str(error)) from error

    @property
    def pid(self) -> int:
        return self._process.pid

    def wanted_s(self) -> float:
        """Of a processor, so far: what it had, and what others had that it waited for."""
        return wanted_s(self.pid)

    def take_requests(self) -> None:
        """It is loaded. Before, requests stay where the next worker finds them if this one dies."""
        self._loaded.set()

    def take_no_more(self) -> None:
        """Requests that come from now on stay where the next worker finds them."""
        self.ended = True
        self._loaded.set()
        self._outbox.wake()

    def kill(self) -> None:
        if self._process.returncode is None:
            signal_group(self._process, KILL)

    def reap(self, patience_s: float) -> End:
        """How it ended. It is killed if it has not in `patience_s` seconds; it gets no more messages."""
        self.take_no_more()
        with self.up:
            return End(reap(self._process, patience_s))

    def _end_group(self) -> None:
        """When it dies. A copy that native code made of it would keep its pipe open, and its death would go unseen."""
        with contextlib.suppress(ChildProcessError):  # `reap` was there before
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
            signal_group(self._process, KILL)

    def _feed(self, down: IO[bytes], launch: bytes) -> None:
        with down:
            frame: bytes | None = launch
            while frame is None or _write(down.fileno(), frame):
                self._loaded.wait()
                message = self._outbox.get_unless(lambda: self.ended)
                if message is None:
                    return
                frame = self._encoded(message)

    def _encoded(self, message: wire.Down) -> bytes | None:
        """None where it cannot be: whoever asked is told, and the others are not held up."""
        try:
            return wire.encode(message)
        except Exception as error:
            if not isinstance(message, wire.Submit):
                raise
            refused = _refusal(error)
        with lifted():
            self._answer([wire.Reply(message.id, wire.Failed.of(refused))])
        return None


def _refusal(error: Exception) -> EdgeLLMError:
    if isinstance(error, MemoryError):
        no_room = "there is no memory left to hand the request to the model"
        return Overloaded(no_room, hint="send less, or try again in a moment")
    return UsageError(f"{CANNOT_BE_SENT}: {error}", hint="send texts and numbers of an ordinary size")


def _write(pipe: int, frame: bytes) -> bool:
    """Whether the worker took it. That it died is noticed by the thread that reads from it."""
    rest = memoryview(frame)
    try:
        while rest:
            rest = rest[os.write(pipe, rest) :]
    except OSError:
        return False
    return True
