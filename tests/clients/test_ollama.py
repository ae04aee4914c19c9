"""Ollama's own Python client, unmodified."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any, Literal, get_args

import httpx
import ollama
import pydantic
import pytest
from ollama import _types

HELLO = [{"role": "user", "content": "Say hello."}]
SHORT = {"num_predict": 20, "seed": 1}
SEEDS = range(40)
BODIES = {
    "/api/chat": _types.ChatRequest,
    "/api/generate": _types.GenerateRequest,
    "/api/embed": _types.EmbedRequest,
    "/api/embeddings": _types.EmbeddingsRequest,
    "/api/pull": _types.PullRequest,
    "/api/copy": _types.CopyRequest,
    "/api/show": _types.ShowRequest,
    "/api/delete": _types.DeleteRequest,
}


class Place(pydantic.BaseModel):
    """A model that knows nothing would go on with properties of its own."""

    model_config = pydantic.ConfigDict(extra="forbid")
    city: Literal["Bonn", "Rome"]


WEATHER = ollama.Tool(
    function=ollama.Tool.Function(
        name="weather",
        description="Tell the weather.",
        parameters={
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Bonn", "Rome"]}},
            "required": ["city"],
        },
    )
)


def weather(city: str) -> str:
    """Tell the weather.

    Args:
      city: where.
    """
    return f"Sunny in {city}."


@pytest.fixture
def client(server: Any) -> ollama.Client:
    return ollama.Client(server.root)


def test_chat(server: Any, client: ollama.Client) -> None:
    answer = client.chat(server.model, HELLO, options=SHORT)
    parts = list(client.chat(server.model, HELLO, options=SHORT, stream=True))

    streamed = "".join(part.message.content for part in parts)
    assert answer.message.content
    assert streamed
    assert not server.is_echo or streamed == answer.message.content  # elsewhere a kept prefix may change a near tie
    assert answer.message.role == "assistant"
    assert parts[-1].done
    assert parts[-1].eval_count > 0
    assert answer.total_duration > 0
    # The answer goes back as it came.
    assert client.chat(server.model, [*HELLO, answer.message, *HELLO], options=SHORT).message.content


def test_generate(server: Any, client: ollama.Client) -> None:
    answer = client.generate(server.model, "Say hello.", system="Be brief.", options=SHORT)
    parts = client.generate(server.model, "Say hello.", system="Be brief.", options=SHORT, stream=True)
    streamed = "".join(part.response for part in parts)

    assert answer.response
    assert streamed
    assert not server.is_echo or streamed == answer.response
    assert client.generate(server.model, "Hello", raw=True, options={"num_predict": 2}).eval_count == 2
    assert client.generate(server.model).done_reason == "load"


def test_structured_answers(server: Any, client: ollama.Client) -> None:
    text = client.chat(server.model, HELLO, format=Place.model_json_schema()).message.content

    assert Place.model_validate_json(text).city in get_args(Place.model_fields["city"].annotation)
    text = client.chat(server.model, HELLO, format="json", options=SHORT).message.content
    assert text.lstrip().startswith("{")


def test_tools(server: Any, client: ollama.Client) -> None:
    """This API cannot force a call. Beside a form the model writes that or a call, and with some seed a whole call."""

    def asked(seed: int) -> dict[str, Any]:
        drawn = {"seed": seed, "temperature": 1.0, "num_predict": 200}
        return {"tools": [WEATHER], "format": Place.model_json_schema(), "options": drawn}

    answers = (client.chat(server.model, HELLO, **asked(seed)) for seed in SEEDS)
    called = next(answer.message for answer in answers if answer.message.tool_calls and answer.done_reason == "stop")
    (made, *_) = called.tool_calls
    result = {"role": "tool", "tool_name": "weather", "content": weather(**made.function.arguments)}

    assert made.function.name == "weather"
    assert result["content"] in ("Sunny in Bonn.", "Sunny in Rome.")
    answer = client.chat(server.model, [*HELLO, called, result], tools=[weather], options=SHORT).message
    assert answer.content or answer.tool_calls
    streams = (list(client.chat(server.model, HELLO, **asked(seed), stream=True)) for seed in SEEDS)
    whole = (part.message for parts in streams if parts[-1].done_reason == "stop" for part in parts)
    streamed = next(message for message in whole if message.tool_calls)
    assert streamed.tool_calls[0].function.arguments["city"] in ("Bonn", "Rome")


def test_embeddings(server: Any, client: ollama.Client) -> None:
    vectors = client.embed(server.model, ["a", "b"]).embeddings

    assert len(vectors) == 2
    assert client.embeddings(server.model, "b").embedding == vectors[1]


def test_what_there_is(server: Any, client: ollama.Client) -> None:
    (listed,) = client.list().models
    (running,) = client.ps().models
    shown = client.show(server.model)

    assert listed.model == running.model == server.model
    assert running.context_length == 4096
    assert "completion" in shown.capabilities
    assert 4096 in shown.modelinfo.values()


def test_pull_copy_delete_create(server: Any, client: ollama.Client) -> None:
    own = server.model
    assert client.pull(own).status == "success"
    assert [line.status for line in client.pull(own, stream=True)] == ["pulling manifest", "success"]
    for ask, status in (
        (lambda: client.pull("llama3"), 403),
        (lambda: client.copy(own, "b"), 403),
        (lambda: client.delete("b"), 403),
        (lambda: client.push(own), 501),
        (lambda: client.create("b", from_=own), 501),
        (lambda: client.show("llama3"), 404),
        (lambda: client.chat("llama3", HELLO), 404),
        (lambda: client.chat(own, HELLO, options={"num_ctx": 32768}), 400),
    ):
        with pytest.raises(ollama.ResponseError) as caught:
            ask()
        assert caught.value.status_code == status
        assert "{" not in caught.value.error


def test_the_async_client(server: Any) -> None:
    async def streamed() -> str:
        parts = await ollama.AsyncClient(server.root).chat(server.model, HELLO, options=SHORT, stream=True)
        return "".join([part.message.content async for part in parts])

    assert asyncio.run(streamed())


def fields_of(kind: type[pydantic.BaseModel]) -> set[str]:
    return {field.alias or name.rstrip("_") for name, field in kind.model_fields.items()}


def schemas(document: Any, reference: Any) -> Iterator[Any]:
    """The schema that is referred to, and those in it, by name."""
    for part in json.dumps(reference).split("#/components/schemas/")[1:]:
        schema = document["components"]["schemas"][part.partition('"')[0]]
        yield schema
        yield from schemas(document, schema)


@pytest.mark.parametrize("path", BODIES)
def test_every_field_of_a_body_is_in_a_list(echo: Any, path: str) -> None:
    document = httpx.get(f"{echo.root}/openapi.json").json()
    ((_, operation),) = document["paths"][path].items()
    body, *inside = schemas(document, operation["requestBody"])
    listed = set().union(*(schema["properties"] for schema in inside)) if inside else set()

    assert fields_of(BODIES[path]) <= set(body["properties"])
    if path == "/api/chat":
        for kind in (_types.Message, _types.Message.ToolCall, _types.Message.ToolCall.Function, _types.Tool):
            assert fields_of(kind) <= listed
    if "options" in body["properties"] and inside:
        assert fields_of(_types.Options) <= listed
