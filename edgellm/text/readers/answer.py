"""Reads an answer of thoughts, text and calls, as it comes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from edgellm.text.readers.output import Output, Part
from edgellm.text.readers.scanner import Parser, Scanner, Stops
from edgellm.types.markup import AnswerMarkup, Markup, ReasoningMarkup

Parse = Callable[[Scanner, Output], Parser[None]]


class CallReader(Protocol):
    """Reads the calls of one family."""

    starts: tuple[str, ...]  # texts at which a call may begin

    def read(self, scanner: Scanner, output: Output) -> Parser[bool]:
        """Behind one of `starts`: reads calls into `output`. False: it is none, and nothing was written."""
        ...


class PushReader:
    """An `AnswerReader` of a parser that is written as a generator. What the parser leaves is text."""

    def __init__(self, parse: Parse, *, trims: bool = True) -> None:
        self._scanner = Scanner()
        self._output = Output(trims=trims)
        self._parser = self._whole(parse)
        self._resume()

    @property
    def thinking(self) -> bool:
        return self._output.thinking

    def push(self, text: str) -> list[Part]:
        self._scanner.push(text)
        self._resume()
        return self._output.take()

    def finish(self) -> list[Part]:
        self._scanner.ended = True
        self._resume()
        return self._output.finish()

    def _resume(self) -> None:
        next(self._parser, None)

    def _whole(self, parse: Parse) -> Parser[None]:
        yield from parse(self._scanner, self._output)
        yield from self._scanner.until(Stops(), self._output.say)


def usual(markup: Markup, opened: str, calls: Sequence[CallReader]) -> Parse:
    """A thought, text, then calls, each of them optional. What looks like a marker elsewhere is text."""
    reasoning = markup.reasoning
    reader_of_start = {start: reader for reader in reversed(calls) for start in reader.starts}
    starts = tuple(reader_of_start)
    in_thought = Stops(reasoning.close, *(starts if reasoning.ended_by_call else ())) if reasoning else Stops()
    in_text = Stops(*_of_thoughts(reasoning), *_around(markup.answer), *starts)

    def parse(scanner: Scanner, output: Output) -> Parser[None]:
        if reasoning and thinks(reasoning, opened):
            output.think(begun=not opened.rstrip().endswith(reasoning.open.strip()))
        while (yield from scanner.peek()):
            stop = yield from scanner.until(in_thought if output.thinking else in_text, output.say)
            if not stop:
                continue
            if stop in starts:
                if not (yield from reader_of_start[stop].read(scanner, output)):
                    output.say(stop)
            elif reasoning and output.thinking:
                output.answer()
            elif reasoning and stop == reasoning.open and (output.silent or reasoning.again):
                output.think()
            elif reasoning and stop == reasoning.close and output.silent:  # of a thought that was not begun
                output.answer()
            elif stop not in _around(markup.answer):
                output.text(stop)

    return parse


def thinks(reasoning: ReasoningMarkup, opened: str) -> bool:
    """Whether a prompt that ends in `opened` leaves a thought open."""
    start = reasoning.open.strip()
    begin = opened.rfind(start) if start else 0
    return begin >= 0 and opened.find(reasoning.close.strip(), begin + len(start)) < 0


def _of_thoughts(reasoning: ReasoningMarkup | None) -> tuple[str, ...]:
    return (reasoning.open, reasoning.close) if reasoning else ()


def _around(answer: AnswerMarkup | None) -> tuple[str, ...]:
    return (answer.open, answer.close, answer.end) if answer else ()
