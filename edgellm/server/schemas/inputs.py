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
    one = _input(value)
    if one:
        return (one,)
    inputs = tuple(map(_input, value)) if isinstance(value, list) else (one,)
    if any(item is None for item in inputs):
        what = f"{field} is not a text, a list of texts, a list of token ids, or a list of such lists"
        raise UsageError(what, hint="see /docs", param=field)
    return tuple(item for item in inputs if item is not None)


def _input(value: Any) -> str | tuple[int, ...] | None:
    """One text, or the token ids of one; None = neither."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return tuple(value) if _are_ids(value) else None
    return _text(value) if isinstance(value, dict) else None


def _text(value: dict[str, Any]) -> str | None:
    """The text of an object as llama-server takes it: a prompt, or the text parts of a message."""
    if isinstance(value.get("prompt_string"), str) and len(value) == 1:
        return str(value["prompt_string"])
    parts = value.get("content")
    if not isinstance(parts, list) or len(value) > 1:
        return None
    texts = [part.get("text") for part in parts if isinstance(part, dict) and part.get("type") == "text"]
    if len(texts) < len(parts) or not all(isinstance(text, str) for text in texts):
        return None
    return "".join(map(str, texts))


def _are_ids(values: list[Any]) -> bool:
    return all(type(value) is int and 0 <= value < MAX_COUNT for value in values)
