"""Starts the worker process, watches it, and starts it again when native code dies.

States:  loading --Ready--> ready --death--> loading (again) ...
         loading --death, where it was ready before--> loading, up to RELOADS times in a row, with growing pauses
         loading --Failed or death--> failed: loading would fail the same way, so nothing is retried by itself
         any --close--> closed
"""

from __future__ import annotations

import contextlib
import copy
import subprocess
import threading
from typing import IO

from edgellm import settings
from edgellm.contract.backend import worker_environment
from edgellm.contract.child import End, python, reap
from edgellm.contract.engine import EngineInfo
from edgellm.contract.manager import plugins
from edgellm.errors import EdgeLLMError, WorkerCrashed
from edgellm.runtime import wire
from edgellm.runtime.process_usage import ProcessUsage, process_usage
from edgellm.runtime.session import Dispatcher, Session, Sink, closed
from edgellm.types.plan import LaunchPlan
from edgellm.types.request import Request

WORKER = python("edgellm.runtime.worker")
# A model that was loaded before loads again, unless memory is short just now.
RELOADS = 3
RELOAD_PAUSE_S = 0.5
LOAD_HINT = "it is not started again: look for memory that is short (a smaller model, --ctx), then start anew"
CLOSE_TIMEOUT_S = 5.0


