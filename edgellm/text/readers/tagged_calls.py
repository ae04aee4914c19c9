"""Calls whose arguments are marked one by one: Qwen3-Coder, Qwen3.5, Nemotron 3, GLM 4.x, Seed-OSS, MiniMax M2."""

from __future__ import annotations

from edgellm.text.readers.output import Output
from edgellm.text.readers.scanner import Parser, Scanner, Stops
from edgellm.text.readers.values import Allowed, quoted
from edgellm.types.markup import TaggedCalls
from edgellm.types.message import Tool

MAX_NAME = 256  # characters, of tools and arguments, with the marks around them


class TaggedCallReader:
    """A `CallReader`. Only the name of a tool that was offered makes a call."""

    def __init__(self, row: TaggedCalls, tools: tuple[Tool, ...]) -> None:
        self._row = row
        self._tools = tools
        self._names = frozenset(tool.name for tool in tools)
        words = f"{row.section_open} {row.open}".split()
        self.starts: tuple[str, ...] = (words[0],)
        self._rest = words[1:]
        self._open, self._close = row.open.split(), row.close.split()
        self._section_close = row.section_close.split()
        self._key, self._key_end = row.key_open.split(), Stops(row.key_close.strip())
        self._value_open = row.value_open.split()
        # A line break on both sides of a value belongs to the marks, where the template has it.
        self._broken = row.value_close.startswith("\n")
        self._value_end = Stops(row.value_close.rstrip(), row.value_close.strip())
        ends = (row.after_name, *(words[0] for words in (self._key, self._close, self._section_close) if words))
        self._name_end = Stops(row.after_name.strip()) if row.after_name.strip() else Stops(*ends)

    def read(self, scanner: Scanner, output: Output) -> Parser[bool]:
        n_before = output.n_calls
        more, words = True, self._rest
        while more:
            scanner.mark()
            name = (yield from self._name(scanner)) if (yield from scanner.accept_words(words)) else None
            if name is None:
                scanner.rewind()
                break
            scanner.release()
            output.call(name)
            if not (yield from self._arguments(Allowed.of(self._tools, name), scanner, output)):
                return True
            more, words = bool(self._row.section_open), self._open
        if output.n_calls > n_before:
            yield from scanner.accept_some(self._section_close)
        return output.n_calls > n_before

    def _name(self, scanner: Scanner) -> Parser[str | None]:
        head = yield from scanner.bounded(self._name_end, MAX_NAME)
        if head is None or head[0].strip() not in self._names:
            return None
        if not self._row.after_name.strip():
            scanner.skip(-len(head[1]))
        return head[0].strip()

    def _arguments(self, allowed: Allowed, scanner: Scanner, output: Output) -> Parser[bool]:
        """False: the answer ended within them."""
        output.arguments("{")
        comma = ""
        while (yield from scanner.accept_words(self._key)):
            key = yield from scanner.bounded(self._key_end, MAX_NAME)
            if key is None:  # cut within it
                output.arguments(f'{comma}"')
                yield from self._text(Stops(), scanner, output)
                return False
            yield from scanner.accept_words(self._value_open)
            output.arguments(f"{comma}{quoted(key[0].strip())}: ")
            if not (yield from self._value(allowed.property(key[0].strip()), scanner, output)):
                return False
            comma = ", "
        closed = yield from scanner.accept_some(self._close)
        if closed < len(self._close[:1]) and not (yield from scanner.peek()):
            return False
        output.arguments("}")
        return True

    def _value(self, allowed: Allowed, scanner: Scanner, output: Output) -> Parser[bool]:
        if self._broken:
            yield from scanner.accept("\n")
        if allowed.is_text:
            output.arguments('"')
            ended = yield from self._text(self._value_end, scanner, output)
            output.arguments('"' if ended else "")
            return ended
        value: list[str] = []
        stop = yield from scanner.until(self._value_end, value.append)
        output.arguments(allowed.json_of("".join(value)) if stop else "".join(value))
        return bool(stop)

    def _text(self, end: Stops, scanner: Scanner, output: Output) -> Parser[bool]:
        """A text as in JSON, without the quotation marks around it."""
        return bool((yield from scanner.until(end, lambda text: output.arguments(quoted(text)[1:-1]))))
