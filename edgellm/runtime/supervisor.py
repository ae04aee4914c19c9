"""Starts the worker process, watches it, and starts it again when native code dies or hangs.

States:  loading   --Ready--> ready; --death or Failed--> failed for good: it would fail in the same way again
         ready     --death--> reloading
         ready     --silence while it is waited for--> hung, and killed --death--> reloading
         hung      --no death, as something holds it in the kernel--> failed --death--> reloading
         loading, reloading --silence for much longer--> failed, and killed --death--> as above
         reloading --Ready--> ready; --death or Failed--> reloading again up to RELOADS times, then failed
         failed    --where it was ready before, after a pause that grows--> reloading
         any       --close--> closed

One thread starts workers, reads what they say, and waits for their end. It lasts as long as the session, because the
end of the thread that started a worker ends that worker (`contract.confine`).
"""

from __future__ import annotations

import atexit
import copy
import functools
import logging
import threading
import time
import weakref
from dataclasses import replace

from edgellm import settings
from edgellm.contract.backend import worker_environment
from edgellm.contract.data_limit import lifted
from edgellm.contract.engine import EngineInfo
from edgellm.contract.manager import plugins
from edgellm.errors import Closed, EdgeLLMError, RunawayModel, UsageError, WorkerCrashed, option, speaks_in_flags
from edgellm.errors.open_files import room_for_files
from edgellm.runtime import wire, worker_process
from edgellm.runtime.mailbox import Mailbox
from edgellm.runtime.process_usage import ProcessUsage, process_usage
from edgellm.runtime.session import CLOSE_TIMEOUT_S, TOLD_AFTER_S, Session, SessionState, Sink
from edgellm.runtime.silence import Teller
from edgellm.runtime.watchdog import Watchdog, limits
from edgellm.runtime.worker_end import at_fault, died, ended, not_again
from edgellm.runtime.worker_process import WorkerProcess
from edgellm.types.plan import LaunchPlan
from edgellm.types.request import Request

log = logging.getLogger("edgellm.runtime.supervisor")

# A model that was loaded before loads again, unless memory is short just now.
RELOADS = 3
RELOAD_PAUSE_S = 0.5
# It may be short for longer. A server that is up must come back without a person.
LONG_PAUSE_S, LONGEST_PAUSE_S = 30.0, 600.0
END_TIMEOUT_S = 5.0  # how long the end of a worker is waited for that was killed, or is leaving


