"""What becomes of a conversation and of what is asked of its answer: one request, on which every face agrees."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np
import pytest
from support.refusals import refuses

from edgellm.builtin.echo import EchoEngine
from edgellm.errors import GrammarFailed, UsageError
from edgellm.sdk.client import EdgeLLM
from edgellm.text.answer_or_call import answer_or_call
from edgellm.text.matcher import GrammarCompiler
from edgellm.types.event import Done
from edgellm.types.grammar import Grammar
from edgellm.types.markup import JsonCalls, Markup, ReasoningMarkup
from edgellm.types.message import Message, NamedTool, TextInput, Tool
from edgellm.types.options import LaunchOptions
from edgellm.types.plan import Settings
from edgellm.types.reasoning import EFFORTS, thinking_budget, thinks_first
from edgellm.types.request import GenerationRequest
from edgellm.types.sampling import Sampling

THINKER = (
    "{% for m in messages %}<|{{ m.role }}|>"
    "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}<|end|>{% endfor %}"
    "{% if tools %}<|tools|>{{ tools | tojson }}<|end|>{% endif %}"
    "{% if add_generation_prompt %}<|assistant|>{% if enable_thinking %}<think>{% endif %}{% endif %}{{ mood }}"
)
WEATHER = Tool("weather", "Rain?", {"type": "object", "properties": {"city": {"type": "string"}}})


def weather(city: Literal["Köln", "Bonn"]) -> str:
    """Rain?"""
    return f"rain in {city}"


@pytest.fixture
def llm() -> Iterator[EdgeLLM]:
    with EdgeLLM.load("echo", isolate=False) as llm:
        yield llm


@pytest.fixture
def thinker(llm: EdgeLLM) -> EdgeLLM:
    """Not to be asked for answers: its template is all there is of it."""
    llm._session._info = replace(llm.info, chat_template=THINKER)  # type: ignore[attr-defined]
    return llm


def test_a_model_that_thinks_is_read_so(thinker: EdgeLLM) -> None:
    request = thinker.request("Hi", thinking=True, reasoning_effort="low", max_tokens=100)
    assert request.reading is not None
    assert request.reading.markup.reasoning is not None
    assert (request.reading.opened, request.thinking, request.reasoning_budget) == ("<|assistant|><think>", True, 25)
    still = thinker.request("Hi")
    assert still.reading is not None
    assert (still.reading.opened, still.thinking, still.reasoning_budget) == ("<|assistant|>", False, None)


def test_a_model_that_cannot_think_says_so_where_it_is_asked_to(llm: EdgeLLM) -> None:
    asked: tuple[Any, ...] = ({"thinking": True}, {"reasoning_effort": "high"}, {"template_kwargs": {"thinking": True}})
    open_: tuple[Any, ...] = ({}, {"thinking": False}, {"reasoning_effort": "none"})

    assert [llm.request("Hi", **options).notes for options in asked] == [("thinking_unsupported",)] * 3
    assert [llm.request("Hi", **options).notes for options in open_] == [()] * 3


def test_a_model_that_thinks_has_no_note_of_it(thinker: EdgeLLM) -> None:
    assert thinker.request("Hi", thinking=True).notes == ()


def test_a_response_template_that_cannot_be_read_is_said_once(
    thinker: EdgeLLM, caplog: pytest.LogCaptureFixture
) -> None:
    declared = json.dumps({"fields": {"thinking": {"open_pattern": "(a+)+$", "close": "</idea>"}}})
    thinker._session._info = replace(thinker.info, response_template=declared)  # type: ignore[attr-defined]
    read = [thinker.request("Hi", thinking=True).reading for _ in range(2)]
    assert read[0] is not None
    assert read[0].markup.reasoning == ReasoningMarkup("<think>", "</think>")
    (said,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "response_template.fields.thinking.open_pattern" in said


def test_a_response_template_goes_before_the_chat_template(thinker: EdgeLLM) -> None:
    declared = json.dumps({"fields": {"thinking": {"open": "<idea>", "close": "</idea>"}}})
    thinker._session._info = replace(thinker.info, response_template=declared)  # type: ignore[attr-defined]
    reading = thinker.request("Hi").reading
    assert reading is not None
    assert reading.markup.reasoning == ReasoningMarkup("<idea>", "</idea>")


def test_what_is_served_holds_where_the_request_is_silent(thinker: EdgeLLM) -> None:
    thinker.plan = replace(thinker.plan, thinking=True)
    assert [thinker.request("Hi", thinking=thinks).thinking for thinks in (None, False)] == [True, False]


def test_the_template_gets_its_variables(thinker: EdgeLLM) -> None:
    assert str(thinker.request("Hi", template_kwargs={"mood": "gay"}).prompt).endswith("gay")
    assert thinker.request("Hi", template_kwargs={"enable_thinking": True}).thinking
    continued = thinker.request([Message("assistant", "Once")], continue_final_message=True)
    assert str(continued.prompt).endswith("<|assistant|>Once")
    assert str(thinker.request("Hi", add_generation_prompt=False).prompt).endswith("Hi<|end|>")


@pytest.mark.parametrize(
    ("thinking", "effort", "variables", "served", "thinks"),
    [
        (None, None, {}, True, True),
        (None, None, {}, False, False),
        (False, None, {}, True, False),
        (None, "none", {}, True, False),
        (None, "high", {}, False, True),
        (None, None, {"thinking": True}, False, True),
        (True, "max", {"enable_thinking": True}, False, True),
        (None, None, {"enable_thinking": "yes"}, False, False),
    ],
)
def test_who_says_whether_it_thinks(
    thinking: bool | None, effort: Any, variables: dict[str, Any], served: bool, thinks: bool
) -> None:
    assert thinks_first(thinking, effort, variables, served=served) is thinks


def test_efforts_are_shares_of_the_answer() -> None:
    assert [thinking_budget(effort, 800) for effort in EFFORTS] == [None, 50, 200, 400, 600, None, None]
    assert thinking_budget("minimal", 1) == 1


def test_tools_that_the_template_lacks_are_asked_for_as_json(llm: EdgeLLM) -> None:
    request = llm.request("Rain?", tools=[WEATHER])
    assert request.notes == ("system_merged", "tools_prompted")
    assert request.reading is not None
    assert (request.reading.markup.calls, request.reading.tools) == (JsonCalls(), (WEATHER,))
    assert request.grammar is not None
    unwanted = llm.request("Rain?", tools=[WEATHER], tool_choice="none")
    assert (unwanted.prompt, unwanted.reading, unwanted.grammar) == ("Rain?", None, None)


CALL = '{"name": "weather", "arguments": {"city": "Bonn"}}'
NUMBER = {"type": "object", "properties": {"n": {"type": "integer"}}, "additionalProperties": False}
TAGGED = f"<tool_call>\n{CALL}\n</tool_call>"
ANSWERS = {
    "schema": (Grammar.of_schema(NUMBER), '{"n": 1}'),
    "regex": (Grammar("regex", "[a-c]+"), "abc"),
    "choice": (Grammar("choice", '["yes", "no"]'), "no"),
}


def test_an_answer_of_a_form_or_a_call_with_a_text(llm: EdgeLLM) -> None:
    shell = Tool("shell", input=TextInput("ls|cat"))
    request = llm.request("Look.", tools=[shell], grammar=ANSWERS["schema"][0])
    call = '{"name": "shell", "arguments": {"input": "%s"}}'
    assert [allows(request.grammar, call % text) for text in ("ls", "cat", "rm")] == [1, 1, 0]


@pytest.mark.parametrize("kind", ANSWERS)
def test_an_answer_of_a_form_or_a_call(llm: EdgeLLM, kind: str) -> None:
    grammar, text = ANSWERS[kind]
    request = llm.request("Rain?", tools=[WEATHER], grammar=grammar)
    assert [allows(request.grammar, written) for written in (text, CALL, "Hello", CALL + text)] == [1, 1, 0, 0]
    forced = llm.request("Rain?", tools=[WEATHER], tool_choice="required", grammar=grammar)
    assert [allows(forced.grammar, written) for written in (text, CALL)] == [0, 1]
    assert llm.request("Rain?", tools=[WEATHER], tool_choice="none", grammar=grammar).grammar == grammar


def test_a_call_with_markers_goes_with_a_schema(llm: EdgeLLM) -> None:
    markup, (grammar, text) = Markup(calls=JsonCalls("<tool_call>\n", "\n</tool_call>")), ANSWERS["schema"]
    either = answer_or_call(grammar, markup, [WEATHER], parallel=True)
    assert [allows(either, written) for written in (text, TAGGED, CALL, "Hello")] == [1, 1, 0, 0]


def allows(grammar: Grammar | None, text: str) -> bool:
    """Whether the whole text, and its end, may be written."""
    assert grammar is not None
    engine = EchoEngine(Settings(n_ctx=64))
    matcher = GrammarCompiler(engine.tokenizer, engine.info).matcher(grammar)
    try:
        for token in engine.tokenizer.encode(text, add_special=False, parse_special=False):
            matcher.accept(token)
    except GrammarFailed:
        return False
    return bool(matcher.allows(np.array(sorted(engine.info.eos_ids))).all())


def test_a_grammar_of_rules_does_not_go_with_tools(llm: EdgeLLM) -> None:
    with refuses(UsageError, param="tools"):
        llm.request("Rain?", tools=[WEATHER], grammar=Grammar("lark", 'start: "a"'))


@pytest.mark.parametrize("choice", ["required", NamedTool("weather")], ids=["required", "named"])
def test_a_forced_call_is_made_and_its_result_is_answered(llm: EdgeLLM, choice: Any) -> None:
    options: Any = {"tool_choice": choice, "temperature": 0, "max_tokens": 400, "parallel_tool_calls": False}
    use = llm.use_tools("Rain?", tools=[weather], **options)
    (result,) = use.results
    assert not result.failed
    assert result.text in ("rain in Köln", "rain in Bonn")
    assert result.text in use.answer.text
    assert use.messages[1].calls == (result.call,)
    answer = llm.chat("Rain?", tools=[weather], **options)
    assert (answer.finish_reason, answer.text, answer.calls) == ("tool_calls", "", (result.call,))
    assert answer.notes == ("system_merged", "tools_prompted")


def add(a: int, b: int) -> int:
    """The sum."""
    return a + b


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("chat", {"stop": 3}, "stop"), ("chat", {"stop": [3]}, "stop"), ("chat", {"stop": b"x"}, "stop"),
    ("chat", {"tools": 3}, "tools"), ("chat", {"tools": add}, "tools"), ("chat", {"tools": "add"}, "tools"),
    ("chat", {"tools": {"type": "function"}}, "tools"),
    ("use_tools", {"tools": None}, "tools"), ("use_tools", {"tools": add}, "tools"),
    ("use_tools", {"tools": [add], "rounds": "3"}, "rounds"), ("use_tools", {"tools": [add], "rounds": True}, "rounds"),
    ("chat", {"template_kwargs": 3}, "template_kwargs"), ("chat", {"template_kwargs": [("a", 1)]}, "template_kwargs"),
    ("chat", {"thinking": "yes"}, "thinking"), ("chat", {"parallel_tool_calls": 1}, "parallel_tool_calls"),
    ("chat", {"max_tokens": "3", "reasoning_effort": "low"}, "max_tokens"),
    ("chat", {"max_tokens": True}, "max_tokens"),
    ("chat", {"max_tokens": np.bool_(True)}, "max_tokens"), ("chat", {"max_tokens": np.float64(2)}, "max_tokens"),
    ("chat", {"temperature": True}, "temperature"), ("chat", {"n": None}, "n"), ("chat", {"timeout": True}, "timeout"),
    ("chat", {"logprobs": 2}, "logprobs"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "options", "param"), WRONG)
def test_a_value_of_another_type_is_refused_by_its_name(
    llm: EdgeLLM, method: str, options: dict[str, Any], param: str
) -> None:
    with refuses(UsageError, param=param, varies="<function.*>"):
        getattr(llm, method)("hi", **options)


@pytest.mark.parametrize("documents", [3, "text", None])
def test_documents_are_a_list(llm: EdgeLLM, documents: Any) -> None:
    with refuses(UsageError, param="documents"):
        llm.rerank("hi", documents)


def test_logprobs_are_those_of_the_tokens_alone_or_of_others_too(llm: EdgeLLM) -> None:
    told = {"logprobs": True}, {"logprobs": True, "top_logprobs": 2}, {"top_logprobs": 2}, {"logprobs": False}

    assert [llm.request("hi", **options).top_logprobs for options in told] == [0, 2, 2, None]  # type: ignore[arg-type]
    assert [len(token.top) for token in llm.chat("h", logprobs=True).logprobs] == [0]


def test_none_is_none() -> None:
    with EdgeLLM.load("echo", isolate=False) as llm:
        assert llm.chat("hi", stop=None, tools=None, template_kwargs=None).text == llm.chat("hi").text


def test_the_name_of_a_model_is_no_plan() -> None:
    with refuses(UsageError, param="plan") as refused:
        EdgeLLM("echo")  # type: ignore[arg-type]
    assert "EdgeLLM.load('echo')" in refused.value.hint


def test_numbers_of_numpy_are_taken(llm: EdgeLLM) -> None:
    numpys = llm.chat(
        "hello", max_tokens=np.int64(3), temperature=np.float32(0.5), seed=np.uint8(3), n=np.int16(2),
        logit_bias=((np.int64(3), np.float64(1.0)),), top_logprobs=np.int32(0), timeout=np.float32(60),
    )  # type: ignore[call-overload]  # fmt: skip
    own = llm.chat("hello", max_tokens=3, temperature=0.5, seed=3, n=2, logit_bias=((3, 1.0),), top_logprobs=0)
    assert [choice.text for choice in numpys.choices] == [choice.text for choice in own.choices]

    sampling = Sampling(temperature=np.float32(0.5), top_k=np.int64(3))  # type: ignore[arg-type]
    assert (type(sampling.temperature), type(sampling.top_k)) == (float, int)
    tokens = tuple(np.arange(3))
    assert GenerationRequest(tokens) == GenerationRequest((0, 1, 2))
    assert LaunchOptions.of(ctx=np.int64(512), slots=np.int32(2), gpu_layers=np.int8(0)) == LaunchOptions.of(
        ctx=512, slots=2, gpu_layers=0
    )


@pytest.mark.parametrize(
    "call",
    [
        lambda llm: llm.chat("Hi", temprature=1),
        lambda llm: llm.chat("Hi", ignore_eos=True),
        lambda llm: llm.chat("Hi", progress=True),
        lambda llm: llm.stream("Hi", schema=int),
        lambda llm: llm.stream("Hi", sampling=Sampling()),
        lambda llm: llm.astream("Hi", schema=int),
        lambda llm: llm.stream_tools("Hi", tools=[], schema=int),
        lambda llm: llm.astream_tools("Hi", tools=[], schema=int),
        lambda llm: llm.use_tools("Hi", tools=[], schema=int),
        lambda llm: llm.count_tokens("Hi", rounds=3),
    ],
    ids=[
        "temprature",
        "ignore_eos",
        "progress",
        "schema",
        "sampling",
        "astream",
        "stream_tools",
        "astream_tools",
        "tools",
        "rounds",
    ],
)
def test_the_place_of_an_option_is_named(llm: EdgeLLM, call: Callable[[EdgeLLM], Any]) -> None:
    with refuses(UsageError):
        call(llm)


WRONG: dict[str, tuple[Any, dict[str, Any]]] = {
    "messages": ([], {}),
    "timeout": ("Hi", {"timeout": 0}),
    "max_tokens": ("Hi", {"max_tokens": 0}),
    "temperature": ("Hi", {"temperature": -1}),
    "stop": ("Hi", {"stop": 5}),
    "thinking": ("Hi", {"thinking": "no"}),
    "reasoning_effort": ("Hi", {"reasoning_effort": "huge"}),
    "tool_choice": ("Hi", {"tool_choice": "sometimes"}),
    "adapters": ("Hi", {"adapters": 3}),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_are_raised_before_the_first_event_is_asked_for(llm: EdgeLLM, name: str) -> None:
    """In whichever way the events come. The words are those of `chat`."""
    messages, wrong = WRONG[name]
    with refuses(UsageError, param=name):
        llm.chat(messages, **wrong)
    for ask in (llm.stream, llm.astream, partial(llm.stream_tools, tools=[]), partial(llm.astream_tools, tools=[])):
        with pytest.raises(UsageError) as caught:
            ask(messages, **wrong)
        assert caught.value.param == name


async def test_what_can_be_read_once_is_read_once(llm: EdgeLLM) -> None:
    """The arguments are looked at before the answer is asked for, and then again."""
    messages: Any = iter([Message("user", "ab")])
    options: Any = {"stop": iter(["x"]), "tools": iter([weather]), "adapters": iter(()), "temperature": 0}
    streamed = [event async for event in llm.astream(messages, **options)]
    assert isinstance(streamed[-1], Done)
