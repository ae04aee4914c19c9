"""Fields of a body that are in no list. Clients and their plugins send such fields for other servers, so they are
accepted, and whoever sent them is told their names in a header: nothing is dropped silently.
"""

from __future__ import annotations

import re
from urllib.parse import quote

HEADER = "x-edgellm-ignored"
STRICT_HEADER = "x-edgellm-strict"
MAX_NAME = 60  # characters
EMPTY = "''"
MAX_BYTES = 1024  # of all names
_INDEX = re.compile(r"\[\d+\]")


class UnknownFields:
    """Of one request.

    Attributes:
        strict: the first one is refused.
        n: how many there were.
    """

    def __init__(self, *, strict: bool = False) -> None:
        self.strict = strict
        self.n = 0
        self._names: dict[str, None] = {}
        self._room = MAX_BYTES

    def add(self, name: str, path: str) -> None:
        """`path`: of the object that holds it, such as `messages[3]`; "" = the body."""
        self.n += 1
        if self._room <= 0:
            return
        place = f"{_INDEX.sub('[]', path)}." if path else ""
        # A name is a client's text, and must not end the header, look like two, or like none.
        written = place + (quote(name[:MAX_NAME], safe="$@/:") or EMPTY)
        if written not in self._names:
            self._room -= len(written) + 2
            self._names["..." if self._room < 0 else written] = None

    @property
    def text(self) -> str:
        """`a, messages[].b`: each name once, percent-encoded, "..." for those that found no room; "" = none."""
        return ", ".join(self._names)
