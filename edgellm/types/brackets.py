"""The brackets of a pattern or a grammar, counted in one pass: what was opened is closed by its own kind only."""

from __future__ import annotations

import re

_CLOSES = {")": "(", "]": "[", "}": "{"}
_ESCAPED = re.compile(r"\\.?", re.DOTALL)
# A class reaches to its end or the text's, also behind a backslash that escapes nothing: where it could fail there,
# the text would be read to its end again for every bracket that opens one.
_UNCOUNTED = re.compile(r"\\.?|\[\^?\]?(?:\\.?|\[:\w+:\]|[^\]\\])*+(?:\]|\Z)", re.DOTALL)


def is_balanced(pattern: str) -> bool:
    """Whether it closes the brackets that it opens, and no others: what stands around it is not changed by it."""
    depth = 0
    for char in _UNCOUNTED.sub("", pattern):
        depth += (char == "(") - (char == ")")
        if depth < 0:
            return False
    return depth == 0


def nesting(text: str, *, is_pattern: bool) -> int:
    """How many brackets are open at once, at most. Of a pattern's classes, which the library bounds, none counts."""
    n_open = dict.fromkeys(_CLOSES.values(), 0)
    deepest = 0
    for char in (_UNCOUNTED if is_pattern else _ESCAPED).sub("", text):
        if char in n_open:
            n_open[char] += 1
            deepest = max(deepest, sum(n_open.values()))
        elif (opened := _CLOSES.get(char)) is not None and n_open[opened]:
            n_open[opened] -= 1
    return deepest
