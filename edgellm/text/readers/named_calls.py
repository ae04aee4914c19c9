"""Calls with a name in marks and arguments in JSON behind it: Mistral Small and Ministral 3, DeepSeek V3.1, Kimi K2."""

from __future__ import annotations

from edgellm.text.readers.output import Output
from edgellm.text.readers.scanner import Parser, Scanner, Stops
from edgellm.types.markup import NamedCalls
from edgellm.types.message import Tool

MAX_NAME = 256  # characters, with the marks and the id around it


class NamedCallReader:
    """A `CallReader`. Only the name of a tool that was offered makes a call."""

    def __init__(self, row: NamedCalls, tools: tuple[Tool, ...]) -> None:
        self._row = row
        self._names = frozenset(tool.name for tool in tools)
        words = f"{row.section_open} {row.open}".split()
        self.starts: tuple[str, ...] = (words[0],)
        self._rest = words[1:]
        self._open, self._close = row.open.split(), row.close.split()
        self._section_close = row.section_close.split()
        self._after_name = Stops(row.after_name.strip() or "{")
        self._name_end = Stops(row.id_open.strip(), *self._after_name.texts)

    def read(self, scanner: Scanner, output: Output) -> Parser[bool]:
        n_before = output.n_calls
        more = True
        words = self._rest
        while more:
            scanner.mark()
            name = (yield from self._head(scanner)) if (yield from scanner.accept_words(words)) else None
            if name is None:
                scanner.rewind()
                break
            scanner.release()
            output.call(name)
            if not (yield from self._arguments(scanner, output)):
                return True
            more, words = bool(self._row.section_open), self._open
        if output.n_calls > n_before:
            yield from scanner.accept_some(self._section_close)
        return output.n_calls > n_before

    def _head(self, scanner: Scanner) -> Parser[str | None]:
        """The name of a tool, and what is marked behind it."""
        head = yield from scanner.bounded(self._name_end, MAX_NAME)
        if head is None or head[0].strip() not in self._names:
            return None
        if head[1] not in self._after_name.texts and (yield from scanner.bounded(self._after_name, MAX_NAME)) is None:
            return None
        if not self._row.after_name.strip():
            scanner.skip(-1)
        return head[0].strip()

    def _arguments(self, scanner: Scanner, output: Output) -> Parser[bool]:
        """False: the answer ended within them."""
        yield from scanner.space()
        if (yield from scanner.peek()) == "{":
            if not (yield from scanner.json_value(output.arguments)):
                return False
        elif (yield from scanner.peek()):
            output.arguments("{}")
        yield from scanner.accept_some(self._close)
        return True
