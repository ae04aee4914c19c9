"""JSON of arguments that are written without quotes: the tool's schema says which of them are texts."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import msgspec

from edgellm.text.readers.literals import Literals, Malformed
from edgellm.text.readers.scanner import Parser, Scanner, parse_whole
from edgellm.types.message import Tool

MAX_HOPS = 64  # schemas looked at for one value: references may lead in a circle
_PYTHON = {"True": "true", "False": "false", "None": "null"}
_KINDS = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
    type(None): "null",
}


class Allowed:
    """What a schema allows in one place, its alternatives side by side.

    `kinds` are types of JSON; there are none where it says nothing.
    """

    def __init__(self, schemas: Iterable[Any], root: Any) -> None:
        self._root = root
        self._schemas: list[dict[str, Any]] = []
        ahead = list(schemas)
        while ahead and len(self._schemas) < MAX_HOPS:
            schema = ahead.pop()
            if isinstance(schema, dict):
                self._schemas.append(schema)
                for word in ("anyOf", "oneOf", "allOf"):
                    ahead += schema[word] if isinstance(schema.get(word), list) else []
                ahead += [_referred(root, schema["$ref"])] if isinstance(schema.get("$ref"), str) else []
        self.kinds = frozenset(kind for schema in self._schemas for kind in _named(schema))

    @classmethod
    def of(cls, tools: tuple[Tool, ...], name: str) -> Allowed:
        """The arguments of a tool. One that nobody offered may have any."""
        schema = next((tool.parameters for tool in tools if tool.name == name), {})
        return cls([schema], schema)

    @property
    def _is_structure(self) -> bool:
        return "string" not in self.kinds and not self.kinds.isdisjoint(("array", "object"))

    @property
    def is_text(self) -> bool:
        return self.kinds == {"string"}

    def property(self, key: str) -> Allowed:
        held = [schema.get("properties") for schema in self._schemas]
        return Allowed([properties.get(key) for properties in held if isinstance(properties, dict)], self._root)

    def item(self) -> Allowed:
        return Allowed([schema.get("items") for schema in self._schemas], self._root)

    def json_of(self, text: str) -> str:
        """JSON of a value that was written as JSON, or as a text without quotes."""
        if self.is_text:
            return quoted(text)
        written = _PYTHON.get(text.strip(), text.strip())
        try:
            kind = _KINDS[type(msgspec.json.decode(written))]
        except (msgspec.DecodeError, RecursionError):
            return (_of_python(written) if self._is_structure else "") or quoted(text)
        fits = kind in self.kinds or (kind == "integer" and "number" in self.kinds)
        return quoted(text) if "string" in self.kinds and not fits else written


def quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _of_python(text: str) -> str:
    """JSON of a list or a mapping as Python writes it, and as some templates do. Empty: it is none."""
    written: list[str] = []

    def parse(scanner: Scanner) -> Parser[bool]:
        yield from Literals(scanner, written.append, '"').value()
        yield from scanner.space()
        return not (yield from scanner.peek())

    try:
        return "".join(written) if parse_whole(text, parse) else ""
    except Malformed:
        return ""


def _named(schema: dict[str, Any]) -> list[str]:
    """What `type`, or else `enum` and `const`, say."""
    kinds = schema.get("type", [])
    if kinds:
        return [kind for kind in (kinds if isinstance(kinds, list) else [kinds]) if isinstance(kind, str)]
    values = schema["enum"] if isinstance(schema.get("enum"), list) else [schema["const"]] if "const" in schema else []
    return [_KINDS[type(value)] for value in values if type(value) in _KINDS]


def _referred(root: Any, reference: str) -> Any:
    """What a reference within the schema leads to."""
    here = root if reference.startswith("#") else None
    for step in reference.split("/")[1:]:
        here = here.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(here, dict) else None
    return here
