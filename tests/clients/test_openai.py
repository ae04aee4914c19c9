"""The official client, unmodified."""

from __future__ import annotations

import json
import re
from enum import Enum
from typing import Any, get_type_hints

import openai
import pytest
from openai.types import chat, completion_create_params, embedding_create_params
from openai.types.responses import response_create_params
from pydantic import BaseModel, Field

HELLO = [{"role": "user", "content": "Say hello."}]
BRIEF: dict[str, Any] = {"max_tokens": 300, "seed": 1}


class Colour(Enum):
    RED = "red"
    GREEN = "green"


class Place(BaseModel):
    colour: Colour
    size: int = Field(ge=0, le=9)


class Weather(BaseModel):
    """Tell the weather."""

    city: Colour
    days: int = Field(ge=1, le=3)


WEATHER = openai.pydantic_function_tool(Weather)


def create(server: Any, **fields: Any) -> Any:
    return server.client().chat.completions.create(model=server.model, **{"messages": HELLO, **BRIEF, **fields})


def test_an_answer(server: Any) -> None:
    answer = create(server, max_tokens=20)

    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.system_fingerprint
    assert answer.usage.completion_tokens_details.reasoning_tokens == 0
    assert answer.usage.prompt_tokens_details.cached_tokens >= 0


def test_an_answer_goes_back_as_it_came(server: Any) -> None:
    first = create(server, max_tokens=20).choices[0].message
    for sent in (first, first.model_dump(), first.model_dump(exclude_none=True)):
        again = create(server, messages=[*HELLO, sent, {"role": "user", "content": "Again."}], max_tokens=5)
        assert again.choices[0].message.content


def test_several_answers(server: Any) -> None:
    answer = create(server, n=3, max_tokens=5)

    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert answer.usage.completion_tokens <= 15


def test_several_answers_in_a_stream(server: Any) -> None:
    texts = {0: "", 1: ""}
    for chunk in create(server, n=2, max_tokens=20, stream=True, stream_options={"include_usage": True}):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    whole = create(server, n=2, max_tokens=20)

    assert chunk.usage is not None
    assert all(texts.values())
    if server.is_echo:  # elsewhere a batch of another shape may end in other tokens
        assert texts == {choice.index: choice.message.content for choice in whole.choices}


def test_logprobs(server: Any) -> None:
    (choice,) = create(server, logprobs=True, top_logprobs=2, max_tokens=5).choices

    assert 0 < len(choice.logprobs.content) <= 5
    assert all(token.logprob <= 0 and len(token.top_logprobs) == 2 for token in choice.logprobs.content)


def test_fields_about_the_caller(server: Any) -> None:
    answer = create(
        server,
        max_tokens=20,
        store=True,
        metadata={"a": "b"},
        verbosity="low",
        service_tier="auto",
        prompt_cache_key="k",
        prompt_cache_options={"mode": "implicit"},
        safety_identifier="s",
        reasoning_effort="none",
        user="u",
        messages=[{"role": "developer", "content": "Be brief."}, {**HELLO[0], "name": "Ada"}],
    )
    assert answer.choices[0].message.content


def test_what_the_server_does_not_know_is_named(server: Any) -> None:
    raw = server.client().chat.completions.with_raw_response.create(
        model=server.model, messages=HELLO, max_tokens=2, extra_body={"opts": 1}
    )

    assert raw.headers["x-edgellm-ignored"] == "opts"
    assert raw.parse().choices[0].message.content


def test_any_json(server: Any) -> None:
    answer = create(server, response_format={"type": "json_object"}, max_tokens=50).choices[0]
    if answer.finish_reason == "stop":
        assert isinstance(json.loads(answer.message.content), dict)


def test_parsed_into_a_model(server: Any) -> None:
    answer = server.client().chat.completions.parse(model=server.model, messages=HELLO, response_format=Place, **BRIEF)

    assert isinstance(answer.choices[0].message.parsed, Place)


