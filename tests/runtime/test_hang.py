"""A worker that hangs is a failure like any other: requests end, it is replaced, and nothing waits for it for ever."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

import psutil
import pytest
from support.sessions import Listener, OpenSession, ask, ended, greedy
from support.waiting import PATIENCE_S, wait_until

from edgellm.errors import Closed, WorkerCrashed
from edgellm.runtime import silence, supervisor, watchdog, worker_process
from edgellm.types.event import Delta, Done

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals"),
    pytest.mark.usefixtures("slow"),
]
LARGE = "a long prompt " * 15_000  # more than a pipe holds
NEVER = 3600.0


@pytest.fixture
def hung_after(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGELLM_HUNG_AFTER", "2")


@pytest.mark.usefixtures("hung_after")
def test_a_worker_that_hangs_is_a_typed_error_and_is_replaced(open_session: OpenSession) -> None:
    session = open_session()
    running = ask(session)
    assert isinstance(running.get(), Delta)
    stopped = psutil.Process(session.pid)
    stopped.suspend()
    _, error = running.end()
    assert isinstance(error, WorkerCrashed)
    assert error.reason.startswith("hung")
    assert "the echo backend of plugin echo (built in) is at fault" in error.hint
    wait_until(lambda: session.state != "hung")
    assert ask(session, "next").end()[0] == "next"
    assert session.restarts == 1
    assert ended(stopped)
    assert session.outage is None


@pytest.mark.usefixtures("hung_after")
@pytest.mark.slow(3)
def test_what_a_hung_worker_did_not_read_ends_with_it(open_session: OpenSession) -> None:
    session = open_session()
    assert session.info
    os.kill(session.pid, signal.SIGSTOP)
    listeners = [ask(session, LARGE) for _ in range(5)]
    for listener in listeners:
        assert isinstance(listener.end()[1], WorkerCrashed)
    wait_until(lambda: session.state != "hung")
    assert ask(session, "next").end()[0] == "next"


def test_a_worker_that_reads_nothing_holds_nobody_up(open_session: OpenSession) -> None:
    """All of this would wait for ever if any of it wrote to the pipe itself. Without a watchdog: the limit is far."""
    session = open_session()
    assert session.info
    os.kill(session.pid, signal.SIGSTOP)
    for request_id in [session.submit(greedy(LARGE), Listener()) for _ in range(5)]:
        session.cancel(request_id)
    assert session.state == "ready"
    os.kill(session.pid, signal.SIGCONT)
    assert ask(session, "next").end()[0] == "next"


@pytest.mark.parametrize("prompt", ["small", LARGE], ids=["small", "large"])
def test_closing_ends_a_worker_that_hangs(
    open_session: OpenSession, monkeypatch: pytest.MonkeyPatch, prompt: str
) -> None:
    monkeypatch.setattr(supervisor, "CLOSE_TIMEOUT_S", 0.5)
    session = open_session()
    assert session.info
    stopped = psutil.Process(session.pid)
    stopped.suspend()
    listener = ask(session, prompt)
    session.close()
    assert isinstance(listener.end()[1], Closed)
    assert ended(stopped)


def test_closing_tells_those_who_wait_before_it_gives_up_a_worker(
    open_session: OpenSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "CLOSE_TIMEOUT_S", NEVER)
    monkeypatch.setattr(supervisor, "TOLD_AFTER_S", 0.1)
    session = open_session()
    answered, waiting = ask(session), ask(session, "next")
    assert isinstance(answered.get(), Delta)
    worker = psutil.Process(session.pid)
    worker.suspend()
    closing = threading.Thread(target=session.close)
    closing.start()
    try:
        assert isinstance(answered.end()[1], Closed)
        assert isinstance(waiting.end()[1], Closed)
        assert closing.is_alive()
        assert not ended(worker)
    finally:
        worker.resume()
        closing.join(PATIENCE_S)
    assert not closing.is_alive()
    assert (answered.after_the_end, waiting.after_the_end) == (0, 0)


@pytest.mark.usefixtures("hung_after")
@pytest.mark.slow(3)
def test_a_worker_that_no_signal_ends_is_left_to_the_kernel(
    open_session: OpenSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that waits for a network disk that is gone. Requests end, new ones are refused, and closing returns."""
    monkeypatch.setattr(supervisor, "CLOSE_TIMEOUT_S", 0.5)
    monkeypatch.setattr(supervisor, "END_TIMEOUT_S", 0.5)
    monkeypatch.setattr(worker_process, "signal_group", lambda process, number: None)
    session = open_session()
    listener = ask(session)
    assert isinstance(listener.get(), Delta)
    worker = psutil.Process(session.pid)
    worker.suspend()
    assert isinstance(listener.end()[1], WorkerCrashed)
    wait_until(lambda: session.state == "failed")
    with pytest.raises(WorkerCrashed):
        ask(session)
    session.close()
    assert session.state == "closed"
    assert not ended(worker)
    worker.kill()
    wait_until(lambda: not session._thread.is_alive())


