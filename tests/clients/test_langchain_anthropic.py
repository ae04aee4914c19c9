"""langchain-anthropic, unmodified."""

from __future__ import annotations

from typing import Any, Literal

from langchain_anthropic import ChatAnthropic
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_core.tools import tool
from pydantic import BaseModel


class Place(BaseModel):
    """A place."""

    colour: Literal["red", "green"]
    big: bool


@tool
def weather(city: Literal["Bonn", "Rome"]) -> str:
    """Tell the weather."""
    return f"Sunny in {city}."


def chat(server: Any, **fields: Any) -> ChatAnthropic:
    address = server.url.removesuffix("/v1")
    fields = {"max_tokens": 300, "model_kwargs": {"extra_body": {"seed": 1}}, **fields}
    return ChatAnthropic(base_url=address, api_key="none", model=server.model, max_retries=0, **fields)


def test_invoke_and_stream(server: Any) -> None:
    llm = chat(server, max_tokens=20)
    sent = [SystemMessage("Be brief."), HumanMessage("Say hello.")]
    whole = llm.invoke(sent)
    streamed = list(llm.stream(sent))

    assert whole.text
    assert "".join(chunk.text for chunk in streamed)
    assert whole.usage_metadata["input_tokens"] > 0


def test_structured_output(server: Any) -> None:
    answer = chat(server).with_structured_output(Place, method="json_schema").invoke("Where?")

    assert isinstance(answer, Place)


def test_bound_tools_are_called_and_their_results_go_back(server: Any) -> None:
    llm = chat(server)
    called = llm.bind_tools([weather], tool_choice="any", parallel_tool_calls=False).invoke("How is it in Bonn?")
    (call,) = called.tool_calls
    result = weather.invoke(call)
    answer = llm.bind_tools([weather], tool_choice={"type": "none"}).invoke([("user", "How is it?"), called, result])

    assert call["name"] == "weather"
    assert result.content.startswith("Sunny in ")
    assert answer.text


def test_bound_tools_in_a_stream(server: Any) -> None:
    llm = chat(server).bind_tools([weather], tool_choice="weather", parallel_tool_calls=False)
    chunks = list(llm.stream("How is it in Rome?"))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk

    assert whole.tool_calls[0]["name"] == "weather"
    assert whole.tool_calls[0]["args"]["city"] in ("Bonn", "Rome")


def test_tokens_are_counted(server: Any) -> None:
    assert chat(server).get_num_tokens_from_messages([HumanMessage("Say hello.")]) > 0