def test_the_stream_helper(server: Any) -> None:
    with server.client().chat.completions.stream(
        model=server.model, messages=HELLO, response_format=Place, **BRIEF
    ) as stream:
        kinds = {event.type for event in stream}
        assert isinstance(stream.get_final_completion().choices[0].message.parsed, Place)
    assert {"chunk", "content.delta", "content.done"} <= kinds


def test_a_tool_that_has_to_be_called(server: Any) -> None:
    (choice,) = create(server, tools=[WEATHER], tool_choice="required", parallel_tool_calls=False).choices
    (call,) = choice.message.tool_calls

    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    assert call.function.name == "Weather"
    assert Weather.model_validate_json(call.function.arguments)


def test_a_named_tool_is_parsed(server: Any) -> None:
    answer = server.client().chat.completions.parse(
        model=server.model,
        messages=HELLO,
        tools=[WEATHER],
        tool_choice={"type": "function", "function": {"name": "Weather"}},
        **BRIEF,
    )
    (call,) = answer.choices[0].message.tool_calls

    assert isinstance(call.function.parsed_arguments, Weather)


def test_a_tool_in_a_stream(server: Any) -> None:
    name = arguments = ""
    ids, reasons = set(), set()
    for chunk in create(server, tools=[WEATHER], tool_choice="required", parallel_tool_calls=False, stream=True):
        for choice in chunk.choices:
            reasons |= {choice.finish_reason} - {None}
            for call in choice.delta.tool_calls or ():
                ids |= {call.id} - {None}
                name += call.function.name or ""
                arguments += (call.function.arguments or "") if call.index == 0 else ""

    assert reasons == {"tool_calls"}
    assert ids
    assert name.startswith("Weather")
    assert Weather.model_validate_json(arguments)


def test_a_custom_tool(server: Any) -> None:
    command = {"type": "grammar", "grammar": {"syntax": "regex", "definition": r'(ls|cat) "[a-z]{1,8}"\n'}}
    lines = {"type": "grammar", "grammar": {"syntax": "lark", "definition": 'start: ("+" /[a-z]{1,8}/ "\\n")~2'}}
    for form, pattern in ((command, r'(ls|cat) "[a-z]{1,8}"\n'), (lines, r"([+][a-z]{1,8}\n){2}")):
        shell = {"type": "custom", "custom": {"name": "shell", "description": "Runs it.", "format": form}}
        chosen: dict[str, Any] = {"tools": [shell], "tool_choice": {"type": "custom", "custom": {"name": "shell"}}}
        called = create(server, **chosen).choices[0].message
        (call,) = called.tool_calls
        parts = [
            part.to_dict()
            for chunk in create(server, stream=True, **chosen)
            for part in chunk.choices[0].delta.tool_calls or ()
        ]
        result = {"role": "tool", "tool_call_id": call.id, "content": "Done."}
        answer = create(server, messages=[*HELLO, called, result], **{**chosen, "tool_choice": "none"}, max_tokens=5)

        assert (call.type, call.custom.name) == ("custom", "shell")
        assert re.fullmatch(pattern, call.custom.input)
        assert parts[0]["type"] == "custom"
        assert re.fullmatch(pattern, "".join(part["custom"]["input"] for part in parts))
        assert answer.choices[0].message.content


def test_the_stream_helper_with_tools(server: Any) -> None:
    with server.client().chat.completions.stream(
        model=server.model, messages=HELLO, tools=[WEATHER], tool_choice="required", parallel_tool_calls=False, **BRIEF
    ) as stream:
        kinds = {event.type for event in stream}
        call = stream.get_final_completion().choices[0].message.tool_calls[0]
    assert {"tool_calls.function.arguments.delta", "tool_calls.function.arguments.done"} <= kinds
    assert isinstance(call.function.parsed_arguments, Weather)


def test_the_result_of_a_tool_goes_back(server: Any) -> None:
    called = create(server, tools=[WEATHER], tool_choice="required", parallel_tool_calls=False).choices[0].message
    result = {"role": "tool", "tool_call_id": called.tool_calls[0].id, "content": "Sunny."}
    answer = create(server, messages=[*HELLO, called, result], tools=[WEATHER], tool_choice="none", max_tokens=10)

    assert answer.choices[0].message.content
    assert answer.choices[0].message.tool_calls is None