class WorkerSession(Session):
    """See `runtime.session.Session`. One thread reads the worker's events and restarts it where needed."""

    def __init__(self, plan: LaunchPlan) -> None:
        """Raises UsageError where EDGELLM_LOG is no level: the worker could only die of it."""
        _ = settings.current().log_level
        self._plan = plan
        self._dispatcher = Dispatcher()
        # Guards state, process, the pipe down and what waits for it. Reentrant: the garbage collector may close an
        # abandoned answer, which cancels its request, while this thread holds the lock.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._state = "loading"
        self._info: EngineInfo | None = None
        self._error: EdgeLLMError | None = None
        self._unsent: list[wire.Down] = []
        self._loaded: ProcessUsage | None = None
        self.restarts = 0
        self._deaths = 0  # in a row, while loading
        self._process = self._spawn()
        self._thread = threading.Thread(target=self._watch, name="edgellm-supervisor", daemon=True)
        self._thread.start()

    @property
    def info(self) -> EngineInfo:
        with self._changed:
            self._changed.wait_for(lambda: self._info is not None or self._state in ("failed", "closed"))
            if self._info is None or self._state == "failed":
                raise copy.copy(self._error) or closed()
            return self._info

    @property
    def state(self) -> str:
        return self._state

    @property
    def pid(self) -> int:
        """The worker's process id, for `edgellm doctor` and for tests."""
        return self._process.pid

    def process_usage(self) -> tuple[ProcessUsage | None, ProcessUsage | None]:
        with self._lock:
            return self._loaded, process_usage(self._process.pid) if self._state == "ready" else None

    def submit(self, request: Request, sink: Sink) -> int:
        with self._lock:
            if self._state == "closed":
                raise closed()
            if self._state == "failed":
                raise copy.copy(self._error) or closed()
            request_id = self._dispatcher.add(sink)
            self._send(wire.Submit(request_id, request))
        return request_id

    def cancel(self, request_id: int) -> None:
        if self._dispatcher.drop(request_id):
            with self._lock:
                if self._state in ("loading", "ready"):
                    self._send(wire.Cancel(request_id))

    def close(self, *, drain: bool = False) -> None:
        with self._changed:
            already = self._state == "closed"
            was_ready = self._state == "ready"
            self._state = "closed"
            self._changed.notify_all()
            if was_ready and not already:
                self._write(wire.Stop(drain))
        if not already:
            reap(self._process, None if drain and was_ready else CLOSE_TIMEOUT_S if was_ready else 0.0)
        if threading.current_thread() is not self._thread:
            # It first delivers the worker's last events.
            self._thread.join()
        self._dispatcher.fail_all(closed())

    def _spawn(self) -> subprocess.Popen[bytes]:
        # A backend that is not there is the worker's to refuse.
        environment = worker_environment(plugins().backends().get(self._plan.backend))
        process = subprocess.Popen(WORKER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        assert process.stdin is not None
        with contextlib.suppress(OSError):
            process.stdin.write(wire.encode(wire.Launch(self._plan)))
            process.stdin.flush()
        return process

    def _send(self, message: wire.Down) -> None:
        """Write now, or as soon as the model is loaded: a pipe that nobody reads yet would block its writer."""
        if self._state == "ready":
            self._write(message)
        else:
            self._unsent.append(message)

    def _write(self, message: wire.Down) -> None:
        assert self._process.stdin is not None
        frame = wire.encode(message)
        # A worker that just died is noticed by the thread that reads from it, which fails the request.
        with contextlib.suppress(OSError, ValueError):
            self._process.stdin.write(frame)
            self._process.stdin.flush()

    def _watch(self) -> None:
        while True:
            assert self._process.stdout is not None
            with self._process.stdout as up:
                broken = self._receive(up)
            crash = self._crashed(broken)
            if not self._on_death(crash) or not self._restart():
                return

    def _on_death(self, crash: WorkerCrashed) -> bool:
        """Tell the listeners. Returns whether to start again: after a death in service, a few times while reloading."""
        with self._changed:
            if self._state == "closed":
                return False
            served = self._state == "ready"
            self._deaths = 0 if served else self._deaths + 1
            again = served or (self._info is not None and self._error is None and self._deaths <= RELOADS)
            self._state = "loading" if again else "failed"
            if served:
                self._unsent = []
            if not again:
                # The worker's own error is why loading failed; without one, loading would die the same way again.
                self._error = self._error or WorkerCrashed(crash.message, hint=LOAD_HINT, reason=crash.reason)
            if served or not again:
                self._dispatcher.fail_all(self._error or crash)
            self._changed.notify_all()
            return again

    def _receive(self, up: IO[bytes]) -> str:
        """Deliver events until the worker is gone. Returns what was wrong with a frame that cannot be read, else ""."""
        try:
            while (body := wire.read_frame(up)) is not None:
                messages = wire.decode_up(body)
                match messages:
                    case [wire.Ready() as ready]:
                        self._on_ready(ready)
                    case [wire.Failed() as failed]:
                        with self._changed:
                            self._error = failed.error()
                    case _:
                        self._dispatcher.deliver(messages)
        except wire.BadFrame as error:
            self._process.kill()
            return f"it sent a broken frame: {error}"
        return ""

    def _on_ready(self, ready: wire.Ready) -> None:
        with self._changed:
            if self._state == "closed":
                return
            self._info = ready.info
            self._loaded = process_usage(self._process.pid)
            self._state = "ready"
            self._deaths = 0
            unsent, self._unsent = self._unsent, []
            for message in unsent:
                self._write(message)
            self._changed.notify_all()

    def _restart(self) -> bool:
        """False where the session was closed in the meantime, or no process can be had."""
        with self._changed:
            # Memory that ran out a moment ago may be back a moment later.
            self._changed.wait_for(lambda: self._state == "closed", RELOAD_PAUSE_S * self._deaths)
            if self._state == "closed":
                return False
            try:
                self._process = self._spawn()
            except OSError as error:
                self._state = "failed"
                self._error = WorkerCrashed(f"no worker can be started: {error}", hint=LOAD_HINT, reason=str(error))
                self._dispatcher.fail_all(self._error)
                self._changed.notify_all()
                return False
            # After it: who waits for the count finds the new process.
            self.restarts += 1
            return True

    def _crashed(self, broken: str) -> WorkerCrashed:
        """Wait for the worker's end, as an error that says how it came. `broken`: why we ended it ourselves, if so."""
        # It closed its side of the pipe, so it is leaving; one that does not is of no use.
        end = End(reap(self._process, CLOSE_TIMEOUT_S))
        reason = broken or _how_it_ended(end)
        return WorkerCrashed(
            f"the worker that runs the model died ({reason})",
            hint="it is started again by itself: send the request again",
            reason=reason,
        )


def _how_it_ended(end: End) -> str:
    if not end.signal:
        return f"left with status {end.returncode}"
    causes = {
        "SIGKILL": "most likely by the out-of-memory killer",
        "SIGILL": "an instruction this CPU does not have",
        "SIGSEGV": "a fault in native code",
        "SIGBUS": "a file that shrank while it was mapped, or a full disk",
    }
    return f"killed by {end.signal}" + (f": {causes[end.signal]}" if end.signal in causes else "")
