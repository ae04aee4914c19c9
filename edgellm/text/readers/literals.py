"""Arguments written as literals of a programming language, turned into JSON as they come.

`(city="Paris", days=[1, 2], exact=True)` as LFM2 writes them, `{city:<|"|>Paris<|"|>,days:[1,2]}` as Gemma does.
"""

from __future__ import annotations

import json
import math
import re

from edgellm.text.readers.scanner import Emit, Parser, Scanner, Stops

MAX_DEPTH = 64  # of lists and mappings in each other
_ENDS = {"{": "}", "[": "]", "(": ")"}
_WORDS = {"True": "true", "False": "false", "None": "null", "true": "true", "false": "false", "null": "null"}
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_NAME_WORD = re.compile(r"[^][{}(),=:]+")
_VALUE_WORD = re.compile(r"[^][{}(),]+")
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "a": "\a", "v": "\v", "0": "\0", "\n": ""}
_DIGITS = {"x": 2, "u": 4, "U": 8}
_LOW_SURROGATE = re.compile(r"\\u[dD][c-fC-F][0-9a-fA-F]{2}")


class Malformed(ValueError):
    """What comes next is no literal, or the answer ends within one. `read`: what was read of it and not passed on."""

    def __init__(self, read: str = "") -> None:
        super().__init__(read)
        self.read = read


class Literals:
    """Values of one dialect. `quote` stands around texts, which have escapes where it is one character."""

    def __init__(self, scanner: Scanner, emit: Emit, quote: str) -> None:
        self._source = scanner
        self._emit = emit
        self._quotes = (quote,) if len(quote) > 1 else ('"', "'")
        self._stops = {q: Stops(q) if len(q) > 1 else Stops(q, "\\") for q in self._quotes}

    def mapping(self, end: str, assign: str, depth: int = 1) -> Parser[None]:
        """A mapping, from behind its opening bracket to its closing one.

        Raises: Malformed.
        """
        self._emit("{")
        n = 0
        while not (yield from self._ended(end, n)):
            self._emit(", " if n else "")
            yield from self._name(assign)
            yield from self.value(depth)
            n += 1
        self._emit("}")

    def _list(self, end: str, depth: int) -> Parser[None]:
        self._emit("[")
        n = 0
        while not (yield from self._ended(end, n)):
            self._emit(", " if n else "")
            yield from self.value(depth)
            n += 1
        self._emit("]")

    def _ended(self, end: str, n: int) -> Parser[bool]:
        """Whether `end` comes now; before another item than the first a comma is read, and one before `end` too."""
        yield from self._source.space()
        if n and (yield from self._source.peek()) == ",":
            self._source.skip()
            yield from self._source.space()
        elif n and (yield from self._source.peek()) != end:
            raise Malformed
        return (yield from self._source.accept(end))

    def _name(self, assign: str) -> Parser[None]:
        if not (yield from self._text()):
            name = yield from self._word(_NAME_WORD)
            if (yield from self._source.peek()) != assign:
                raise Malformed(name)
            self._emit(_json(name))
        yield from self._source.space()
        if not (yield from self._source.accept(assign)):
            raise Malformed
        self._emit(": ")

    def value(self, depth: int = 0) -> Parser[None]:
        """One value.

        Raises: Malformed.
        """
        yield from self._source.space()
        char = yield from self._source.peek()
        if char in _ENDS and char:
            if depth >= MAX_DEPTH:
                raise Malformed
            self._source.skip()
            if char == "{":
                yield from self.mapping("}", ":", depth + 1)
            else:
                yield from self._list(_ENDS[char], depth + 1)
        elif not (yield from self._text()):
            self._emit(_literal((yield from self._word(_VALUE_WORD))))

    def _word(self, pattern: re.Pattern[str]) -> Parser[str]:
        word: list[str] = []
        yield from self._source.run(pattern, word.append)
        if not word or not (yield from self._source.peek()):  # the answer was cut within a word, which may not be whole
            raise Malformed("".join(word))
        return "".join(word).strip()

    def _text(self) -> Parser[bool]:
        for quote in self._quotes:
            if (yield from self._source.accept(quote)):
                self._emit('"')
                while (stop := (yield from self._source.until(self._stops[quote], self._emit_text))) == "\\":
                    self._emit_text((yield from self._escape()))
                if not stop:
                    raise Malformed
                self._emit('"')
                return True
        return False

    def _emit_text(self, text: str) -> None:
        self._emit(_json(text)[1:-1])

    def _escape(self) -> Parser[str]:
        char = yield from self._source.peek()
        digits = (yield from self._source.peek(1 + _DIGITS.get(char, 0)))[1:]
        if not char:
            raise Malformed
        if char not in _DIGITS or not _is_hex(digits, _DIGITS[char]):
            self._source.skip()
            return _ESCAPED.get(char, char if char in "\\\"'" else "\\" + char)
        self._source.skip(1 + len(digits))
        code = int(digits, 16)
        if 0xD800 <= code < 0xDC00 and _LOW_SURROGATE.fullmatch((yield from self._source.peek(6))):
            code = 0x10000 + ((code - 0xD800) << 10) + int((yield from self._source.peek(6))[2:], 16) - 0xDC00
            self._source.skip(6)
        return chr(code) if code < 0x110000 and not 0xD800 <= code < 0xE000 else "\ufffd"


def _is_hex(digits: str, n: int) -> bool:
    return len(digits) == n and all(c in "0123456789abcdefABCDEF" for c in digits)


def _json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _literal(word: str) -> str:
    """JSON of a bare word: a number, true, false, null, or else a text."""
    if word in _WORDS:
        return _WORDS[word]
    if _NUMBER.fullmatch(word):
        return word
    try:
        number = float(word)  # `.5`, `+1`, `1_000`
    except ValueError:
        return _json(word)
    return repr(int(number) if number.is_integer() else number) if math.isfinite(number) else _json(word)
