"""OpenAI's Responses: what becomes of a body, the events of an answer, and the whole of it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter
from support.live_server import Live
from support.refusals import check_refusal, refuses

from edgellm.errors import StepFailed, UnsupportedField, UsageError
from edgellm.server.dialects.responses.body import ResponsesBody
from edgellm.server.dialects.responses.chunks import Keep, ResponsesChunks
from edgellm.server.dialects.responses.items import ResponsesItem
from edgellm.server.dialects.responses.output import OpenMessage
from edgellm.server.dialects.responses.sealed import opened, sealed
from edgellm.server.request_log import RequestRecord
from edgellm.server.schemas.unknown import UnknownFields
from edgellm.types.event import Delta, Done, Event, FinishReason, Timings, Usage
from edgellm.types.logprob import Alternative, TokenLogprob
from edgellm.types.message import Message, NamedTool, TextInput, Tool, ToolCall

EVENTS = TypeAdapter[Any](ResponseStreamEvent)
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER = {"type": "function", "name": "weather", "description": "Tells it", "parameters": SCHEMA, "strict": None}
PATCH = {"type": "custom", "name": "patch", "format": {"type": "grammar", "syntax": "regex", "definition": "[a-z]+"}}
NOTE = {"type": "custom", "name": "note"}
SEARCH = {"type": "web_search", "external_web_access": False}
MCP = {"type": "namespace", "name": "mcp__files", "tools": [{"type": "function", "name": "read"}]}
THOUGHT = sealed("Hm.")


def read(**fields: Any) -> ResponsesBody:
    return ResponsesBody.read(json.dumps({"input": "hello", **fields}).encode())


def end(reason: FinishReason = "stop") -> Done:
    return Done(reason, Usage(5, 4, 1, 2), Timings(0, 0, 0))


ANSWER: list[Event] = [
    Delta("Let me ", kind="reasoning"),
    Delta("think.", kind="reasoning"),
    Delta("I "),
    Delta("look."),
    Delta("weather", kind="call_name"),
    Delta('{"city": ', kind="call_arguments"),
    Delta('"Bonn"}', kind="call_arguments"),
    Delta("note", kind="call_name", call=1),
    Delta('{"input": "a\\', kind="call_arguments", call=1),
    Delta('n"}', kind="call_arguments", call=1),
    end("tool_calls"),
]


def chunks_of(keep: Keep = bool, **fields: Any) -> ResponsesChunks:
    model: Any = SimpleNamespace(id_for=lambda name: "m")
    chunks = ResponsesChunks(model, read(tools=[WEATHER, NOTE], **fields), RequestRecord("", "", "", ""), (), keep)
    chunks._record.usage = Usage(5, 4, 1, 2)
    return chunks


def events_of(sent: bytes) -> list[Any]:
    """The data of each event, which OpenAI's types take."""
    events = []
    for block in sent.decode().removesuffix("\n\n").split("\n\n"):
        name, data = block.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
        EVENTS.validate_python(events[-1])
    return events


def streamed(events: Sequence[Event], **fields: Any) -> list[Any]:
    chunks = chunks_of(stream=True, **fields)
    sent = b"".join(chunks.text(event) if isinstance(event, Delta) else chunks.last(event) for event in events)
    told = events_of(sent)
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    return told


def whole(events: Sequence[Event], **fields: Any) -> Any:
    answer = json.loads(msgspec.json.encode(chunks_of(**fields).whole(events)))
    Response.model_validate(answer)
    return answer


def without_ids(told: Any) -> Any:
    """Ids, times and settings are left out."""
    if isinstance(told, dict):
        own = ("id", "item_id", "call_id", "created_at", "completed_at", "sequence_number")
        return {name: without_ids(value) for name, value in told.items() if name not in own}
    return [without_ids(one) for one in told] if isinstance(told, list) else told


