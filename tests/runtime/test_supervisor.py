"""Workers that die, hang, talk nonsense or are closed: every request gets exactly one end, and no process stays."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from support.refusals import check_refusal, refuses
from support.sessions import ECHO, LONG, Listener, OpenSession, ask, ended, greedy
from support.waiting import PATIENCE_S, wait_until

from edgellm.errors import BadArtifact, Closed, UsageError, WorkerCrashed
from edgellm.runtime import supervisor, worker_process
from edgellm.runtime.session import AsyncSink
from edgellm.runtime.supervisor import WorkerSession
from edgellm.runtime.worker_end import not_again
from edgellm.store.holders import holders
from edgellm.types.event import Delta, Done
from edgellm.types.markup import Markup, Reading
from edgellm.types.message import Tool
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan, Settings
from edgellm.types.request import GenerationRequest
from edgellm.types.sampling import Sampling

linux = pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for it")


def kill_in_mid_stream(session: WorkerSession, number: signal.Signals, prompt: str = LONG) -> None:
    """Kill the worker under three requests; each gets a typed error, and the next one is answered."""
    listeners = [ask(session, prompt, 200) for _ in range(3)]
    assert all(isinstance(listener.get(), Delta) for listener in listeners)
    worker = psutil.Process(session.pid)
    os.kill(session.pid, number)
    for listener in listeners:
        _, error = listener.end()
        assert isinstance(error, WorkerCrashed)
        assert number.name in error.reason
        assert error.hint
    text, done = ask(session, prompt, 5).end()
    assert isinstance(done, Done)
    assert text
    assert session.restarts == 1
    assert session.pid != worker.pid
    assert not worker.is_running()
    assert not any(listener.after_the_end for listener in listeners)


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize(
    "number",
    [signal.SIGKILL, signal.SIGSEGV, pytest.param(signal.SIGILL, marks=pytest.mark.slow(1))],
    ids=lambda number: number.name,
)
def test_a_killed_worker_is_a_typed_error_and_is_replaced(open_session: OpenSession, number: signal.Signals) -> None:
    kill_in_mid_stream(open_session(), number)


@pytest.mark.model
@pytest.mark.timeout(900)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV], ids=lambda number: number.name)
@pytest.mark.slow(1)
def test_a_killed_worker_of_a_real_model(open_session: OpenSession, smollm2: str, number: signal.Signals) -> None:
    plan = LaunchPlan("gguf", Artifact("gguf", (smollm2,), "smollm2"), Settings(n_ctx=256, n_slots=3))
    kill_in_mid_stream(open_session(plan), number, "Once upon a time there was")


@pytest.mark.usefixtures("slow")
def test_a_request_sent_to_a_dead_worker_ends(open_session: OpenSession) -> None:
    """Between the death and its discovery requests may still be accepted: they end too, one way or the other."""
    session = open_session()
    assert session.info
    os.kill(session.pid, signal.SIGKILL)
    ends = [ask(session, "short").end() for _ in range(20)]
    assert all(isinstance(end, WorkerCrashed) or (isinstance(end, Done) and text == "short") for text, end in ends)
    assert isinstance(ends[-1][1], Done)


def test_a_model_that_cannot_be_loaded_is_not_tried_again(open_session: OpenSession, tmp_path: Path) -> None:
    path = tmp_path / "no.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    session = open_session(LaunchPlan("gguf", Artifact("gguf", (str(path),), "bad"), Settings(n_ctx=256)))
    with pytest.raises(BadArtifact) as first:
        _ = session.info
    with pytest.raises(BadArtifact) as second:
        _ = session.info
    assert first.value is not second.value, "raised in many threads, an exception must be each one's own"
    with pytest.raises(BadArtifact):
        ask(session)
    assert (session.state, session.restarts) == ("failed", 0)


def test_a_running_worker_has_its_file_open_whatever_its_engine_does(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"weights")
    plan = replace(ECHO, artifact=replace(ECHO.artifact, paths=(str(tmp_path),)))
    session = WorkerSession(plan)
    try:
        _ = session.info
        assert holders(tmp_path)
    finally:
        session.close()
    assert holders(tmp_path) == []


def test_a_path_that_no_worker_can_be_told_is_refused(open_session: OpenSession) -> None:
    with refuses(UsageError):
        open_session(LaunchPlan("echo", Artifact("echo", ("/models/caf\udce9.gguf",), "echo"), Settings(n_ctx=256)))


def test_a_request_that_waits_for_a_model_gets_the_loading_error(open_session: OpenSession) -> None:
    session = open_session(LaunchPlan("no-such-backend", Artifact("echo", (), "echo"), Settings(n_ctx=256)))
    _, error = ask(session).end()
    check_refusal(error, UsageError)


def test_a_worker_killed_while_loading_is_not_started_again(
    open_session: OpenSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGELLM_ECHO_LOAD_S", "3600")
    session = open_session()
    waiting = ask(session)
    os.kill(session.pid, signal.SIGKILL)
    assert isinstance(waiting.end()[1], WorkerCrashed)
    with refuses(WorkerCrashed) as caught:
        _ = session.info
    assert "SIGKILL" in caught.value.reason
    assert (session.state, session.restarts) == ("failed", 0)


def test_requests_sent_while_loading_wait_and_are_answered(
    open_session: OpenSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGELLM_ECHO_LOAD_S", "1")
    session = open_session()
    os.kill(session.pid, signal.SIGSTOP)  # goes on loading
    listeners = [ask(session, f"number {n}") for n in range(5)]
    dropped = Listener()
    session.cancel(session.submit(greedy(LONG), dropped))
    assert session.state == "loading"
    os.kill(session.pid, signal.SIGCONT)
    assert [listener.end()[0] for listener in listeners] == [f"number {n}" for n in range(5)]
    assert session.state == "ready"
    with pytest.raises(queue.Empty):
        dropped._queue.get_nowait()


def test_closing_while_loading_does_not_wait(open_session: OpenSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGELLM_ECHO_LOAD_S", "3600")
    session = open_session()
    waiting = ask(session)
    session.close(drain=True)
    assert isinstance(waiting.end()[1], Closed)
    with pytest.raises(Closed):
        _ = session.info


def test_closing_twice_and_from_many_threads(open_session: OpenSession) -> None:
    session = open_session()
    assert ask(session, "hello").end()[0] == "hello"
    threads = [threading.Thread(target=session.close) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    session.close(drain=True)
    assert session.state == "closed"
    with pytest.raises(Closed):
        ask(session)


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("run", [0, *(pytest.param(run, marks=pytest.mark.slow(2)) for run in range(1, 5))])
def test_draining_finishes_what_was_begun(open_session: OpenSession, run: int) -> None:
    session = open_session()
    assert session.info
    listeners = [ask(session, f"answer {n} " * run) for n in range(5)]
    session.close(drain=True)
    for n, listener in enumerate(listeners):
        text, done = listener.end()
        assert isinstance(done, Done)
        assert text == f"answer {n} " * run
        assert done.finish_reason == "stop"


@pytest.mark.usefixtures("slow")
def test_closing_ends_what_was_begun(open_session: OpenSession) -> None:
    """Running or waiting, each request gets one end: cancelled by the worker, or closed with it."""
    session = open_session()
    assert session.info
    listeners = [ask(session) for _ in range(6)]
    listeners[0].get()
    session.close()
    for listener in listeners:
        _, end = listener.end()
        assert isinstance(end, Closed) or (isinstance(end, Done) and end.finish_reason == "cancelled")
        assert listener.after_the_end == 0


@pytest.mark.usefixtures("slow")
def test_cancelling_frees_the_slot_for_the_next(open_session: OpenSession) -> None:
    session = open_session()
    ids = []
    for _ in range(3):
        listener = Listener()
        ids.append(session.submit(greedy(LONG), listener))
    listener.get()
    for request_id in ids:
        session.cancel(request_id)
        session.cancel(request_id)
    text, _ = ask(session, "next").end()
    assert text == "next"


def test_a_collector_may_cancel_whoever_holds_a_lock(open_session: OpenSession) -> None:
    """It runs in any thread at any time, so it must never wait for another thread."""
    session = open_session()
    dropped = session.submit(greedy(LONG), Listener())
    cancelling = threading.Thread(target=session.cancel, args=(dropped,))
    with session._changed:
        cancelling.start()
        cancelling.join(PATIENCE_S)
        assert not cancelling.is_alive()
        assert session.idle
    assert ask(session, "next").end()[0] == "next"


def test_where_no_pipe_can_be_opened_the_hint_is_how_to_open_more(
    open_session: OpenSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(supervisor, "WorkerProcess", refuse)
    with pytest.raises(WorkerCrashed) as raised:
        _ = open_session().info
    assert "ulimit -n" in raised.value.hint
    assert "memory" not in raised.value.hint


SAYS = "import os, sys, time; os.write(1, {}); time.sleep(3600)"


@pytest.mark.parametrize(
    ("said", "about"),
    [
        (b"Traceback (most recent call last)", "a length of"),
        (b"\x05\x00\x00\x00hello", "broken frame"),
    ],
)
def test_a_worker_that_talks_nonsense_is_ended(
    open_session: OpenSession, monkeypatch: pytest.MonkeyPatch, said: bytes, about: str
) -> None:
    monkeypatch.setattr(worker_process, "worker_command", lambda: (sys.executable, "-c", SAYS.format(said)))
    session = open_session()
    listener = ask(session)
    _, error = listener.end()
    assert isinstance(error, WorkerCrashed)
    assert about in error.reason
    assert session.state == "failed"


def test_an_empty_list_of_messages_is_harmless(
    open_session: OpenSession, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """More of them than a pipe holds: when the last is written, most were read."""
    written = tmp_path / "written"
    code = (
        "import os, time\n"
        "frames = memoryview(b'\\x01\\x00\\x00\\x00\\x90' * 400_000)\n"
        "while frames: frames = frames[os.write(1, frames):]\n"
        f"open({str(written)!r}, 'w').close()\n"
        "time.sleep(3600)"
    )
    monkeypatch.setattr(worker_process, "worker_command", lambda: (sys.executable, "-c", code))
    session = open_session()
    listener = ask(session)
    wait_until(written.exists)

    assert session.state == "loading"
    session.close()
    assert isinstance(listener.end()[1], Closed)


def test_a_worker_that_closes_its_pipe_and_stays_is_ended(
    open_session: OpenSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "END_TIMEOUT_S", 0.5)
    script = "import os, time; os.close(1); time.sleep(3600)"
    monkeypatch.setattr(worker_process, "worker_command", lambda: (sys.executable, "-c", script))
    assert isinstance(ask(open_session()).end()[1], WorkerCrashed)


ORPHAN = """
import sys, time
from edgellm.types.markup import Markup, Reading
from edgellm.types.message import Tool
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan, Settings
from edgellm.runtime.supervisor import WorkerSession
from edgellm.store.holders import holders
from edgellm.runtime.session import QueueSink
from edgellm.types.request import GenerationRequest
session = WorkerSession(LaunchPlan("echo", Artifact("echo", (), "echo"), Settings(n_ctx=4096)))
if sys.argv[1] != "loading":
    sink = QueueSink()
    session.submit(GenerationRequest("x" * 3000), sink)
    sink.get()
