"""Another model while people ask, a bad one, a burst."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import httpx
import pytest
from edgellm_ray import front
from edgellm_ray.deployment import MOST_QUEUED, DeployFailed
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


class Crowd:
    """Clients of one thread, each with a request of its own, which come again when they were answered, or, a little
    later, when they were refused. Those that wait when it is over hang up."""

    def __init__(self, boxes: Boxes, n: int, *, n_tokens: int) -> None:
        self._boxes, self._n, self._n_tokens = boxes, n, n_tokens
        self.answers: list[httpx.Response] = []

    def refused(self) -> list[httpx.Response]:
        return [answer for answer in self.answers if answer.status_code != 200]

    def come_once(self) -> None:
        asyncio.run(self._all(self._ask))

    def __enter__(self) -> Crowd:
        self._loop = asyncio.new_event_loop()
        self._asking = self._loop.create_task(self._all(self._ask_always))
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._asking.cancel)
        self._thread.join()

    def _run(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._asking)
        self._loop.close()

    async def _all(self, ask: Callable[[httpx.AsyncClient, int], Awaitable[None]]) -> None:
        limits = httpx.Limits(max_connections=None)
        async with (
            httpx.AsyncClient(
                base_url=self._boxes.url, headers=self._boxes.headers, timeout=240, limits=limits
            ) as client,
            asyncio.TaskGroup() as group,
        ):
            for number in range(self._n):
                group.create_task(ask(client, number))

    async def _ask_always(self, client: httpx.AsyncClient, number: int) -> None:
        while True:
            await self._ask(client, number)
            if self.answers[-1].status_code != 200:
                await asyncio.sleep(0.5)

    async def _ask(self, client: httpx.AsyncClient, number: int) -> None:
        body = {"messages": [{"role": "user", "content": f"{number} " * 40}], "max_tokens": self._n_tokens}
        self.answers.append(await client.post("/v1/chat/completions", json=body))


def contexts(boxes: Boxes) -> list[int]:
    return [row.plan["settings"]["n_ctx"] for row in boxes.rows().values()]


def test_another_model_takes_the_place_without_a_failed_request(three: Boxes) -> None:
    with Visitors(three) as visitors:
        wait_until(lambda: visitors.n_answered > 5)
        three.serve("echo", slots=2, ctx=2048)
        wait_until(lambda: contexts(three) == [2048] * 3)
        before = visitors.n_answered
        wait_until(lambda: visitors.n_answered > before + 5)

    assert visitors.failures == []


# What an echo never says; and a rate that is no machine's, asked of a model whose rate is predicted.
BAD = {
    "golden": {"model": "echo", "slots": 2, "ctx": 512, "golden": (("What is it?", "Something else"),)},
    "slow": {"model": None, "max_download": "150MB", "ctx": 512, "slots": 1, "threads": 1, "min_speed": 1e6},
}


@pytest.mark.parametrize("why", BAD)
def test_a_bad_model_stops_at_the_first_replica(three: Boxes, why: str) -> None:
    with Visitors(three) as visitors:
        wait_until(lambda: visitors.n_answered > 5)
        with pytest.raises(DeployFailed):  # its words are Ray's, with ids
            three.serve(**BAD[why])
        codes = {failure.code for failure in front.failures() if failure.asked == three.asked}
        wait_until(lambda: len(three.rows()) == 2)
        assert contexts(three) == [2048, 2048]
        before = visitors.n_answered
        wait_until(lambda: visitors.n_answered > before + 5)

    assert visitors.failures == []
    assert codes == {"gate_failed"}
    three.serve("echo", slots=2, ctx=2048)
    three.wait_for(3)


def test_a_burst_gets_a_second_replica_and_429_instead_of_a_longer_queue(three: Boxes) -> None:
    """Up to the 64 that may wait nobody is refused."""
    three.serve("echo", slots=1, ctx=1024, replicas="1:2", downscale_s=1.0)
    wait_until(lambda: len(three.rows()) == 1, 240)
    few = Crowd(three, MOST_QUEUED - 4, n_tokens=1)
    few.come_once()
    assert {answer.status_code for answer in few.answers} == {200}

    # Two replicas have 16 of them.
    with Crowd(three, 2 * MOST_QUEUED, n_tokens=40) as many:
        wait_until(lambda: len(three.rows()) == 2, 240, lambda: str(three.told))
        wait_until(lambda: len(many.refused()) >= 10)

    assert len(many.refused()) < len(many.answers)
    for answer in many.refused():
        assert answer.status_code == 429
        assert answer.json()["error"]["code"] == "too_many_requests"
        assert int(answer.headers["retry-after"]) >= 1
    wait_until(lambda: len(three.rows()) == 1, 240)
