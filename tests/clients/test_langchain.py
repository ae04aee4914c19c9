"""langchain-openai, unmodified."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel, Field


class Place(BaseModel):
    """A place."""

    colour: Literal["red", "green"]
    size: int = Field(ge=0, le=9)


@tool
def weather(city: Literal["Bonn", "Rome"]) -> str:
    """Tell the weather."""
    return f"Sunny in {city}."


def chat(server: Any, **fields: Any) -> ChatOpenAI:
    fields = {"max_tokens": 300, "seed": 1, **fields}
    return ChatOpenAI(base_url=server.url, api_key="none", model=server.model, max_retries=0, **fields)


def test_invoke_and_stream(server: Any) -> None:
    llm = chat(server, seed=1, max_tokens=20)
    whole = llm.invoke("Say hello.").content
    streamed = "".join(chunk.content for chunk in llm.stream("Say hello."))

    assert whole
    assert streamed
    assert not server.is_echo or streamed == whole


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output(server: Any, method: Any) -> None:
    answer = chat(server).with_structured_output(Place, method=method).invoke("Where?")

    assert isinstance(answer, Place)


def test_bound_tools_are_called_and_their_results_go_back(server: Any) -> None:
    llm = chat(server)
    called = llm.bind_tools([weather], tool_choice="any").invoke("How is it in Bonn?")
    (call, *_) = called.tool_calls
    result = weather.invoke(call)
    answer = llm.bind_tools([weather], tool_choice="none").invoke([("user", "How is it?"), called, result])

    assert call["name"] == "weather"
    assert result.content.startswith("Sunny in ")
    assert answer.content


def test_bound_tools_in_a_stream(server: Any) -> None:
    llm = chat(server).bind_tools([weather], tool_choice="weather")
    chunks = list(llm.stream("How is it in Rome?"))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk

    assert whole.tool_calls[0]["name"] == "weather"
    assert whole.tool_calls[0]["args"]["city"] in ("Bonn", "Rome")


def test_logprobs(server: Any) -> None:
    answer = chat(server, logprobs=True, top_logprobs=1, max_tokens=10).invoke("Say hello.")

    assert answer.response_metadata["logprobs"]["content"]


def test_several_answers(server: Any) -> None:
    (generations,) = chat(server, n=2, max_tokens=10).generate([[HumanMessage("Say hello.")]]).generations

    assert len(generations) == 2


def test_embeddings(server: Any) -> None:
    embeddings = OpenAIEmbeddings(
        base_url=server.url, api_key="none", model=server.model, check_embedding_ctx_length=False, max_retries=0
    )

    assert len(embeddings.embed_documents(["a", "b"])) == 2