print(session.pid, flush=True)
time.sleep(3600)
"""


@pytest.mark.parametrize("when", ["loading", "busy", pytest.param("stopped", marks=linux)])
def test_no_orphan_stays_when_the_parent_is_killed(monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    monkeypatch.setenv("EDGELLM_ECHO_STEP_S", "0.05")
    monkeypatch.setenv("EDGELLM_ECHO_LOAD_S", "3600" if when == "loading" else "0")
    with subprocess.Popen([sys.executable, "-c", ORPHAN, when], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        worker = psutil.Process(int(parent.stdout.readline()))
        if when == "stopped":
            worker.suspend()
        parent.kill()
    wait_until(lambda: ended(worker), what="the worker outlived its parent")


@pytest.mark.usefixtures("slow")
def test_an_event_loop_that_closes_while_streaming_harms_nobody(open_session: OpenSession) -> None:
    session = open_session()
    other = ask(session, "an answer that takes a while")

    async def leave() -> None:
        sink = AsyncSink()
        session.submit(greedy(LONG), sink)
        await sink.get()

    asyncio.run(leave())
    assert other.end()[0] == "an answer that takes a while"
    assert ask(session, "next").end()[0] == "next"


@pytest.mark.usefixtures("slow")
async def test_a_crash_reaches_coroutines_too(open_session: OpenSession) -> None:
    session = open_session()
    sink = AsyncSink()
    session.submit(greedy(LONG), sink)
    assert isinstance(await sink.get(), Delta)
    os.kill(session.pid, signal.SIGKILL)
    while isinstance(outcome := await sink.get(), Delta):
        pass
    assert isinstance(outcome, WorkerCrashed)


async def test_behind_an_error_nothing_comes_any_more() -> None:
    """As where a session is closed while another thread hands over what the worker said."""
    sink = AsyncSink()
    for delivery in (Delta("a"), Closed.of_model(), Delta("b")):
        sink.put(delivery)
    await asyncio.sleep(0)
    text, error = await sink.get_all()
    assert text == Delta("a")
    assert isinstance(error, Closed)


def test_a_folder_full_of_modules_is_not_imported_from(
    open_session: OpenSession, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A download of a model may hold files named like modules."""
    for name in ("numpy", "msgspec", "queue", "edgellm"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported from the current folder')")
    monkeypatch.chdir(tmp_path)
    assert ask(open_session(), "safe").end()[0] == "safe"


def test_what_native_code_prints_does_not_break_a_frame(
    open_session: OpenSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker whose engine writes to file descriptor 1 with each step."""
    script = (
        "import os; from edgellm.builtin.echo import EchoEngine; step = EchoEngine.step\n"
        "def noisy(self, batch): os.write(1, b'noise'); return step(self, batch)\n"
        "EchoEngine.step = noisy; from edgellm.runtime import worker; worker.main()"
    )
    monkeypatch.setattr(worker_process, "worker_command", lambda: (sys.executable, "-c", script))
    assert ask(open_session(), "hello").end()[0] == "hello"


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("wait_s", [0.0, *(pytest.param(s, marks=pytest.mark.slow(1)) for s in (0.001, 0.1)), 0.01])
def test_closing_beside_a_crash(open_session: OpenSession, wait_s: float) -> None:
    """The worker dies, and before it is replaced, while it is, or just after, the session is closed."""
    session = open_session()
    listener = ask(session)
    listener.get()
    os.kill(session.pid, signal.SIGKILL)
    time.sleep(wait_s)
    session.close()
    assert isinstance(listener.end()[1], WorkerCrashed | Closed)
    assert not session._thread.is_alive()


def test_a_worker_that_dies_while_it_reloads_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that is short for a moment kills twice; the request that waits meanwhile is answered in the end."""
    monkeypatch.setattr(supervisor, "RELOAD_PAUSE_S", 0.05)
    monkeypatch.setenv("EDGELLM_ECHO_LOAD_S", "0.5")
    session = WorkerSession(ECHO)
    try:
        assert session.info.n_ctx == 4096
        for expected in (1, 2):
            os.kill(session.pid, signal.SIGKILL)
            wait_until(lambda expected=expected: session.restarts == expected)
        listener = Listener()
        session.submit(GenerationRequest("hi", Sampling(temperature=0)), listener)
        text, end = listener.end()
        assert text == "hi"
        assert isinstance(end, Done)
    finally:
        session.close()


@pytest.mark.parametrize("deaths", range(9))
def test_the_pause_before_a_start_grows(deaths: int) -> None:
    expected = (0.0, 0.5, 1.0, 1.5, 30.0, 60.0, 120.0, 240.0, 480.0)
    assert supervisor.pause_s(deaths) == expected[deaths]
    assert supervisor.pause_s(100) == 600.0


def kill_while_loading(session: WorkerSession) -> None:
    """Until it is given up for now: memory is short for longer."""
    assert session.info.n_ctx == 4096
    for expected in range(1, supervisor.RELOADS + 3):
        os.kill(session.pid, signal.SIGKILL)
        wait_until(lambda expected=expected: session.restarts == expected or session.state == "failed")
    assert session.state == "failed"


def test_a_worker_that_always_dies_while_it_reloads_refuses_with_the_reason(
    open_session: OpenSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "RELOAD_PAUSE_S", 0.01)
    monkeypatch.setenv("EDGELLM_ECHO_LOAD_S", "0.3")
    session = open_session()
    kill_while_loading(session)
    with refuses(WorkerCrashed) as caught:
        _ = session.info
    assert "SIGKILL" in caught.value.reason
    with pytest.raises(WorkerCrashed):
        session.submit(GenerationRequest("hi"), Listener())
    assert isinstance(session.outage, WorkerCrashed)


def test_it_is_tried_again_later_and_comes_back(open_session: OpenSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "RELOAD_PAUSE_S", 0.01)
    monkeypatch.setattr(supervisor, "LONG_PAUSE_S", 1.0)
    monkeypatch.setenv("EDGELLM_ECHO_LOAD_S", "0.3")
    session = open_session()
    kill_while_loading(session)
    wait_until(lambda: session.state == "ready")
    assert session.outage is None
    assert ask(session, "hi").end()[0] == "hi"


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str, object]]:
    """Level, model and restarts of what the log of a server holds, and not its words."""
    records = [(record.levelname, getattr(record, "facts", {})) for record in caplog.records]
    return [(level, facts.get("model", ""), facts.get("restarts")) for level, facts in records]


