"""Calls as grammar trees: one function for each shape of `edgellm.types.markup`."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from edgellm.errors import UsageError
from edgellm.text.schema_values import Notation, Room, SchemaValues, in_tool, refused_schema
from edgellm.types.grammar import Grammar
from edgellm.types.grammar_tree import AnyText, Node, OneOf, Pattern, Text, optional, sequence
from edgellm.types.markup import (
    AttributeCalls,
    CallMarkup,
    HarmonyCalls,
    JsonCalls,
    LiteralCalls,
    NamedCalls,
    NestedCalls,
    RecipientCalls,
    TaggedCalls,
)

Schemas = Sequence[tuple[str, dict[str, Any]]]  # name and parameters of each tool
CALL_ID = Pattern(("[a-zA-Z0-9]{9}",))  # as Mistral's templates want them
BREAK = Pattern((r"\n?",))  # between two calls


class CallShape(NamedTuple):
    """An answer with calls, start first further* end, or without them, `text`."""

    start: str  # what announces calls; empty: `first` and `text` begin in different ways
    first: Node  # behind it, to the end of the call
    further: Node
    end: Node = Text("")
    text: Node = AnyText()


def call_shape(row: CallMarkup, tools: Schemas) -> CallShape:
    """Raises UsageError: an argument's schema says what calls of this shape cannot be kept to, or all are too large."""
    room = Room()
    for name, schema in tools:
        with _of_tool(name):
            Grammar.of_schema(schema, "tools")  # which bounds it, before anything is made of it
    calls = []
    for name, schema in tools:
        with _of_tool(name):
            calls.append(_CALLS[type(row)](row, name, SchemaValues(schema, room, name)))
    call = OneOf(tuple(calls))
    return _FRAMES.get(type(row), _in_section)(row, call)


@contextlib.contextmanager
def _of_tool(name: str) -> Iterator[None]:
    """What is refused in the block tells its name."""
    try:
        yield
    except RecursionError:
        raise in_tool(name, refused_schema("leads in a circle")) from None
    except UsageError as error:
        raise in_tool(name, error) from None


def _json(row: JsonCalls, name: str, values: SchemaValues) -> Node:
    quoted = json.dumps(name, ensure_ascii=False)
    if row.name_is_key:
        return sequence(f"{{{quoted}: ", values.whole, "}")
    id_: list[Node | str] = [f', "{row.id_key}": "', CALL_ID, '"'] if row.id_key else []
    head = f'"{row.name_key}": {quoted}, "{row.arguments_key}": '
    wrapper = f'{{"{row.wrapper}": ' if row.wrapper else ""
    return sequence(wrapper, "{", head, values.whole, *id_, "}", "}" if wrapper else "")


def _named(row: NamedCalls, name: str, values: SchemaValues) -> Node:
    id_: list[Node | str] = [row.id_open, Pattern(("[a-zA-Z0-9]{1,9}",))] if row.id_open else []
    return sequence(name, *id_, row.after_name, values.whole)


def _tagged(row: TaggedCalls, name: str, values: SchemaValues) -> Node:
    def argument(key: str, value: Any) -> Node:
        return sequence(row.key_open, key, row.key_close, row.value_open, values.plain(value, row.value_close))

    return sequence(name, row.after_name, *_arguments(values, argument))


def _attributes(row: AttributeCalls, name: str, values: SchemaValues) -> Node:
    def argument(key: str, value: Any) -> Node:
        marked = row.text_attribute if values.is_text(value) else row.text_attribute.replace('"true"', '"false"')
        written = f" {marked}" if marked and (values.is_text(value) or marked != row.text_attribute) else ""
        return sequence(f'{row.key_open}{key}"{written}{row.head_close}', values.plain(value, row.value_close))

    return sequence(f'{name}"{row.head_close}', *_arguments(values, argument))


def _nested(row: NestedCalls, name: str, values: SchemaValues) -> Node:
    return sequence(name, row.after_name, *values.elements(values.root, row.element))


def _literal(row: LiteralCalls, name: str, values: SchemaValues) -> Node:
    notation = Notation(row.quote, python=row.assign == "=")
    return sequence(name, values.mapping(values.root, notation, row.brackets, row.assign))


def _message(row: HarmonyCalls, name: str, values: SchemaValues) -> Node:
    head = f"{row.channel}{row.space}commentary to=functions.{name} {row.constrain}{row.space}json"
    if row.thinker:  # no channels
        head = f" to={name}"
    body = row.body
    arguments: Node = values.whole
    if body:
        call = _attributes(body, name, values)
        arguments = sequence(body.section_open, body.open, call, body.close, body.section_close)
    return sequence(head, row.message, row.space, arguments)


def _to_recipient(row: RecipientCalls, name: str, values: SchemaValues) -> Node:
    return sequence(f"{name}\n", values.whole)


def _arguments(values: SchemaValues, argument: Callable[[str, Any], Node]) -> list[Node]:
    """Those that are required, and those that may be left out, in the order of the schema."""
    return [
        argument(key, value) if required else optional(argument(key, value))
        for key, value, required in values.members(values.root)
    ]


def _in_section(row: JsonCalls | NamedCalls | TaggedCalls | AttributeCalls | NestedCalls, call: Node) -> CallShape:
    """section_open (open call close)+ section_close."""
    first = sequence(row.open if row.section_open else "", call, row.close)
    further = sequence(BREAK, row.open, call, row.close)
    return CallShape(row.section_open or row.open, first, further, Text(row.section_close))


def _json_section(row: JsonCalls, call: Node) -> CallShape:
    shape = _in_section(row, call)
    if row.array:
        end = Text("]" + row.section_close)
        shape = CallShape(row.section_open, sequence("[", call), sequence(", ", call), end)
    return shape if shape.start else shape._replace(text=AnyText(but="{["))


def _literals(row: LiteralCalls, call: Node) -> CallShape:
    if row.listed:
        return CallShape(row.section_open + row.open, call, sequence(", ", call), Text(row.section_close))
    further = sequence(row.section_open, row.open, call, row.section_close)
    return CallShape(row.section_open + row.open, sequence(call, row.section_close), further)


def _messages(row: HarmonyCalls, call: Node) -> CallShape:
    """The prompt ends behind the role of the first message."""
    role = f"{row.start}{row.space}assistant"
    head = " to=user" if row.thinker else f"{row.channel}{row.space}final"
    said = sequence(optional(Text(role)), head, row.message, row.space, AnyText())
    further = sequence(row.end, row.space, role, call)
    return CallShape("", sequence(optional(Text(role)), call), further, Text(row.call or row.end), said)


def _to_recipients(row: RecipientCalls, call: Node) -> CallShape:
    said = sequence(optional(Text(row.open)), f"{row.everybody}\n", AnyText())
    return CallShape(row.open, call, sequence("\n", row.open, call), text=said)


_CALLS: dict[type, Callable[[Any, str, SchemaValues], Node]] = {
    JsonCalls: _json,
    NamedCalls: _named,
    TaggedCalls: _tagged,
    AttributeCalls: _attributes,
    NestedCalls: _nested,
    LiteralCalls: _literal,
    HarmonyCalls: _message,
    RecipientCalls: _to_recipient,
}
_FRAMES: dict[type, Callable[[Any, Node], CallShape]] = {
    JsonCalls: _json_section,
    LiteralCalls: _literals,
    HarmonyCalls: _messages,
    RecipientCalls: _to_recipients,
}
