"""Calls whose arguments are literals: LFM2 (Python), Gemma 4 and FunctionGemma (bare names, marked texts)."""

from __future__ import annotations

import re

from edgellm.text.readers.literals import Literals, Malformed
from edgellm.text.readers.output import Output
from edgellm.text.readers.scanner import Parser, Scanner, Stops
from edgellm.types.markup import LiteralCalls
from edgellm.types.message import Tool

MAX_NAME = 128  # characters


class LiteralCallReader:
    """A `CallReader`. Only the name of a tool that was offered makes a call."""

    def __init__(self, row: LiteralCalls, tools: tuple[Tool, ...]) -> None:
        self.starts: tuple[str, ...] = (row.section_open,)
        self._row = row
        self._names = {tool.name for tool in tools}
        self._bracket = Stops(row.brackets[0])
        self._end = Stops(row.section_close)
        self._head = re.compile(rf"\s*{re.escape(row.open)}\s*([\w.-]+)\s*")
        self._further_head = re.compile(r"\s*([\w.-]+)\s*")

    def read(self, scanner: Scanner, output: Output) -> Parser[bool]:
        called, head = False, self._head
        try:
            while (yield from self._call(scanner, output, head)):
                called, head = True, self._further_head
                yield from scanner.space()
                if not (self._row.listed and (yield from scanner.accept(","))):
                    break
        except Malformed as problem:  # passed as it is: whoever reads the arguments finds them wrong
            output.arguments(problem.read)
            yield from scanner.until(self._end, output.arguments)
            return True
        if called:
            yield from scanner.accept(self._row.section_close)
        return called

    def _call(self, scanner: Scanner, output: Output, head: re.Pattern[str]) -> Parser[bool]:
        before = yield from scanner.bounded(self._bracket, MAX_NAME)
        if before is None:
            return False
        name = head.fullmatch(before[0])
        if name is None or name[1] not in self._names:
            scanner.skip(-len(before[0] + before[1]))
            return False
        output.call(name[1])
        yield from Literals(scanner, output.arguments, self._row.quote).mapping(self._row.brackets[1], self._row.assign)
        return True
