"""OpenAI's agents, unmodified, with chat completions and with responses."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import agents
import openai
from pydantic import BaseModel, Field

agents.set_tracing_disabled(True)


class Place(BaseModel):
    """A place."""

    colour: Literal["red", "green"]
    size: int = Field(ge=0, le=9)


@agents.function_tool
def weather(city: Literal["Bonn", "Rome"]) -> str:
    """Tell the weather."""
    return f"Sunny in {city}."


def agent(server: Any, **fields: Any) -> agents.Agent[Any]:
    client = server.client(openai.AsyncOpenAI)
    chosen = {"tool_choice": "required", "parallel_tool_calls": False} if "tools" in fields else {}
    return agents.Agent(
        name="Helper",
        instructions="Be brief.",
        model=agents.OpenAIChatCompletionsModel(server.model, client),
        model_settings=agents.ModelSettings(max_tokens=200, **chosen),
        **fields,
    )


def test_a_run(server: Any) -> None:
    assert agents.Runner.run_sync(agent(server), "Say hello.").final_output


def test_a_stream(server: Any) -> None:
    async def kinds() -> set[str]:
        result = agents.Runner.run_streamed(agent(server), "Say hello.")
        return {event.type async for event in result.stream_events()}

    assert {"raw_response_event", "run_item_stream_event"} <= asyncio.run(kinds())


def test_a_conversation(server: Any) -> None:
    first = agents.Runner.run_sync(agent(server), "Say hello.")
    again = [*first.to_input_list(), {"role": "user", "content": "Again."}]

    assert agents.Runner.run_sync(agent(server), again).final_output


def test_output_by_a_schema(server: Any) -> None:
    assert isinstance(agents.Runner.run_sync(agent(server, output_type=Place), "Where?").final_output, Place)


def test_a_loop_with_tools(server: Any) -> None:
    """The first answer has to call; the next ones may."""
    own = agent(server, tools=[weather], tool_use_behavior="stop_on_first_tool")
    result = agents.Runner.run_sync(own, "How is it in Bonn?")

    assert result.final_output.startswith("Sunny in ")


def test_results_of_tools_go_back(server: Any) -> None:
    called = agents.Runner.run_sync(
        agent(server, tools=[weather], tool_use_behavior="stop_on_first_tool"), "How is it in Bonn?"
    )
    again = [*called.to_input_list(), {"role": "user", "content": "So?"}]

    assert agents.Runner.run_sync(agent(server), again).final_output
