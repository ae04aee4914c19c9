"""Streams under which workers, replicas, nodes and the proxy die: each has an end, or a typed error."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field

import httpx
import pytest
from support.ray_cluster import Boxes, process_of, process_titled
from support.waiting import wait_until

pytestmark = [pytest.mark.timeout(900)]

# The echo model says it again: one letter a step.
QUESTION = "Pack my box with five dozen liquor jugs. " * 4
STEP_S = "0.02"


@dataclass
class Stream:
    """One answer, read in a thread of its own."""

    url: str
    body: dict[str, object]
    number: int
    text: str = ""
    error: str | None = None
    node: str = ""
    ended: bool = False
    broke: str = ""
    _thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            headers = {"x-session-id": f"stream {self.number}"}
            with httpx.stream(
                "POST", f"{self.url}/v1/chat/completions", json=self.body, headers=headers, timeout=240
            ) as answer:
                self.node = answer.headers.get("x-edgellm-node", "")
                if answer.status_code != 200:
                    self.error = json.loads(answer.read())["error"]["code"]
                    return
                for line in answer.iter_lines():
                    if line == "data: [DONE]":
                        self.ended = True
                    elif line.startswith("data: "):
                        self._take(json.loads(line[6:]))
        except httpx.HTTPError as error:
            self.broke = repr(error)

    def _take(self, chunk: dict) -> None:
        if "error" in chunk:
            self.error = chunk["error"]["code"]
        for choice in chunk.get("choices", ()):
            self.text += choice["delta"].get("content") or ""

    def over(self) -> bool:
        return not self._thread.is_alive()


def asked(**more: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": QUESTION}], "stream": True, "max_tokens": 400, **more}


@pytest.fixture(scope="module")
def echoing(boxes: Boxes) -> Boxes:
    boxes.add("a", "b", "c", EDGELLM_ECHO_STEP_S=STEP_S)
    boxes.serve("echo", slots=4, ctx=2048)
    return boxes


def streams(boxes: Boxes, n: int, **more: object) -> list[Stream]:
    """Begun, each with some of its text."""
    begun = [Stream(boxes.url, asked(**more), number) for number in range(n)]
    wait_until(lambda: all(len(stream.text) > 5 or stream.over() for stream in begun))
    return begun


def ended(all_streams: list[Stream]) -> None:
    wait_until(lambda: all(stream.over() for stream in all_streams), 240, lambda: str(all_streams)[:2000])
    assert [stream.broke for stream in all_streams] == [""] * len(all_streams)
    assert all(stream.ended or stream.error for stream in all_streams)


def test_greedy_streams_of_a_node_that_dies_go_on_elsewhere(echoing: Boxes) -> None:
    begun = streams(echoing, 6, temperature=0)
    doomed = begun[0].node
    echoing.kill(doomed)

    ended(begun)
    assert [stream.text for stream in begun] == [QUESTION] * 6
    echoing.add(doomed, EDGELLM_ECHO_STEP_S=STEP_S)
    echoing.wait_for(3)


def test_a_stream_that_cannot_go_on_ends_with_a_typed_error_and_others_go_on(echoing: Boxes) -> None:
    begun = streams(echoing, 6)
    doomed = begun[0].node
    process_of(echoing.rows()[doomed]).kill()

    ended(begun)
    for stream in begun:
        if stream.node == doomed:
            assert stream.error == "stream_lost"
            assert QUESTION.startswith(stream.text)
        else:
            assert (stream.text, stream.error) == (QUESTION, None)
    echoing.wait_for(3)


def test_streams_live_through_the_death_of_workers_and_of_the_proxy(echoing: Boxes) -> None:
    begun = streams(echoing, 4, seed=7)
    for worker in process_of(echoing.rows()[begun[0].node]).children():
        if "edgellm.runtime.worker" in " ".join(worker.cmdline()):
            worker.kill()
    process_titled("ray::ProxyActor").kill()

    ended(begun)
    assert [stream.text for stream in begun] == [QUESTION] * 4


def test_a_front_that_died_listens_again(echoing: Boxes) -> None:
    process_titled("ray::Front").kill()

    def answers() -> bool:
        try:
            return httpx.get(f"{echoing.url}/health", timeout=60).status_code == 200
        except httpx.HTTPError:
            return False

    wait_until(answers, 240)


def test_conversations_stay_and_only_those_of_a_lost_box_move(echoing: Boxes) -> None:
    def turn(client: httpx.Client, number: int, n_turns: int) -> str:
        messages = [{"role": "user", "content": f"{number}"}]
        for _ in range(n_turns):
            messages += [{"role": "assistant", "content": "."}, {"role": "user", "content": "."}]
        said = client.post("/v1/chat/completions", json={"messages": messages, "max_tokens": 4})
        assert said.status_code == 200
        return said.headers["x-edgellm-node"]

    with echoing.client() as client:
        first = [turn(client, number, 0) for number in range(24)]
        second = [turn(client, number, 1) for number in range(24)]
        lost = first[0]
        echoing.kill(lost)
        third = [turn(client, number, 2) for number in range(24)]

    assert second == first
    assert max(map(first.count, "abc")) <= 1.4 * 24 / 3
    assert all(before == lost for before, after in zip(first, third, strict=True) if before != after)
