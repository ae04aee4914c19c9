"""Answers of Functionary 3.2: messages that begin with whom they are for, `>>>all` or the name of a tool."""

from __future__ import annotations

from edgellm.text.readers.output import Output
from edgellm.text.readers.scanner import Parser, Scanner, Stops
from edgellm.types.markup import Reading, RecipientCalls


class RecipientParser:
    """Reads a whole answer. Only the names of tools that were offered begin a message: others are text."""

    def __init__(self, row: RecipientCalls, reading: Reading) -> None:
        self._everybody = f"{row.everybody}\n"
        self._heads = tuple(f"{name}\n" for name in (row.everybody, *(tool.name for tool in reading.tools)))
        self._begins = reading.opened.rstrip().endswith(row.open)
        self._stops = Stops(*(row.open + head for head in self._heads))
        self._open = row.open

    def __call__(self, scanner: Scanner, output: Output) -> Parser[None]:
        head = (yield from self._first(scanner)) if self._begins else ""
        while (yield from scanner.peek()):
            if head in ("", self._everybody):
                output.answer()
                head = yield from scanner.until(self._stops, output.text)
            else:
                output.call(head.strip())
                head = yield from scanner.until(self._stops, output.arguments)
            head = head.removeprefix(self._open)

    def _first(self, scanner: Scanner) -> Parser[str]:
        for head in self._heads:
            if (yield from scanner.accept(head)):
                return head
        return ""
