"""`edgellm serve` with a worker that hangs: it is told, requests end, SIGTERM ends everything, nothing stays."""

from __future__ import annotations

import json
import os
import signal
import threading

import httpx
import psutil
import pytest
from support.processes import workers
from support.serving import Command, serving
from support.waiting import PATIENCE_S, wait_until

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
LARGE = "a long prompt " * 15_000  # more than a pipe holds
SLOW = {"EDGELLM_ECHO_STEP_S": "0.02", "EDGELLM_HUNG_AFTER": "2"}


class Asked(threading.Thread):
    """A request in a thread of its own. `said` is what came, `error` the code of the error that ended it."""

    def __init__(self, command: Command, prompt: str) -> None:
        super().__init__(daemon=True)
        self._url, self._prompt = command.url, prompt
        self.said = 0
        self.error = ""
        self.start()

    def run(self) -> None:
        body = {"prompt": self._prompt, "max_tokens": 3000, "stream": True}
        try:
            with httpx.stream("POST", f"{self._url}/v1/completions", json=body, timeout=PATIENCE_S) as answer:
                for line in answer.iter_lines():
                    self.said += bool(line)
                    if '"error"' in line:
                        self.error = json.loads(line.removeprefix("data: "))["error"]["code"]
        except httpx.TransportError:
            self.error = "hung_up"  # by a server that stops, on a request that it has not read yet

    def ended(self) -> str:
        self.join(PATIENCE_S)
        return self.error


def hang(command: Command, *, large: bool) -> tuple[psutil.Process, list[Asked]]:
    """Stop the worker in the middle of an answer."""
    command.wait_for("Ready after")
    asked = [Asked(command, "x" * 3000)]
    wait_until(lambda: asked[0].said)
    (worker,) = workers(command.process.pid)
    worker.suspend()
    if large:
        asked.append(Asked(command, LARGE))
    return worker, asked


both = pytest.mark.parametrize(
    "large", [pytest.param(False, marks=pytest.mark.slow(5), id="small"), pytest.param(True, id="large")]
)


@both
def test_a_worker_that_hangs_is_told_and_its_requests_end(large: bool) -> None:
    with serving("echo", "--port", "0", EDGELLM_ECHO_LOAD_S="1", **SLOW) as command:
        worker, asked = hang(command, large=large)
        told: list[dict[str, str]] = []

        def replaced() -> bool:
            told.append(httpx.get(f"{command.url}/health", timeout=PATIENCE_S).json())
            return told[-1]["status"] == "reloading"

        wait_until(replaced)
        assert told[-1]["reason"] == "worker_crashed"
        assert "hung" in httpx.get(f"{command.url}/edgellm/plan", timeout=PATIENCE_S).json()["reason"]
        assert {one.ended() for one in asked} == {"worker_crashed"}
        command.signal(signal.SIGTERM)

        assert command.status() == 0
        assert not worker.is_running()


@both
def test_sigterm_ends_a_server_whose_worker_hangs(large: bool) -> None:
    with serving("echo", "--port", "0", **SLOW) as command:
        worker, asked = hang(command, large=large)
        command.signal(signal.SIGTERM)

        assert command.status() == 0
        assert not worker.is_running()
        assert all(one.ended() for one in asked)
