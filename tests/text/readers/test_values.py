"""Arguments without quotes, by the schema of their tool."""

import pytest

from edgellm.text.readers.values import Allowed
from edgellm.types.message import Tool

SCHEMA = {
    "$defs": {"when": {"type": ["integer", "null"]}, "loop": {"$ref": "#/$defs/loop"}},
    "properties": {
        "text": {"type": "string"},
        "number": {"type": "number"},
        "either": {"anyOf": [{"type": "string"}, {"type": "integer"}, {"type": "object"}]},
        "mixed": {"type": ["string", "number", "array"]},
        "list": {"type": "array", "items": {"enum": ["a", "b"]}},
        "when": {"$ref": "#/$defs/when"},
        "loop": {"$ref": "#/$defs/loop"},
        "far": {"$ref": "https://example.org/schema"},
        "fixed": {"const": 5},
    },
}
ARGUMENTS = Allowed.of((Tool("f", parameters=SCHEMA),), "f")


@pytest.mark.parametrize(
    ("key", "text", "json"),
    [
        ("text", " 5\n", '" 5\\n"'),
        ("number", " 5\n", "5"),
        ("number", "five", '"five"'),
        ("either", "5", "5"),
        ("either", "5.5", '"5.5"'),
        ("either", "5 Main St", '"5 Main St"'),
        ("either", '{"a": 1}', '{"a": 1}'),
        ("either", "null", '"null"'),
        ("mixed", "5", "5"),
        ("mixed", "['a']", "\"['a']\""),
        ("list", "['a', True]", '["a", true]'),
        ("list", "['a'] and more", "\"['a'] and more\""),
        ("list", "[" * 5000, '"' + "[" * 5000 + '"'),
        ("when", "None", "null"),
        ("loop", "5", "5"),
        ("far", "NaN", '"NaN"'),
        ("fixed", "5", "5"),
        ("unknown", "true", "true"),
        ("unknown", "[a]", '"[a]"'),
    ],
)
def test_the_schema_says_what_a_value_is(key, text, json):
    assert ARGUMENTS.property(key).json_of(text) == json


def test_a_schema_that_branches_without_end_is_looked_at_so_far():
    loop = {"anyOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a"}, {"type": "string"}]}
    tool = Tool("f", parameters={"$defs": {"a": loop}, "properties": {"x": {"$ref": "#/$defs/a"}}})
    assert Allowed.of((tool,), "f").property("x").is_text


def test_of_another_tool_nothing_is_known():
    assert Allowed.of((), "g").property("text").json_of("5") == "5"
