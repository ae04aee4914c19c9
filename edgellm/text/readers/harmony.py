"""Answers of gpt-oss, LLM-jp and Muse Glimmer: messages, each with a header that says what its body is.

`<|channel|>analysis<|message|>..<|end|>`, then `<|start|>assistant<|channel|>commentary to=functions.f<|message|>{..}`.
"""

from __future__ import annotations

import re

from edgellm.text.readers.attribute_calls import AttributeCallReader
from edgellm.text.readers.output import Output
from edgellm.text.readers.scanner import Parser, Scanner, Stops
from edgellm.types.markup import HarmonyCalls, Reading

MAX_HEADER = 256  # characters
_RECIPIENT = re.compile(r"to=([^\s<]+)")
_CHANNEL = re.compile(r"\b(analysis|commentary|final)\b")
_NOBODY = ("assistant", "user", "all")  # recipients of messages that are no calls


class HarmonyParser:
    """Reads a whole answer."""

    def __init__(self, row: HarmonyCalls, reading: Reading) -> None:
        self._row = row
        self._tools = {tool.name for tool in reading.tools}
        self._header_end = Stops(row.message)
        self._body_end = Stops(row.end, row.call, row.answer_end, row.start, row.channel)
        self._opened = reading.opened
        self._calls = AttributeCallReader(row.body, reading.tools) if row.body else None

    def __call__(self, scanner: Scanner, output: Output) -> Parser[None]:
        before, message, body = self._opened.rpartition(self._row.message)
        if message and not self._body_end.pattern.search(body):
            yield from self._message(before.rpartition(self._row.message)[2], scanner, output, begun=bool(body.strip()))
        while (yield from scanner.peek()):
            header = yield from scanner.bounded(self._header_end, MAX_HEADER)
            if header is None:  # no message, but plain text
                yield from scanner.until(self._body_end, output.text)
                continue
            yield from self._message(header[0], scanner, output)

    def _message(self, header: str, scanner: Scanner, output: Output, *, begun: bool = False) -> Parser[None]:
        recipient = _last(_RECIPIENT.findall(header))
        if recipient and recipient not in (*_NOBODY, self._row.thinker):
            yield from self._call(recipient, scanner, output)
            return
        channel = _last(_CHANNEL.findall(_RECIPIENT.sub("", header)))
        thinks = recipient == self._row.thinker if self._row.thinker else channel == "analysis"
        if thinks:
            output.think(begun=begun)
        else:
            output.answer()
        yield from scanner.until(self._body_end, output.say)
        if thinks:
            output.answer()

    def _call(self, recipient: str, scanner: Scanner, output: Output) -> Parser[None]:
        """A tool that nobody offered is not called: models know some from their training."""
        name = recipient.removeprefix("functions.")
        yield from scanner.space()
        if name not in self._tools:
            yield from scanner.until(self._body_end, _drop)
        elif self._calls:
            if (yield from scanner.accept(self._calls.starts[0])):
                yield from self._calls.read(scanner, output)
            yield from scanner.until(self._body_end, _drop)
        else:
            output.call(name)
            yield from self._arguments(scanner, output)

    def _arguments(self, scanner: Scanner, output: Output) -> Parser[None]:
        empty = True

        def argue(piece: str) -> None:
            nonlocal empty
            empty = False
            output.arguments(piece)

        yield from scanner.until(self._body_end, argue)
        output.arguments("{}" if empty else "")


def _last(names: list[str]) -> str:
    return names[-1] if names else ""


def _drop(_: str) -> None:
    pass