def test_the_older_functions(server: Any) -> None:
    function = {key: WEATHER["function"][key] for key in ("name", "parameters")}
    (choice,) = create(server, functions=[function], function_call={"name": "Weather"}).choices

    assert choice.finish_reason == "function_call"
    assert Weather.model_validate_json(choice.message.function_call.arguments)


def test_completions(server: Any) -> None:
    """A model that knows nothing may end at once, and would in one of twenty runs."""
    completions, goes_on = server.client().completions, {"max_tokens": 4, "extra_body": {"ignore_eos": True}}
    one = completions.create(model=server.model, prompt="Once upon", **goes_on, logprobs=2)
    several = completions.create(model=server.model, prompt=["Once", "Twice"], n=2, **goes_on, echo=True)
    best = completions.create(model=server.model, prompt="Once", best_of=3, **goes_on)
    streamed = completions.create(model=server.model, prompt="Once", **goes_on, stream=True)

    assert len(one.choices[0].logprobs.tokens) == one.usage.completion_tokens
    assert [choice.text[:4] for choice in several.choices] == ["Once", "Once", "Twic", "Twic"]
    assert len(best.choices) == 1
    assert "".join(chunk.choices[0].text for chunk in streamed)


def test_embeddings(server: Any) -> None:
    embeddings = server.client().embeddings
    several = embeddings.create(model=server.model, input=["a", "b"])
    packed = embeddings.create(model=server.model, input="a", encoding_format="base64")

    assert [entry.index for entry in several.data] == [0, 1]
    assert several.usage.prompt_tokens
    assert isinstance(packed.data[0].embedding, str)


def test_models(server: Any) -> None:
    (model,) = server.client().models.list().data

    assert server.client().models.retrieve(model.id) == model


def test_token_ids_are_a_prompt(server: Any) -> None:
    answer = server.client().completions.create(model=server.model, prompt=[[97, 98], [99]], max_tokens=4)

    assert answer.usage.prompt_tokens == 3
    assert len(answer.choices) == 2


@pytest.mark.parametrize(
    ("fields", "param"),
    [({"temperature": 101}, "temperature"), ({"n": 0}, "n"), ({"tool_choice": "required"}, "tool_choice")],
)
def test_errors_are_the_client_s_classes(server: Any, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        create(server, **fields)
    assert caught.value.param == param


async def _streamed(server: Any) -> str:
    async with server.client(openai.AsyncOpenAI) as client:
        stream = await client.chat.completions.create(
            model=server.model, messages=HELLO, stream=True, max_tokens=20, seed=1
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])


def test_the_async_client(server: Any) -> None:
    import asyncio

    streamed = asyncio.run(_streamed(server))
    assert streamed
    assert not server.is_echo or streamed == create(server).choices[0].message.content


# Bodies in the server's document, and the types of the client that they read. tests/server has what is in them.
TYPES: dict[str, tuple[Any, ...]] = {
    "ChatBody": (
        chat.completion_create_params.CompletionCreateParamsNonStreaming,
        chat.completion_create_params.CompletionCreateParamsStreaming,
    ),
    "CompletionBody": (
        completion_create_params.CompletionCreateParamsNonStreaming,
        completion_create_params.CompletionCreateParamsStreaming,
    ),
    "EmbeddingBody": (embedding_create_params.EmbeddingCreateParams,),
    "ResponsesBody": (
        response_create_params.ResponseCreateParamsNonStreaming,
        response_create_params.ResponseCreateParamsStreaming,
    ),
}


@pytest.mark.parametrize("name", TYPES)
def test_each_field_of_the_client_is_in_a_list(schemas: dict[str, Any], name: str) -> None:
    """A new release of the client with a new field fails here: say what becomes of it."""
    names = {field for type_ in TYPES[name] for field in get_type_hints(type_)}

    assert names
    assert names - schemas[name]["properties"].keys() == set()
