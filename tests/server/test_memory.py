"""Work that makes too much for the server's memory is refused, and nothing else notices."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import httpx
import psutil
import pytest
from support.waiting import PATIENCE_S, wait_until

from edgellm.contract.data_limit import taken_bytes
from edgellm.server.beside import beside
from edgellm.server.errors import HttpError
from edgellm.server.memory import LEAST_BYTES, MOST_BYTES, Work, allowance

MIB = 1024**2
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux only"),
    # It may be raised in a callback of the garbage collector, as hypothesis has one, and again elsewhere.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
# What a body multiplies and nobody counted, up to 600 MB: each request that asks for tokens makes it.
FORGOTTEN = """
from edgellm.cli.start import main
from edgellm.server.dialects.llama_server.bodies import TokenizeBody

read = TokenizeBody.read.__func__

def forgotten(cls, body, unknown=None):
    made = read(cls, body, unknown)
    lists = [list(range(1000, 2000)) for _ in range(15_000 if "much" in made.content else 1)]
    return made

TokenizeBody.read = classmethod(forgotten)
main()
"""


# On Python 3.11 and 3.12 no traced function is ever entered while something is left to be raised, in whatever thread.
TRACED = """
import sys
from edgellm.contract.data_limit import taken_bytes
from edgellm.server.memory import Work

work = Work()
work.end_beyond(taken_bytes() + 100 * 10**6)
for n_lists in (10, 20_000):
    try:
        work.do(lambda: len([list(range(1000, 2000)) for _ in range(n_lists)]))
    except MemoryError:
        print("ended")
