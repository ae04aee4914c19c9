"""`schema=`: an answer as an object."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import msgspec
import pydantic
import pytest
from support.refusals import refuses

from edgellm.errors import IncompleteAnswer, InvalidAnswer, UsageError
from edgellm.sdk.answer import parsed, whole
from edgellm.sdk.client import EdgeLLM
from edgellm.sdk.json_type import json_type
from edgellm.types.event import Delta, Done, Event, Timings, Usage
from edgellm.types.grammar import Grammar
from edgellm.types.message import ToolCall


class Order(pydantic.BaseModel):
    article: str = pydantic.Field(max_length=5)
    pieces: int = pydantic.Field(ge=0, le=9)


class Picky(pydantic.BaseModel):
    pieces: int = pydantic.Field(ge=0, le=9)

    @pydantic.field_validator("pieces")
    @classmethod
    def none_is_right(cls, _: int) -> int:
        raise ValueError("no number is right")


class Answer(msgspec.Struct):
    yes: bool


@pytest.fixture(scope="module")
def llm() -> Iterator[EdgeLLM]:
    with EdgeLLM.load("echo", isolate=False) as llm:
        yield llm


def test_an_answer_is_an_object_of_the_type(llm: EdgeLLM) -> None:
    order = llm.chat("12 lamps", schema=Order, temperature=1, seed=1)
    assert isinstance(order, Order)
    assert isinstance(llm.chat("ja?", schema=Answer).yes, bool)
    assert isinstance(asyncio.run(llm.achat("ja?", schema=Answer)), Answer)
    assert set(llm.chat("12 lamps", schema=Order.model_json_schema(), seed=1)) >= {"article", "pieces"}


def test_json_that_is_cut_off_is_an_error(llm: EdgeLLM) -> None:
    with refuses(IncompleteAnswer) as caught:
        llm.chat("12 lamps", schema=Order, max_tokens=5)
    assert caught.value.text.startswith("{")
    with refuses(IncompleteAnswer):
        asyncio.run(llm.achat("12 lamps", schema={"type": "object"}, max_tokens=1))


def test_json_that_a_stop_text_cut_is_no_wrong_json(llm: EdgeLLM) -> None:
    with refuses(IncompleteAnswer) as caught:
        llm.chat("12 lamps", schema=Order, temperature=0, stop='"pieces')
    assert caught.value.text.startswith("{")
    assert '"pieces' not in caught.value.text
    assert llm.chat("12 lamps", temperature=0, stop="lam").stop == "lam"


def test_json_that_was_whole_before_a_stop_text_is_taken() -> None:
    done = Done("stop", Usage(1, 1), TIMINGS, stop="x")
    assert parsed(whole([Delta('{"yes": true}'), done]), json_type(Answer)).yes


def test_json_that_is_nested_too_deep_to_be_read_is_an_error() -> None:
    n = 200_000
    deep, kind = Delta("[" * n + "]" * n), json_type({"type": "array"})
    with refuses(InvalidAnswer):
        parsed(whole([deep, Done("stop", Usage(1, 1), TIMINGS)]), kind)
    with refuses(IncompleteAnswer):
        parsed(whole([deep, Done("stop", Usage(1, 1), TIMINGS, stop="x")]), kind)


def test_a_rule_beyond_the_schema_is_an_error(llm: EdgeLLM) -> None:
    with refuses(InvalidAnswer) as caught:
        llm.chat("12 lamps", schema=Picky, temperature=0)
    assert Picky.model_json_schema()["required"] == ["pieces"]
    assert caught.value.text.startswith("{")


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"grammar": Grammar("choice", '["a"]')}, "grammar"),
        ({"n": 2}, "n"),
        ({"schema": {"$ref": "http://x"}}, "schema"),
    ],
    ids=["grammar", "n", "remote"],
)
def test_what_does_not_go_with_a_schema_is_refused(llm: EdgeLLM, options: dict[str, Any], param: str) -> None:
    with refuses(UsageError, param=param):
        llm.chat("12 lamps", **{"schema": Order, **options})


async def test_several_answers_come_in_one_completion(llm: EdgeLLM) -> None:
    grammar = Grammar("regex", "[a-z]{4}")
    answer = llm.chat("Hello", n=3, grammar=grammar, temperature=50, seed=1)
    assert [choice.finish_reason for choice in answer.choices] == ["stop"] * 3
    assert (answer.text, len({choice.text for choice in answer.choices})) == (answer.choices[0].text, 3)
    assert answer.usage.completion_tokens >= 12
    later = await llm.achat("Hello", n=3, grammar=grammar, temperature=50, seed=1)
    assert later.choices == answer.choices
    assert llm.chat("Hello").choices == ()


TIMINGS = Timings(0.0, 0.0, 1.0)


def test_events_of_several_choices_become_one_completion() -> None:
    events: list[Event] = [
        Delta("4", choice=1),
        Delta("2 + 2", kind="reasoning", choice=0),
        Delta("is", choice=0),
        Done("length", Usage(5, 2, 1, 1), TIMINGS, choice=1, n_open=1),
        Delta(" 4", choice=0),
        Done("stop", Usage(5, 7, 0, 3), TIMINGS, choice=0),
    ]

    answer = whole(events)

    assert (answer.text, answer.reasoning, answer.finish_reason) == ("is 4", "2 + 2", "stop")
    assert [(choice.text, choice.finish_reason) for choice in answer.choices] == [("is 4", "stop"), ("4", "length")]
    assert answer.usage == Usage(5, 9, 0, 4)


def test_calls_have_ids_that_depend_on_what_they_say() -> None:
    def asked(*arguments: str) -> tuple[ToolCall, ...]:
        deltas = [
            delta
            for call, text in enumerate(arguments)
            for delta in (
                Delta("add", kind="call_name", call=call),
                *(Delta(char, kind="call_arguments", call=call) for char in text),
            )
        ]
        return whole([*deltas, Done("tool_calls", Usage(1, 1), TIMINGS)]).calls

    one, other = asked('{"a": 1}', "{}")
    assert (one.name, one.arguments, other.arguments) == ("add", '{"a": 1}', "{}")
    assert one.id.isalnum()
    assert len(one.id) == 9
    assert one.id != other.id
    assert asked('{"a": 1}', "{}") == (one, other)
