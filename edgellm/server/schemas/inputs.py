"""Texts or token ids in a body: one, or several."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

from edgellm.errors import UsageError
from edgellm.types.checks import MAX_COUNT

_IDS = {"type": "array", "items": {"type": "integer"}}
_TEXTS = {"type": "array", "items": {"type": "string"}}
# Four shapes, two of which msgspec cannot tell apart in one type.
Inputs = Annotated[
    Any,
    Meta(
        description="Texts, or token ids with the special tokens that the model wants; at most 2048.",
        extra_json_schema={"anyOf": [{"type": "string"}, _TEXTS, _IDS, {"type": "array", "items": _IDS}]},
    ),
]


def inputs_of(value: Any, field: str) -> tuple[str | tuple[int, ...], ...]:
    """What the field holds: a text, texts, the token ids of one text, or of several.

    Raises:
        UsageError: none of them.
    """
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list):
        if all(isinstance(item, str) for item in value):
            return tuple(value)
        if _are_ids(value):
            return (tuple(value),)
        if all(isinstance(item, list) and _are_ids(item) for item in value):
            return tuple(tuple(item) for item in value)
    raise UsageError(
        f"{field} is not a text, a list of texts, a list of token ids, or a list of such lists",
        hint="see /docs",
        param=field,
    )


def _are_ids(values: list[Any]) -> bool:
    return all(type(value) is int and 0 <= value < MAX_COUNT for value in values)
