"""Whether what leaves no choice may be put into an answer at once, or is drawn token by token.

The library looks for the end of what is forced, and turns it into tokens, with Python's lock held: 60,000 characters
take 50 ms, in which no other answer goes on, and again for each mask inside them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from edgellm.types.grammar_tree import Json, Node, Pattern, Text, TextUntil, nodes

NO_FORCING = '%llguidance {"no_forcing": true}\n'
MOST = 1_000  # characters in a row that may be forced
# `/b+/ "b"` leaves one byte to choose for ever, and the library looks for the end of such a run without a bound.
_ENDLESS = re.compile(r"[*+]|,\}")
_TIMES = re.compile(r"\{([0-9]+)")
_TOLD = frozenset(("title", "description", "$comment"))  # texts of a schema that no answer holds


def may_force(root: Node) -> bool:
    """Whether no run of what is forced is endless or longer than `MOST`, by what is in each node alone."""
    return all(map(_is_short, nodes(root)))


def _is_short(node: Node) -> bool:
    match node:
        case Text():
            return len(node.text) <= MOST
        case TextUntil():
            return len(node.stop) <= MOST
        case Pattern():
            return not any(map(_ENDLESS.search, node.patterns)) and reach("".join(node.patterns)) <= MOST
        case Json():
            return all(reach <= MOST for reach in _reaches(node.schema))
    return True


def reach(pattern: str) -> int:
    """Characters after which a pattern leaves a choice, at the latest: its shortest ways are no longer.

    Not all of it is counted where it is more than `MOST`.
    """
    length = len(pattern)
    for times in _TIMES.finditer(pattern):
        if length > MOST:
            break
        length *= max(1, int(times[1][:9]))
    return length


def _reaches(schema: Any) -> Iterator[int]:
    """Of each text in it, whatever that means, and of each length that may make a pattern long."""
    if isinstance(schema, str):
        yield reach(schema)
    elif isinstance(schema, list):
        for part in schema:
            yield from _reaches(part)
    elif isinstance(schema, dict):
        for word, part in schema.items():
            if word == "minLength" and isinstance(part, int):
                yield part
            elif not (word in _TOLD and isinstance(part, str)):
                yield reach(word)
                yield from _reaches(part)
