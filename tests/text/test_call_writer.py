"""Calls that are written for a template are those that the model's reader reads."""

import json

import pytest

from edgellm.text.call_writer import Call, write_calls
from edgellm.text.readers import reader_of
from edgellm.types.markup import JsonCalls, LiteralCalls, Markup, NamedCalls, Reading, TaggedCalls
from edgellm.types.message import Tool

CALLS = [
    Call("weather", {"town": 'Tromsø, "north"', "days": 3, "exact": True, "of": [1, {"a": None}]}),
    Call("clock", {}),
]
TOOLS = tuple(Tool(call.name) for call in CALLS)
ROWS = {
    "json": JsonCalls("<call>", "</call>"),
    "granite": JsonCalls(section_open="<|tool_call|>", array=True),
    "wrapped": JsonCalls("<call>", "</call>", wrapper="function"),
    "keys": JsonCalls("<calls>", "</calls>", name_is_key=True),
    "kimi": NamedCalls("<b>functions.", "<a>", "<e>", "<section>", "</section>", id_open=":"),
    "named": NamedCalls("<call>", "\n", "</call>"),
    "lfm2": LiteralCalls("<|s|>", "[", "]<|e|>", brackets="()", assign="=", quote='"', listed=True),
}


def read(row, text):
    """[name, arguments] of each call, and what is left as text."""
    reader = reader_of(Reading(Markup(calls=row), tools=TOOLS))
    calls, rest = {}, ""
    for part in [*reader.push(text), *reader.finish()]:
        if part.kind == "text":
            rest += part.text
        else:
            names, arguments = calls.get(part.call, ("", ""))
            is_name = part.kind == "call_name"
            calls[part.call] = (names + part.text, arguments) if is_name else (names, arguments + part.text)
    return [Call(name, json.loads(arguments)) for name, arguments in calls.values()], rest.strip()


@pytest.mark.parametrize("name", ROWS)
def test_what_is_written_is_read_back(name):
    assert read(ROWS[name], write_calls(ROWS[name], CALLS, str)) == (CALLS, "")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("granite", '<|tool_call|>[({"name": "n", "arguments": {"k": "v"}})]'),
        ("kimi", '<section><b>functions.(n):0<a>({"k": "v"})<e></section>'),
        ("lfm2", '<|s|>[(n)((k)=("v"))]<|e|>'),
    ],
)
def test_what_is_not_markup_is_marked(name, expected):
    assert write_calls(ROWS[name], [Call("n", {"k": "v"})], lambda text: f"({text})") == expected


def test_other_shapes_are_not_written():
    gemma = LiteralCalls("<|t>", "call:", "<t|>", brackets="{}", assign=":", quote='<|"|>')
    assert write_calls(gemma, CALLS, str) is None
    assert write_calls(TaggedCalls("<f=", ">", "<p=", ">", "</p>"), CALLS, str) is None
    assert write_calls(None, CALLS, str) is None
