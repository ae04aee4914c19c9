"""A grammar as data, for what is put together here: the calls of a model's family, and vLLM's structural tags.

Every text in it is taken literally and every schema is checked, so nothing of a client's becomes grammar.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec


class Text(msgspec.Struct, frozen=True, tag="text"):
    """This text; parts of it that are control tokens of the model come as those."""

    text: str


class Json(msgspec.Struct, frozen=True, tag="json", omit_defaults=True):
    """JSON that is valid under a schema. `tool`: whose arguments it is of, for errors."""

    schema: dict[str, Any]
    tool: str = ""


class Pattern(msgspec.Struct, frozen=True, tag="pattern", omit_defaults=True):
    """Text that regular expressions match as a whole, all of them, and that holds none of the characters `without`.
    `tool`: as of `Json`."""

    patterns: tuple[str, ...]
    without: str = ""
    tool: str = ""


class TextUntil(msgspec.Struct, frozen=True, tag="until"):
    """Any text up to the first `stop`, and `stop`."""

    stop: str


class AnyText(msgspec.Struct, frozen=True, tag="any"):
    """Any text, also none, to the end of the answer; `but`: it does not begin with one of these characters."""

    but: str = ""


class Sequence(msgspec.Struct, frozen=True, tag="sequence"):
    parts: tuple[Node, ...]


class OneOf(msgspec.Struct, frozen=True, tag="one_of"):
    parts: tuple[Node, ...]


class Repeat(msgspec.Struct, frozen=True, tag="repeat"):
    part: Node
    least: int = 0
    most: int | None = None  # None = any number


Node = Text | Json | Pattern | TextUntil | AnyText | Sequence | OneOf | Repeat


def sequence(*parts: Node | str) -> Node:
    """Those that are not empty, texts among them joined."""
    joined: list[Node] = []
    for part in parts:
        node = Text(part) if isinstance(part, str) else part
        for each in node.parts if isinstance(node, Sequence) else (node,):
            if isinstance(each, Text) and joined and isinstance(joined[-1], Text):
                joined[-1] = Text(joined[-1].text + each.text)
            else:
                joined.append(each)
    shown = tuple(node for node in joined if node != Text(""))
    return shown[0] if len(shown) == 1 else Sequence(shown)


def optional(part: Node) -> Repeat:
    return Repeat(part, 0, 1)


def nodes(root: Node) -> Iterator[Node]:
    """All of them, without recursion."""
    waiting = [root]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, Sequence | OneOf):
            waiting += node.parts
        elif isinstance(node, Repeat):
            waiting.append(node.part)
