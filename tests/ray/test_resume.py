"""A stream that goes on where another one broke off: the client sees one answer, whatever the dialect."""

from __future__ import annotations

import json

import pytest
from edgellm_ray.events import NDJSON, SSE, StreamEvent
from edgellm_ray.resume import Diverged, SentStream
from support.dialect_streams import QUESTION, REQUESTS, events_of, forms, texts

from edgellm.sdk.client import EdgeLLM
from edgellm.server.app import create_app


@pytest.fixture(scope="module")
def streams() -> dict[str, tuple[str, bytes, bytes]]:
    """By dialect: the type, and the bytes of two streams of the same answer."""
    from starlette.testclient import TestClient

    with EdgeLLM.load("echo") as llm, TestClient(create_app(llm), base_url="http://127.0.0.1") as client:
        made = {}
        for name, (path, body) in REQUESTS.items():
            first, second = client.post(path, json=body), client.post(path, json=body)
            assert first.status_code == 200, first.text
            media_type = first.headers["content-type"].partition(";")[0]
            assert media_type in (SSE, NDJSON)
            made[name] = (media_type, first.content, second.content)
        return made


@pytest.mark.parametrize("name", REQUESTS)
def test_a_stream_that_broke_anywhere_is_the_same_answer(
    streams: dict[str, tuple[str, bytes, bytes]], name: str
) -> None:
    media_type, first, second = streams[name]
    whole = events_of(first, media_type)
    assert "".join(texts(first, media_type).values()) == QUESTION

    for n_sent in range(len(whole)):
        stream = SentStream()
        told = b"".join(stream.take(event) for event in events_of(first, media_type)[:n_sent])
        stream.again()
        told += b"".join(stream.take(event) for event in events_of(second, media_type))

        assert texts(told, media_type) == texts(first, media_type), n_sent
        assert forms(told, media_type) == forms(first, media_type), n_sent
        heads = [event.data for event in events_of(told, media_type) if event.data and "id" in event.data]
        assert len({head["id"] for head in heads}) <= 1


def test_texts_that_are_cut_elsewhere_are_one_text() -> None:
    def line(text: str, done: bool = False) -> StreamEvent:
        return StreamEvent(json.dumps({"response": text, "done": done}).encode() + b"\n")

    stream = SentStream()
    told = [stream.take(line(text)) for text in ("He", "llo w")]
    stream.again()
    told += [stream.take(line(text)) for text in ("H", "ell", "o world", "!")]
    told.append(stream.take(line("", done=True)))

    assert [json.loads(line)["response"] for line in told if line] == ["He", "llo w", "orld", "!", ""]


@pytest.mark.parametrize("again", [["Hexx"], ["H", "a"], ["He", "llo", "x"]])
def test_another_answer_is_not_spliced_on(again: list[str]) -> None:
    stream = SentStream()
    for text in ("He", "llo w"):
        stream.take(StreamEvent(json.dumps({"response": text, "done": False}).encode() + b"\n"))
    stream.again()

    events = [StreamEvent(json.dumps({"response": text, "done": False}).encode() + b"\n") for text in again]
    with pytest.raises(Diverged):
        _ = [stream.take(event) for event in events]


def test_an_answer_that_is_over_too_early_is_another_one() -> None:
    stream = SentStream()
    stream.take(StreamEvent(b'{"response": "Hello", "done": false}\n'))
    stream.again()
    stream.take(StreamEvent(b'{"response": "He", "done": false}\n'))

    with pytest.raises(Diverged):
        stream.take(StreamEvent(b'{"response": "", "done": true}\n'))


def test_errors_are_seen_in_each_dialect() -> None:
    for raw, code in (
        (b'data: {"error": {"code": "worker_crashed", "type": "server_error"}}\n\n', "worker_crashed"),
        (b'event: error\ndata: {"type": "error", "error": {"type": "api_error"}}\n\n', "api_error"),
        (b'event: error\ndata: {"type": "error", "code": "worker_crashed", "message": "gone"}\n\n', "worker_crashed"),
        (b'{"error": "gone", "code": "closed"}\n', "closed"),
        (b'data: {"choices": []}\n\n', None),
        (b"data: [DONE]\n\n", None),
    ):
        assert StreamEvent(raw).error == code
