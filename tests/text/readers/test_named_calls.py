"""Calls with the name outside of the JSON: Mistral Small, DeepSeek V3.1, Kimi K2, Functionary 3.1."""

import pytest
from support.reading import PING, WEATHER, everyway

from edgellm.text.readers import reader_of
from edgellm.text.readers.named_calls import MAX_NAME
from edgellm.types.markup import Markup, NamedCalls, Reading, ReasoningMarkup

TOOLS = (WEATHER, PING)
SMALL = Reading(Markup(None, NamedCalls("[TOOL_CALLS]", "[ARGS]", id_open="[CALL_ID]")), tools=TOOLS)
DEEPSEEK = Reading(
    Markup(
        ReasoningMarkup("<think>", "</think>"),
        NamedCalls("<call>function<sep>", "\n```json\n", "```<end>", "<calls>", "</calls>"),
    ),
    tools=TOOLS,
)
BARE = Reading(Markup(None, NamedCalls("<call>", "")), tools=TOOLS)


@pytest.mark.parametrize("call_id", ["", "[CALL_ID]123456789"])
def test_a_name_an_id_and_arguments(call_id):
    assert everyway(SMALL, f'Hm [TOOL_CALLS]weather{call_id}[ARGS]{{"city": "[ARGS]"}}[TOOL_CALLS]ping[ARGS]{{}}') == [
        ("text", "Hm"),
        ("call_name", "weather", 0),
        ("call_arguments", '{"city": "[ARGS]"}', 0),
        ("call_name", "ping", 1),
        ("call_arguments", "{}", 1),
    ]


def test_a_section_of_calls():
    call = '<call>function<sep>{}\n```json\n{{"a": {}}}\n```<end>'
    text = f"<think>a</think><calls>{call.format('ping', 1)}\n{call.format('weather', 2)}</calls>\nb"
    assert everyway(DEEPSEEK, text) == [
        ("reasoning", "a"),
        ("call_name", "ping", 0),
        ("call_arguments", '{"a": 1}', 0),
        ("call_name", "weather", 1),
        ("call_arguments", '{"a": 2}', 1),
        ("text", "b"),
    ]


def test_the_marks_of_the_section_may_be_left_out():
    row = NamedCalls("<call>", "<sep>", "<end>", "<calls>", "</calls>")
    reading = Reading(Markup(None, row), tools=TOOLS)
    assert everyway(reading, 'a <call>ping<sep>{"a": 1}<end>') == [
        ("text", "a"),
        ("call_name", "ping", 0),
        ("call_arguments", '{"a": 1}', 0),
    ]


def test_arguments_right_behind_the_name():
    assert everyway(BARE, '<call>ping{"a": 1}') == [("call_name", "ping", 0), ("call_arguments", '{"a": 1}', 0)]


def test_a_call_without_arguments_has_none():
    assert everyway(SMALL, "[TOOL_CALLS]ping[ARGS][TOOL_CALLS]ping[ARGS]x")[:3] == [
        ("call_name", "ping", 0),
        ("call_arguments", "{}", 0),
        ("call_name", "ping", 1),
    ]


@pytest.mark.parametrize("text", ["[TOOL_CALLS]unknown[ARGS]{}", "[TOOL_CALLS]ping", "[TOOL_CALLS]"])
def test_what_is_no_call_of_a_tool_that_was_offered_is_text(text):
    assert everyway(SMALL, text) == [("text", text)]


def test_a_call_that_was_cut_is_not_whole():
    assert everyway(SMALL, '[TOOL_CALLS]ping[ARGS]{"a": [1') == [
        ("call_name", "ping", 0),
        ("call_arguments", '{"a": [1', 0),
    ]


def test_a_name_is_waited_for_only_so_long():
    reader = reader_of(SMALL)
    reader.push("[TOOL_CALLS]" + "x" * 2 * MAX_NAME)
    assert reader.push("y")[0].text.endswith("y")
