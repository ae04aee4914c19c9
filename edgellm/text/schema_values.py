"""Values under a JSON schema that are not written as JSON, as grammar trees."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple, TypedDict

import msgspec

from edgellm.errors import UsageError
from edgellm.text.readers.values import Allowed
from edgellm.types.grammar import MAX_TREE_BYTES
from edgellm.types.grammar_tree import Json, Node, OneOf, Pattern, Repeat, Text, TextUntil, optional, sequence

MAX_SCHEMAS = 2_000  # looked at for one tool: references may lead in a circle, or to ever more of them
# What says nothing of a value, or, as `format`, is a remark in draft 2020-12.
REMARKS = frozenset(
    ("title", "description", "default", "examples", "format", "$comment", "$schema", "$id", "$defs", "definitions")
) | {"deprecated", "readOnly", "writeOnly"}
KINDS = {
    "string": {"minLength", "maxLength", "pattern"},
    "integer": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"},
    "number": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"},
    "boolean": set[str](),
    "null": set[str](),
    "array": {"items", "minItems", "maxItems"},
    "object": {"properties", "required", "additionalProperties"},
}


class SchemaWords(TypedDict, total=False):
    """Types of what a schema may say; msgspec checks them."""

    type: str | list[str]
    enum: list[Any]
    anyOf: list[Any]
    properties: dict[str, Any]
    required: list[str]
    pattern: str
    minLength: int
    maxLength: int
    minItems: int
    maxItems: int


class Notation(NamedTuple):
    """Of literals. `quote`: of texts; a single character means texts as in JSON."""

    quote: str
    python: bool  # True, False and None


class Room:
    """Bytes that the trees of all tools of a request may still take: a part that stands in several places, as what is
    referred to, is counted in each before it is made. What is left is measured when the tree is whole.
    """

    def __init__(self) -> None:
        self._left = 2 * MAX_TREE_BYTES  # what is inside of others is counted once more with each

    def take(self, n_bytes: int) -> None:
        self._left -= n_bytes
        if self._left < 0:
            raise refused_schema(f"makes, with the others, a grammar of over {MAX_TREE_BYTES} bytes")


class SchemaValues:
    """Values under the schemas of one tool, whose references lead to `root`. Every method raises UsageError: a schema
    says what cannot be kept to here.
    """

    def __init__(self, root: dict[str, Any], room: Room, tool: str = "") -> None:
        self.root = root
        self._tool = tool
        self._room = room
        self._n_left = MAX_SCHEMAS

    @property
    def whole(self) -> Json:
        """All arguments, as an object."""
        return Json(self.root, self._tool)

    def members(self, schema: Any) -> list[tuple[str, Any, bool]]:
        """Of an object: name, schema, and whether it is required."""
        said = self._said(schema, {"object"})
        required = said.get("required", ())
        return [(key, value, key in required) for key, value in said.get("properties", {}).items()]

    def is_text(self, schema: Any) -> bool:
        return Allowed([schema], self.root).is_text

    def plain(self, schema: Any, close: str) -> Node:
        """A text without quotes, or anything else as JSON; and what closes it."""
        return self.text(schema, close) if self.is_text(schema) else sequence(self._json(schema), close)

    def element(self, key: str, schema: Any, mark: str) -> Node:
        """mark KEY > value mark /KEY >, in which members and items are elements, too."""
        close, kinds = f"{mark}/{key}>", Allowed([schema], self.root).kinds
        if "string" in kinds:
            body = self.text(self._texts_of(schema), close)
        elif kinds == {"object"}:
            body = sequence(*self.elements(schema, mark), close)
        elif kinds == {"array"}:
            said = self._said(schema, {"array"})
            item = self.element("item", said.get("items", {"type": "string"}), mark)
            body = sequence(Repeat(item, said.get("minItems", 0), said.get("maxItems")), close)
        else:
            body = sequence(self._json(schema), close)
        return sequence(f"{mark}{key}>", body)

    def elements(self, schema: Any, mark: str) -> list[Node]:
        return [
            element if required else optional(element)
            for key, value, required in self.members(schema)
            for element in [self.element(key, value, mark)]
        ]

    def text(self, schema: Any, close: str) -> Node:
        """A text without quotes or escapes, and `close`, which it does not hold."""
        said = self._said(schema, {"string"})
        if "anyOf" in said:
            return OneOf(tuple(self.text(one, close) for one in said["anyOf"]))
        if "enum" in said or "const" in said:
            return sequence(OneOf(tuple(map(Text, filter(_is_text, self._values(said))))), close)
        patterns = []
        if "minLength" in said or "maxLength" in said:
            patterns.append(f"(?s:.{{{said.get('minLength', 0)},{said.get('maxLength', '')}}})")
        if "pattern" in said:
            patterns.append(_whole(said["pattern"]))
        return (
            sequence(Pattern(tuple(patterns), close.lstrip()[:1], self._tool), close) if patterns else TextUntil(close)
        )

    def literal(self, schema: Any, notation: Notation) -> Node:
        said = self._said(schema, KINDS.keys())
        if "anyOf" in said:
            return OneOf(tuple(self.literal(one, notation) for one in said["anyOf"]))
        if "enum" in said or "const" in said:
            return OneOf(tuple(Text(_written(value, notation)) for value in self._values(said)))
        return OneOf(tuple(self._of_kind(kind, said, notation) for kind in _kinds(said)))

    def mapping(self, schema: Any, notation: Notation, brackets: str, assign: str) -> Node:
        """Arguments, or what is in an object: those that are required first."""
        required: list[Node] = []
        others: list[Node] = []
        for key, value, is_required in self.members(schema):
            quoted = assign == ":" and notation.python
            head = f"{json.dumps(key, ensure_ascii=False) if quoted else key}{assign}"
            item = sequence(head, self.literal(value, notation))
            (required if is_required else others).append(item)
        return sequence(brackets[0], self._listed(required, others), brackets[1])

    def _texts_of(self, schema: Any) -> Any:
        """What a schema says of texts, where other kinds of values may come, too."""
        said = self._said(schema, KINDS.keys())
        if "anyOf" in said:
            return {"anyOf": [one for one in said["anyOf"] if self.is_text(one)]}
        return {word: said[word] for word in ("enum", "const", *KINDS["string"]) if word in said}

    def _of_kind(self, kind: str, said: dict[str, Any], notation: Notation) -> Node:
        match kind:
            case "string" if len(notation.quote) > 1:
                return sequence(notation.quote, self.text({**said, "type": "string"}, notation.quote))
            case "boolean":
                return OneOf((Text(_written(True, notation)), Text(_written(False, notation))))
            case "null":
                return Text(_written(None, notation))
            case "array":
                return self._list(said, notation)
            case "object":
                return self.mapping({**said, "type": "object"}, notation, "{}", ":")
        if kind not in KINDS:
            raise refused_schema(f"has the type {kind[:40]!r}")
        return Json({"type": kind, **{word: said[word] for word in KINDS[kind] if word in said}}, self._tool)

    def _list(self, said: dict[str, Any], notation: Notation) -> Node:
        item = self.literal(said.get("items", {"type": ["string", "number", "boolean"]}), notation)
        least, most = said.get("minItems", 0), said.get("maxItems")
        if most == 0:
            return Text("[]")
        items = sequence(item, Repeat(sequence(",", item), max(0, least - 1), None if most is None else most - 1))
        return sequence("[", items if least else optional(items), "]")

    def _said(self, schema: Any, kinds: Any) -> dict[str, Any]:
        """The schema, or what it refers to, without remarks: of these kinds, and with words that are known."""
        self._n_left -= 1
        if self._n_left < 0:
            raise refused_schema(f"is made of over {MAX_SCHEMAS} others")
        if not isinstance(schema, dict) and schema is not True:
            raise refused_schema(f"is {str(schema)[:40]!r}")
        said = {} if schema is True else {word: value for word, value in schema.items() if word not in REMARKS}
        if len(said) > 1 and "$ref" in said:
            raise refused_schema("has keywords beside $ref")
        if "$ref" in said:
            return self._said(self._referred(str(said["$ref"])), kinds)
        known = {"type", "enum", "const", "anyOf"}.union(*(KINDS[kind] for kind in kinds))
        if words := said.keys() - known:
            raise refused_schema(f"has {min(words)}")
        try:
            msgspec.convert(said, SchemaWords)
        except msgspec.ValidationError as error:
            raise refused_schema(f"is malformed ({error})") from None
        return said

    def _json(self, schema: Any) -> Json:
        definitions: dict[str, Any] = {word: self.root[word] for word in ("$defs", "definitions") if word in self.root}
        whole = {**definitions, **(schema if isinstance(schema, dict) else {})}
        self._room.take(len(msgspec.json.encode(whole)))
        return Json(whole, self._tool)

    def _values(self, said: dict[str, Any]) -> list[Any]:
        values: list[Any] = said.get("enum", [said.get("const")])
        self._room.take(len(msgspec.json.encode(values)))
        return values

    def _listed(self, required: list[Node], others: list[Node]) -> Node:
        """All that are required, and any of the others in their order, with commas between."""
        commas = [part for node in required[1:] for part in (",", node)]
        rest: list[Node] = [optional(sequence(",", node)) for node in others]
        if required:
            return sequence(required[0], *commas, *rest)
        # Any of them may be the first: each stands behind all that may come before it.
        self._room.take(sum(at * len(msgspec.json.encode(node)) for at, node in enumerate(rest)))
        starts = [sequence(node, *rest[at + 1 :]) for at, node in enumerate(others)]
        return optional(OneOf(tuple(starts))) if starts else Text("")

    def _referred(self, reference: str) -> Any:
        here: Any = self.root
        for step in reference.split("/")[1:]:
            here = here.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(here, dict) else None
        return here


def _kinds(said: dict[str, Any]) -> list[str]:
    kinds = said.get("type", ["string", "number", "boolean"])
    return kinds if isinstance(kinds, list) else [kinds]


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _written(value: Any, notation: Notation) -> str:
    if isinstance(value, str) and len(notation.quote) > 1:
        return f"{notation.quote}{value}{notation.quote}"
    words = {"true": "True", "false": "False", "null": "None"} if notation.python else {}
    written = json.dumps(value, ensure_ascii=False)
    return words.get(written, written)


def _whole(pattern: str) -> str:
    """A pattern that is searched for, as one that matches the whole text."""
    start = "" if pattern.startswith("^") else "(?s:.*)"
    ends = re.search(r"(?<!\\)(\\\\)*\$$", pattern)
    inner = pattern.removeprefix("^")
    return f"{start}({inner[:-1] if ends else inner}){'' if ends else '(?s:.*)'}"


def refused_schema(what: str) -> UsageError:
    return UsageError(
        f"the schema of an argument {what}, which this model's calls cannot be kept to",
        hint='leave it out of the schema, or send "tool_choice": "auto" and no strict tools',
        param="tools",
    )


def in_tool(name: str, error: UsageError) -> UsageError:
    """The same, told of the tool of that name."""
    return UsageError(f"the tool {name[:60]!r} cannot be used: {error.message}", hint=error.hint, param="tools")
