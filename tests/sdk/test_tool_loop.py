"""Tools that are called until the model answers: each step is seen, and only what the app passed is called."""

from __future__ import annotations

import asyncio
import datetime
import json
from collections.abc import AsyncGenerator, Generator
from typing import Any

import pydantic
import pytest
from support.refusals import refuses

from edgellm.errors import IncompleteAnswer, TimedOut, TooManyRounds, UsageError
from edgellm.sdk.deadline import Deadline
from edgellm.sdk.tool_loop import ToolLoopMethods
from edgellm.sdk.toolbox import tools_of
from edgellm.types.event import Delta, Done, Event, FinishReason, Timings, Usage
from edgellm.types.message import Message, NamedTool, Tool, ToolCall
from edgellm.types.request import GenerationRequest
from edgellm.types.tool_use import ToolResult, ToolUse

Call = tuple[str, str]
Said = str | list[Call]


class Scripted(ToolLoopMethods):
    """A model that says what the test says; what it was asked stays to be looked at."""

    def __init__(self, *said: Said, ends: FinishReason | None = None) -> None:
        self.asked: list[tuple[list[Message], Any]] = []
        self._said = list(said)
        self._ends = ends

    def _asked(self, messages: Any, options: Any, *own_names: str, progress: bool = False) -> Any:
        self.asked.append((list(messages), dict(options)))
        return GenerationRequest("")

    async def _aasked(self, messages: Any, options: Any, *own_names: str, progress: bool = False) -> Any:
        return self._asked(messages, options)

    def _events_by(self, request: Any, deadline: Deadline) -> Generator[Event, None, None]:
        said = self._said.pop(0)
        if isinstance(said, str):
            yield Delta(said)
        else:
            for number, (name, arguments) in enumerate(said):
                yield Delta(name, kind="call_name", call=number)
                yield Delta(arguments, kind="call_arguments", call=number)
        end: FinishReason = "stop" if isinstance(said, str) else "tool_calls"
        yield Done(self._ends or end, Usage(1, 1), Timings(0.0, 0.0, 0.0))

    async def _event_lists_by(self, request: Any, deadline: Deadline) -> AsyncGenerator[list[Event], None]:
        yield list(self._events_by(request, deadline))


def add(a: int, b: int) -> int:
    return a + b


def divide(a: int, b: int) -> float:
    return a / b


def town() -> str:
    return "Köln"


async def later(a: int) -> int:
    await asyncio.sleep(0)
    return a


def texts(use: ToolUse) -> list[str]:
    return [result.text for result in use.results]


def test_the_model_is_told_results_until_it_answers() -> None:
    llm = Scripted([("add", '{"a": 1, "b": 2}'), ("town", "{}")], [("add", '{"a": 3, "b": 3}')], "six in Köln")

    use = llm.use_tools("How many?", tools=[add, town], temperature=0)

    assert (use.answer.text, texts(use)) == ("six in Köln", ["3", "Köln", "6"])
    roles = [message.role for message in use.messages]
    assert roles == ["user", "assistant", "tool", "tool", "assistant", "tool", "assistant"]
    called = use.messages[1].calls
    assert [message.call_id for message in use.messages[2:4]] == [call.id for call in called]
    assert [message.name for message in use.messages[2:4]] == ["add", "town"]
    assert [len(messages) for messages, _ in llm.asked] == [1, 4, 6]
    assert all(options["temperature"] == 0 for _, options in llm.asked)
    assert [tool.name for tool in llm.asked[0][1]["tools"]] == ["add", "town"]


async def test_coroutines_are_waited_for() -> None:
    said: list[Said] = [[("later", '{"a": 4}'), ("add", '{"a": 1, "b": 2}')], "done"]
    use = await Scripted(*said).ause_tools("Go", tools=[add, later])
    assert texts(use) == ["4", "3"]
    steps = [step async for step in Scripted(*said).astream_tools("Go", tools=[add, later])]
    assert [step.text for step in steps if isinstance(step, ToolResult)] == ["4", "3"]
    with refuses(UsageError, param="tools"):
        Scripted(*said).use_tools("Go", tools=[add, later])


def test_every_step_is_seen() -> None:
    llm = Scripted([("add", '{"a": 1, "b": 2}')], "three")
    steps = list(llm.stream_tools("How many?", tools=[add]))
    assert [type(step).__name__ for step in steps] == ["Delta", "Delta", "Done", "ToolResult", "Delta", "Done"]
    assert steps[3] == ToolResult(ToolCall("add", '{"a": 1, "b": 2}', steps[3].call.id), "3")  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (("divide", '{"a": 1, "b": 0}'), "ZeroDivisionError"),
        (("add", '{"a": "one", "b": 2}'), "ValidationError"),
        (("add", '{"a": 1'), "DecodeError"),
        (("system", '{"command": "true"}'), "LookupError"),
    ],
)
async def test_what_goes_wrong_is_told_to_the_model(call: Call, kind: str) -> None:
    for use in (
        Scripted([call], "sorry").use_tools("Go", tools=[add, divide]),
        await Scripted([call], "sorry").ause_tools("Go", tools=[add, divide]),
    ):
        (result,) = use.results
        assert result.failed
        assert json.loads(result.text)["error"].startswith(f"{kind}: ")
        assert use.messages[2] == Message("tool", result.text, call_id=result.call.id, name=call[0])
        assert use.answer.text == "sorry"


