"""The text of a call of a tool that takes one: clients are told it as it is, the core has it as {"input": TEXT}."""

from __future__ import annotations

import json
import re

from edgellm.text.readers.scanner import Emit, Parser, Scanner, Stops
from edgellm.types.message import INPUT

_HEAD = ("{", f'"{INPUT}"', ":", '"')
_STOPS = Stops('"', "\\")
_REST = re.compile(r"(?s).+")
_HIGH_SURROGATE = re.compile(r"u[dD][89abAB][0-9a-fA-F]{2}")
_LOW_SURROGATE = re.compile(r"\\u[dD][c-fC-F][0-9a-fA-F]{2}")


def arguments_of(text: str) -> str:
    return json.dumps({INPUT: text}, ensure_ascii=False)


def input_of(arguments: str) -> str:
    """The text. Arguments that are no object with it, which only a grammar rules out, stay as they are."""
    reader = InputText()
    return reader.push(arguments) + reader.finish()


class InputText:
    """`input_of` arguments that come in pieces; any cut gives the same."""

    def __init__(self) -> None:
        self._source = Scanner()
        self._parts: list[str] = []
        self._parser = self._read(self._parts.append)

    def push(self, arguments: str) -> str:
        """As much of the text as these make certain."""
        self._source.push(arguments)
        next(self._parser, None)
        text = "".join(self._parts)
        self._parts.clear()
        return text

    def finish(self) -> str:
        """What was held back, as more could have come."""
        self._source.ended = True
        return self.push("")

    def _read(self, emit: Emit) -> Parser[None]:
        if not (yield from self._source.accept_words(_HEAD)):
            yield from self._source.run(_REST, emit)
            return
        while (yield from self._source.until(_STOPS, emit)) == "\\":
            emit((yield from self._escape()))
        yield from self._source.run(_REST, lambda _: None)

    def _escape(self) -> Parser[str]:
        """What a backslash and what follows stand for. What is no escape stands for itself; none where it is cut."""
        n = 1
        if (yield from self._source.peek()) == "u":
            n = 5
            if _HIGH_SURROGATE.fullmatch((yield from self._source.peek(n))):
                n = 11 if _LOW_SURROGATE.fullmatch((yield from self._source.peek(11))[n:]) else n
        escape = yield from self._source.peek(n)
        if len(escape) < n:
            self._source.skip(len(escape))
            return ""
        try:
            char = str(json.loads(f'"\\{escape}"'))
        except ValueError:
            return "\\"
        self._source.skip(n)
        return "\ufffd" if "\ud800" <= char <= "\udfff" else char
