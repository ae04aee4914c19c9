"""Fields that are in no list: accepted and named, or refused where somebody wants that. And the lists are complete."""

from __future__ import annotations

import json
import logging
from typing import Any, get_args

import pytest
from openai.types import chat, completion_create_params, embedding_create_params, shared_params
from openai.types.chat import completion_create_params as chat_create_params
from support.client_types import client_fields
from support.live_server import Live, Servers
from support.waiting import wait_until

from edgellm.server.schemas.chat import ChatBody
from edgellm.server.schemas.completion import CompletionBody
from edgellm.server.schemas.embeddings import EmbeddingBody
from edgellm.server.schemas.fields import Fields, RequestBody, supported
from edgellm.server.schemas.generation import StreamOptions
from edgellm.server.schemas.message import CallInHistory, ChatMessage, ContentPart, CustomCall, FunctionCall
from edgellm.server.schemas.structured import JsonSchema, ResponseFormat
from edgellm.server.schemas.tools import (
    AllowedTools,
    CustomBody,
    FunctionBody,
    InputFormat,
    InputGrammar,
    ToolBody,
    ToolChoiceBody,
)
from edgellm.server.schemas.unknown import MAX_BYTES, UnknownFields

HELLO = [{"role": "user", "content": "hello"}]


def unknown_in(body: dict[str, Any], schema: type[RequestBody] = ChatBody) -> UnknownFields:
    unknown = UnknownFields()
    schema.read(json.dumps({"messages": HELLO, **body}).encode(), unknown)
    return unknown


def test_unknown_fields_are_named_by_place() -> None:
    messages = [{**HELLO[0], "weight": 1}, {**HELLO[0], "weight": 2, "id": 7}]
    part = {"type": "text", "text": "x", "lang": "de"}
    unknown = unknown_in({"opts": {}, "messages": [*messages, {"role": "user", "content": [part]}]})

    assert unknown.text == "messages[].weight, messages[].id, messages[].content[].lang, opts"
    assert unknown.n == 5


def test_known_fields_are_not_named() -> None:
    assert unknown_in({"user": "u", "tools": [], "temperature": 0, "n": 1}).text == ""


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a, b", "a%2C%20b"),
        ("x\r\nset-cookie: y", "x%0D%0Aset-cookie:%20y"),
        ("größe", "gr%C3%B6%C3%9Fe"),
        ("", "''"),
        ("x" * 1000, "x" * 60),
    ],
)
def test_names_cannot_spoil_a_header(name: str, shown: str) -> None:
    assert unknown_in({name: 1}).text == shown


def test_many_names_are_cut() -> None:
    unknown = unknown_in({f"field{number}": number for number in range(5000)})

    assert unknown.n == 5000
    assert unknown.text.startswith("field0, field1, ")
    assert unknown.text.endswith(", ...")
    assert MAX_BYTES - 20 < len(unknown.text) <= MAX_BYTES + 5


@pytest.mark.parametrize("stream", [False, True])
def test_the_response_the_log_and_a_counter_tell_of_them(
    live: Live, caplog: pytest.LogCaptureFixture, stream: bool
) -> None:
    caplog.set_level(logging.INFO, "edgellm.requests")
    before = counted(live)
    answer = live.chat("hello", stream=stream, opts={}, weight=1)

    assert answer.status_code == 200
    assert answer.headers["x-edgellm-ignored"] == "opts, weight"
    assert counted(live) == before + 2

    def told() -> list[object]:
        return [line.facts.get("ignored") for line in caplog.records if line.name == "edgellm.requests"]

    wait_until(lambda: told().count("opts, weight") == 1)


def test_an_empty_name_is_told_too(live: Live) -> None:
    answer = live.chat("hello", **{"opts": 1, "": 2})

    assert (answer.status_code, answer.headers["x-edgellm-ignored"]) == (200, "opts, ''")


def test_where_all_are_known_no_header_tells_of_others(live: Live) -> None:
    assert "x-edgellm-ignored" not in live.chat("hello", user="u").headers


def test_an_error_names_them_too(live: Live) -> None:
    answer = live.chat("hello", weight=1, temperature=-1)

    assert (answer.status_code, answer.headers["x-edgellm-ignored"]) == (400, "weight")


def test_a_request_can_be_strict(live: Live) -> None:
    body = {"messages": HELLO, "temprature": 1}
    answer = live.post("/v1/chat/completions", body, headers={"x-edgellm-strict": "1"})

    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "temprature")
    assert "temperature" in answer.json()["error"]["message"]


def test_a_server_can_be_strict(serve: Servers) -> None:
    live = serve(strict_fields=True)
    answer = live.chat("hello", weight=1)

    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "weight")
    assert live.chat("hello", user="u").status_code == 200


def counted(live: Live) -> int:
    lines = live.http.get("/metrics").text.splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("edgellm_ignored_fields_total"))


# A schema of ours, and the types of OpenAI's client that it reads.
TYPES: dict[type[Fields], tuple[Any, ...]] = {
    ChatBody: (
        chat_create_params.CompletionCreateParamsNonStreaming,
        chat_create_params.CompletionCreateParamsStreaming,
    ),
    ChatMessage: get_args(chat.ChatCompletionMessageParam),
    ContentPart: (
        *get_args(chat.ChatCompletionContentPartParam),
        chat.ChatCompletionContentPartRefusalParam,
    ),
    CallInHistory: (
        chat.ChatCompletionMessageFunctionToolCallParam,
        chat.ChatCompletionMessageCustomToolCallParam,
    ),
    FunctionCall: (
        chat.chat_completion_message_function_tool_call_param.Function,
        chat.chat_completion_assistant_message_param.FunctionCall,
    ),
    ToolBody: (chat.ChatCompletionFunctionToolParam, chat.ChatCompletionCustomToolParam),
    FunctionBody: (chat_create_params.Function, shared_params.FunctionDefinition),
    CustomBody: (chat.chat_completion_custom_tool_param.Custom,),
    InputFormat: get_args(chat.chat_completion_custom_tool_param.CustomFormat),
    InputGrammar: (chat.chat_completion_custom_tool_param.CustomFormatGrammarGrammar,),
    CustomCall: (chat.chat_completion_message_custom_tool_call_param.Custom,),
    ToolChoiceBody: (
        chat.ChatCompletionNamedToolChoiceParam,
        chat.ChatCompletionNamedToolChoiceCustomParam,
        chat.ChatCompletionAllowedToolChoiceParam,
    ),
    AllowedTools: (chat.ChatCompletionAllowedToolsParam,),
    StreamOptions: (chat.ChatCompletionStreamOptionsParam,),
    ResponseFormat: (shared_params.ResponseFormatJSONSchema,),
    JsonSchema: (shared_params.response_format_json_schema.JSONSchema,),
    CompletionBody: (
        completion_create_params.CompletionCreateParamsNonStreaming,
        completion_create_params.CompletionCreateParamsStreaming,
    ),
    EmbeddingBody: (embedding_create_params.EmbeddingCreateParams,),
}


@pytest.mark.parametrize("schema", TYPES, ids=lambda schema: schema.__name__)
def test_each_field_of_the_client_is_in_a_list(schema: type[Fields]) -> None:
    """A new release of the client with a new field fails here: say what becomes of it."""
    names = set(client_fields(TYPES[schema]))

    assert names
    assert names - {*supported(schema), *schema.NOT_SUPPORTED, *schema.IGNORED} == set()
