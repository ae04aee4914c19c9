"""`isolate=False`: the loop in a thread of this process. A crash of native code takes the app with it."""

from __future__ import annotations

import copy
import logging
import threading
import time

from edgellm.contract.backend import Backend
from edgellm.contract.engine import EngineInfo
from edgellm.errors import Closed
from edgellm.runtime import wire
from edgellm.runtime.adapter_shelf import open_with_adapters
from edgellm.runtime.engine_error import close_engine, engine_error
from edgellm.runtime.loop import Loop
from edgellm.runtime.mailbox import Mailbox
from edgellm.runtime.process_usage import ProcessUsage
from edgellm.runtime.session import TOLD_AFTER_S, Session, SessionState, Sink
from edgellm.runtime.thread_stack import large_stack
from edgellm.types.plan import LaunchPlan
from edgellm.types.request import Request

log = logging.getLogger("edgellm.runtime.thread")

# Longer than for a worker: a thread cannot be killed, and native code that computes while Python ends may crash.
CLOSE_TIMEOUT_S = 3.0


class ThreadSession(Session):
    """See `runtime.session.Session`."""

    def __init__(self, plan: LaunchPlan, backend: Backend) -> None:
        super().__init__(plan)
        self._plan = plan
        self._backend = backend
        self._inbox: Mailbox[wire.Down] = Mailbox()
        self._loaded = threading.Event()
        # Guards the end and the listeners: none is added after all have been told of the end.
        # Reentrant, as in `supervisor`.
        self._lock = threading.RLock()
        self._closed = False
        self._given_up_at = 0.0  # on the clock of `monotonic`, once it was closed
        self._thread = threading.Thread(target=self._run, name="edgellm-loop", daemon=True)
        with large_stack():
            self._thread.start()

    @property
    def info(self) -> EngineInfo:
        self._check_process()
        self._loaded.wait()
        if self._info is None:
            raise copy.copy(self._outage) or Closed.of_model()
        return self._info

    @property
    def state(self) -> SessionState:
        if self._closed:
            return "closed"
        if not self._loaded.is_set():
            return "loading"
        return "failed" if self._outage is not None else "ready"

    def process_usage(self) -> tuple[ProcessUsage | None, ProcessUsage | None]:
        # The memory of the model cannot be told from that of the app.
        return None, None

    def submit(self, request: Request, sink: Sink) -> int:
        self._check_process()
        with self._lock:
            if self._closed or self._outage is not None:
                raise copy.copy(self._outage) or Closed.of_model()
            request_id = self._dispatcher.add(sink)
            self._inbox.put(wire.Submit(request_id, request))
        return request_id

    def cancel(self, request_id: int) -> None:
        if self.is_ours and self._dispatcher.drop(request_id):
            self._inbox.put(wire.Cancel(request_id))

    def close(self, *, drain: bool = False) -> None:
        if not self.is_ours:
            return
        with self._lock:
            if not self._closed:
                self._closed = True
                self._inbox.put(wire.Stop(drain))
            if not drain:
                self._given_up_at = self._given_up_at or time.monotonic() + CLOSE_TIMEOUT_S
        if threading.current_thread() is self._thread:
            return
        if not drain:
            self._thread.join(min(TOLD_AFTER_S, self._left_s))
            self._dispatcher.fail_all(Closed.of_model())  # there are none, unless native code takes long
        self._thread.join(None if drain else self._left_s)
        self._dispatcher.fail_all(Closed.of_model())

    @property
    def _left_s(self) -> float:
        """A second `close` waits no longer than the first."""
        return max(0.0, self._given_up_at - time.monotonic())

    def abandon(self) -> None:
        with self._lock:
            if self.is_ours and not self._closed:
                self._closed = True
                self._inbox.put(wire.Stop(drain=False))

    def _run(self) -> None:
        try:
            engine, adapters = open_with_adapters(self._backend, self._plan)
        except BaseException as error:
            self._fail(error)
            self._loaded.set()
            return
        self._info = engine.info
        self._dispatcher.has(adapters.loaded)
        self._loaded.set()
        try:
            Loop.of(self._plan, (engine, adapters), self._inbox, self._dispatcher.deliver).run()
        except BaseException as error:
            # Also what a plugin should not raise (SystemExit): those who wait for an answer must get an error.
            self._fail(error)
        finally:
            close_engine(self._plan.backend, engine)

    def _fail(self, error: BaseException) -> None:
        """The same typed error as from a worker, also where a plugin raised an exception of its own."""
        typed = wire.Failed.of(engine_error(self._plan.backend, error)).error()
        if self._info is not None:
            facts = {"model": self._plan.artifact.name, "code": typed.code}
            log.error("%s; the model does not run any more", typed.message, extra={"facts": facts})
        with self._lock:
            self._outage = typed
            self._dispatcher.fail_all(typed)