class WorkerSession(Session):
    """See `runtime.session.Session`."""

    def __init__(self, plan: LaunchPlan) -> None:
        """Raises UsageError where EDGELLM_LOG, EDGELLM_LOG_FORMAT or EDGELLM_HUNG_AFTER means nothing, or a path cannot
        be told: a worker would only die of it. So does `worker_command`."""
        super().__init__(plan)
        environment = settings.current()
        _ = environment.log_level, environment.line_format, worker_process.worker_command()
        self._limits = limits(plan, environment.hung_after_s)
        self._plan, self._model = plan, plan.artifact.name
        _launch(plan)
        # A backend that is not there is the worker's to refuse.
        self._environment = worker_environment(plugins().backends().get(plan.backend))
        # Guards all below. Reentrant: the garbage collector may abandon this session while its thread holds the lock.
        # Nothing that may block happens under it, and no other lock is waited for.
        self._changed = threading.Condition()
        self._state: SessionState = "loading"
        self._outbox: Mailbox[wire.Down] = Mailbox()
        self._process: WorkerProcess | None = None
        self._loaded: ProcessUsage | None = None
        self._silent_s, self._cure = 0.0, ""  # of a worker that hung, and what to do about it
        self._listens = False  # to a request to stop
        self._over = False  # no worker runs, and none will
        self.restarts = -1
        self._deaths = 0  # in a row, while loading
        self._runaways = 0  # in a row, by the model's own fault, while it served
        self._ready_at = 0.0
        self._thread = threading.Thread(target=self._supervise, name="edgellm-supervisor", daemon=True)
        self._thread.start()
        _open.add(self)

    @property
    def info(self) -> EngineInfo:
        self._check_process()
        with self._changed:
            self._changed.wait_for(lambda: self._info is not None or self._state in ("failed", "closed"))
            if self._info is None or self._state == "failed":
                raise copy.copy(self._outage) or Closed.of_model()
            return self._info

    @property
    def state(self) -> SessionState:
        return self._state

    @property
    def pid(self) -> int:
        """The worker's process id, for `edgellm doctor` and for tests."""
        with self._changed:
            self._changed.wait_for(lambda: self._process is not None or self._over)
            assert self._process is not None
            return self._process.pid

    def process_usage(self) -> tuple[ProcessUsage | None, ProcessUsage | None]:
        return self._loaded, process_usage(self.pid) if self._state == "ready" else None

    def submit(self, request: Request, sink: Sink) -> int:
        self._check_process()
        with self._changed:
            if self._state in ("failed", "closed"):
                raise copy.copy(self._outage) or Closed.of_model()
            request_id = self._dispatcher.add(sink)
            self._outbox.put(wire.Submit(request_id, request))
        return request_id

    def cancel(self, request_id: int) -> None:
        if self.is_ours and self._dispatcher.drop(request_id):
            self._outbox.put(wire.Cancel(request_id))

    def close(self, *, drain: bool = False) -> None:
        if not self.is_ours:
            return
        with self._changed:
            self._end(drain=drain)
            waits = self._listens and threading.current_thread() is not self._thread
            if not self._ends_within((None if drain else CLOSE_TIMEOUT_S) if waits else 0.0):
                self._kill()
        self.join()  # it first delivers the worker's last events
        self._dispatcher.fail_all(Closed.of_model())

    def _ends_within(self, patience_s: float | None) -> bool:
        """Wait for a worker that was told to stop. Whoever asked must know before it is given up: the end of a server
        waits for them, and not for a step."""
        if patience_s is None:
            return bool(self._changed.wait_for(self._is_ending))
        told_after_s = min(TOLD_AFTER_S, patience_s)
        if self._changed.wait_for(self._is_ending, told_after_s):
            return True
        self._dispatcher.fail_all(Closed.of_model())
        return bool(self._changed.wait_for(self._is_ending, patience_s - told_after_s))

    def _is_ending(self) -> bool:
        return self._over or self._silent_s > 0

    def abandon(self) -> None:
        """Nobody can ask any more, as the object is gone: end the worker, and wait for nothing."""
        if self.is_ours:
            with self._changed:
                self._end(drain=False)
                self._kill()
            self._dispatcher.fail_all(Closed.of_model())

    def join(self) -> None:
        """Wait for the end of the worker, which was told or killed. One that a disk or a driver holds is left."""
        if threading.current_thread() is not self._thread:
            self._thread.join(END_TIMEOUT_S)

    def _end(self, *, drain: bool) -> None:
        if self._state != "closed":
            self._listens = self._state == "ready"
            self._state, self._outage = "closed", None
            self._changed.notify_all()
        if self._listens:
            if not drain:
                self._outbox.clear()
            self._outbox.put(wire.Stop(drain))

    def _kill(self) -> None:
        if self._process is not None and not self._over:
            self._process.kill()

    def _supervise(self) -> None:
        try:
            while self._pause():
                error = self._run_worker()
                with lifted():
                    again = self._on_death(error)
                if not again:
                    break
        except BaseException as error:
            # Not foreseen, or memory is short. Without this thread nothing would ever come: whoever waits must know.
            log.error("the thread that watches a worker failed", exc_info=error)
            self._give_up(error)
        finally:
            with self._changed:
                self._over = True
                self._changed.notify_all()

    def _give_up(self, error: BaseException) -> None:
        with self._changed:
            self._outbox.clear()
            if self._state != "closed":
                reason = f"it cannot be watched any more: {type(error).__name__}: {error}"
                outage = WorkerCrashed(
                    f"the worker that runs the model was ended ({reason})", hint="load the model again", reason=reason
                )
                self._state, self._outage = "failed", outage
                self._dispatcher.fail_all(outage)

    def _pause(self) -> bool:
        """Wait before the worker is started again, longer after each death. False where the session was closed."""
        with self._changed:
            if self._changed.wait_for(lambda: self._state == "closed", pause_s(self._n_failures)):
                return False
            if self._state == "failed":
                self._state = "reloading"
            return True

    def _run_worker(self) -> EdgeLLMError:
        """From its start to its end. Returns why it ended."""
        again = self._info is not None
        plan = replace(self._plan, adapters=self.adapters) if again else self._plan
        try:
            with lifted():
                process = WorkerProcess(
                    worker_process.worker_command(),
                    self._environment,
                    _launch(plan, again=again),
                    self._outbox,
                    self._dispatcher.deliver,
                )
        except UsageError as error:  # EDGELLM_PYTHON is another by now
            return error
        except OSError as error:
            is_refused = isinstance(error, PermissionError)
            hint = f"see that {error.filename} may be executed" if is_refused else room_for_files(error)
            return WorkerCrashed(f"no worker can be started: {error}", reason=str(error), hint=hint)
        with self._changed:
            self._process = process
            # After it: who waits for the count finds the new process.
            self.restarts += 1
            self._changed.notify_all()
            if self._state == "closed":
                process.kill()
        on_hang = functools.partial(self._on_hang, process)
        watchdog = Watchdog(self._limits, self._is_awaited, process.wanted_s, on_hang, Teller(self._plan))
        told: EdgeLLMError | None = None
        try:
            with lifted():
                watchdog.start()
            told = self._listen(process, watchdog)
        except wire.BadFrame as broken:
            process.kill()
            told = died(f"it sent a broken frame: {broken}", at_fault(self._plan.backend))
        except Exception as error:
            # In this process: no thread can be started, or there is no memory for what the worker sent.
            process.kill()
            told = died(f"it was ended, as it could not be listened to: {error or type(error).__name__}")
        finally:
            watchdog.end()
            # It closed its side of the pipe, so it is leaving; one that does not is of no use.
            end = process.reap(END_TIMEOUT_S)
        if self._silent_s and not told:
            return _hung(self._silent_s, self._cure)
        return told or ended(end, self._plan.backend)

    def _listen(self, process: WorkerProcess, watchdog: Watchdog) -> EdgeLLMError | None:
        """Deliver events until the worker is gone. Returns what it said of its end, if anything."""
        error: EdgeLLMError | None = None
        while (body := wire.read_frame(process.up)) is not None:
            with lifted():  # a worker that could not be listened to would be ended, with all its answers
                messages = wire.decode_up(body)
                if not any(isinstance(message, wire.Aside) for message in messages):
                    watchdog.heard = True
                match messages:
                    case [wire.Ready() as ready]:
                        watchdog.loaded()
                        self._on_ready(process, ready)
                    case [wire.Failed() as failed]:
                        error = failed.error()
                    case _:
                        self._dispatcher.deliver(messages)
        return error

    def _on_ready(self, process: WorkerProcess, ready: wire.Ready) -> None:
        usage = process_usage(process.pid)
        with self._changed:
            if self._state == "closed":
                return
            self._info, self._loaded = ready.info, usage
            self._dispatcher.has(ready.adapters)
            self._state, self._outage = "ready", None
            self._deaths = 0
            self._ready_at = time.monotonic()
            process.take_requests()
            self._changed.notify_all()
        if self.restarts:
            log.warning("the model runs again", extra=self._facts())

    def _is_awaited(self) -> bool:
        return self._state == "closed" or not self.idle

    def _on_hang(self, process: WorkerProcess, silent_s: float) -> None:
        with self._changed:
            if process is not self._process or process.ended:
                return
            self._silent_s = silent_s
            # Where memory is short a load hangs, but steps only slow down.
            self._cure = at_fault(self._plan.backend) if self._state == "ready" else ""
            if self._state != "closed":
                # Not left to its death: a disk or a driver may hold it in the kernel for as long as it likes.
                self._state = "hung" if self._state == "ready" else "failed"
                self._outage = _hung(silent_s, _hint(True, 0.0, self._cure))
                process.take_no_more()  # what is asked from now on is the next one's
                self._outbox.clear()
                self._dispatcher.fail_all(self._outage)
            process.kill()
            self._changed.notify_all()
            if not self._changed.wait_for(lambda: self._state != "hung", END_TIMEOUT_S):
                self._state = "failed"
                self._outbox.clear()
                self._dispatcher.fail_all(copy.copy(self._outage) or Closed.of_model())
                self._changed.notify_all()

    def _on_death(self, error: EdgeLLMError) -> bool:
        """Tell the listeners. Returns whether to start again: always, where it was ready before."""
        with self._changed:
            if self._state == "closed":
                return False
            served, hung = self._state in ("ready", "hung"), self._state == "hung"
            self._silent_s = 0.0
            self._deaths = 0 if served else self._deaths + 1
            if served:
                is_new = time.monotonic() - self._ready_at > LONGEST_PAUSE_S
                self._runaways = isinstance(error, RunawayModel) + (0 if is_new else self._runaways)
            again = self._info is not None
            failed = not again or self._n_failures > RELOADS
            wait_s = pause_s(self._n_failures)
            told = error.message
            if again and not served and not isinstance(error, WorkerCrashed):
                # No fault of the requests that wait: a file that is gone, or memory that is short.
                error = not_again(error)
            if isinstance(error, WorkerCrashed):
                error.hint = _hint(again, wait_s, error.hint)
            self._state, self._outage = "failed" if failed else "reloading", error
            if failed or (served and not hung):  # who asked while it hung has waited for the next one
                self._outbox.clear()
                self._dispatcher.fail_all(error)
            self._changed.notify_all()
        # Outside the lock: writing may block. A first load that fails is its caller's to tell.
        if again and failed:
            log.error("%s; it is tried again in %.0f s", told, wait_s, extra=self._facts(code=error.code))
        elif again:
            log.warning("%s; the model is loaded again", told, extra=self._facts(code=error.code))
        return again

    @property
    def _n_failures(self) -> int:
        """What the pause before the next start follows from."""
        return max(self._deaths, self._runaways)

    def _facts(self, **more: str) -> dict[str, object]:
        """Of a line in the log."""
        return {"facts": {"model": self._model, "restarts": self.restarts, **more}}


