"""What Ollama's bodies mean: options, conversations, tools, thoughts."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from support.refusals import refuses

from edgellm.errors import UsageError
from edgellm.server.dialects.ollama.chat_body import OllamaChatBody
from edgellm.server.dialects.ollama.generate_body import OllamaGenerateBody
from edgellm.types.message import Message, Tool, ToolCall
from edgellm.types.request import GenerationRequest
from edgellm.types.sampling import Sampling

HELLO = {"role": "user", "content": "hello"}
CALL = {"function": {"name": "weather", "arguments": {"city": "Köln"}}}
TIME = {"function": {"name": "time", "arguments": {}}}


def llm(**info: Any) -> Any:
    """Hands back what is asked of it."""
    known = {"n_ctx": 4096, "chat_template": "x", "special_texts": (), **info}
    plan = SimpleNamespace(artifact=SimpleNamespace(ctx_train=0))
    request = lambda messages, **asked: (messages, asked)  # noqa: E731
    return SimpleNamespace(info=SimpleNamespace(**known), plan=plan, request=request)


@pytest.mark.parametrize(("trained", "is_advised"), [(0, True), (8192, True), (4096, False)])
def test_a_longer_context_is_advised_where_the_model_has_one(trained: int, *, is_advised: bool) -> None:
    options = OllamaChatBody.read(json.dumps({"messages": [HELLO], "options": {"num_ctx": 8192}}).encode()).options
    assert options is not None
    with pytest.raises(UsageError) as error:
        options.check_context(4096, trained)
    assert ("longer context" in error.value.hint) == is_advised


def asked(*messages: dict[str, Any], **fields: Any) -> tuple[list[Message], Any]:
    body = OllamaChatBody.read(json.dumps({"messages": messages or [HELLO], **fields}).encode())
    (request,) = body.to_requests(llm())
    return request  # type: ignore[return-value]


def generated(model: Any = None, **fields: Any) -> Any:
    (request,) = OllamaGenerateBody.read(json.dumps(fields).encode()).to_requests(model or llm())
    return request


def test_options_are_sampling_under_other_names() -> None:
    options = {"temperature": 1, "top_k": 3, "repeat_penalty": 1.1, "repeat_last_n": -1, "seed": 7, "stop": ["a", "b"]}
    _, meant = asked(options={**options, "num_predict": 9})

    assert meant["sampling"] == Sampling(temperature=1, top_k=3, repetition_penalty=1.1, penalty_last_n=-1, seed=7)
    assert (meant["max_tokens"], meant["stop"]) == (9, ("a", "b"))


@pytest.mark.parametrize("n", [-1, -2, 0])
def test_no_limit(n: int) -> None:
    assert asked(options={"num_predict": n})[1]["max_tokens"] is None


def test_a_seed_below_0_is_none() -> None:
    assert asked(options={"seed": -1})[1]["sampling"] == Sampling()


@pytest.mark.parametrize(
    ("think", "thinking", "effort"),
    [(None, None, None), (True, True, None), (False, False, None), ("low", None, "low"), ("max", None, "max")],
)
def test_thinking(think: Any, thinking: bool | None, effort: str | None) -> None:
    _, meant = asked(think=think)

    assert (meant["thinking"], meant["reasoning_effort"]) == (thinking, effort)


def test_tools() -> None:
    schema = {"type": "object", "properties": {"city": {"type": ["string", "null"]}}}
    _, meant = asked(tools=[{"type": "function", "function": {"name": "weather", "parameters": schema}}])

    assert meant["tools"] == (Tool("weather", parameters=schema),)


def test_arguments_become_text_as_templates_write_it() -> None:
    messages, _ = asked(HELLO, {"role": "assistant", "content": "", "thinking": "hm", "tool_calls": [CALL]})

    assert messages[1] == Message("assistant", "", "hm", (ToolCall("weather", '{"city": "Köln"}', "call_1_0"),))


@pytest.mark.parametrize(
    ("results", "ids"),
    [
        ([{}, {}], ["call_1_0", "call_1_1"]),
        ([{"tool_name": "time"}, {"tool_name": "weather"}], ["call_1_1", "call_1_0"]),
        ([{"tool_call_id": "call_1_1"}, {}], ["call_1_1", "call_1_0"]),
        ([{"tool_name": "nobody"}, {}], ["call_1_0", "call_1_1"]),
        ([{"tool_call_id": "mine"}, {}], ["mine", "call_1_0"]),
        ([{}, {}, {}], ["call_1_0", "call_1_1", ""]),
    ],
)
def test_results_find_their_calls(results: list[dict[str, str]], ids: list[str]) -> None:
    called = {"role": "assistant", "tool_calls": [CALL, TIME]}
    messages, _ = asked(HELLO, called, *({"role": "tool", "content": "x", **result} for result in results))

    assert [message.call_id for message in messages[2:]] == ids


def test_only_an_assistant_calls() -> None:
    with refuses(UsageError, param="messages[0].tool_calls"):
        asked({**HELLO, "tool_calls": [CALL]})


def test_a_prompt_is_the_message_of_a_chat() -> None:
    messages, meant = generated(prompt="hello", system="Be brief.", think=False, format="json")

    assert messages == [Message("system", "Be brief."), Message("user", "hello")]
    assert meant["grammar"].kind == "json_schema"


def test_a_prompt_as_it_stands() -> None:
    plain = GenerationRequest("hello", max_tokens=3)

    assert generated(prompt="hello", raw=True, options={"num_predict": 3}) == plain
    assert generated(llm(chat_template=None), prompt="hello", options={"num_predict": 3}) == plain


def test_what_comes_between_two_texts() -> None:
    markers = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
    model = llm(special_texts=markers, added_texts=(), bos_text="", eos_text="")

    assert generated(model, prompt="a", suffix="b").prompt == "<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>"


@pytest.mark.parametrize("kind", [OllamaChatBody, OllamaGenerateBody])
def test_nothing_to_answer(kind: Any) -> None:
    assert kind.read(b'{"model": "m", "options": {}}').to_requests(llm()) == []
