"""Counters of a running model: what one slot does alone is told apart from what several do together."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import psutil
import pytest
from support.toy_engine import ToyEngine
from support.waiting import wait_until

from edgellm.contract.manager import plugins
from edgellm.runtime import wire
from edgellm.runtime.loop import Loop
from edgellm.runtime.metrics import KEPT, MIN_DECODED, MIN_PREFILLED, Meter
from edgellm.runtime.process_usage import ProcessUsage, process_usage, waited_share, wanted_s
from edgellm.runtime.session import QueueSink, Session
from edgellm.runtime.supervisor import WorkerSession
from edgellm.runtime.thread import ThreadSession
from edgellm.types.event import Done, Timings, Usage
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan, Settings
from edgellm.types.request import GenerationRequest
from edgellm.types.sampling import Sampling

MIB = 1024**2


def warm() -> Meter:
    """A meter that has the first request behind it."""
    meter = Meter()
    heard(meter, decoded=1, prompt_tokens=1)
    return meter


def heard(meter: Meter, *, decoded: int = 32, decode_s: float = 2.0, width: float = 1.0, **usage: int) -> None:
    counts = {"prompt_tokens": 100, "completion_tokens": decoded + 1, "cached_tokens": 0} | usage
    meter.record(Usage(**counts), Timings(0.1, 0.5, decode_s), width, decoded)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells how long threads waited")
def test_a_process_wants_what_others_have_of_its_processor() -> None:
    """So a worker that gets next to nothing is not taken for one that hangs."""
    processor = min(os.sched_getaffinity(0))
    spins = "import os, sys\nos.sched_setaffinity(0, {int(sys.argv[1])})\nos.nice(int(sys.argv[2]))\nwhile True: pass"
    loud, starved = (subprocess.Popen([sys.executable, "-c", spins, str(processor), str(nice)]) for nice in (0, 19))
    try:
        wait_until(lambda: wanted_s(starved.pid) > 0.3 + 2 * sum(psutil.Process(starved.pid).cpu_times()[:2]))
    finally:
        for process in (loud, starved):
            process.kill()
            process.wait()
    assert wanted_s(starved.pid) == 0


def test_medians_over_requests() -> None:
    meter = warm()
    for decode_s in (1.0, 2.0, 32.0):
        heard(meter, decode_s=decode_s)
    found = meter.measured()
    assert (found.requests, found.decode, found.prefill, found.first_token_s) == (3, 16.0, 200.0, 0.6)
    assert (found.decode_depth, found.prefill_tokens, found.longest_prefill) == (116, 100, 100)
    assert found.batched is None


def test_a_listener_may_leave_between_the_look_and_the_call() -> None:
    told: list[int] = []

    class Left(Meter):
        """Whoever looks twice finds nobody the second time."""

        looks = iter((told.append,))
        on_sample = property(lambda meter: next(meter.looks, None), lambda *_: None)

    meter = Left()
    heard(meter, decoded=1, prompt_tokens=1)
    heard(meter)
    assert told == [1]


def test_what_ran_beside_others_tells_nothing_of_one_slot() -> None:
    meter = warm()
    heard(meter, width=3.5)
    found = meter.measured()
    assert (found.decode, found.prefill) == (None, None)
    assert (found.batched, found.batched_width) == (3.5 * 16, 3.5)


def test_short_requests_tell_nothing() -> None:
    meter = warm()
    heard(meter, decoded=MIN_DECODED - 1, prompt_tokens=MIN_PREFILLED + 9, cached_tokens=10)
    assert meter.measured().requests == 0
    heard(meter, decoded=MIN_DECODED - 1, prompt_tokens=MIN_PREFILLED + 10, cached_tokens=10)
    found = meter.measured()
    assert (found.requests, found.decode, found.prefill_depth) == (1, None, 10)


def test_old_requests_are_forgotten_and_counted() -> None:
    meter = warm()
    told = []
    meter.on_sample = told.append
    for _ in range(KEPT):
        heard(meter, decode_s=1.0)
    for _ in range(KEPT):
        heard(meter, decode_s=4.0)
    assert meter.measured().decode == 8.0
    assert told == list(range(1, 2 * KEPT + 1))


def test_the_first_prompt_after_loading_is_not_told_of() -> None:
    meter = Meter()
    heard(meter)
    found = meter.measured()
    assert (found.decode, found.prefill, found.first_token_s, found.longest_prefill) == (16.0, None, None, 100)


def run(engine: ToyEngine, *requests: GenerationRequest) -> list[wire.Reply]:
    inbox: queue.SimpleQueue[wire.Down] = queue.SimpleQueue()
    said: list[wire.Up] = []
    for number, request in enumerate(requests):
        inbox.put(wire.Submit(number, request))
    inbox.put(wire.Stop(drain=True))
    Loop(engine, inbox, said.extend).run()
    done = [m for m in said if isinstance(m, wire.Reply) and isinstance(m.event, Done)]
    return sorted(done, key=lambda m: m.id)


def ask(n: int, prompt: str = "a prompt", *, ignore_eos: bool = True) -> GenerationRequest:
    return GenerationRequest(prompt, Sampling(temperature=0), n, ignore_eos=ignore_eos)


def test_the_loop_counts_steps_and_company() -> None:
    (alone,) = run(ToyEngine(), ask(9))
    assert (alone.steps.width, alone.steps.n_decoded) == (1.0, 8)
    first, second, third = run(ToyEngine(), ask(5), ask(5), ask(5))
    assert first.steps.width == second.steps.width == third.steps.width == 3.0
    one, other = run(ToyEngine(), ask(10), ask(4))
    assert other.steps.width == 2.0
    assert one.steps.width == pytest.approx(1 + 4 / 10)


def test_the_step_of_an_end_token_is_counted() -> None:
    class Ends(ToyEngine):
        """The end token is the likeliest from the fifth step on."""

        def step(self, batch: Sequence) -> list[np.ndarray]:
            rows = super().step(batch)
            return rows if len(self.steps) < 5 else [np.eye(1, row.shape[1], dtype=np.float32) for row in rows]

    (found,) = run(Ends(), ask(50, ignore_eos=False))
    assert (found.event.finish_reason, found.event.usage.completion_tokens, found.steps.n_decoded) == ("stop", 4, 4)


ECHO = LaunchPlan("echo", Artifact("echo", (), "echo"), Settings(n_ctx=4096))


@pytest.fixture(params=["worker", "thread"])
def session(request: pytest.FixtureRequest):
    found: Session = (
        WorkerSession(ECHO) if request.param == "worker" else ThreadSession(ECHO, plugins().backend("echo"))
    )
    yield found
    found.close()


def test_a_session_meters_its_requests_and_its_process(session: Session) -> None:
    for letter in "xy":
        sink = QueueSink()
        session.submit(ask(64, letter * 64), sink)
        while not hasattr(sink.get(), "usage"):
            pass
    found = session.meter.measured()
    assert found.requests == 2
    assert found.decode is not None
    assert found.prefill is not None
    loaded, now = session.process_usage()
    if isinstance(session, ThreadSession):
        assert (loaded, now) == (None, None)
    else:
        assert loaded is not None
        assert now is not None
        assert now.resident_bytes > 5 * MIB
        session.close()
        assert session.process_usage()[1] is None


@pytest.mark.skipif(sys.platform != "linux", reason="peaks of other processes are read from /proc")
def test_the_peak_is_the_process_own_and_not_the_one_that_started_it() -> None:
    ballast = np.ones(256 * MIB, np.uint8)
    script = "import sys; x = bytearray(b'1' * (64 << 20)); del x; print('there', flush=True); sys.stdin.read()"
    child = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdin is not None
    child.stdout.readline()
    found = process_usage(child.pid)
    child.stdin.close()
    child.wait()
    child.stdout.close()
    del ballast
    assert found is not None
    assert found.peak_bytes is not None
    assert 64 * MIB < found.peak_bytes < 200 * MIB
    assert found.resident_bytes < 64 * MIB
    assert process_usage(child.pid) is None


def test_a_process_that_is_gone_has_no_memory() -> None:
    assert process_usage(2**22 + os.getpid()) is None


@pytest.mark.skipif(sys.platform != "linux", reason="the scheduler's counts are read from /proc")
def test_time_that_others_took_is_told() -> None:
    """Four programs on one processor: each waits three quarters of the time."""
    cpu = min(os.sched_getaffinity(0))
    script = f"import os\nos.sched_setaffinity(0, {{{cpu}}})\nprint('there', flush=True)\nwhile True: pass"
    crowd = [subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) for _ in range(4)]
    try:
        for child in crowd:
            assert child.stdout is not None
            child.stdout.readline()
        before = process_usage(crowd[0].pid)
        busy = psutil.Process(crowd[0].pid)
        start_s = busy.cpu_times().user
        wait_until(lambda: busy.cpu_times().user - start_s > 0.2)
        share = waited_share(before, process_usage(crowd[0].pid))
    finally:
        for child in crowd:
            child.kill()
            child.communicate()
    assert share is not None
    assert 0.5 < share < 1


def test_a_share_of_what_is_not_known_is_not_known() -> None:
    known = ProcessUsage(1, 1, 1.0, 1.0)
    assert waited_share(None, known) is None
    assert waited_share(ProcessUsage(1), known) is None
    assert waited_share(known, known) is None
    assert waited_share(known, ProcessUsage(1, 1, 2.0, 4.0)) == 0.75