def _launch(plan: LaunchPlan, *, again: bool = False) -> bytes:
    """The frame that tells a worker what to load.

    Raises:
        UsageError: a path in the plan is not UTF-8.
    """
    try:
        return wire.encode(wire.Launch(plan, speaks_in_flags(), again))
    except UnicodeEncodeError as error:
        raise UsageError(
            f"{error.object!r} is not UTF-8, so no worker can be told of it", hint="rename the file or its folder"
        ) from None


def pause_s(deaths: int) -> float:
    """Before the worker is started again, after so many deaths in a row while it loaded."""
    beyond = deaths - RELOADS
    return RELOAD_PAUSE_S * deaths if beyond <= 0 else min(LONG_PAUSE_S * 2.0 ** (beyond - 1), LONGEST_PAUSE_S)


def _hint(again: bool, pause_s: float, known_cure: str = "") -> str:
    """`known_cure`: what to do about the cause; "" where it may be memory that is short."""
    cure = known_cure or f"look for memory that is short (a smaller model or {option('ctx')})"
    if not again:
        return f"it is not started again: {cure}, then start anew"
    if pause_s >= LONG_PAUSE_S:
        return f"it is started again in {pause_s:.0f} s: {cure}"
    return f"send the request again; if that ends in the same way, {cure}"


def _hung(silent_s: float, hint: str = "") -> WorkerCrashed:
    reason = f"hung: it said nothing for {silent_s:.0f} s"
    return WorkerCrashed(f"the worker that runs the model was ended ({reason})", hint=hint, reason=reason)


_open: weakref.WeakSet[WorkerSession] = weakref.WeakSet()


@atexit.register
def _close_what_is_open() -> None:
    """An app need not close: its workers end with it, and none is left for others to wait for."""
    for session in list(_open):
        session.abandon()
        session.join()