def test_a_death_and_what_follows_are_logged_once_each(
    open_session: OpenSession, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    session = open_session()
    assert session.info
    assert not caplog.records
    os.kill(session.pid, signal.SIGKILL)
    wait_until(lambda: session.restarts == 1 and session.state == "ready" and len(caplog.records) == 2)
    assert lines(caplog) == [("WARNING", "echo", 0), ("WARNING", "echo", 1)]
    assert "SIGKILL" in caplog.text

    caplog.clear()
    monkeypatch.setattr(supervisor, "RELOADS", 0)
    session._environment["EDGELLM_ECHO_LOAD_S"] = "never"
    os.kill(session.pid, signal.SIGKILL)
    wait_until(lambda: session.state == "failed" and len(caplog.records) == 2)
    assert lines(caplog) == [("WARNING", "echo", 1), ("ERROR", "echo", 2)]


def test_a_first_load_that_fails_is_told_by_who_asked_for_it(
    open_session: OpenSession, caplog: pytest.LogCaptureFixture
) -> None:
    session = open_session(LaunchPlan("no-such-backend", Artifact("echo", (), "echo"), Settings(n_ctx=256)))
    wait_until(lambda: session.state == "failed")
    session.join()
    assert not caplog.records


def test_a_request_that_waits_for_a_reload_that_fails_ends(
    open_session: OpenSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a worker says of its end counts as its death does: memory that is short may be there again later."""
    monkeypatch.setattr(supervisor, "RELOAD_PAUSE_S", 0.01)
    monkeypatch.setattr(supervisor, "LONG_PAUSE_S", 0.01)
    session = open_session()
    assert session.info
    session._environment["EDGELLM_ECHO_LOAD_S"] = "never"
    os.kill(session.pid, signal.SIGKILL)
    wait_until(lambda: session.state == "failed")
    assert isinstance(session.outage, WorkerCrashed), "not the fault of a request that waits"
    session._environment["EDGELLM_ECHO_LOAD_S"] = "0"
    wait_until(lambda: session.state == "ready")
    assert ask(session, "hi").end()[0] == "hi"


def test_a_worker_outlives_the_thread_that_asked_for_it(open_session: OpenSession) -> None:
    """The death signal of a worker follows the thread that started it."""
    with ThreadPoolExecutor(1) as pool:
        session = pool.submit(open_session).result()
        assert pool.submit(lambda: session.info).result()
    assert ask(session, "hi").end()[0] == "hi"
    assert session.restarts == 0


@linux
def test_a_worker_has_less_than_its_parent(open_session: OpenSession, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "PGPASSWORD", "EDGELLM_API_KEY"):
        monkeypatch.setenv(name, "not-for-native-code")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    session = open_session()
    assert session.info
    process = Path("/proc") / str(session.pid)
    environment = (process / "environ").read_bytes()
    assert b"not-for-native-code" not in environment
    assert b"TOKENIZERS_PARALLELISM=true" in environment
    assert "NoNewPrivs:\t1" in (process / "status").read_text()
    assert re.search(r"Max core file size +0 +0 ", (process / "limits").read_text())
    assert os.getpgid(session.pid) == session.pid


@pytest.mark.parametrize("name", ["edgellm-writer", "edgellm-group", "edgellm-watchdog"])
def test_where_no_thread_can_be_started_the_model_cannot_be_loaded(
    open_session: OpenSession, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A container limits processes and threads together."""
    start = threading.Thread.start

    def refused(thread: threading.Thread) -> None:
        if thread.name == name:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refused)
    session = open_session()
    with refuses(WorkerCrashed):
        _ = session.info
    assert session.state == "failed"


def test_a_failure_of_the_watching_thread_itself_reaches_whoever_waits(
    open_session: OpenSession, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object) -> str:
        raise MemoryError

    session = open_session()
    assert session.info
    monkeypatch.setattr(supervisor, "ended", fails)
    os.kill(session.pid, signal.SIGSTOP)
    waiting = ask(session)
    os.kill(session.pid, signal.SIGKILL)
    _, error = waiting.end()
    check_refusal(error, WorkerCrashed)
    with pytest.raises(WorkerCrashed):
        ask(session)
    assert session.state == "failed"
    assert "MemoryError" in caplog.text


def test_a_request_that_cannot_be_sent_is_refused_and_holds_up_nobody(open_session: OpenSession) -> None:
    session = open_session()
    listener = ask(session, "hello", 5)
    assert isinstance(listener.end()[1], Done)
    # A list is checked when the request is made, and can be changed afterwards.
    tool = Tool("f", parameters={"maximum": [1]})
    tool.parameters["maximum"].append(2**70)
    request = GenerationRequest("hello", reading=Reading(Markup(), tools=(tool,)))
    refused = Listener()
    session.submit(request, refused)

    assert isinstance(refused.end()[1], UsageError)
    assert isinstance(ask(session, "hello", 5).end()[1], Done)
    assert session.restarts == 0


def test_a_model_that_is_gone_is_told_without_its_folder() -> None:
    """Clients read it."""
    cause = "/home/me/models/m.gguf: no such file"
    error = not_again(BadArtifact(cause))

    assert (error.message, error.reason) == ("the model does not load again (bad_artifact)", cause)