class Model(pydantic.BaseModel):
    day: datetime.date
    town: str


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("Grüße", "Grüße"),
        ({"ä": [1, None]}, '{"ä":[1,null]}'),
        (None, "null"),
        (datetime.date(2026, 1, 2), '"2026-01-02"'),
        (Model(day=datetime.date(2026, 1, 2), town="Köln"), '{"day":"2026-01-02","town":"Köln"}'),
    ],
    ids=["text", "object", "nothing", "date", "model"],
)
def test_results_are_json_unless_they_are_text(value: object, text: str) -> None:
    def get() -> object:
        return value

    use = Scripted([("get", "{}")], "done").use_tools("Go", tools=[get])
    assert [(result.text, result.failed) for result in use.results] == [(text, False)]


def test_a_result_that_is_no_json_is_told() -> None:
    def get() -> object:
        return object()

    (result,) = Scripted([("get", "{}")], "done").use_tools("Go", tools=[get]).results
    assert result.failed


def test_rounds_are_limited() -> None:
    call: list[Call] = [("town", "{}")]
    with refuses(TooManyRounds, rounds=3) as caught:
        Scripted(call, call, call, call).use_tools("Go", tools=[town], rounds=3)
    assert [result.text for result in caught.value.results] == ["Köln", "Köln"]
    assert [message.role for message in caught.value.messages] == ["user", *["assistant", "tool"] * 2, "assistant"]
    assert texts(Scripted(call, call, "done").use_tools("Go", tools=[town], rounds=3)) == ["Köln", "Köln"]
    with refuses(UsageError, param="rounds"):
        Scripted("done").use_tools("Go", tools=[town], rounds=0)


def test_a_call_that_was_cut_off_is_not_made() -> None:
    made: list[int] = []

    def note(n: int = 0) -> None:
        made.append(n)

    with refuses(IncompleteAnswer):
        Scripted([("note", "{}")], ends="length").use_tools("Go", tools=[note])
    assert made == []


def test_a_second_call_that_was_cut_off_tells_how_to_have_one() -> None:
    with refuses(IncompleteAnswer) as caught:
        Scripted([("town", "{}"), ("town", "{")], ends="length").use_tools("Go", tools=[town])
    assert "parallel_tool_calls=False" in caught.value.hint


@pytest.mark.parametrize("choice", ["required", NamedTool("town")], ids=["required", "named"])
def test_a_forced_call_that_was_cut_off_before_its_name_is_no_answer(choice: Any) -> None:
    with refuses(IncompleteAnswer, text='{"name": "to'):
        Scripted('{"name": "to', ends="length").use_tools("Go", tools=[town], tool_choice=choice)
    assert Scripted("cut", ends="length").use_tools("Go", tools=[town]).answer.text == "cut"


async def test_time_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    async def for_ever() -> None:
        await asyncio.Event().wait()

    with refuses(TimedOut, timeout=0.05):
        await Scripted([("for_ever", "{}")], "done").ause_tools("Go", tools=[for_ever], timeout=0.05)

    def too_long() -> None:
        monkeypatch.setattr(Deadline, "_left", 0)

    with refuses(TimedOut, timeout=60.0):
        Scripted([("too_long", "{}"), ("too_long", "{}")]).use_tools("Go", tools=[too_long], timeout=60)


@pytest.mark.parametrize("choice", ["required", NamedTool("town")], ids=["required", "named"])
def test_a_call_is_forced_once(choice: Any) -> None:
    llm = Scripted([("town", "{}")], "done")
    llm.use_tools("Go", tools=[town], tool_choice=choice)
    assert [options.get("tool_choice") for _, options in llm.asked] == [choice, "auto"]


def test_an_error_of_the_apps_own_that_is_no_exception_goes_through() -> None:
    def leave() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Scripted([("leave", "{}")]).use_tools("Go", tools=[leave])


def test_tools_are_described_in_three_ways() -> None:
    described = {"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}
    assert [tool.name for tool in tools_of([add, Tool("other"), described])] == ["add", "other", "now"]


WRONG: dict[str, list[Any]] = {
    "twice": [add, add],
    "too many": [Tool(f"tool{n}") for n in range(129)],
    "no function": [{"type": "function"}],
    "no name": [{"type": "function", "function": {}}],
    "a number": [5],
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_set_of_tools_is_refused(name: str) -> None:
    with refuses(UsageError, param="tools"):
        tools_of(WRONG[name])
