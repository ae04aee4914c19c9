"""MiniMax M3: arguments as elements."""

import json

from edgellm.text.readers.nested_calls import MAX_DEPTH
from edgellm.types.message import Tool
from tests.support.reading import everyway, of_template, read

NS = "]<]minimax[>["
M3 = of_template(NS)


def element(key, inner):
    return f"{NS}<{key}>{inner}{NS}</{key}>"


def calls(*calls):
    return f"{NS}<tool_call>\n" + "".join(f"{call}\n" for call in calls) + f"{NS}</tool_call>"


def invoke(name, inner=""):
    return f'{NS}<invoke name="{name}">{inner}{NS}</invoke>'


def test_values_are_as_deep_as_their_elements():
    inner = (
        element("city", "5\n")
        + element("days", "5")
        + element("tags", element("item", "a") + element("item", "1"))
        + element("place", element("lat", "-1.5") + element("name", "x"))
        + element("note", element("b", "c"))
    )
    assert everyway(M3, "<mm:think>Hm</mm:think>" + calls(invoke("weather", inner), invoke("ping"))) == [
        ("reasoning", "Hm"),
        ("call_name", "weather", 0),
        (
            "call_arguments",
            '{"city": "5\\n", "days": 5, "tags": ["a", "1"], "place": {"lat": -1.5, "name": "x"}, '
            f'"note": {json.dumps(element("b", "c"))}}}',
            0,
        ),
        ("call_name", "ping", 1),
        ("call_arguments", "{}", 1),
    ]


def test_without_a_schema_the_elements_say_what_they_are():
    inner = element("a", element("item", "1") + element("item", "b")) + element("c", element("d", "null"))
    assert everyway(M3, "</mm:think>" + calls(invoke("ping", inner)))[-1] == (
        "call_arguments",
        '{"a": [1, "b"], "c": {"d": null}}',
        0,
    )


def test_where_the_schema_allows_both_items_make_a_list():
    both = Tool("both", parameters={"properties": {"a": {"type": ["array", "object"]}, "b": {"type": "object"}}})
    reading = of_template(NS, tools=(both,))
    inner = element("a", element("item", "1")) + element("a", element("x", "1")) + element("b", element("item", "1"))
    assert everyway(reading, calls(invoke("both", inner)))[1][1] == '{"a": [1], "a": {"x": 1}, "b": {"item": 1}}'


def test_empty_lists_and_mappings():
    inner = element("tags", "") + element("place", "")
    assert everyway(M3, calls(invoke("weather", inner)))[-1][1] == '{"tags": [], "place": {}}'


def test_nesting_has_a_bound():
    deep = f"{NS}<a>" * 5_000
    arguments = read(M3, calls(f'{NS}<invoke name="ping">{deep}'))[1].text
    assert arguments.startswith('{"a": ' * MAX_DEPTH + '"')


def test_a_section_without_a_call_is_text():
    assert everyway(M3, f"{NS}<tool_call> said he") == [("text", f"{NS}<tool_call> said he")]


def test_a_tool_that_nobody_offered_is_not_called():
    assert everyway(M3, calls(invoke("walk"))) == [("text", calls(invoke("walk")))]
