"""Calls that are objects of JSON, alone, in marks or in a list: Hermes, Qwen, Llama 3, Granite, Phi, Mistral Nemo."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from edgellm.text.readers.output import Output
from edgellm.text.readers.scanner import MAX_INDENT, Parser, Scanner
from edgellm.types.markup import JsonCalls
from edgellm.types.message import Tool

MAX_HEAD = 8192  # characters in which a name has to come
MAX_AGAIN = 512  # of what is no call, characters in which another may begin: longer ones are not looked through twice
MAX_WRAPPERS = 4
_BARE = re.compile(r"[^\s,\]}]+")
_NAME_KEYS = {"name"}
_ARGUMENT_KEYS = {"arguments", "parameters"}


class JsonCallReader:
    """A `CallReader`. Only an object with the name of a tool that was offered is a call."""

    def __init__(self, row: JsonCalls, tools: tuple[Tool, ...]) -> None:
        self._row = row
        self._names = frozenset(tool.name for tool in tools)
        words = f"{row.section_open} {row.open}".split()
        self._bare = not words  # then it must be the whole answer: text may have JSON in it
        if row.array:
            words.append("[")
        self.starts: tuple[str, ...] = (words[0] if words else "{",)
        self._rest = words[1:]
        self._open, self._close = row.open.split(), row.close.split()
        self._section_close = row.section_close.split()

    def read(self, scanner: Scanner, output: Output) -> Parser[bool]:
        if self._bare and not output.silent:
            return False
        n_before = output.n_calls
        more, words = True, [*self._rest, "{"] if self.starts != ("{",) else []
        while more:
            scanner.mark()
            call = _Call(scanner, output)
            try:
                whole = (yield from scanner.accept_words(words)) and (yield from self._members(call, MAX_WRAPPERS))
            except _TooLongError:
                whole = False
            if not call.name and scanner.n_marked > MAX_AGAIN:
                output.say((self.starts[0] if output.n_calls == n_before else "") + scanner.release())
                return True
            if not call.name:
                scanner.rewind()
                break
            if not whole:
                break
            call.finish()
            more, words = yield from self._next(scanner)
        return output.n_calls > n_before

    def _next(self, scanner: Scanner) -> Parser[tuple[bool, list[str]]]:
        """Whether another call of the section may come, and how it begins."""
        row = self._row
        if row.array:
            if (yield from scanner.accept_words([","])):
                return True, ["{"]
            yield from scanner.accept_words(["]"])
        yield from scanner.accept_some(self._close)
        ended = yield from scanner.accept_some(self._section_close)
        return bool(row.section_open) and not row.array and not ended, [*self._open, "{"]

    def _members(self, call: _Call, n_wrappers: int) -> Parser[bool]:
        """Behind the brace that opens an object to the one that closes it. False: it does not go on like a call."""
        scanner = call.scanner
        while not (yield from scanner.accept_words(["}"])):
            key = yield from call.string()
            if key is None or not (yield from scanner.accept_words([":"])):
                return False
            yield from scanner.space(MAX_INDENT)
            if not (yield from self._member(call, key, n_wrappers)):
                return False
            if not (yield from scanner.accept_words([","])):
                return (yield from scanner.accept_words(["}"]))
        return True

    def _member(self, call: _Call, key: str, n_wrappers: int) -> Parser[bool]:
        row = self._row
        if row.name_is_key and key in self._names and not call.name:
            call.begin(key)
            return (yield from call.arguments())
        if key in _NAME_KEYS | {row.name_key} and not call.name:
            name = yield from call.string()
            if name not in self._names:
                return False
            call.begin(name)
            return True
        if key in _ARGUMENT_KEYS | {row.arguments_key} and not call.has_arguments:
            return (yield from call.arguments())
        if key in {row.wrapper, "function"} and n_wrappers and (yield from call.scanner.accept("{")):
            return (yield from self._members(call, n_wrappers - 1))
        return (yield from call.value(call.drop))


class _TooLongError(Exception):
    """A name did not come soon enough."""


class _Call:
    """One call while it is read. What comes before its name waits."""

    def __init__(self, scanner: Scanner, output: Output) -> None:
        """The scanner has a mark, which is released when the name is read."""
        self.scanner = scanner
        self.name = ""
        self.has_arguments = False
        self._output = output
        self._waiting: list[str] = []
        self._n_waiting = 0

    def begin(self, name: str) -> None:
        self.name = name
        self.scanner.release()
        self._output.call(name)
        self._output.arguments("".join(self._waiting))

    def finish(self) -> None:
        if not self.has_arguments:
            self._output.arguments("{}")

    def emit(self, piece: str) -> None:
        self.drop(piece)
        if self.name:
            self._output.arguments(piece)
        else:
            self._waiting.append(piece)

    def drop(self, piece: str) -> None:
        """
        Raises:
            _TooLongError
        """
        self._n_waiting += len(piece)
        if not self.name and self._n_waiting > MAX_HEAD:
            raise _TooLongError

    def arguments(self) -> Parser[bool]:
        """An object, as it is; the same in a text, as templates of Llama 3 have it; null as none."""
        self.has_arguments = True
        if (yield from self.scanner.peek()) == '"':
            text = yield from self.string()
            self.emit(text or "")
            return text is not None
        return (yield from self.value(lambda piece: self.emit("{}" if piece == "null" else piece)))

    def string(self) -> Parser[str | None]:
        """A text of JSON, decoded. None: something else comes."""
        yield from self.scanner.space(MAX_INDENT)
        pieces: list[str] = []
        if (yield from self.scanner.peek()) != '"' or not (yield from self._json(pieces)):
            return None
        try:
            text = str(json.loads("".join(pieces), strict=False))
            return text.encode(errors="replace").decode()  # halves of surrogate pairs cannot be sent
        except ValueError:
            return None

    def value(self, emit: Callable[[str], None]) -> Parser[bool]:
        """Any value. False: there is none, or it was not whole."""
        if (yield from self.scanner.peek()) in ('"', "{", "["):
            return (yield from self.scanner.json_value(emit))
        bare: list[str] = []
        yield from self.scanner.run(_BARE, lambda piece: self._keep(piece, bare))
        emit("".join(bare))
        return bool(bare)

    def _json(self, pieces: list[str]) -> Parser[bool]:
        return (yield from self.scanner.json_value(lambda piece: self._keep(piece, pieces)))

    def _keep(self, piece: str, pieces: list[str]) -> None:
        self.drop(piece)
        pieces.append(piece)