def names(events: Sequence[Any]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


ITEM = ["output_item.added", "content_part.added"]
TEXT = [*ITEM, "output_text.delta", "output_text.delta", "output_text.done", "content_part.done", "output_item.done"]
BEGIN = ["created", "in_progress"]


def test_the_events_of_an_answer() -> None:
    thought = [name.replace("output_text", "reasoning_text") for name in TEXT]
    call = [f"function_call_arguments.{what}" for what in ("delta", "delta", "done")]
    custom = [f"custom_tool_call_input.{what}" for what in ("delta", "delta", "done")]
    assert names(streamed(ANSWER)) == [
        *BEGIN,
        *thought,
        *TEXT,
        *["output_item.added", *call, "output_item.done"],
        *["output_item.added", *custom, "output_item.done"],
        "completed",
    ]


def test_thoughts_come_in_the_place_of_a_summary_where_one_is_asked_for() -> None:
    told = streamed(ANSWER, reasoning={"summary": "auto"}, include=["reasoning.encrypted_content"])

    assert names(told)[3:8] == [
        "reasoning_summary_part.added",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.done",
        "reasoning_summary_part.done",
    ]
    thought = told[-1]["response"]["output"][0]
    assert thought["summary"] == [{"type": "summary_text", "text": "Let me think."}]
    assert "content" not in thought
    assert opened(thought["encrypted_content"]) == "Let me think."


@pytest.mark.parametrize("summary", [None, "auto"])
def test_a_stream_ends_with_the_whole_answer(summary: str | None) -> None:
    told = streamed(ANSWER, reasoning={"summary": summary})
    last = told[-1]["response"]

    assert without_ids(last) == without_ids(whole(ANSWER, reasoning={"summary": summary}, stream=True))
    assert last["output"] == [event["item"] for event in told if event["type"] == "response.output_item.done"]
    assert last["usage"] == {
        "input_tokens": 5,
        "input_tokens_details": {"cached_tokens": 1, "cache_write_tokens": 0},
        "output_tokens": 4,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 9,
    }


def test_the_items_of_an_answer() -> None:
    thought, message, call, custom = whole(ANSWER)["output"]

    assert thought["content"] == [{"type": "reasoning_text", "text": "Let me think."}]
    assert message["content"][0]["text"] == "I look."
    assert (call["name"], call["arguments"]) == ("weather", '{"city": "Bonn"}')
    assert (custom["name"], custom["input"]) == ("note", "a\n")
    assert [one["id"].split("_")[0] for one in (thought, message, call, custom)] == ["rs", "msg", "fc", "ctc"]
    assert call["call_id"] != call["id"]


def test_deltas_say_where_they_belong_and_add_up() -> None:
    told = streamed(ANSWER)
    for index, item in enumerate(told[-1]["response"]["output"]):
        deltas = [event for event in told if event["type"].endswith(".delta") and event["output_index"] == index]
        assert {event["item_id"] for event in deltas} == {item["id"]}
        whole_text = item.get("arguments") or item.get("input") or item["content"][0]["text"]
        assert "".join(event["delta"] for event in deltas) == whole_text


def test_a_text_for_a_tool_that_was_cut_off_is_told_as_far_as_it_came() -> None:
    cut = [Delta("note", kind="call_name"), Delta('{"in', kind="call_arguments"), end("length")]
    told = streamed(cut)

    assert told[-1]["response"]["output"][0]["input"] == '{"in'
    assert [event["delta"] for event in told if event["type"].endswith(".delta")] == ['{"in']


def test_an_answer_that_was_cut_off_is_incomplete() -> None:
    last = streamed([Delta("I"), end("length")])[-1]

    assert last["type"] == "response.incomplete"
    assert last["response"]["status"] == last["response"]["output"][0]["status"] == "incomplete"
    assert last["response"]["incomplete_details"] == {"reason": "max_output_tokens"}


def test_an_answer_without_anything_is_a_message_without_text() -> None:
    (message,) = whole([end()])["output"]

    assert message["content"][0]["text"] == ""
    assert without_ids(streamed([end()])[-1]["response"]["output"]) == without_ids([message])


def test_logprobs_come_with_the_text() -> None:
    token = TokenLogprob(Alternative(1, b"I", -0.5), (Alternative(2, b"a", -1.0),))
    told = streamed([Delta("I", logprobs=(token,)), end()], top_logprobs=1)
    likely = {"token": "I", "logprob": -0.5, "bytes": [73]}
    both = {**likely, "top_logprobs": [{"token": "a", "logprob": -1.0, "bytes": [97]}]}

    assert told[4]["logprobs"] == told[5]["logprobs"] == [both]
    assert told[-1]["response"]["output"][0]["content"][0]["logprobs"] == [both]


def test_of_logprobs_their_json_is_kept_as_the_end_repeats_them() -> None:
    message = OpenMessage(0)
    message.push(Delta("I", logprobs=(TokenLogprob(Alternative(73, b"I", -0.5)),)))
    (part,) = message.item("completed").content

    assert isinstance(part.logprobs, msgspec.Raw)


@pytest.mark.parametrize("store", [True, False])
def test_a_response_that_was_to_be_stored_and_is_not_says_so(store: bool) -> None:
    told = json.loads(msgspec.json.encode(chunks_of(lambda _: False, store=store).whole(ANSWER)))

    assert (told["store"], told.get("notes")) == (False, ["not_stored"] if store else None)
    assert chunks_of().whole(ANSWER).store


def test_a_stream_that_fails_says_what_there_was() -> None:
    chunks = chunks_of(stream=True)
    told = events_of(chunks.text(Delta("I")) + chunks.failed(StepFailed("no memory"), "r"))

    assert names(told)[-2:] == ["error", "failed"]
    assert (told[-2]["code"], told[-2]["message"]) == ("step_failed", "no memory")
    assert told[-1]["response"]["error"] == {"code": "server_error", "message": "no memory"}
    assert told[-1]["response"]["output"][0]["content"][0]["text"] == "I"


def test_a_stream_that_fails_at_once_has_begun() -> None:
    assert names(events_of(chunks_of().failed(StepFailed("no memory"), "r"))) == [*BEGIN, "error", "failed"]


def test_while_nothing_happens_events_come() -> None:
    chunks = chunks_of(stream=True)
    told = events_of(chunks.waiting() + chunks.waiting() + chunks.text(Delta("I")))

    assert names(told) == [*BEGIN, "in_progress", *ITEM, "output_text.delta"]
    assert [event["sequence_number"] for event in told] == list(range(6))


def test_what_was_asked_is_told_again() -> None:
    fields: dict[str, Any] = {
        "instructions": "Be brief.",
        "metadata": {"a": "b"},
        "temperature": 0.5,
        "tool_choice": {"type": "function", "name": "weather"},
        "text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA}},
        "truncation": "disabled",
        "parallel_tool_calls": False,
        "max_output_tokens": 9,
        "store": False,
    }
    answer = whole([end()], **fields)

    assert {name: answer[name] for name in fields} == fields
    assert answer["tools"] == [
        {"type": "function", "name": "weather", "description": "Tells it", "parameters": SCHEMA, "strict": False},
        {"type": "custom", "name": "note", "strict": False},
    ]


def messages(*items: Any, **fields: Any) -> list[Message]:
    return read(input=list(items), **fields).messages()


def test_items_become_messages() -> None:
    call = {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "weather", "arguments": "{}"}
    custom = {"type": "custom_tool_call", "call_id": "c2", "name": "note", "input": "a"}
    parts = [{"type": "input_text", "text": "hel"}, {"type": "input_text", "text": "lo"}]
    assert messages(
        {"role": "developer", "content": "Be kind."},
        {"type": "message", "role": "user", "content": parts},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look."}]},
        call,
        custom,
        {"type": "function_call_output", "call_id": "c1", "output": "sun"},
        {"type": "custom_tool_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "ok"}]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
        {"role": "assistant", "content": "Yes."},
        instructions="Be brief.",
    ) == [
        Message("system", "Be brief."),
        Message("system", "Be kind."),
        Message("user", "hello"),
        Message(
            "assistant", "I look.", "Hm.", (ToolCall("weather", "{}", "c1"), ToolCall("note", '{"input": "a"}', "c2"))
        ),
        Message("tool", "sun", call_id="c1"),
        Message("tool", "ok", call_id="c2"),
        Message("assistant", "No."),
        Message("assistant", "Yes."),
    ]


def test_many_items_of_one_message_are_joined_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each on top of those before it, four thousand of two kilobytes would copy eighteen gigabytes."""
    joined: list[int] = []
    replace = msgspec.structs.replace

    def counted(message: Message, **fields: Any) -> Message:
        joined.append(len(fields["reasoning"]))
        return replace(message, **fields)

    monkeypatch.setattr(msgspec.structs, "replace", counted)
    thoughts = [{"type": "reasoning", "content": [{"type": "reasoning_text", "text": "Hm."}]}] * 100
    assert messages(*thoughts) == [Message("assistant", reasoning="Hm." * 100)]
    assert joined == [300]


@pytest.mark.parametrize(
    ("item", "thought"),
    [
        ({"encrypted_content": THOUGHT, "summary": []}, "Hm."),
        ({"encrypted_content": THOUGHT, "summary": [{"type": "summary_text", "text": "In short."}]}, "Hm."),
        ({"encrypted_content": "gAAAAB", "summary": [{"type": "summary_text", "text": "In short."}]}, "In short."),
    ],
)
def test_thoughts_come_back(item: dict[str, Any], thought: str) -> None:
    (message,) = messages({"type": "reasoning", **item})

    assert message == Message("assistant", reasoning=thought)


@pytest.mark.parametrize("seal", ["", "gAAAAB", "edgellm-1.%%", "edgellm-1.gA==", f"{THOUGHT}x", "edgellm-1.é"])
def test_what_was_not_sealed_here_is_not_opened(seal: str) -> None:
    assert opened(seal) is None


def ignored(**fields: Any) -> str:
    unknown = UnknownFields()
    ResponsesBody.read(json.dumps({"input": "hello", **fields}).encode(), unknown)
    return unknown.text


def test_what_runs_elsewhere_is_named_and_left_out() -> None:
    call = {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "x"}}
    foreign = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAAAB"}
    fields: dict[str, Any] = {
        "input": [call, foreign, {"role": "user", "content": "hello"}],
        "tools": [SEARCH, WEATHER, MCP],
        "include": ["web_search_call.results", "reasoning.encrypted_content"],
    }
    body = ResponsesBody.read(json.dumps(fields).encode(), UnknownFields())

    assert body.messages() == [Message("user", "hello")]
    assert [tool.name for tool in body.wanted_tools()[0]] == ["weather"]
    assert ignored(**fields) == (
        "tools[].web_search, tools[].namespace, input[].web_search_call, input[].encrypted_content, "
        "include.web_search_call.results"
    )


@pytest.mark.parametrize(
    ("fields", "param"), [({"tools": [SEARCH]}, "tools[0]"), ({"input": [{"type": "mcp_call"}]}, "input[0]")]
)
def test_a_strict_request_has_nothing_that_runs_elsewhere(fields: dict[str, Any], param: str) -> None:
    with refuses(UnsupportedField, param=param):
        read(**fields)


def test_tools() -> None:
    tools, choice = read(tools=[WEATHER, PATCH, NOTE]).wanted_tools()

    assert tools == (
        Tool("weather", "Tells it", SCHEMA),
        Tool("patch", input=TextInput("[a-z]+", "regex")),
        Tool("note", input=TextInput()),
    )
    assert choice == "auto"


@pytest.mark.parametrize(
    ("choice", "shown", "wants"),
    [
        ("none", ["weather", "note"], "none"),
        ("required", ["weather", "note"], "required"),
        ({"type": "function", "name": "weather"}, ["weather", "note"], NamedTool("weather")),
        ({"type": "custom", "name": "note"}, ["weather", "note"], NamedTool("note")),
        (
            {
                "type": "allowed_tools",
                "mode": "required",
                "tools": [{"type": "custom", "name": "note"}, {"type": "mcp", "server_label": "files"}],
            },
            ["note"],
            "required",
        ),
    ],
)
def test_choices(choice: object, shown: list[str], wants: object) -> None:
    tools, chosen = read(tools=[WEATHER, NOTE, SEARCH | {"type": "web_search"}][:2], tool_choice=choice).wanted_tools()

    assert [tool.name for tool in tools] == shown
    assert chosen == wants


def test_the_settings_of_a_request() -> None:
    llm: Any = SimpleNamespace(request=lambda conversation, **options: options)
    fields: dict[str, Any] = {"max_output_tokens": 9, "reasoning": {"effort": "low"}, "seed": 1, "stop": "x"}
    (options,) = read(
        **fields, truncation="auto", top_logprobs=2, text={"format": {"type": "json_object"}}
    ).to_requests(llm)
    (plain,) = read(include=["message.output_text.logprobs"]).to_requests(llm)

    assert options["max_tokens"] == 9  # type: ignore[index]
    assert options["reasoning_effort"] == "low"  # type: ignore[index]
    assert options["sampling"].seed == 1  # type: ignore[index]
    assert options["stop"] == ("x",)  # type: ignore[index]
    assert options["grammar"].kind == "json_schema"  # type: ignore[index]
    assert options["top_logprobs"] == 2  # type: ignore[index]
    assert (options["truncate"], plain["truncate"]) == (True, False)  # type: ignore[index]
    assert plain["top_logprobs"] == 0  # type: ignore[index]


IMAGE = {"type": "input_image", "image_url": "data:,"}
SAID = {"role": "user", "content": "hello"}


@pytest.mark.parametrize(
    ("fields", "kind", "param"),
    [
        ({"background": True}, UnsupportedField, "background"),
        ({"prompt": {"id": "pmpt_1"}}, UnsupportedField, "prompt"),
        ({"moderation": {"model": "m"}}, UnsupportedField, "moderation"),
        ({"conversation": "conv_1"}, UnsupportedField, "conversation"),
        ({"reasoning": {"mode": "pro"}}, UnsupportedField, "reasoning.mode"),
        ({"input": [{"role": "user", "content": [IMAGE]}]}, UnsupportedField, "input[0].content[0].type"),
        ({"tool_choice": {"type": "web_search"}, "tools": [WEATHER]}, UnsupportedField, "tool_choice.type"),
        ({"tool_choice": {"type": "mcp", "server_label": "x"}}, UnsupportedField, "tool_choice.type"),
        ({"tool_choice": {"type": "function"}}, UsageError, "tool_choice.name"),
        ({"tool_choice": {"type": "allowed_tools", "mode": "auto"}}, UsageError, "tool_choice.tools"),
        (
            {"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "x"}]}},
            UsageError,
            "tool_choice.tools",
        ),
        ({"tools": [None]}, UsageError, "tools[0]"),
        ({"tools": [{"name": "f"}]}, UsageError, "tools[0].type"),
        ({"tools": [{**PATCH, "format": {"type": "grammar"}}]}, UsageError, "tools[0].format.definition"),
        ({"tools": [WEATHER] * 129}, UsageError, "tools"),
        ({"input": [SAID] * 4097}, UsageError, "input"),
        ({"input": [{"type": "thought"}]}, UsageError, "input[0].type"),
        ({"input": [{"role": "tool", "content": "x"}]}, UsageError, "input[0].role"),
        ({"input": [{"role": "user"}]}, UsageError, "input[0].content"),
        ({"input": [{"content": "x"}]}, UsageError, "input[0].role"),
        ({"input": [{"type": "function_call", "name": "f"}]}, UsageError, "input[0].arguments"),
        ({"input": [{"type": "function_call", "arguments": "{}"}]}, UsageError, "input[0].name"),
        ({"input": [{"type": "custom_tool_call", "name": "f", "arguments": "{}"}]}, UsageError, "input[0].input"),
        ({"input": [{"type": "function_call_output", "call_id": "c"}]}, UsageError, "input[0].output"),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, UsageError, "input[0].content[0].text"),
        ({"text": {"format": {"type": "json_schema", "name": "n"}}}, UsageError, "text.format.schema"),
        ({"metadata": {str(n): "x" for n in range(17)}}, UsageError, "metadata"),
        ({"input": 5}, UsageError, "input"),
        ({"metadata": {"k": "x" * 513}}, UsageError, "metadata"),
        ({"metadata": {"k" * 65: "x"}}, UsageError, "metadata"),
    ],
)
def test_what_cannot_be_is_refused_by_name(fields: dict[str, Any], kind: type[UsageError], param: str) -> None:
    llm: Any = SimpleNamespace(request=lambda conversation, **options: options)
    with pytest.raises(UsageError) as caught:
        read(**fields).to_requests(llm)
    check_refusal(caught.value, kind, param=param)


HOSTILE = (
    None,
    True,
    -1,
    1e308,
    "x",
    "\x00",
    "\ud800",
    [],
    [None],
    [[]],
    {},
    {"type": None},
    {"type": []},
    [{}],
    [{"type": {}}],
)
FIELDS = (*ResponsesBody.__struct_fields__, "background", "conversation", "prompt", "moderation", "user")


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize(
    "path",
    [
        "/v1/responses",
        *(pytest.param(f"/v1/responses/{name}", marks=pytest.mark.slow(2)) for name in ("input_tokens", "compact")),
    ],
)
def test_hostile_values_are_refused_or_answered(live: Live, field: str, path: str) -> None:
    for value in HOSTILE:
        body = json.dumps({"input": "hi", "max_output_tokens": 4, field: value})
        answer = live.http.post(path, content=body, headers={"content-type": "application/json"})
        assert answer.status_code in (200, 400, 404), (value, answer.text)


KINDS = ("message", "reasoning", "function_call", "function_call_output", "compaction", "item_reference", "mcp_call")


@pytest.mark.parametrize("field", ResponsesItem.__struct_fields__)
def test_hostile_items_are_refused_or_answered(live: Live, field: str) -> None:
    for kind, value in itertools.product(KINDS, HOSTILE):
        body = json.dumps({"input": [{"type": kind, field: value}, SAID], "max_output_tokens": 4})
        answer = live.http.post("/v1/responses", content=body, headers={"content-type": "application/json"})
        assert answer.status_code in (200, 400), (kind, value, answer.text)


def create(live: Live, **fields: Any) -> Any:
    answer = live.post("/v1/responses", {"input": "hello", **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_over_http(live: Live) -> None:
    answer = live.post("/v1/responses", {"input": "hello", "tools": [SEARCH]})

    assert answer.headers["x-edgellm-ignored"] == "tools[].web_search"
    assert answer.json()["output"][0]["content"][0]["text"] == "hello"
    assert names(events_of(live.post("/v1/responses", {"input": "hello", "stream": True}).content))[-1] == "completed"


def test_a_prompt_that_is_too_long_is_named_as_the_body_calls_it(live: Live) -> None:
    answer = live.post("/v1/responses", {"input": "x" * 5000, "truncation": "disabled"})

    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "input"


def test_websockets_are_not_spoken(live: Live) -> None:
    headers = {"upgrade": "websocket", "connection": "upgrade", "sec-websocket-key": "x", "sec-websocket-version": "13"}

    assert live.http.get("/v1/responses", headers=headers).status_code == 405
