"""Python types as JSON schemas, and JSON read into them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypedDict

import msgspec
import pydantic
import pytest
from support.refusals import refuses

from edgellm.errors import UsageError
from edgellm.sdk.json_type import closed, json_type


class Model(pydantic.BaseModel):
    name: str
    labels: dict[str, int] = {}


class Open(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    name: str


class Struct(msgspec.Struct):
    name: str
    others: list[Struct] = []


@dataclasses.dataclass
class Data:
    properties: str


class Typed(TypedDict):
    name: str


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (Model, '{"name": "é", "labels": {"a": 1}}', Model(name="é", labels={"a": 1})),
        (list[Model], '[{"name": "a"}]', [Model(name="a")]),
        (pydantic.TypeAdapter(list[Model]), '[{"name": "a"}]', [Model(name="a")]),
        (Annotated[int, pydantic.Field(ge=0)], "3", 3),
        (Struct, '{"name": "a", "others": [{"name": "b"}]}', Struct("a", [Struct("b")])),
        (Data, '{"properties": "a"}', Data("a")),
        (Typed, '{"name": "a"}', {"name": "a"}),
        (Literal["yes", "no"], '"no"', "no"),
        ({"type": "object"}, '{"a": [1]}', {"a": [1]}),
    ],
    ids=lambda part: getattr(part, "__name__", repr(part)[:30]),
)
def test_json_is_read_into_the_type(kind: Any, text: str, value: object) -> None:
    assert json_type(kind).read(text) == value
    with pytest.raises(ValueError):
        json_type(kind).read("[")


@pytest.mark.parametrize("kind", [bytes, list[bytes], dict[str, bytearray]])
def test_bytes_are_no_json(kind: Any) -> None:
    with refuses(UsageError, param="schema"):
        json_type(kind)


def test_pydantic_checks_what_is_annotated_with_it() -> None:
    kind: Any = Annotated[int, pydantic.Field(ge=0)]
    assert json_type(kind).schema == {"type": "integer", "minimum": 0}
    with pytest.raises(ValueError):
        json_type(kind).read("-1")


def test_objects_have_no_other_properties() -> None:
    assert json_type(Model).schema["additionalProperties"] is False
    assert json_type(Model).schema["properties"]["labels"]["additionalProperties"] == {"type": "integer"}
    assert json_type(Open).schema["additionalProperties"] is True
    assert json_type(list[Struct]).schema["$defs"]["Struct"]["additionalProperties"] is False


def test_only_schemas_are_closed() -> None:
    """A property may have any name, that of a keyword too."""
    named = {"properties": {"properties": {"const": {"properties": {}}}}}
    assert closed(named) == {"additionalProperties": False, **named}
    parts = {"anyOf": [{"properties": {}}, True], "items": {"properties": {}}}
    shut = {"additionalProperties": False, "properties": {}}
    assert closed(parts) == {"anyOf": [shut, True], "items": shut}


def test_a_schema_of_ones_own_is_taken_as_it_is() -> None:
    schema = {"type": "object", "properties": {"a": {}}}
    assert json_type(schema).schema == schema


@pytest.mark.parametrize("kind", [complex, 5], ids=repr)
def test_what_has_no_schema_is_refused(kind: Any) -> None:
    with refuses(UsageError, param="schema"):
        json_type(kind)


class Unreadable(pydantic.BaseModel):
    call: Callable[[], int]


@pytest.mark.parametrize(
    "kind",
    [Model(name="a"), Struct("a"), Data("a"), Unreadable],
    ids=["of pydantic", "struct", "dataclass", "without a schema"],
)
def test_what_is_no_type_of_json_is_refused(kind: Any) -> None:
    with refuses(UsageError, param="schema"):
        json_type(kind)
