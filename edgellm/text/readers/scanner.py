"""Text that comes in pieces, for parsers written as generators.

They yield where they need more, so that any cut gives the same.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Generator, Sequence
from typing import TypeVar

T = TypeVar("T")
Parser = Generator[None, None, T]
Emit = Callable[[str], object]

_JSON_PLAIN = re.compile(r'[^"{}\[\]]+')
_JSON_TEXT = re.compile(r'[^"\\]+')
MAX_SPACE = 32  # characters between two markers
MAX_INDENT = 256  # the same where they may be indented
_SPACE = re.compile(r"\s+")


class Scanner:
    """What was pushed and not yet read. A parser that read all is resumed after the next `push`, or once `ended`."""

    def __init__(self) -> None:
        self._text = ""
        self._at = 0
        self._marks: list[int] = []  # places that may be gone back to
        self.ended = False

    def push(self, text: str) -> None:
        start = min([self._at, *self._marks])
        self._text = self._text[start:] + text
        self._at -= start
        self._marks = [mark - start for mark in self._marks]

    def mark(self) -> None:
        """Keeps what is read from here on, until `rewind` or `release`."""
        self._marks.append(self._at)

    @property
    def n_marked(self) -> int:
        """Characters read since the last mark."""
        return self._at - self._marks[-1]

    def rewind(self) -> None:
        """Back to the last mark."""
        self._at = self._marks.pop()

    def release(self) -> str:
        """Gives the last mark up. What was read since."""
        return self._text[self._marks.pop() : self._at]

    def peek(self, n: int = 1) -> Parser[str]:
        """The next `n` characters; fewer, or none, where the text ends."""
        while len(self._text) - self._at < n and not self.ended:
            yield
        return self._text[self._at : self._at + n]

    def skip(self, n: int = 1) -> None:
        self._at += n

    def accept(self, literal: str) -> Parser[bool]:
        """Whether `literal` comes next; if so it is read."""
        for n in range(1, len(literal) + 1):
            if (yield from self.peek(n)) != literal[:n]:
                return False
        self._at += len(literal)
        return True

    def accept_words(self, words: Sequence[str]) -> Parser[bool]:
        """Whether these come next, with any white space between and before them; if so they are read."""
        self.mark()
        for word in words:
            yield from self.space(MAX_INDENT)
            if not (yield from self.accept(word)):
                self.rewind()
                return False
        self.release()
        return True

    def accept_some(self, words: Sequence[str]) -> Parser[int]:
        """How many of these come next, one behind another; they are read."""
        for n, word in enumerate(words):
            if not (yield from self.accept_words([word])):
                return n
        return len(words)

    def run(self, pattern: re.Pattern[str], emit: Emit) -> Parser[None]:
        """Characters that match `pattern`, as many as there are."""
        while (yield from self.peek()):
            match = pattern.match(self._text, self._at)
            if not match:
                return
            self._at = match.end()
            emit(match[0])

    def space(self, most: int = sys.maxsize) -> Parser[None]:
        """White space, at most so many characters."""
        while most > 0 and (yield from self.peek()):
            match = _SPACE.match(self._text, self._at, self._at + min(most, len(self._text)))
            if not match:
                return
            self._at = match.end()
            most -= len(match[0])

    def until(self, stops: Stops, emit: Emit) -> Parser[str]:
        """Text before the first of `stops`, which is read and returned; "" where the text ends before."""
        while True:
            match = stops.pattern.search(self._text, self._at)
            held = 0 if self.ended else stops.begun(self._text, self._at)
            if match is not None and (not held or match.start() < len(self._text) - held):
                if match.start() > self._at:
                    emit(self._text[self._at : match.start()])
                self._at = match.end()
                return match[0]
            end = len(self._text) - held
            if end > self._at:
                emit(self._text[self._at : end])
                self._at = end
            if self.ended:
                return ""
            yield

    def bounded(self, stops: Stops, most: int) -> Parser[tuple[str, str] | None]:
        """At most `most` characters and the stop behind them. None: there is none so soon, and nothing is read."""
        while True:
            match = stops.pattern.search(self._text, self._at, self._at + most + stops.longest)
            if match is not None:
                before = self._text[self._at : match.start()]
                self._at = match.end()
                return before, match[0]
            if self.ended or len(self._text) - self._at >= most + stops.longest:
                return None
            yield

    def spaced(self, stops: Stops) -> Parser[str]:
        """That of `stops` which comes next, or behind white space, is read and returned; "" where none does."""
        found = yield from self.bounded(stops, MAX_SPACE)
        if found is None:
            return ""
        if found[0] and not found[0].isspace():
            self.skip(-len("".join(found)))
            return ""
        return found[1]

    def json_value(self, emit: Emit) -> Parser[bool]:
        """A list, a mapping or a text of JSON, as it stands. False: something else comes, or the text ends within."""
        depth = 0
        while char := (yield from self.peek()):
            if char == '"':
                if not (yield from self._json_text(emit)):
                    return False
            elif char in "{[" or (char in "}]" and depth):
                self._at += 1
                emit(char)
                depth += 1 if char in "{[" else -1
            elif not depth:
                return False
            else:
                yield from self.run(_JSON_PLAIN, emit)
            if not depth:
                return True
        return False

    def _json_text(self, emit: Emit) -> Parser[bool]:
        self._at += 1
        emit('"')
        while char := (yield from self.peek()):
            if char not in '"\\':
                yield from self.run(_JSON_TEXT, emit)
                continue
            piece = yield from self.peek(2 if char == "\\" else 1)
            self._at += len(piece)
            emit(piece)
            if char == '"':
                return True
        return False


def parse_whole(text: str, parse: Callable[[Scanner], Parser[T]]) -> T:
    """What the parser returns for a text that is there at once."""
    scanner = Scanner()
    scanner.push(text)
    scanner.ended = True
    try:
        next(parse(scanner))
    except StopIteration as done:
        value: T = done.value
        return value
    raise AssertionError("a parser waits for more of a text that ended")


class Stops:
    """Texts that end what is read. Of two that begin alike the longer one is meant."""

    def __init__(self, *texts: str) -> None:
        self.texts = tuple(sorted({t for t in texts if t}, key=len, reverse=True))
        self.pattern = re.compile("|".join(map(re.escape, self.texts)) or r"(?!)")
        self.longest = max(map(len, self.texts), default=0)

    def begun(self, text: str, start: int) -> int:
        """How many characters at the end of `text` may be the beginning of one of them."""
        for n in range(min(self.longest - 1, len(text) - start), 0, -1):
            if any(len(t) > n and t.startswith(text[-n:]) for t in self.texts):
                return n
        return 0