sys.settrace(lambda *_: None)
(lambda: print("entered"))()
"""


# Lists: 4 GB, of which the first may find room that other tests of this process have left free in it.
MORE_THAN_FREE = 100_000


def too_much(n_lists: int = 10_000) -> int:
    return len([list(range(1000, 2000)) for _ in range(n_lists)])  # 40 kB each


@pytest.fixture(scope="module")
def work() -> Work:
    """Limited to 100 MB more than this process has."""
    work = Work()
    work.end_beyond(taken_bytes() + 100 * 10**6)
    return work


def test_what_makes_too_much_is_ended(work: Work) -> None:
    assert work.do(lambda: too_much(100)) == 100
    with pytest.raises(MemoryError):
        work.do(lambda: too_much(MORE_THAN_FREE))
    assert work.do(lambda: too_much(100)) == 100


def test_nothing_is_raised_once_work_is_done(work: Work) -> None:
    """Not in this thread, which has more than is allowed and goes on."""
    for _ in range(3):
        with contextlib.suppress(MemoryError):
            work.do(too_much)
        assert not work._looks
    assert too_much() == 10_000


def test_nothing_is_left_to_be_raised() -> None:
    done = subprocess.run([sys.executable, "-c", TRACED], stdout=subprocess.PIPE, text=True, timeout=PATIENCE_S)
    assert done.stdout.split() == ["ended", "entered"]


def test_garbage_is_no_reason_to_end_work() -> None:
    """Cycles that nobody has collected yet."""
    work = Work()
    gc.disable()
    try:
        work.end_beyond(taken_bytes() + 100 * 10**6)
        kept = [object()]
        for _ in range(200):
            kept = [kept, bytearray(b"x") * 10**6]
            kept.append(kept)
        del kept
        work.do(lambda: wait_until(lambda: taken_bytes() < work.most_bytes))
    finally:
        gc.enable()


def test_what_catches_it_is_told_again(work: Work) -> None:
    caught = 0

    def stubborn() -> None:
        nonlocal caught
        kept: list[object] = []
        while True:
            try:
                while True:  # within the block: it may come at any step
                    kept.append(list(range(1000, 2000)))
                    if len(kept) > MORE_THAN_FREE:
                        kept.pop()
            except MemoryError:
                caught += 1
                if caught == 2:
                    raise

    with pytest.raises(MemoryError):
        work.do(stubborn)
    assert caught == 2


def test_a_small_machine_keeps_what_all_bounds_need() -> None:
    gib = 1024**3
    assert allowance(gib // 2) == LEAST_BYTES
    assert allowance(gib) == gib // 2
    assert allowance(64 * gib) == MOST_BYTES


def test_want_of_memory_is_an_error_that_says_what_to_do() -> None:
    gone = threading.Event()

    class Made:
        def __del__(self) -> None:
            gone.set()

    def makes() -> None:
        made = Made()
        raise MemoryError(id(made))

    async def asked() -> None:
        assert await beside(lambda: 5) == 5
        with pytest.raises(ZeroDivisionError):
            await beside(lambda: 1 // 0)
        with pytest.raises(HttpError) as refused:
            await beside(makes)
        assert gone.is_set()
        assert (refused.value.status, refused.value.code) == (503, "out_of_memory")
        assert "send less" in refused.value.message

    asyncio.run(asked())


def test_work_that_nobody_waits_for_is_not_begun() -> None:
    began: list[int] = []

    async def cancelled() -> None:
        loop, free = asyncio.get_running_loop(), threading.Event()
        n_threads = min(32, (os.cpu_count() or 1) + 4)
        for _ in range(n_threads):
            loop.run_in_executor(None, free.wait)
        waiting = asyncio.create_task(beside(lambda: began.append(1)))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait((waiting,))
        free.set()
        await beside(lambda: None)

    asyncio.run(cancelled())
    assert not began


@contextlib.contextmanager
def serving(limit: str, script: str = FORGOTTEN) -> Iterator[tuple[httpx.Client, psutil.Process]]:
    """A server of its own process with this much memory; every step of its model takes 10 ms."""
    variables = {**os.environ, "EDGELLM_SERVER_MEMORY": limit, "EDGELLM_ECHO_STEP_S": "0.01"}
    command = [sys.executable, "-c", script, "serve", "echo", "--port", "0", "--slots", "2"]
    with subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = next(line.split()[1] for line in process.stdout if line.startswith("Open "))
            with httpx.Client(base_url=url, timeout=PATIENCE_S) as http:
                wait_until(lambda: http.get("/health").status_code == 200)
                yield http, psutil.Process(process.pid)
            process.terminate()
            assert process.wait(PATIENCE_S) == 0
        finally:
            process.kill()


def test_a_body_that_multiplies_is_refused_and_the_others_go_on() -> None:
    with serving("64MiB") as (http, server):
        before = server.memory_info().rss
        body = {"prompt": "x" * 300, "max_tokens": 300, "stream": True, "ignore_eos": True}
        with http.stream("POST", "/v1/completions", json=body) as stream:
            lines = stream.iter_lines()
            next(lines)
            for _ in range(3):
                refused = http.post("/tokenize", json={"content": "too much"})
                assert refused.status_code == 503
                assert refused.json()["error"]["code"] == "out_of_memory"
                assert "send less" in refused.json()["error"]["message"]
                assert http.get("/health").status_code == 200
            assert http.post("/tokenize", json={"content": "a"}).json() == {"tokens": [97]}
            assert list(lines)[-2:] == ["data: [DONE]", ""]
        wait_until(lambda: server.memory_info().rss < before + 64 * MIB)


def test_what_the_server_starts_has_no_such_limit() -> None:
    """Also the worker that takes the place of one that died."""
    with serving("64MiB") as (http, server):
        own, _ = server.rlimit(psutil.RLIMIT_DATA)
        assert own != psutil.RLIM_INFINITY
        first = server.children()
        for child in first:
            child.kill()
        wait_until(lambda: set(server.children()) - set(first))
        wait_until(lambda: http.get("/health").status_code == 200)
        for child in server.children():
            assert child.rlimit(psutil.RLIMIT_DATA)[0] != own


@pytest.mark.parametrize("more", [(), ("--no-isolate",)])
def test_a_model_in_the_servers_own_process_is_not_limited(more: tuple[str, ...]) -> None:
    script = f"import sys; sys.argv += {list(more)}; from edgellm.cli.start import main; main()"
    with serving("64MiB" if more else "0", script) as (_, server):
        assert server.rlimit(psutil.RLIMIT_DATA)[0] == psutil.RLIM_INFINITY
