"""litellm's providers that have other addresses than their own, unmodified."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import litellm
import pytest

litellm.telemetry = False
HELLO = [{"role": "user", "content": "Say hello."}]
CITY = {"type": "string", "enum": ["Bonn", "Rome"]}
PARAMETERS = {"type": "object", "properties": {"city": CITY}, "required": ["city"]}
WEATHER = {"type": "function", "function": {"name": "weather", "description": "Tells it.", "parameters": PARAMETERS}}


def completion(server: Any, **fields: Any) -> Any:
    return litellm.completion(
        model=f"openai/{server.model}",
        api_base=server.url,
        api_key="none",
        messages=HELLO,
        seed=1,
        max_tokens=100,
        num_retries=0,
        **fields,
    )


def test_whole_and_streamed(server: Any) -> None:
    whole = completion(server, user="u", metadata={"a": "b"}).choices[0].message.content
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in completion(server, stream=True))

    assert whole
    assert streamed
    assert not server.is_echo or streamed == whole


def test_tools(server: Any) -> None:
    (call,) = (
        completion(server, tools=[WEATHER], tool_choice="required", parallel_tool_calls=False)
        .choices[0]
        .message.tool_calls
    )

    assert call.function.name == "weather"
    assert json.loads(call.function.arguments)["city"] in ("Bonn", "Rome")


def test_a_schema(server: Any) -> None:
    schema = {"name": "place", "strict": True, "schema": {**PARAMETERS, "additionalProperties": False}}
    answer = completion(server, response_format={"type": "json_schema", "json_schema": schema})

    assert json.loads(answer.choices[0].message.content)["city"] in ("Bonn", "Rome")


def ollama_chat(server: Any, **fields: Any) -> Any:
    model = f"ollama_chat/{server.model}"
    return litellm.completion(model=model, api_base=server.root, messages=HELLO, seed=1, max_tokens=100, **fields)


def test_as_ollama(server: Any) -> None:
    whole = ollama_chat(server)
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in ollama_chat(server, stream=True))

    assert streamed
    assert not server.is_echo or whole.choices[0].message.content == streamed
    assert whole.usage.completion_tokens > 0


def test_a_schema_as_ollama(server: Any) -> None:
    schema = {"name": "place", "schema": {**PARAMETERS, "additionalProperties": False}}
    answer = ollama_chat(server, response_format={"type": "json_schema", "json_schema": schema})

    assert json.loads(answer.choices[0].message.content)["city"] in ("Bonn", "Rome")


def test_text(server: Any) -> None:
    text = litellm.text_completion(
        model=f"openai/{server.model}",
        api_base=server.url,
        api_key="none",
        prompt="Once upon",
        max_tokens=5,
        num_retries=0,
    )

    assert text.choices[0].text


def test_embeddings(server: Any) -> None:
    vectors = litellm.embedding(
        model=f"openai/{server.model}", api_base=server.url, api_key="none", input=["a", "b"], num_retries=0
    )

    assert len(vectors.data) == 2


def test_the_async_functions(server: Any) -> None:
    async def streamed() -> str:
        stream = await litellm.acompletion(
            model=f"openai/{server.model}",
            api_base=server.url,
            api_key="none",
            messages=HELLO,
            max_tokens=20,
            stream=True,
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    assert asyncio.run(streamed())


def as_anthropic(server: Any, **fields: Any) -> Any:
    return litellm.completion(
        model=f"anthropic/{server.model}",
        api_base=server.root,
        api_key="none",
        messages=HELLO,
        max_tokens=100,
        num_retries=0,
        **fields,
    )


def test_as_anthropic(server: Any) -> None:
    assert as_anthropic(server).choices[0].message.content
    assert "".join(chunk.choices[0].delta.content or "" for chunk in as_anthropic(server, stream=True))


def test_tools_as_anthropic(server: Any) -> None:
    called = as_anthropic(server, tools=[WEATHER], tool_choice="required", parallel_tool_calls=False)
    (call,) = called.choices[0].message.tool_calls

    assert call.function.name == "weather"
    assert json.loads(call.function.arguments)["city"] in ("Bonn", "Rome")


def rerank(server: Any, provider: str, *, documents: bool) -> Any:
    return litellm.rerank(
        model=f"{provider}/{server.model}",
        api_base=server.root,
        api_key="none",
        query="Where is Bonn?",
        documents=["The sky is blue.", "Bonn lies on the Rhine."],
        top_n=1,
        return_documents=documents,
    )


# Infinity's own answer has a document as a text, at the address where Jina's has an object.
@pytest.mark.parametrize("provider", ["cohere", "jina_ai", "hosted_vllm", "huggingface", "together_ai", "infinity"])
def test_rerank(server: Any, provider: str) -> None:
    (best,) = rerank(server, provider, documents=False).results

    assert best["index"] in (0, 1)
    assert 0 <= best["relevance_score"] <= 1


@pytest.mark.parametrize("provider", ["jina_ai", "hosted_vllm", "huggingface", "together_ai"])
def test_rerank_with_documents(server: Any, provider: str) -> None:
    (best,) = rerank(server, provider, documents=True).results

    assert best["document"]["text"] in ("The sky is blue.", "Bonn lies on the Rhine.")
