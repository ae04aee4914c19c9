"""Fields of a Hugging Face `response_template`: what may stand in them, and the marks around them."""

from __future__ import annotations

import json
from typing import Any, Literal

import msgspec

from edgellm.text.mark_patterns import Marks, alternatives

Side = Literal["open", "close"]


class ResponseField(msgspec.Struct, forbid_unknown_fields=True):
    """A field of a message, as the file has it."""

    open: str | list[str] | None = None
    open_pattern: str | None = None
    close: str | list[str] | None = None
    close_pattern: str | None = None
    content: str = "text"
    content_args: dict[str, Any] = {}
    repeats: bool = False
    join: str | None = None
    optional: bool = True
    transform: Any = None
    transform_each: bool = False


class ResponseTemplate(msgspec.Struct, forbid_unknown_fields=True):
    """The whole. Version 1 is all there is."""

    fields: dict[str, ResponseField]
    version: Literal[1] = 1
    defaults: dict[str, Any] = {}
    start_anchor: str | list[str] | None = None  # where the answer begins: `Reading.opened` knows
    start_anchor_pattern: str | None = None


class Untranslatable(Exception):
    """No row says this. `value` is JSON, cut where it is long."""

    def __init__(self, where: str, value: object) -> None:
        super().__init__(where)
        self.where, self.value = where, abridged(value)


def abridged(value: object) -> str:
    return json.dumps(value)[:100]


class FieldReader:
    """Reads one field. What is more than a row can say is `Untranslatable`."""

    def __init__(self, name: str, field: ResponseField) -> None:
        self._name = name
        self._field = field

    def _refusal(self, key: str) -> Untranslatable:
        return Untranslatable(f"fields.{self._name}.{key}", getattr(self._field, key))

    def _rows(self, side: Side) -> list[Marks]:
        literals, pattern = getattr(self._field, side), getattr(self._field, f"{side}_pattern")
        if pattern is not None:
            rows = alternatives(pattern)
            if rows is None or literals is not None:
                raise self._refusal(f"{side}_pattern")
            return rows
        return [(text,) for text in ([literals] if isinstance(literals, str) else literals or [])]

    def _row(self, side: Side) -> Marks:
        """Of several that differ in white space alone the first. Nothing: a text that is empty."""
        rows = {tuple(text.strip() for text in row): row for row in self._rows(side) if row != ("",)}
        if len(rows) > 1:
            raise self._refusal(side if getattr(self._field, side) is not None else f"{side}_pattern")
        return next(iter(rows.values()), ("",))

    def _text(self, side: Side) -> str:
        row = self._row(side)
        if len(row) > 1:
            raise self._refusal(f"{side}_pattern")
        return row[0].strip()
