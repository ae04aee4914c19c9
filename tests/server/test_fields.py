"""Bodies: what is accepted, what is refused, and that the field is named."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from support.refusals import check_refusal, refuses

from edgellm.errors import UnsupportedField, UsageError
from edgellm.server.schemas.chat import ChatBody
from edgellm.server.schemas.completion import CompletionBody
from edgellm.server.schemas.fields import RequestBody, shortened
from edgellm.types.message import Message, ToolCall
from edgellm.types.sampling import Sampling

NO_MODEL: Any = None
HELLO = [{"role": "user", "content": "hello"}]


def chat(**fields: Any) -> ChatBody:
    return ChatBody.read(json.dumps({"messages": HELLO, **fields}).encode())


def test_what_token_ids_bring_back_is_bounded_by_their_bytes() -> None:
    """Of few nothing is asked, as tokens have 128 bytes at most; a prompt that no context holds is refused as that."""
    asked: list[list[int]] = []

    def to_requests(n_bytes: int, **fields: Any) -> int:
        def pieces(ids: list[int]) -> list[bytes]:
            asked.append(ids)
            return [b" " * n_bytes] * len(ids)

        llm: Any = SimpleNamespace(info=SimpleNamespace(n_ctx=4096), pieces=pieces)
        return len(completion(**fields).to_requests(llm))

    assert to_requests(128, prompt=[7] * 488, n=128, echo=True) == 1
    assert to_requests(128, prompt=[7] * 1000, n=128) == 1
    assert asked == []
    assert to_requests(4, prompt=[7] * 1000, n=128, echo=True) == 1
    assert to_requests(128, prompt=[[7] * 5000, [7] * 488], n=128, echo=True) == 2
    assert list(map(len, asked)) == [1000, 488]
    with refuses(UsageError, param="echo"):
        to_requests(128, prompt=[[7] * 489] * 2, n=128, echo=True)


def completion(**fields: Any) -> CompletionBody:
    return CompletionBody.read(json.dumps({"prompt": "hello", **fields}).encode())


def refused(body: type[RequestBody], data: Any) -> UsageError:
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    with pytest.raises(UsageError) as caught:
        body.read(raw)
    return caught.value


# Each asks for something that is not served yet.
UNSUPPORTED = {
    "modalities": ["text", "audio"],
    "audio": {"voice": "alloy", "format": "wav"},
    "moderation": {"model": "m"},
    "web_search_options": {},
    "chat_template": "{{ messages }}",
}


@pytest.mark.parametrize("field", UNSUPPORTED)
def test_a_field_that_is_not_served_is_refused_by_name(field: str) -> None:
    error = refused(ChatBody, {"messages": HELLO, field: UNSUPPORTED[field]})

    check_refusal(error, UnsupportedField, param=field)


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 1, "logprobs": False, "tools": [], "tool_choice": "none", "parallel_tool_calls": True, "functions": []},
        {"response_format": {"type": "text"}, "store": False, "service_tier": "auto", "modalities": ["text"]},
        {"user": "u", "metadata": {"a": "b"}, "safety_identifier": "s", "prompt_cache_key": "k"},
        {
            "store": True,
            "service_tier": "priority",
            "verbosity": "low",
            "prediction": {"type": "content", "content": "x"},
        },
        {"prompt_cache_options": {"mode": "explicit", "ttl": "30m"}, "prompt_cache_retention": "24h"},
        {"stream": True, "stream_options": {"include_obfuscation": True}},
        dict.fromkeys([*UNSUPPORTED, "stream", "stop", "temperature", "seed", "max_tokens", "logit_bias", "model"]),
    ],
)
def test_what_asks_for_nothing_is_accepted(fields: dict[str, Any]) -> None:
    assert chat(**fields).sampling() == Sampling()


def test_strictly_an_unknown_field_is_refused_with_the_nearest_one() -> None:
    error = refused(ChatBody, {"messages": HELLO, "temprature": 1})

    check_refusal(error, UsageError, param="temprature")


def test_strictly_an_unknown_field_of_a_message_is_refused_with_its_place() -> None:
    error = refused(ChatBody, {"messages": [*HELLO, {"role": "user", "content": "x", "weight": 1}]})

    assert error.param == "messages[1].weight"


def test_every_sampling_field_arrives() -> None:
    sampling = Sampling(
        temperature=0.5, top_k=3, top_p=0.9, min_p=0.1, typical_p=0.8, repetition_penalty=1.1, frequency_penalty=0.2,
        presence_penalty=-0.3, penalty_last_n=-1, logit_bias=((42, -100.0), (7, 1.5)), seed=11,
    )  # fmt: skip
    fields = {name: getattr(sampling, name) for name in Sampling.__struct_fields__}

    assert chat(**fields | {"logit_bias": {"42": -100, "7": 1.5}}).sampling() == sampling


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -1),
        ("temperature", 101),
        ("top_p", 0),
        ("frequency_penalty", 3),
        ("presence_penalty", -3),
        ("seed", -1),
        ("top_k", 2**40),
        ("penalty_last_n", 2**40),
        ("logit_bias", {"1": 200}),
        ("logit_bias", {"word": 1}),
        ("logit_bias", {"00": 1, "0": 2}),
        ("repetition_penalty", 0.009),
        ("repetition_penalty", 5e-324),
        ("logit_bias", {"99999999999999999999": 1}),
    ],
)
def test_values_out_of_range_name_their_field(field: str, value: object) -> None:
    with pytest.raises(UsageError) as caught:
        chat(**{field: value}).sampling()
    assert caught.value.param == field


def test_not_a_number_is_refused() -> None:
    """JSON has no NaN; Python's own encoder writes one."""
    nan = b'{"messages": [{"role": "user", "content": "x"}], "temperature": NaN}'
    check_refusal(refused(ChatBody, nan), UsageError)
    with refuses(UsageError, param="temperature"):
        Sampling(temperature=float("nan"))


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": "0.5"}, "temperature"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"stream": "yes"}, "stream"),
        ({"stop": 5}, "stop"),
        ({"stop": ["a", 5]}, "stop[1]"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"n": True}, "n"),
        ({"tools": [{"type": "function", "function": 5}]}, "tools[0].function"),
        ({"tool_choice": "any"}, "tool_choice"),
        ({"messages": [{"role": "bob", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, "messages[0].role"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"logit_bias": {"1": "x"}}, "logit_bias"),
        ({"messages": {}}, "messages"),
        ({"messages": [5]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]}, "messages[0].content[0].text"),
    ],
)
def test_wrong_types_name_their_place(fields: dict[str, Any], param: str) -> None:
    assert refused(ChatBody, {"messages": HELLO, **fields}).param == param


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b"5", b"\xff", b'{"messages": [{"role": "user", "content": "\\ud800"}]}']
)
def test_what_is_no_json_object_is_refused(raw: bytes) -> None:
    check_refusal(refused(ChatBody, raw), UsageError)


