"""LFM2, Gemma 4, FunctionGemma: arguments as literals."""

import json

import pytest

from edgellm.text.readers.literals import MAX_DEPTH
from tests.support.reading import everyway, of_template, read

LFM2 = of_template("List of tools: [ <|im_start|>")
LFM2_THINKS = of_template("<|tool_call_start|> <think>")
GEMMA4 = of_template("<|tool_call>call:")
FUNCTION_GEMMA = of_template("<start_function_call>")


def lfm2(calls):
    return f"<|tool_call_start|>[{calls}]<|tool_call_end|>"


def test_a_call_of_lfm2_is_python_and_becomes_json():
    assert everyway(LFM2, "One moment.\n" + lfm2("weather(city='Bonn', days=3, exact=True, note=None)") + "\n") == [
        ("text", "One moment."),
        ("call_name", "weather", 0),
        ("call_arguments", '{"city": "Bonn", "days": 3, "exact": true, "note": null}', 0),
    ]


def test_several_calls_stand_in_one_list():
    assert everyway(LFM2, lfm2('ping(), maps.find-2( city = "Ulm" , ), ping()')) == [
        ("call_name", "ping", 0),
        ("call_arguments", "{}", 0),
        ("call_name", "maps.find-2", 1),
        ("call_arguments", '{"city": "Ulm"}', 1),
        ("call_name", "ping", 2),
        ("call_arguments", "{}", 2),
    ]


@pytest.mark.parametrize(
    ("literal", "value"),
    [
        (r'"tab\t \"q\" it\'s \\ \x41 \u00e9 \d"', 'tab\t "q" it\'s \\ A \u00e9 \\d'),
        (r"'\ud83d\ude00 \U0001f600'", "\U0001f600 \U0001f600"),
        (r'"\ud83d alone"', "\ufffd alone"),
        ('"a\nb\0"', "a\nb\0"),
        ('[1, (2.5, -3e2), {"k": [], 1: {}}]', [1, [2.5, -300.0], {"k": [], "1": {}}]),
        (".5", 0.5),
        ("1_000", 1000),
        ("true", True),
        ("nan", "nan"),
        ("Bonn am Rhein", "Bonn am Rhein"),
    ],
)
def test_literals_become_json(literal, value):
    name, arguments = everyway(LFM2, lfm2(f"weather(a={literal}, b=1)"))
    assert name == ("call_name", "weather", 0)
    assert json.loads(arguments[1]) == {"a": value, "b": 1}


def test_arguments_come_before_the_call_is_whole():
    begun = '<|tool_call_start|>[weather(city="Bo'
    assert read(LFM2, begun)[:2] == [("call_name", "weather", 0), ("call_arguments", '{"city": "Bo', 0)]
    assert everyway(LFM2, "<|tool_call_start|>[weather(city=")[1] == ("call_arguments", '{"city": ', 0)


def test_what_is_no_literal_is_passed_as_it_is():
    parts = everyway(LFM2, lfm2("weather('Bonn', 3)") + " Done")
    assert parts == [("call_name", "weather", 0), ("call_arguments", '{"Bonn", 3)', 0), ("text", "Done")]


@pytest.mark.parametrize(("arguments", "written"), [("days, 3", "{days, 3)"), ("days=1, a=[", '{"days": 1, "a": [')])
def test_what_was_read_before_the_fault_is_passed_too(arguments, written):
    assert everyway(LFM2, lfm2(f"weather({arguments})"))[1][1].startswith(written)


def test_a_word_that_was_cut_is_passed_as_it_is():
    assert everyway(LFM2, "<|tool_call_start|>[weather(exact=Tru")[1][1] == '{"exact": Tru'


def test_nesting_has_a_bound():
    deep = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    arguments = read(LFM2, lfm2(f"ping(a={deep})"))[1].text
    assert arguments == '{"a": ' + "[" * (MAX_DEPTH - 1) + deep[MAX_DEPTH - 1 :] + ")"
    assert len(read(LFM2, lfm2("ping(a=" + "[{'a':" * 100_000))[1].text) > 600_000


def test_a_marker_without_a_call_is_text():
    assert everyway(LFM2, "a <|tool_call_start|>b (c)") == [("text", "a <|tool_call_start|>b (c)")]
    assert everyway(LFM2, "[a](b)") == [("text", "[a](b)")]


def test_without_tools_nothing_is_a_call():
    text = lfm2("ping()")
    assert everyway(of_template("List of tools: [ <|im_start|>", tools=()), text) == [("text", text)]


def test_a_call_in_a_thought_is_a_thought():
    assert everyway(LFM2_THINKS, f"<think>{lfm2('ping()')}?</think>{lfm2('ping()')}") == [
        ("reasoning", f"{lfm2('ping()')}?"),
        ("call_name", "ping", 0),
        ("call_arguments", "{}", 0),
    ]


def test_gemma_writes_names_bare_and_marks_texts():
    place = 'place:{lat:-1.5,<|"|>name<|"|>:<|"|>a,}b<|"|>}'
    text = f'<|tool_call>call:weather{{city:<|"|>Sao "P"<|"|>,{place},tags:[]}}<tool_call|>'
    assert everyway(GEMMA4, f"Yes. {text}<|tool_call>call:ping{{}}<tool_call|>") == [
        ("text", "Yes."),
        ("call_name", "weather", 0),
        ("call_arguments", '{"city": "Sao \\"P\\"", "place": {"lat": -1.5, "name": "a,}b"}, "tags": []}', 0),
        ("call_name", "ping", 1),
        ("call_arguments", "{}", 1),
    ]


def test_gemma_thinks_again_and_leaves_markers_behind():
    text = "<|channel><|channel>thought\nhm\n<channel|>Yes<channel|><|channel>thought\n<channel|> and no<|channel>"
    assert everyway(GEMMA4, text) == [("reasoning", "hm"), ("text", "Yes and no")]


def test_function_gemma_marks_texts_with_a_tag():
    text = "<start_function_call>call:weather{city:<escape>Ulm<escape>,days:2}<end_function_call>"
    assert everyway(FUNCTION_GEMMA, text)[1] == ("call_arguments", '{"city": "Ulm", "days": 2}', 0)


@pytest.mark.parametrize(("reading", "text"), [(LFM2, lfm2("walk()")), (GEMMA4, "<|tool_call>call:walk{}<tool_call|>")])
def test_a_tool_that_nobody_offered_is_not_called(reading, text):
    assert everyway(reading, text)[0][0] == "text"
