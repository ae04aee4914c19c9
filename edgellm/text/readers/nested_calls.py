"""Calls whose arguments are elements within elements: MiniMax M3."""

from __future__ import annotations

from edgellm.text.readers.output import Output
from edgellm.text.readers.scanner import Parser, Scanner, Stops
from edgellm.text.readers.values import Allowed, quoted
from edgellm.types.markup import NestedCalls
from edgellm.types.message import Tool

MAX_DEPTH = 64  # of elements in each other; what is deeper is a text
MAX_NAME = 128  # characters
_NAME_END = Stops(">")


class NestedCallReader:
    """A `CallReader`. Only the name of a tool that was offered makes a call."""

    def __init__(self, row: NestedCalls, tools: tuple[Tool, ...]) -> None:
        self.starts: tuple[str, ...] = (row.section_open,)
        self._row = row
        self._tools = tools
        self._names = {f"{row.open}{tool.name}{row.after_name}": tool.name for tool in tools}
        self._heads = Stops(*self._names)

    def read(self, scanner: Scanner, output: Output) -> Parser[bool]:
        before = output.n_calls
        while head := (yield from scanner.spaced(self._heads)):
            name = self._names[head]
            output.call(name)
            yield from self._members("{", Allowed.of(self._tools, name), 1, scanner, output)
            if (yield from scanner.accept(self._row.close)):
                output.arguments("}")
        if output.n_calls > before:
            yield from scanner.space()
            yield from scanner.accept(self._row.section_close)
        return output.n_calls > before

    def _members(self, bracket: str, allowed: Allowed, depth: int, scanner: Scanner, output: Output) -> Parser[None]:
        """Elements of a mapping or a list, to the first that closes something."""
        output.arguments(bracket)
        comma = ""
        while (yield from self._begins(scanner)):
            scanner.skip(len(self._row.element))
            name = yield from scanner.bounded(_NAME_END, MAX_NAME)
            if name is None:
                return
            output.arguments(comma if bracket == "[" else f"{comma}{quoted(name[0])}: ")
            child = allowed.item() if bracket == "[" else allowed.property(name[0])
            yield from self._element(name[0], child, depth, scanner, output)
            comma = ", "

    def _begins(self, scanner: Scanner) -> Parser[bool]:
        """Whether an element begins here."""
        yield from scanner.space()
        ahead = yield from scanner.peek(len(self._row.element) + 1)
        return ahead.startswith(self._row.element) and len(ahead) > len(self._row.element) and ahead[-1] != "/"

    def _element(self, name: str, allowed: Allowed, depth: int, scanner: Scanner, output: Output) -> Parser[None]:
        end = f"{self._row.element}/{name}>"
        is_text = "string" in allowed.kinds
        if not is_text and depth < MAX_DEPTH and (yield from self._begins(scanner)):
            ahead = yield from scanner.peek(len(self._row.element) + len("item>"))
            is_list = "array" in allowed.kinds if allowed.kinds else ahead.endswith("item>")
            is_list = is_list and ("object" not in allowed.kinds or ahead.endswith("item>"))
            yield from self._members("[" if is_list else "{", allowed, depth + 1, scanner, output)
            if (yield from scanner.accept(end)):
                output.arguments("]" if is_list else "}")
            return
        value: list[str] = []
        yield from scanner.until(Stops(end), value.append)
        text = "".join(value)
        empty = {"array": "[]", "object": "{}"}.get(next(iter(allowed.kinds), "")) if not text.strip() else None
        output.arguments(empty or (quoted(text) if is_text else allowed.json_of(text)))
