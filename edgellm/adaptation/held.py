"""Bounds what training data may hold: the values of a row before they are made, and those of all records together."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from edgellm.errors import UsageError
from edgellm.types.json_counts import MAX_VALUES, check_counts
from edgellm.types.message import Tool
from edgellm.types.tuning_data import TrainingChat, TrainingRecord


def json_of(text: str | bytes, most: int = MAX_VALUES) -> Any:
    """JSON of a row, or of a text in one.

    Raises:
        msgspec.DecodeError: it is none, holds more than `most` values, or is nested too deeply.
    """
    raw = text.encode() if isinstance(text, str) else text
    try:
        check_counts(raw, max_values=most, max_parts=most, what="it")
        return msgspec.json.decode(raw)
    except (UsageError, RecursionError) as error:
        raise msgspec.DecodeError(error.message if isinstance(error, UsageError) else str(error)) from None


class Held:
    """Counts what records hold beside their texts. A tool that several of them bring is held once."""

    def __init__(self) -> None:
        self._tools: dict[bytes, Tool] = {}
        self.n_values = 0  # records, messages, calls, tools, and values of their schemas

    def add(self, record: TrainingRecord) -> TrainingRecord:
        """The record as it is to be held."""
        self.n_values += 1
        if not isinstance(record, TrainingChat):
            return record
        self.n_values += len(record.messages) + sum(len(message.calls) for message in record.messages)
        tools = tuple(map(self._one, record.tools))
        return msgspec.structs.replace(record, tools=tools) if tools else record

    def _one(self, tool: Tool) -> Tool:
        self.n_values += 1
        digest = hashlib.sha256(msgspec.msgpack.encode(tool)).digest()
        if digest not in self._tools:
            self._tools[digest] = tool
            self.n_values += _n_values(tool.parameters)
        return self._tools[digest]


def _n_values(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(_n_values, inner))
