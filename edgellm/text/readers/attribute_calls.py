"""Calls in tags with attributes: DeepSeek's DSML (V3.2, V4), Kimi K3, MiniCPM5."""

from __future__ import annotations

from edgellm.text.readers.output import Output
from edgellm.text.readers.scanner import Parser, Scanner, Stops
from edgellm.text.readers.values import Allowed, quoted
from edgellm.types.markup import AttributeCalls
from edgellm.types.message import Tool

MAX_HEAD = 512  # characters of a tag
_TEXT = Allowed([{"type": "string"}], None)
_ANYTHING = Allowed([], None)
_CDATA = Stops("]]>")


class AttributeCallReader:
    """A `CallReader`. Only the name of a tool that was offered makes a call."""

    def __init__(self, row: AttributeCalls, tools: tuple[Tool, ...]) -> None:
        self.starts: tuple[str, ...] = (row.section_open or row.open,)
        self._row = row
        self._tools = tools
        before = row.open if row.section_open else ""
        self._names = {f'{before}{tool.name}"': tool.name for tool in tools}
        self._heads = Stops(*self._names)
        self._head_end = Stops(row.head_close)
        self._value_end = Stops(row.value_close)

    def read(self, scanner: Scanner, output: Output) -> Parser[bool]:
        before = output.n_calls
        while head := (yield from scanner.spaced(self._heads)):
            yield from scanner.bounded(self._head_end, MAX_HEAD)
            yield from self._call(self._names[head], scanner, output)
            if not self._row.section_open:
                break
        if output.n_calls > before:
            yield from scanner.space()
            yield from scanner.accept(self._row.section_close)
        return output.n_calls > before

    def _call(self, name: str, scanner: Scanner, output: Output) -> Parser[None]:
        allowed = Allowed.of(self._tools, name)
        output.call(name)
        output.arguments("{")
        comma = ""
        yield from scanner.space()
        while (yield from scanner.accept(self._row.key_open)):
            head = yield from scanner.bounded(self._head_end, MAX_HEAD)
            if head is None:
                return
            key, _, attributes = head[0].partition('"')
            output.arguments(f"{comma}{quoted(key)}: ")
            if not (yield from self._value(attributes, allowed.property(key), scanner, output)):
                return
            comma = ", "
            yield from scanner.space()
        if (yield from scanner.accept(self._row.close)):
            output.arguments("}")

    def _value(self, attributes: str, allowed: Allowed, scanner: Scanner, output: Output) -> Parser[bool]:
        """One argument. False: the answer ended within it."""
        if self._row.text_attribute:
            allowed = _TEXT if self._row.text_attribute in attributes else _ANYTHING
        elif (yield from scanner.accept("<![CDATA[")):
            return (yield from self._text(_CDATA, scanner, output)) and (
                yield from scanner.accept(self._row.value_close)
            )
        if allowed.is_text:
            return (yield from self._text(self._value_end, scanner, output))
        value: list[str] = []
        ended = yield from scanner.until(self._value_end, value.append)
        output.arguments(allowed.json_of("".join(value)))
        return bool(ended)

    def _text(self, end: Stops, scanner: Scanner, output: Output) -> Parser[bool]:
        output.arguments('"')
        ended = yield from scanner.until(end, lambda text: output.arguments(quoted(text)[1:-1]))
        output.arguments('"' if ended else "")
        return bool(ended)
