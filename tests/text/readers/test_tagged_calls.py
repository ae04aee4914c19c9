"""Calls with marked arguments: Qwen3-Coder and Qwen3.5 with line breaks, GLM with pairs of marks."""

import pytest
from support.reading import PING, WEATHER, everyway

from edgellm.text.readers import reader_of
from edgellm.types.markup import Markup, Reading, ReasoningMarkup, TaggedCalls

THINK = ReasoningMarkup("<think>", "</think>", ended_by_call=True)
QWEN_ROW = TaggedCalls(
    "<tool_call>\n<function=", ">", "<parameter=", ">", "\n</parameter>", close="</function>\n</tool_call>"
)
QWEN = Reading(Markup(THINK, QWEN_ROW), tools=(WEATHER, PING))
GLM = Reading(
    Markup(
        THINK,
        TaggedCalls("<tool_call>", "", "<arg_key>", "</arg_key>", "</arg_value>", "<arg_value>", "</tool_call>"),
    ),
    tools=(WEATHER, PING),
)


def qwen(name, **arguments):
    inner = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in arguments.items())
    return f"<tool_call>\n<function={name}>\n{inner}</function>\n</tool_call>"


def test_values_are_texts_or_json_by_the_schema():
    text = qwen("weather", city='12 "a"\n  b\n', days="3", tags='["x", 1]', place='{"lat": 1.5}', note="null", free="7")
    assert everyway(QWEN, text) == [
        ("call_name", "weather", 0),
        (
            "call_arguments",
            '{"city": "12 \\"a\\"\\n  b\\n", "days": 3, "tags": ["x", 1], '
            '"place": {"lat": 1.5}, "note": null, "free": 7}',
            0,
        ),
    ]


def test_calls_without_arguments_and_several():
    assert everyway(QWEN, "Hm\n" + qwen("ping") + "\n" + qwen("ping")) == [
        ("text", "Hm"),
        ("call_name", "ping", 0),
        ("call_arguments", "{}", 0),
        ("call_name", "ping", 1),
        ("call_arguments", "{}", 1),
    ]


def test_a_call_ends_a_thought():
    text = "I look.\n" + qwen("ping") + "\n<tool_call> is text"
    parts = everyway(Reading(QWEN.markup, "<think>\n", QWEN.tools), text)
    assert parts == [
        ("reasoning", "I look."),
        ("call_name", "ping", 0),
        ("call_arguments", "{}", 0),
        ("text", "<tool_call> is text"),
    ]


def test_the_outer_mark_and_line_breaks_may_be_left_out():
    assert everyway(QWEN, "<function=weather><parameter=city>Ulm</parameter></function></tool_call>") == [
        ("call_name", "weather", 0),
        ("call_arguments", '{"city": "Ulm"}', 0),
    ]


def test_pairs_of_marks_with_and_without_line_breaks():
    pairs = (
        "<arg_key>city</arg_key>",
        "<arg_value> Ulm\n</arg_value>",
        "<arg_key>days</arg_key>",
        "<arg_value>3</arg_value>",
    )
    for joint in ("", "\n"):
        assert everyway(GLM, joint.join(["<tool_call>weather", *pairs, "</tool_call>"])) == [
            ("call_name", "weather", 0),
            ("call_arguments", '{"city": " Ulm\\n", "days": 3}', 0),
        ]
    assert everyway(GLM, "<tool_call>ping</tool_call>") == [("call_name", "ping", 0), ("call_arguments", "{}", 0)]


def test_texts_are_told_as_they_come():
    reader = reader_of(QWEN)
    assert reader.push("<tool_call><function=weather>") == [("call_name", "weather", 0), ("call_arguments", "{", 0)]
    assert reader.push("<parameter=city>\nUl") == [("call_arguments", '"city": "Ul', 0)]
    assert reader.push('m"\n<') == [("call_arguments", 'm\\"', 0)]
    assert reader.push("/b\n</parameter>") == [("call_arguments", '\\n</b"', 0)]


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("<tool_call><function=weather><parameter=city>\nUl", '{"city": "Ul'),
        ("<tool_call><function=weather><parameter=days>\n1", '{"days": 1'),
        ("<tool_call><function=weather><parameter=ci", '{"ci'),
        ("<tool_call><function=weather>", "{"),
    ],
)
def test_a_call_that_was_cut_is_not_whole(text, arguments):
    assert everyway(QWEN, text) == [("call_name", "weather", 0), ("call_arguments", arguments, 0)]


@pytest.mark.parametrize(
    "text", ["<tool_call>\n<function=unknown>\n</function>", "<tool_call> <function=ping", "a <function=b>"]
)
def test_what_is_no_call_of_a_tool_that_was_offered_is_text(text):
    assert everyway(QWEN, text) == [("text", text)]
