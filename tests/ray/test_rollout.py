"""Another model while people ask, a bad one, a burst."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from edgellm_ray.deployment import DeployFailed
from support.ray_cluster import Boxes
from support.waiting import wait_until

pytestmark = [pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def three(boxes: Boxes) -> Boxes:
    boxes.serve("echo", slots=2, ctx=1024)
    return boxes


@dataclass
class Visitors:
    """Ask five times a second, each a conversation of its own, until they are told to stop."""

    boxes: Boxes
    failures: list[str] = field(default_factory=list)
    n_answered: int = 0

    def __enter__(self) -> Visitors:
        self._over = threading.Event()
        self._client = self.boxes.client()
        self._pool = ThreadPoolExecutor(16)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._pool.shutdown()
        self._client.close()

    def _run(self) -> None:
        number = 0
        while not self._over.wait(0.2):
            self._pool.submit(self._ask, number)
            number += 1

    def _ask(self, number: int) -> None:
        body = {"messages": [{"role": "user", "content": f"visitor {number}"}]}
        try:
            answer = self._client.post("/v1/chat/completions", json=body)
        except httpx.HTTPError as error:
            self.failures.append(repr(error))
            return
        if answer.status_code != 200:
            self.failures.append(answer.text)
        self.n_answered += 1


def contexts(boxes: Boxes) -> list[int]:
    return [row.plan["settings"]["n_ctx"] for row in boxes.rows().values()]


def test_a_program_for_one_box_runs_unchanged(three: Boxes) -> None:
    program = Path(__file__).parents[2] / "docs" / "examples" / "openai_client.py"
    done = subprocess.run(
        [sys.executable, str(program), three.url],
        env=os.environ | {"EDGELLM_API_KEY": str(three.key)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert (done.stdout, done.returncode) == ("Say hello in French.\n", 0), done.stderr


def test_another_model_takes_the_place_without_a_failed_request(three: Boxes) -> None:
    with Visitors(three) as visitors:
        wait_until(lambda: visitors.n_answered > 5)
        three.serve("echo", slots=2, ctx=2048)
        wait_until(lambda: contexts(three) == [2048] * 3)
        before = visitors.n_answered
        wait_until(lambda: visitors.n_answered > before + 5)

    assert visitors.failures == []


def test_a_bad_model_stops_at_the_first_replica(three: Boxes) -> None:
    with Visitors(three) as visitors:
        wait_until(lambda: visitors.n_answered > 5)
        with pytest.raises(DeployFailed):  # its words are Ray's, with ids
            three.serve("echo", slots=2, ctx=512, golden=(("What is it?", "Something that an echo never says"),))
        wait_until(lambda: len(three.rows()) == 2)
        assert contexts(three) == [2048, 2048]
        before = visitors.n_answered
        wait_until(lambda: visitors.n_answered > before + 5)

    assert visitors.failures == []
    three.serve("echo", slots=2, ctx=1024)
    three.wait_for(3)


def test_a_burst_gets_a_second_replica_and_429_instead_of_an_endless_queue(three: Boxes) -> None:
    three.serve("echo", slots=1, ctx=1024, replicas="1:2", queue=4, ongoing=2, downscale_s=1.0)
    wait_until(lambda: len(three.rows()) == 1, 240)
    over = threading.Event()

    def ask(number: int) -> list[httpx.Response]:
        """Again and again, as refused clients do."""
        body = {"messages": [{"role": "user", "content": f"{number} " * 40}], "max_tokens": 400}
        answers = []
        with three.client() as client:
            while not over.is_set():
                answers.append(client.post("/v1/chat/completions", json=body))
                over.wait(0.0 if answers[-1].status_code == 200 else 0.5)
        return answers

    with ThreadPoolExecutor(12) as pool:
        asking = [pool.submit(ask, number) for number in range(12)]
        try:
            wait_until(lambda: len(three.rows()) == 2, 240, lambda: str(three.told))
        finally:
            over.set()
        answers = [answer for one in asking for answer in one.result()]

    refused = [answer for answer in answers if answer.status_code != 200]
    assert refused
    assert len(refused) < len(answers)
    for answer in refused:
        assert answer.status_code == 429
        assert answer.json()["error"]["code"] == "too_many_requests"
        assert int(answer.headers["retry-after"]) >= 1
    wait_until(lambda: len(three.rows()) == 1, 240)
