"""The process that holds one model: `python -m edgellm.runtime.worker`, started and watched by `supervisor.py`.

Frames come in on stdin, to a thread that answers itself what takes no step (`runtime.token_answers`), and go out on
what was stdout; stdout itself then leads to stderr, so that native code that prints cannot break a frame. The end of
stdin means that the parent is gone: the worker exits at once. On Linux the kernel ends one that hangs then.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from edgellm import settings
from edgellm.contract.confine import confine
from edgellm.contract.manager import plugins
from edgellm.contract.parent import pipes
from edgellm.contract.streams import STDERR
from edgellm.errors import BackendUnavailable, option, speak_in_flags
from edgellm.runtime import logs, wire
from edgellm.runtime.adapter_shelf import open_with_adapters
from edgellm.runtime.engine_error import close_engine, engine_error
from edgellm.runtime.line_writer import writer
from edgellm.runtime.loop import Loop
from edgellm.runtime.mailbox import Mailbox
from edgellm.runtime.memory_limit import limit_memory
from edgellm.runtime.processor_time import WorkTime
from edgellm.runtime.thread_stack import large_stack
from edgellm.runtime.work_bytes import work_bytes
from edgellm.store.holders import hold

# When memory runs out, the kernel should kill the worker: the parent is small, and can restart it.
OOM_SCORE = "500"
ROOMY_BYTES = 4 * 1024**3


def main() -> None:
    """Serve one plan until `Stop` arrives."""
    confine()
    # A service manager signals every process of a service: the parent decides when to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    up, down = pipes()  # before anything is logged: standard error may be closed
    environment = settings.current()
    logs.set_up(environment.log_level, environment.line_format)
    _offer_to_oom_killer()
    try:
        launch = _read(down)
        if isinstance(launch, wire.Launch):
            _serve(launch, up, down)
    finally:
        # Before `up` is closed: the parent answers that with the end of `down`, and this process leaves at once.
        writer(STDERR).flush()


def _serve(launch: wire.Launch, up: IO[bytes], down: IO[bytes]) -> None:
    speak_in_flags(launch.in_flags)

    sending = threading.Lock()

    def emit(messages: list[wire.Up]) -> None:
        frame = wire.encode(messages)
        try:
            with sending:
                up.write(frame)
        except BrokenPipeError:
            os._exit(0)

    inbox: Mailbox[wire.Down] = Mailbox()
    receiver = _Receiver(inbox)
    with large_stack():
        threading.Thread(target=receiver.run, args=(down,), name="receive", daemon=True).start()
    started = time.perf_counter()
    work_time = WorkTime(launch.plan, ends=True)
    limit_memory(launch.plan)
    work_time.load(work_bytes(launch.plan) + sum(file.bytes for file in launch.plan.adapters))
    try:
        backend = plugins().backend(launch.plan.backend)
        engine, adapters = open_with_adapters(backend, launch.plan, again=launch.again)
    except MemoryError:
        error = BackendUnavailable(
            "not enough memory to load the model", hint=f"choose a smaller model or {option('ctx')}"
        )
        emit([wire.Failed.of(error)])
        return
    except Exception as error:
        emit([wire.Failed.of(error)])
        return
    held = hold(launch.plan.artifact.paths)
    emit([wire.Ready(engine.info, time.perf_counter() - started, adapters.loaded)])
    try:
        loop = Loop.of(launch.plan, (engine, adapters), inbox, emit, work_time)
        receiver.takes = loop.token_answers.takes
        loop.run(prepares=_has_room)
    except BaseException as error:  # a plugin may raise KeyboardInterrupt; the signal is ignored here
        # Its last words: what the parent tells of a death without them is a guess.
        emit([wire.Failed.of(engine_error(launch.plan.backend, error))])
    finally:
        close_engine(launch.plan.backend, engine)
        for file in held:
            file.close()


def _read(down: IO[bytes]) -> wire.Down | None:
    body = wire.read_frame(down)
    return None if body is None else wire.decode_down(body)


class _Receiver:
    """Puts what it reads into the inbox, but for what `takes` takes; until there is a loop, that is nothing."""

    def __init__(self, inbox: Mailbox[wire.Down]) -> None:
        self._inbox = inbox
        self.takes: Callable[[wire.Down], bool] = lambda _: False

    def run(self, down: IO[bytes]) -> None:
        try:
            while (message := _read(down)) is not None:
                if not self.takes(message):
                    self._inbox.put(message)
        finally:
            # Also when a frame is broken: a worker that cannot receive is of no use.
            os._exit(0)


def _has_room() -> bool:
    """Whether tables that perhaps nobody needs may be made. A small machine is slow, too, and who asks would wait."""
    import psutil

    return bool(psutil.virtual_memory().total >= ROOMY_BYTES)


def _offer_to_oom_killer() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(OOM_SCORE)


if __name__ == "__main__":
    main()
