"""Streams under which workers, replicas, nodes and the proxy die: each has an end, or a typed error."""

from __future__ import annotations

import random

import httpx
import pytest
from support.ray_cluster import PROFILES, Boxes, process_titled
from support.ray_streams import PARTS, Stream, endless, kill
from support.waiting import wait_until

pytestmark = [pytest.mark.timeout(900)]

# The echo model says it again: one letter a step.
QUESTION = "Pack my box with five dozen liquor jugs. " * 6


@pytest.fixture(scope="module")
def echoing(boxes: Boxes) -> Boxes:
    boxes.serve("echo", slots=4, ctx=2048, threads=1)
    return boxes


def begun(boxes: Boxes, *kinds: dict[str, object]) -> list[Stream]:
    """One of each, with some of its text."""
    body = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 400}
    streams = [Stream(boxes, body | kind, f"stream {number}") for number, kind in enumerate(kinds)]
    wait_until(lambda: all(len(stream.text) > 5 or stream.over() for stream in streams))
    return streams


@pytest.mark.parametrize("part", random.Random(18).sample(PARTS, len(PARTS)))
def test_every_stream_ends_or_says_why_and_repeatable_ones_are_whole(echoing: Boxes, part: str) -> None:
    """Greedy, seeded, neither, and with log-probabilities, on all boxes; one part dies."""
    kinds = [{"temperature": 0}] * 2 + [{"seed": 7}] * 2 + [{}] * 3 + [{"logprobs": True}] * 2
    streams = begun(echoing, *kinds)
    doomed = echoing.rows()[streams[0].node]

    kill(echoing, part, doomed)

    assert endless(streams) == []
    for kind, stream in zip(kinds, streams, strict=True):
        is_touched = part == "proxy" or stream.node == doomed.node
        if stream.error:  # it may have ended before
            assert (is_touched, "logprobs" in kind) == (True, True)
            assert stream.error in ("stream_lost", "worker_crashed")
            assert QUESTION.startswith(stream.text)
        else:
            assert stream.text == QUESTION
        assert is_touched or stream.n_resumed == 0
    echoing.restore(PROFILES)
    echoing.wait_for(3)


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
    assert all(before == lost for before, after in zip(first, third, strict=True) if before != after)
