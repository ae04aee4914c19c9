"""instructor, unmodified: answers as pydantic's models."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import instructor
import openai
from pydantic import BaseModel, ConfigDict, Field

HELLO = [{"role": "user", "content": "Where?"}]
BRIEF: dict[str, Any] = {"messages": HELLO, "max_tokens": 200, "seed": 1, "max_retries": 0}


class Place(BaseModel):
    """A place. A model that knows nothing would go on with properties of its own."""

    model_config = ConfigDict(extra="forbid")

    colour: Literal["red", "green"]
    size: int = Field(ge=0, le=9)


def create(server: Any, mode: instructor.Mode, **fields: Any) -> Any:
    client = instructor.from_openai(server.client(), mode=mode)
    return client.chat.completions.create(model=server.model, **{"response_model": Place, **BRIEF, **fields})


def test_tools(server: Any) -> None:
    assert isinstance(create(server, instructor.Mode.TOOLS), Place)


def test_strict_tools(server: Any) -> None:
    assert isinstance(create(server, instructor.Mode.TOOLS_STRICT), Place)


def test_a_schema(server: Any) -> None:
    assert isinstance(create(server, instructor.Mode.JSON_SCHEMA), Place)


def test_partial(server: Any) -> None:
    client = instructor.from_openai(server.client(), mode=instructor.Mode.TOOLS)
    parts = list(client.chat.completions.create_partial(model=server.model, response_model=Place, **BRIEF))

    assert Place.model_validate(parts[-1].model_dump())


def test_the_answer_beside_it(server: Any) -> None:
    client = instructor.from_openai(server.client(), mode=instructor.Mode.JSON_SCHEMA)
    place, answer = client.chat.completions.create_with_completion(model=server.model, response_model=Place, **BRIEF)

    assert isinstance(place, Place)
    assert answer.usage.completion_tokens


def test_the_async_client(server: Any) -> None:
    async def asked() -> Any:
        async with server.client(openai.AsyncOpenAI) as own:
            client = instructor.from_openai(own, mode=instructor.Mode.TOOLS)
            return await client.chat.completions.create(model=server.model, response_model=Place, **BRIEF)

    assert isinstance(asyncio.run(asked()), Place)