@pytest.mark.usefixtures("hung_after")
def test_who_asks_while_a_worker_that_hung_ends_waits_for_the_next(
    open_session: OpenSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "END_TIMEOUT_S", PATIENCE_S)
    monkeypatch.setattr(worker_process, "signal_group", lambda process, number: None)
    session = open_session()
    listener = ask(session)
    assert isinstance(listener.get(), Delta)
    worker = psutil.Process(session.pid)
    worker.suspend()
    assert isinstance(listener.end()[1], WorkerCrashed)
    assert session.state == "hung"
    waits = ask(session, "next")
    worker.kill()
    assert waits.end()[0] == "next"
    assert session.restarts == 1


@pytest.mark.usefixtures("hung_after")
def test_of_one_that_hung_in_a_step_memory_is_not_accused_when_it_ends_late(
    open_session: OpenSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "END_TIMEOUT_S", 0.2)
    monkeypatch.setattr(supervisor, "RELOAD_PAUSE_S", PATIENCE_S)
    monkeypatch.setattr(worker_process, "signal_group", lambda process, number: None)
    session = open_session()
    assert isinstance(ask(session).get(), Delta)
    worker = psutil.Process(session.pid)
    worker.suspend()
    wait_until(lambda: session.state == "failed")
    worker.kill()
    wait_until(lambda: session.state == "reloading")
    assert isinstance(session.outage, WorkerCrashed)
    assert "the echo backend of plugin echo (built in) is at fault" in session.outage.hint


def test_one_that_died_before_its_silence_was_told_is_no_hang(
    open_session: OpenSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks meanwhile waits for the next one all the same."""
    session = open_session()
    assert session.info
    assert session._process is not None
    monkeypatch.setattr(supervisor, "pause_s", lambda deaths: PATIENCE_S)
    psutil.Process(session.pid).kill()
    wait_until(lambda: session.state == "reloading")
    session._on_hang(session._process, 5.0)
    assert session.state == "reloading"
    assert session._silent_s == 0.0


@pytest.mark.usefixtures("hung_after")
def test_draining_does_not_wait_for_a_worker_that_hangs(open_session: OpenSession) -> None:
    session = open_session()
    listener = ask(session)
    assert isinstance(listener.get(), Delta)
    stopped = psutil.Process(session.pid)
    stopped.suspend()
    session.close(drain=True)
    assert isinstance(listener.end()[1], Closed)
    assert ended(stopped)


def test_a_second_close_ends_a_drain(open_session: OpenSession) -> None:
    session = open_session()
    listener = ask(session)
    assert isinstance(listener.get(), Delta)
    draining = threading.Thread(target=session.close, kwargs={"drain": True})
    draining.start()
    wait_until(lambda: session.state == "closed")
    session.close()
    draining.join(PATIENCE_S)
    _, end = listener.end()
    assert isinstance(end, Closed) or (isinstance(end, Done) and end.finish_reason == "cancelled")


@pytest.mark.usefixtures("hung_after")
def test_long_silent_steps_are_no_hang(open_session: OpenSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prompt of many steps, in which the worker has nothing to say, and which takes longer than the limit."""
    monkeypatch.setenv("EDGELLM_ECHO_STEP_S", "0.3")
    session = open_session()
    text, done = ask(session, "x" * 4000, 1).end()
    assert (text, session.restarts) == ("x", 0)
    assert isinstance(done, Done)


@pytest.mark.parametrize(
    ("delay", "waits_for"), [("EDGELLM_ECHO_LOAD_S", "load"), ("EDGELLM_ECHO_STEP_S", "first step")]
)
def test_what_is_waited_for_is_told(
    open_session: OpenSession,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    delay: str,
    waits_for: str,
) -> None:
    monkeypatch.setattr(silence, "TOLD_AFTER_S", 0.1)
    monkeypatch.setattr(watchdog, "TICK_S", 0.1)
    monkeypatch.setenv(delay, "60")
    session = open_session()
    ask(session)

    def told() -> list[dict[str, str]]:
        facts: list[dict[str, str]] = [getattr(record, "facts", {}) for record in caplog.records]
        return [one for one in facts if one.get("waits_for") == waits_for]

    wait_until(told)
    assert told()[0] == {"model": "echo", "backend": "echo", "waits_for": waits_for}


FORKS = """
import os, subprocess, sys, time
child = os.fork()
if not child:
    time.sleep(3600)
open(sys.argv[1], "w").write(str(child))
os.abort()
"""


def test_what_a_worker_leaves_behind_dies_with_it(
    open_session: OpenSession, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A copy of the worker holds its pipes open, as one that native code makes in order to be debugged does."""
    pid_file = tmp_path / "pid"
    monkeypatch.setattr(worker_process, "worker_command", lambda: (sys.executable, "-c", FORKS, str(pid_file)))
    session = open_session()
    _, error = ask(session).end()
    assert isinstance(error, WorkerCrashed)
    assert "SIGABRT" in error.reason
    wait_until(lambda: not psutil.pid_exists(int(pid_file.read_text())))
