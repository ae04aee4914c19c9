"""Long lists in answers: the same JSON, written beside the event loop and in slices."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
import pytest
from support.live_server import Live

from edgellm.server.dialects.llama_server import operations
from edgellm.server.dialects.ollama import embeddings as ollama
from edgellm.server.dialects.openai import embeddings as openai
from edgellm.server.json_list import json_list


@pytest.mark.parametrize("n", [0, 1, 3, 4, 9])
def test_it_is_the_json_of_the_list(n: int) -> None:
    items = [{"id": index, "piece": '"]é', "bytes": [index]} for index in range(n)]

    assert bytes(json_list(iter(items), 4)) == msgspec.json.encode(items)


def test_no_more_than_a_slice_is_made_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    made_by_then: list[int] = []
    encode = msgspec.json.encode

    def items() -> Iterator[int]:
        for index in range(10):
            made.append(index)
            yield index

    def counted(part: list[int]) -> bytes:
        made_by_then.append(len(made))
        return encode(part)

    monkeypatch.setattr(msgspec.json, "encode", counted)
    json_list(items(), 4)

    assert made_by_then == [4, 8, 10]


@pytest.mark.parametrize(
    ("module_of", "path", "body", "part"),
    [
        (operations, "/tokenize", {"content": "hé" * 5000}, "tokens"),
        (openai, "/v1/embeddings", {"input": ["a"] * 40}, "data"),
        (openai, "/v1/embeddings", {"input": ["a"] * 40, "encoding_format": "base64"}, "data"),
        (ollama, "/api/embed", {"input": ["a"] * 40}, "embeddings"),
    ],
)
def test_long_answers_are_written_beside_the_event_loop(
    module_of: Any, path: str, body: Any, part: str, live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    slices: list[int] = []

    def beside(items: Iterable[object], slice_size: int) -> msgspec.Raw:
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        slices.append(slice_size)
        return json_list(items, slice_size)

    monkeypatch.setattr(module_of, "json_list", beside)
    answer = live.post(path, body)

    assert answer.status_code == 200, answer.text
    assert len(json.loads(answer.content)[part]) == (15_000 if path == "/tokenize" else 40)
    assert slices == [4096 if path == "/tokenize" else 16]
