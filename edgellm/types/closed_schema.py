"""JSON schemas as llama.cpp reads them: an object that lists its properties has no others.

Of its converter of schemas to grammars (common/json-schema-to-grammar.cpp), which Ollama uses as well.
"""

from __future__ import annotations

from typing import Any

# Beside properties, these say themselves what else an object may hold, or add to what it holds.
_SAY_MORE = (
    "additionalProperties patternProperties unevaluatedProperties propertyNames const enum $ref $dynamicRef allOf"
)
_MORE = frozenset((_SAY_MORE + " anyOf oneOf not if then else dependentSchemas").split())
_REFERENCES = frozenset(("$ref", "$dynamicRef"))
_ALTERNATIVES = ("anyOf", "oneOf")
# Two of these in one schema: what they say of a value holds together.
_HOLD_TOGETHER = "properties patternProperties required minProperties $ref $dynamicRef"
_COMBINED = frozenset((_HOLD_TOGETHER + " allOf anyOf oneOf not if dependentSchemas").split())
_OF_NAMES = ("properties", "$defs", "definitions")
_OF_VALUES = ("items", "prefixItems", "additionalProperties", *_ALTERNATIVES)


def close(schema: Any) -> None:
    """Closes the objects in `schema` in place: those with `properties` get `additionalProperties: false`, and lists and
    objects their `type`, where it says nothing of that.

    What is combined with others (`allOf`, or `anyOf` beside properties) stays open, because it would contradict them,
    and where that refers to something, the whole schema does. `schema` has to be bounded (`Grammar` does it).
    """
    parts, combined = _apart(schema)
    if any(_REFERENCES & part.keys() for part in _inside(combined)):
        return
    for part in parts:
        properties = part.get("properties")
        if isinstance(properties, dict):
            required = part.get("required", [])
            has_all = isinstance(required, list) and all(
                isinstance(name, str) and name in properties for name in required
            )
            if has_all and not _MORE & part.keys():
                part.setdefault("type", "object")
                part["additionalProperties"] = False
        elif ("items" in part or "prefixItems" in part) and not (_MORE | {"required"}) & part.keys():
            part.setdefault("type", "array")


def _apart(schema: Any) -> tuple[list[dict[str, Any]], list[Any]]:
    """The schemas that alone say what a value is, and those that are combined with others; without recursion."""
    parts: list[dict[str, Any]] = []
    combined: list[Any] = []
    waiting = [schema]
    while waiting:
        part = waiting.pop()
        if isinstance(part, list):
            waiting += part
        if not isinstance(part, dict):
            continue
        parts.append(part)
        mixed = len(_COMBINED & part.keys()) > 1
        if mixed:
            combined += [{name: part[name]} for name in _REFERENCES & part.keys()]
        for name in _OF_NAMES:
            if isinstance(part.get(name), dict):
                waiting += part[name].values()
        for name, value in part.items():
            if name in _OF_VALUES and not (mixed and name in _ALTERNATIVES):
                waiting.append(value)
            elif name in _MORE - _REFERENCES - {"const", "enum"}:
                combined.append(value)
    return parts, combined


def _inside(values: list[Any]) -> list[dict[str, Any]]:
    """Every object in them; without recursion."""
    objects: list[dict[str, Any]] = []
    waiting = list(values)
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            objects.append(value)
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    return objects