def test_deep_nesting_is_refused() -> None:
    refused(ChatBody, b'{"metadata": ' + b"[" * 100_000 + b"]" * 100_000 + b"}")
    for depth in range(850, 1000, 10):  # around the deepest that Python reads, and shows in an error
        assert refused(ChatBody, b'{"messages": [], "modalities": ' + b"[" * depth + b"]" * depth + b"}")


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "assistant", "audio": {"id": "a"}}, "messages[0].audio"),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]},
            "messages[0].content[0].type",
        ),
        ({"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}, "messages[0].content[0].type"),
        ({"role": "user", "content": [{"type": "file", "file": {}}]}, "messages[0].content[0].type"),
    ],
)
def test_messages_that_are_not_served_are_refused_by_name(message: dict[str, Any], param: str) -> None:
    error = refused(ChatBody, {"messages": [message]})

    assert isinstance(error, UnsupportedField)
    assert error.param == param


def test_roles_and_parts_become_messages() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    body = chat(
        messages=[
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": parts, "name": "Ada"},
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
            {"role": "assistant", "refusal": "never"},
        ]
    )

    assert body.conversation() == [
        Message("system", "be brief"),
        Message("user", "ab", name="Ada"),
        Message("assistant", "no"),
        Message("assistant", "never"),
    ]


