"""A Python type as a JSON schema, and JSON read into it: for answers, and for the arguments of functions."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar, get_args

import msgspec

from edgellm.errors import UsageError

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
_LINK = re.compile(r"\n\s*For further information visit \S+")
_OF_SCHEMAS = ("items", "additionalProperties", "not")
_OF_NAMED_SCHEMAS = ("properties", "patternProperties", "$defs")
_OF_LISTS = ("anyOf", "oneOf", "prefixItems")


class JsonAdapter(Protocol[T_co]):
    """As `pydantic.TypeAdapter` is."""

    def json_schema(self) -> dict[str, Any]: ...

    def validate_json(self, data: str, /) -> T_co: ...


@dataclass(frozen=True, slots=True)
class JsonType(Generic[T]):
    """`read` raises ValueError where the JSON is not of the type."""

    schema: dict[str, Any]
    read: Callable[[str], T]


def json_type(kind: type[T] | JsonAdapter[T] | Mapping[str, Any]) -> JsonType[T]:
    """A schema is taken as it is, and its JSON read into plain objects. Pydantic reads what has to do with it, msgspec
    the rest: structs, dataclasses, TypedDicts, lists and unions of them. Objects have no properties but their fields.

    Raises:
        UsageError: the type has no JSON schema.
    """
    if isinstance(kind, Mapping):
        return JsonType(dict(kind), json.loads)
    if _is_object_of_type(kind):
        what = f"schema is an object of {type(kind).__name__}, not the type"
        raise UsageError(what, hint=f"pass schema={type(kind).__name__}", param="schema")
    try:
        return _described(kind)
    except Exception as error:  # the libraries raise many kinds
        lines = str(error).splitlines() or [""]
        # What pydantic says stands in its first line, and what msgspec says in its last.
        reason = lines[-1 if isinstance(error, TypeError) else 0]
        hint = "use a pydantic model, a dataclass, a msgspec.Struct, or a schema as a dict"
        raise UsageError(f"no JSON schema can be made of {kind!r:.60}: {reason}", hint=hint, param="schema") from None


def _described(kind: Any) -> JsonType[Any]:
    adapter = kind
    if is_pydantics(kind):
        from pydantic import TypeAdapter

        adapter = TypeAdapter(kind)
    if not isinstance(adapter, type) and hasattr(adapter, "validate_json"):
        return JsonType(closed(adapter.json_schema()), adapter.validate_json)
    (schema,), definitions = msgspec.json.schema_components([kind], ref_template="#/$defs/{name}")
    if '"contentEncoding": "base64"' in json.dumps([schema, definitions]):
        raise TypeError("JSON has no bytes, and an answer is not held to their encoding")
    decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(kind)
    return JsonType(closed({**schema, "$defs": definitions} if definitions else schema), decoder.decode)


def _is_object_of_type(kind: Any) -> bool:
    """Whether it is a value with fields, as who writes `Person(...)` for `Person` passes."""
    has_fields = (
        isinstance(kind, msgspec.Struct) or dataclasses.is_dataclass(kind) or hasattr(type(kind), "model_fields")
    )
    return has_fields and not isinstance(kind, type) and not hasattr(kind, "validate_json")


def mismatch(error: Exception) -> str:
    """What is wrong with JSON that is not of the type; without pydantic's links, which are for people."""
    return _LINK.sub("", str(error))


def closed(schema: Any) -> Any:
    """The schema, in which objects have no properties but those that it names, unless it says otherwise."""
    if not isinstance(schema, dict):
        return schema
    names = [name for name in _OF_NAMED_SCHEMAS if isinstance(schema.get(name), dict)]
    inner = {
        **schema,
        **{name: closed(schema[name]) for name in _OF_SCHEMAS if name in schema},
        **{name: {key: closed(part) for key, part in schema[name].items()} for name in names},
        **{name: [closed(part) for part in schema[name]] for name in _OF_LISTS if name in schema},
    }
    return {"additionalProperties": False, **inner} if "properties" in names else inner


def is_pydantics(kind: Any) -> bool:
    """Whether a model or a dataclass of pydantic, or what its fields are annotated with, is a part of the type."""
    owner = type(kind).__module__.partition(".")[0]
    return (
        hasattr(kind, "__pydantic_core_schema__")
        or (owner in ("pydantic", "annotated_types") and not hasattr(kind, "validate_json"))
        or any(map(is_pydantics, get_args(kind)))
    )
