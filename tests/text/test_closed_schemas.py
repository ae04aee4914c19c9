"""Schemas as llama.cpp reads them: objects that list their properties have no others."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgellm.server.dialects.ollama.chat_body import OllamaChatBody
from edgellm.server.schemas.structured import JsonSchema, ResponseFormat, StructuredBody
from edgellm.types.grammar import MAX_SCHEMA_DEPTH, Grammar

PLACE = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
CLOSED = {**PLACE, "additionalProperties": False}


def closed(schema: Any) -> Any:
    return json.loads(Grammar.of_schema(schema, closed=True).text)


@pytest.mark.parametrize(
    ("schema", "meant"),
    [
        (PLACE, CLOSED),
        ({"properties": {}}, {"properties": {}, "type": "object", "additionalProperties": False}),
        ({"type": "array", "items": PLACE}, {"type": "array", "items": CLOSED}),
        ({"items": {"type": "integer"}}, {"items": {"type": "integer"}, "type": "array"}),
        ({"$ref": "#/$defs/place", "$defs": {"place": PLACE}}, {"$ref": "#/$defs/place", "$defs": {"place": CLOSED}}),
        ({"anyOf": [PLACE, {"type": "null"}]}, {"anyOf": [CLOSED, {"type": "null"}]}),
        (
            {"properties": {"properties": PLACE, "items": {"const": PLACE}}},
            {
                "properties": {"properties": CLOSED, "items": {"const": PLACE}},
                "type": "object",
                "additionalProperties": False,
            },
        ),
    ],
)
def test_objects_are_closed(schema: Any, meant: Any) -> None:
    assert closed(schema) == meant


@pytest.mark.parametrize(
    "schema",
    [
        True,
        {"type": "object"},
        {**PLACE, "additionalProperties": True},
        {**PLACE, "additionalProperties": {"type": "integer"}},
        {**PLACE, "patternProperties": {"^x": {"type": "integer"}}},
        {**PLACE, "unevaluatedProperties": True},
        {**PLACE, "required": ["city", "country"]},
        {"allOf": [PLACE, {"properties": {"size": {"type": "integer"}}}]},
        {**PLACE, "anyOf": [{"properties": {"size": {}}}, {"properties": {"area": {}}}]},
        {"required": ["size"], "oneOf": [PLACE]},
        {"allOf": [{"$ref": "#/$defs/place"}, {"required": ["size"]}], "$defs": {"place": PLACE}},
        {"$ref": "#/$defs/place", "required": ["size"], "$defs": {"place": PLACE}},
        {"type": "object", "not": PLACE},
        {**PLACE, "required": [[]]},
        {**PLACE, "required": "city"},
    ],
)
def test_what_says_more_or_is_combined_stays_open(schema: Any) -> None:
    assert closed(schema) == schema


def test_a_deep_schema_is_closed_to_the_bottom() -> None:
    schema: Any = {}
    for _ in range(MAX_SCHEMA_DEPTH // 2):
        schema = {"properties": {"a": schema}}
    assert Grammar.of_schema(schema, closed=True).text.count('"additionalProperties":false') == MAX_SCHEMA_DEPTH // 2


@pytest.mark.parametrize(
    ("body", "meant"),
    [
        (OllamaChatBody(model="m", messages=[], format=PLACE), CLOSED),
        (StructuredBody(json_schema=PLACE), CLOSED),
        (StructuredBody(response_format=ResponseFormat(type="json_object", schema=PLACE)), CLOSED),
        (
            StructuredBody(response_format=ResponseFormat(type="json_schema", json_schema=JsonSchema(schema=PLACE))),
            PLACE,
        ),
    ],
)
def test_fields_of_llama_cpp_and_ollama_are_closed(body: OllamaChatBody | StructuredBody, meant: Any) -> None:
    grammar = body.wanted_grammar()
    assert grammar is not None
    assert json.loads(grammar.text) == meant