def test_calls_and_their_results_become_messages() -> None:
    function = {"name": "f", "arguments": '{"a": 1'}
    call = {"id": "1", "type": "function", "function": function}
    body = chat(
        messages=[
            *HELLO,
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": [{"type": "text", "text": "42"}], "tool_call_id": "1"},
            {"role": "assistant", "content": "", "function_call": function},
            {"role": "function", "name": "f", "content": None},
        ]
    )

    assert body.conversation()[1:] == [
        Message("assistant", calls=(ToolCall("f", '{"a": 1', "1"),)),
        Message("tool", "42", call_id="1"),
        Message("assistant", calls=(ToolCall("f", '{"a": 1'),)),
        Message("tool", name="f"),
    ]


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_in_the_history_has_three_names(name: str) -> None:
    body = chat(messages=[*HELLO, {"role": "assistant", "content": "x", name: "because"}])

    assert body.conversation()[1] == Message("assistant", "x", "because")


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "user"}, "messages[0].content"),
        ({"role": "user", "content": None}, "messages[0].content"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[0].content[0].text"),
        ({"role": "user", "content": "x", "tool_calls": [{"function": {"name": "f"}}]}, "messages[0].tool_calls"),
    ],
)
def test_what_a_message_lacks_is_named(message: dict[str, Any], param: str) -> None:
    with refuses(UsageError, param=param):
        chat(messages=[message]).conversation()


def test_an_answer_can_be_sent_back_as_it_came() -> None:
    answer = {"role": "assistant", "content": "hi", "refusal": None, "annotations": [], "tool_calls": None}

    assert chat(messages=[*HELLO, answer]).conversation()[1] == Message("assistant", "hi")


def test_stop_is_a_text_or_a_list() -> None:
    assert chat(stop="a").stops() == ("a",)
    assert chat(stop=["a", "b"]).stops() == ("a", "b")
    assert chat().stops() == ()


def test_both_names_of_the_limit_mean_the_same() -> None:
    assert chat(max_tokens=5).limit() == chat(max_completion_tokens=5).limit() == 5
    assert chat(max_tokens=5, max_completion_tokens=5).limit() == 5
    assert chat().limit() is None
    with refuses(UsageError, param="max_tokens"):
        chat(max_tokens=5, max_completion_tokens=6).limit()


def test_completions_answer_with_sixteen_tokens_unless_told_otherwise() -> None:
    assert completion().limit() == 16
    assert completion(max_tokens=5).limit() == 5


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [("a", ("a",)), (["a", "b"], ("a", "b")), ([1, 2], ((1, 2),)), ([[1, 2], [3]], ((1, 2), (3,)))],
)
def test_a_prompt_is_text_or_ids_or_several(prompt: object, prompts: object) -> None:
    assert completion(prompt=prompt).prompts() == prompts


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"n": 3, "best_of": 2}, "best_of"),
        ({"best_of": 2, "stream": True}, "best_of"),
        ({"n": 0}, "n"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": -1}, "logprobs"),
        ({"n": 129}, "n"),
        ({"prompt": ["a"] * 2049}, "prompt"),
        ({"prompt": ["a"] * 100, "n": 100}, "n"),
    ],
)
def test_what_no_completion_can_be_is_refused(fields: dict[str, Any], param: str) -> None:
    with refuses(UsageError, param=param):
        completion(**fields).to_requests(NO_MODEL)


def test_usage_in_a_stream_needs_a_stream() -> None:
    assert chat(stream=True, stream_options={"include_usage": True}).include_usage
    assert not chat(stream=True).include_usage
    with pytest.raises(UsageError) as caught:
        chat(stream_options={"include_usage": True})
    assert caught.value.param == "stream_options"


def test_a_long_value_is_cut_in_the_error() -> None:
    assert len(str(refused(ChatBody, {"messages": HELLO, "modalities": "x" * 10_000}))) < 200
    assert len(str(refused(ChatBody, {"messages": HELLO, "y" * 10_000: 1}))) < 300


def test_what_is_refused_is_shown_as_json_and_media_not_at_all() -> None:
    assert shortened({"voice": "alloy", "speed": None}) == '{"voice":"alloy","speed":null}'
    assert len(shortened("x" * 1000)) == 60
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}}
    parts = [{"image_url": image["image_url"], "type": "image_url"}, image]
    for part in parts:
        error = refused(ChatBody, {"messages": [{"role": "user", "content": [part]}]})
        assert "QUJD" not in str(error)
