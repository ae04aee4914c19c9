"""Calls in JSON: Hermes and Qwen, Llama 3, lists of Phi-4-mini and Mistral Nemo."""

import json

import pytest
from support.reading import PING, WEATHER, everyway, read

from edgellm.text.readers import reader_of
from edgellm.text.readers.json_calls import MAX_AGAIN, MAX_HEAD
from edgellm.text.readers.scanner import MAX_INDENT
from edgellm.types.markup import JsonCalls, Markup, Reading, ReasoningMarkup

TOOLS = (WEATHER, PING)
THINK = ReasoningMarkup("<think>", "</think>")
HERMES = Reading(Markup(THINK, JsonCalls("<tool_call>", "</tool_call>")), tools=TOOLS)
LLAMA = Reading(Markup(None, JsonCalls(arguments_key="parameters")), tools=TOOLS)
PHI = Reading(
    Markup(None, JsonCalls(section_open="<|tool_call|>", section_close="<|/tool_call|>", array=True)), tools=TOOLS
)
LINES = Reading(Markup(None, JsonCalls(section_open="<tool_calls>", section_close="</tool_calls>")), tools=TOOLS)
NAMED_BY_KEY = Reading(
    Markup(None, JsonCalls(section_open="<|tools|>", section_close="<|end|>", array=True, name_is_key=True)),
    tools=TOOLS,
)


def hermes(text):
    return f"<tool_call>\n{text}\n</tool_call>"


def called(*calls):
    return [
        part
        for i, (name, arguments) in enumerate(calls)
        for part in [("call_name", name, i), ("call_arguments", arguments, i)]
        if part[1]
    ]


def test_calls_in_marks_with_text_before_them():
    text = "I look.\n" + hermes('{"name": "weather", "arguments": {"city": "Ulm \\"}"}}') + "\n"
    text += hermes('{"name": "ping", "arguments": {}}')
    assert everyway(HERMES, text) == [("text", "I look."), *called(("weather", '{"city": "Ulm \\"}"}'), ("ping", "{}"))]


def test_a_call_behind_a_thought_and_none_within_it():
    call = hermes('{"name": "ping", "arguments": {}}')
    assert everyway(HERMES, f"<think>I do {call}</think>{call}") == [
        ("reasoning", f"I do {call}"),
        *called(("ping", "{}")),
    ]


@pytest.mark.parametrize(
    ("written", "arguments"),
    [
        ('{"arguments": {"days": 2}, "name": "weather"}', '{"days": 2}'),
        (
            '{"id": "c1", "extra": [1, {"a": "}"}], "name": "weather", "arguments": {"days": 2}, "more": null}',
            '{"days": 2}',
        ),
        ('{"name": "weather", "parameters": {"days": 2}}', '{"days": 2}'),
        ('{"name": "weather", "arguments": "{\\"days\\": 2}"}', '{"days": 2}'),
        ('{"name": "weather", "arguments": null}', "{}"),
        ('{"name": "weather"}', "{}"),
        ('{"type": "function", "function": {"name": "weather", "arguments": {"days": 2}}}', '{"days": 2}'),
        ('{"name": "weather", "arguments": "\\ud800"}', "?"),
    ],
)
def test_what_models_make_of_a_call(written, arguments):
    assert everyway(HERMES, hermes(written)) == called(("weather", arguments))


def test_the_name_is_told_at_once_and_arguments_as_they_come():
    reader = reader_of(HERMES)
    assert reader.push('<tool_call>{"name": "weather", "argu') == [("call_name", "weather", 0)]
    assert reader.push('ments": {"ci') == [("call_arguments", '{"ci', 0)]
    assert reader.push('ty": "U') == [("call_arguments", 'ty": "U', 0)]


@pytest.mark.parametrize("cut", range(30, 62))
def test_a_call_that_was_cut_has_arguments_that_are_not_json(cut):
    text = '<tool_call>{"name": "weather", "arguments": {"city": "Ulm", "days": 2}}'
    parts = read(HERMES, text[:cut])
    assert parts[0] == ("call_name", "weather", 0)
    with pytest.raises(ValueError):
        json.loads("".join(part.text for part in parts[1:]))


@pytest.mark.parametrize(
    "text",
    [
        "Write <tool_call> before it",
        hermes('{"name": "unknown", "arguments": {}}'),
        hermes('{"arguments": {}}'),
        hermes("[1, 2]"),
        '<tool_call>{"name": "pi',
        '<tool_call>{"name": ["ping"], "arguments": {}}</tool_call>',
    ],
)
def test_what_is_no_call_of_a_tool_that_was_offered_is_text(text):
    assert everyway(HERMES, text) == [("text", text)]


