r"""Regular expressions of a `response_template`, taken as the marks that they match. None is ever run.

Only such are taken as are a row of texts, white space and parts: `<tool_call>\s*<function=(?P<name>\w+)>`.
"""

from __future__ import annotations

import re

MAX_PATTERN = 1024  # characters
Marks = tuple[str, ...]  # text, name of a part, text, .. text; white space is a line break, a part without name is ""

_SET = r"(?:\\[wS]|\.|\[\^?(?:\\.|[^\]\\])+\])[*+]\??"
_UNIT = re.compile(
    rf"""(?P<space>(?:\\[sn]|\n)[*+?]\??)
    | (?:\(\?P<(?P<name>[A-Za-z_]\w*)>)(?:{_SET})\)
    | (?P<part>{_SET})
    | (?P<control>\\[nt])
    | \\(?P<escaped>[^\w\s])
    | (?P<plain>[^\\^$.|?*+()\[{{}}])""",
    re.VERBOSE,
)
_CONTROL = {r"\n": "\n", r"\t": "\t"}
_CHOICE = re.compile(r"(?:\\s\*|\\n\?)?\(\?:([^()]*)\)")
_BAR = re.compile(r"(?<!\\)\|")


def alternatives(pattern: str) -> list[Marks] | None:
    r"""What it matches: a row, of `(?:this|that)` several; "" is the beginning (`^`). None: it says more than that."""
    if len(pattern) > MAX_PATTERN:
        return None
    choice = _CHOICE.fullmatch(pattern)
    rows = [("",) if part == "^" else _row(part) for part in (_BAR.split(choice[1]) if choice else [pattern])]
    return [row for row in rows if row is not None] if None not in rows else None


def _row(pattern: str) -> Marks | None:
    units, at = [""], 0
    while at < len(pattern):
        unit = _UNIT.match(pattern, at)
        if unit is None:
            return None
        at = unit.end()
        if unit["name"] or unit["part"]:
            units += [unit["name"] or "", ""]
        else:
            units[-1] += "\n" if unit["space"] else _CONTROL.get(unit[0]) or unit["escaped"] or unit["plain"]
    return tuple(units)
