"""Answers that have to look like something, over HTTP: every field that can ask for it."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import pytest
from support.live_server import Live
from support.refusals import refuses

from edgellm.errors import UsageError
from edgellm.server.schemas.structural_tag import StructuralTag
from edgellm.types.grammar import MAX_TREE_BYTES
from edgellm.types.json_counts import MAX_DEPTH, MAX_VALUES

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 8}, "size": {"type": "integer", "maximum": 99}},
    "required": ["city", "size"],
    "additionalProperties": False,
}


TAG = {
    "type": "structural_tag",
    "triggers": ["<f"],
    "structures": [
        {"begin": "<f>", "schema": SCHEMA, "end": "</f>"},
        {"begin": "<f=1>", "schema": {"type": "null"}, "end": "</f>"},
    ],
}


# Written out it would have 640 kB.
LARGE_TAG = TAG | {"triggers": ["<f"] * 64, "structures": [{"begin": "<f>", "schema": {"title": "a" * 10_000}}]}


def content(live: Live, **fields: Any) -> str:
    answer = live.chat("Paris", seed=1, temperature=1.2, **fields)
    assert answer.status_code == 200, answer.text
    text: str = answer.json()["choices"][0]["message"]["content"]
    return text


@pytest.mark.parametrize(
    "fields",
    [
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "place", "strict": True, "schema": SCHEMA},
            }
        },
        {"structured_outputs": {"json": SCHEMA}},
        {"structured_outputs": {"json": json.dumps(SCHEMA)}},
        {"json_schema": SCHEMA},
    ],
)
def test_json_under_a_schema(live: Live, fields: dict[str, Any]) -> None:
    jsonschema.validate(json.loads(content(live, **fields)), SCHEMA)


def test_any_json_object(live: Live) -> None:
    assert isinstance(json.loads(content(live, response_format={"type": "json_object"})), dict)


@pytest.mark.parametrize(
    ("fields", "pattern"),
    [
        ({"structured_outputs": {"regex": "[0-9]{3}-[a-f]"}}, "[0-9]{3}-[a-f]"),
        ({"structured_outputs": {"choice": ["ja", "nein"]}}, "ja|nein"),
        ({"structured_outputs": {"grammar": 'root ::= "a" | "b" "c"'}}, "a|bc"),
        ({"grammar": 'root ::= "x" [0-9]'}, "x[0-9]"),
    ],
)
def test_other_forms(live: Live, fields: dict[str, Any], pattern: str) -> None:
    assert re.fullmatch(pattern, content(live, **fields))


def test_free_text_stays_free(live: Live) -> None:
    assert content(live, response_format={"type": "text"}, grammar="") == "Paris"


def test_plain_completions_and_streams(live: Live) -> None:
    body = {"prompt": "Paris", "max_tokens": 64, "structured_outputs": {"choice": ["ja", "nein"]}}
    assert live.post("/v1/completions", body).json()["choices"][0]["text"] in ("ja", "nein")
    stream = live.post("/v1/completions", {**body, "stream": True})
    blocks = [block.removeprefix("data: ") for block in stream.text.split("\n\n")]
    texts = [json.loads(block)["choices"][0]["text"] for block in blocks if block.startswith("{")]
    assert "".join(texts) in ("ja", "nein")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"json_schema": SCHEMA, "grammar": 'root ::= "a"'}, "grammar"),
        ({"response_format": {"type": "json_object"}, "json_schema": SCHEMA}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        ({"structured_outputs": {"json": "{"}}, "structured_outputs.json"),
        ({"structured_outputs": {"json": SCHEMA, "regex": "a"}}, "structured_outputs.regex"),
        (
            {"structured_outputs": {"structural_tag": {"triggers": ["<f"]}}},
            "structured_outputs.structural_tag.structures",
        ),
        ({"structured_outputs": {"structural_tag": {**TAG, "triggers": ["<g"]}}}, "structured_outputs.structural_tag"),
        ({"structured_outputs": {"structural_tag": "{"}}, "structured_outputs.structural_tag"),
        ({"response_format": {"type": "structural_tag"}}, "response_format"),
        ({"response_format": LARGE_TAG}, "response_format"),
        ({"response_format": {**TAG, "triggers": ["<f"] * 129}}, "response_format.triggers"),
        ({"response_format": {**TAG, "structures": TAG["structures"] * 65}}, "response_format.structures"),
        ({"response_format": {"type": "structural_tag", "format": {}}}, "response_format.format"),
        ({"json_schema": {"$ref": "http://127.0.0.1/x"}}, "json_schema"),
        ({"json_schema": {"$ref": "#"}}, "json_schema"),
        ({"grammar": "root ::= ("}, "grammar"),
        ({"json_schema": {"properties": {"a": 1}, "required": [[]]}}, "json_schema"),
    ],
)
def test_a_mistake_is_named_with_its_field(live: Live, fields: dict[str, Any], param: str) -> None:
    answer = live.chat("Paris", **fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(TAG) + " " * MAX_TREE_BYTES,
        f'{{"triggers": ["<f"], "structures": [{{"begin": "<f", "schema": {{"enum": [{"1," * MAX_VALUES}1]}}}}]}}',
        f'{{"triggers": ["<f"], "structures": [{{"begin": "<f", "schema": {"[" * MAX_DEPTH}{"]" * MAX_DEPTH}}}]}}',
    ],
    ids=["bytes", "values", "depth"],
)
def test_a_tag_as_text_is_counted_before_it_is_read(text: str) -> None:
    with refuses(UsageError, param="tag"):
        StructuralTag.of_json(text, "tag")


@pytest.mark.parametrize(
    "fields",
    [
        {"structured_outputs": {"structural_tag": TAG}},
        {"structured_outputs": {"structural_tag": json.dumps(TAG)}},
        {"response_format": TAG},
    ],
)
def test_a_tag_is_followed_once_it_begins(live: Live, fields: dict[str, Any]) -> None:
    """Echo would say `<f=1>{` again."""
    answer = live.chat("Text, then <f=1>{}", max_tokens=80, temperature=0, **fields)
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"].startswith("Text, then <f=1>null</f>")