def test_without_tools_nothing_is_a_call():
    text = hermes('{"name": "ping", "arguments": {}}')
    assert everyway(Reading(HERMES.markup), text) == [("text", text)]


def test_a_bare_object_is_a_call_where_it_is_the_answer():
    assert everyway(LLAMA, '{"name": "weather", "parameters": {"days": 2}}') == called(("weather", '{"days": 2}'))
    said = 'Such as {"name": "ping", "parameters": {}}'
    assert everyway(LLAMA, said) == [("text", said)]
    assert everyway(LLAMA, '{"city": "Ulm"}') == [("text", '{"city": "Ulm"}')]


def test_calls_in_a_list():
    calls = '[{"name": "weather", "arguments": {"days": 2}}, {"name": "ping", "arguments": {}}]'
    expected = called(("weather", '{"days": 2}'), ("ping", "{}"))
    assert everyway(PHI, f"<|tool_call|>{calls}<|/tool_call|>") == expected
    assert everyway(PHI, f"<|tool_call|>\n{calls}") == expected


def test_what_follows_a_call_and_is_none_is_text():
    text = '<|tool_call|>[{"name": "ping"}, {"name": "unknown"}]'
    assert everyway(PHI, text) == [*called(("ping", "{}")), ("text", '{"name": "unknown"}]')]


def test_calls_in_a_section_line_by_line():
    text = '<tool_calls>\n{"name": "ping"}\n{"name": "ping"}\n</tool_calls> Done'
    assert everyway(LINES, text) == [*called(("ping", "{}"), ("ping", "{}")), ("text", "Done")]


def test_the_name_may_be_the_key():
    text = '<|tools|>[{"weather": {"days": 2}}, {"ping": {}}]<|end|>'
    assert everyway(NAMED_BY_KEY, text) == called(("weather", '{"days": 2}'), ("ping", "{}"))


@pytest.mark.parametrize("before", ['"arguments": {"city": "%s"}', '"extra": [%s]', '"%s": 1', '"extra": %s', '"x"%s'])
def test_a_name_is_waited_for_only_so_long(before):
    text = f'<tool_call>{{{before % ("1" * MAX_HEAD)}, "name": "weather"}}</tool_call>'
    assert read(HERMES, text) == read(HERMES, *text) == [("text", text, 0)]
    reader = reader_of(HERMES)
    told = reader.push(text[: MAX_HEAD + 100])
    assert told, "it is known to be text"


def test_arguments_before_a_name_wait_for_it():
    text = f'<tool_call>{{"arguments": {{"city": "{"1" * (MAX_HEAD // 2)}"}}, "name": "weather"}}</tool_call>'
    assert read(HERMES, text)[0] == ("call_name", "weather", 0)


def test_what_is_no_call_is_looked_through_again_where_it_is_short():
    ping = hermes('{"name": "ping"}')
    short, long = "<tool_call>{" + " " * 9, '<tool_call>{"x": "' + "1" * MAX_AGAIN + '", ' + '"y": '
    assert everyway(HERMES, short + ping) == [("text", short.rstrip()), *called(("ping", "{}"))]
    assert read(HERMES, long + ping + "," + ping) == read(HERMES, *(long + ping + "," + ping))
    assert read(HERMES, f"{long}}}{ping}")[0].text.startswith(long)


def test_starts_of_calls_that_never_come_cost_their_length_once():
    text = '<tool_call>{"arguments": ["' * 2000
    reader = reader_of(HERMES)
    n_read = 0
    scanner = reader._scanner
    rewind = scanner.rewind

    def counted():
        nonlocal n_read
        n_read += scanner.n_marked
        rewind()

    scanner.rewind = counted
    for i in range(0, len(text), 50):
        reader.push(text[i : i + 50])
    reader.finish()
    assert n_read <= len(text)


def test_white_space_in_a_call_is_waited_for_only_so_long():
    told = reader_of(HERMES).push("<tool_call>" + " " * 2 * MAX_INDENT)
    assert told == [("text", "<tool_call>", 0)]


def test_nothing_of_a_section_comes_behind_its_end():
    text = '<tool_calls>{"name": "ping"}</tool_calls>{"name": "ping"}'
    assert everyway(LINES, text) == [*called(("ping", "{}")), ("text", '{"name": "ping"}')]
