"""pydantic-ai's agents with OpenAI's chat, unmodified."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from pydantic import BaseModel, Field
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider


class Place(BaseModel):
    """A place."""

    colour: Literal["red", "green"]
    size: int = Field(ge=0, le=9)


def agent(server: Any, **fields: Any) -> Agent[None, Any]:
    model = OpenAIChatModel(server.model, provider=OpenAIProvider(base_url=server.url, api_key="none"))
    settings: Any = {"max_tokens": 200, "seed": 1, "parallel_tool_calls": False}
    return Agent(model, instructions="Be brief.", model_settings=settings, retries=0, **fields)


def test_a_run(server: Any) -> None:
    result = agent(server).run_sync("Say hello.")

    assert result.output
    assert result.usage.output_tokens


def test_a_stream(server: Any) -> None:
    async def streamed() -> str:
        async with agent(server).run_stream("Say hello.") as result:
            return "".join([text async for text in result.stream_text(delta=True)])

    assert asyncio.run(streamed())


def test_a_conversation(server: Any) -> None:
    own = agent(server)
    first = own.run_sync("Say hello.")
    second = own.run_sync("Again.", message_history=first.new_messages())

    assert second.output
    assert len(second.all_messages()) == 4


def test_output_by_a_tool(server: Any) -> None:
    assert isinstance(agent(server, output_type=ToolOutput(Place)).run_sync("Where?").output, Place)


def test_output_by_a_schema(server: Any) -> None:
    assert isinstance(agent(server, output_type=NativeOutput(Place)).run_sync("Where?").output, Place)


def test_tools(server: Any) -> None:
    """Each answer is a call of one of two tools, and one of them ends the run."""
    own = agent(server, output_type=[Place, str])

    @own.tool_plain
    def weather(city: Literal["Bonn", "Rome"]) -> str:
        """Tell the weather."""
        return f"Sunny in {city}."

    assert own.run_sync("How is it in Bonn?").output
