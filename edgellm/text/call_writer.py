"""Calls as a model would write them, for templates that leave this to whoever fills in the conversation."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from edgellm.types.markup import CallMarkup, JsonCalls, LiteralCalls, NamedCalls


class Call(NamedTuple):
    name: str
    arguments: dict[str, Any]


def write_calls(row: CallMarkup | None, calls: Sequence[Call], mark: Callable[[str], str]) -> str | None:
    """The text of the calls; None where they cannot be written in this shape. `mark`: applied to what is not markup."""
    if isinstance(row, JsonCalls):
        objects = [mark(_json(_object(row, call))) for call in calls]
        inner = f"[{', '.join(objects)}]" if row.array else "".join(f"{row.open}{text}{row.close}" for text in objects)
    elif isinstance(row, NamedCalls):
        inner = "".join(_named(row, index, call, mark) for index, call in enumerate(calls))
    elif isinstance(row, LiteralCalls) and row.quote == '"':
        texts = [_literal(row, call, mark) for call in calls]
        inner = row.open + ", ".join(texts) if row.listed else "".join(row.open + text for text in texts)
    else:
        return None
    return f"{row.section_open}{inner}{row.section_close}"


def _object(row: JsonCalls, call: Call) -> dict[str, Any]:
    if row.name_is_key:
        return {call.name: call.arguments}
    inner = {row.name_key: call.name, row.arguments_key: call.arguments}
    return {"type": "function", row.wrapper: inner} if row.wrapper else inner


def _named(row: NamedCalls, index: int, call: Call, mark: Callable[[str], str]) -> str:
    number = f"{row.id_open}{index}" if row.id_open else ""
    return f"{row.open}{mark(call.name)}{number}{row.after_name}{mark(_json(call.arguments))}{row.close}"


def _literal(row: LiteralCalls, call: Call, mark: Callable[[str], str]) -> str:
    values = (f"{mark(name)}{row.assign}{mark(_json(value))}" for name, value in call.arguments.items())
    return f"{mark(call.name)}{row.brackets[0]}{', '.join(values)}{row.brackets[1]}"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
