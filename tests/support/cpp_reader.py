"""Enough of C++ to read test cases out of llama.cpp's `tests/test-chat.cpp`: literals, variables, calls.

What it does not understand it skips, a statement at a time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

_TOKEN = re.compile(
    r"""(?P<space>\s+|//[^\n]*|/\*.*?\*/|\#[^\n]*)
      |(?P<raw>R"(?P<mark>[^(\s]*)\((?P<body>.*?)\)(?P=mark)")
      |(?P<text>"(?:[^"\\]|\\.)*")|(?P<char>'(?:[^'\\]|\\.)*')
      |(?P<name>[A-Za-z_]\w*(?:::[A-Za-z_~]\w*)*)|(?P<number>\d[\w.]*)|(?P<mark2>->|.)""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{1,2}|u[0-9a-fA-F]{4}|[0-7]{1,3}|.)", re.DOTALL)
_ESCAPED = {"n": b"\n", "t": b"\t", "r": b"\r", "0": b"\0", "b": b"\b", "f": b"\f"}


class Unread(Exception):
    """What stands here is beyond this reader."""


@dataclass
class Token:
    kind: str  # text, name, number or mark
    value: str
    line: int


@dataclass
class Object:
    """Of a class that is only known by its fields."""

    fields: dict[str, Any] = field(default_factory=dict)


def tokens(source: str) -> list[Token]:
    line, result = 1, []
    for match in _TOKEN.finditer(source):
        kind = match.lastgroup or ""
        if match["raw"] is not None:
            result.append(Token("text", match["body"], line))
        elif match["text"] is not None or match["char"] is not None:
            result.append(Token("text", _unescaped(match[0][1:-1]), line))
        elif match["name"] is not None:
            result.append(Token("name", match[0], line))
        elif match["number"] is not None:
            result.append(Token("number", match[0], line))
        elif kind != "space":
            result.append(Token("mark", match[0], line))
        line += match[0].count("\n")
    return result


def _unescaped(body: str) -> str:
    """Bytes written one by one make characters together."""

    def byte(match: re.Match[str]) -> str:
        code = match[1]
        if code[0] == "u":
            return "".join(map(chr, chr(int(code[1:], 16)).encode()))
        if code[0] == "x":
            return chr(int(code[1:], 16))
        return (_ESCAPED.get(code) or code.encode()).decode("latin-1")

    plain = "".join(map(chr, body.encode()))
    return _ESCAPE.sub(byte, plain).encode("latin-1").decode(errors="replace")


class Reader:
    """Runs statements. `functions` are called by name, methods by `method(object, name, arguments, line)`."""

    def __init__(
        self,
        code: list[Token],
        functions: dict[str, Callable[..., Any]],
        method: Callable[[Any, str, list[Any], int], Any],
    ) -> None:
        self._code = code
        self._at = 0
        self._functions = functions
        self._method = method
        self.names: dict[str, Any] = {"true": True, "false": False, "nullptr": None}

    def body_of(self, function: str, **arguments: Any) -> None:
        """Run the body of a function."""
        self.names.update(arguments)
        kept = self._at
        self._at = self._start_of(function)
        self._block()
        self._at = kept

    def globals(self, *types: str) -> None:
        """Read the variables of these types that stand outside of functions."""
        depth = 0
        for i, token in enumerate(self._code):
            depth += (token.value == "{") - (token.value == "}") if token.kind == "mark" else 0
            if not depth and token.kind == "name" and token.value in types and self._code[i + 1].kind == "name":
                self._at = i
                self._try(self._declaration)

    def _start_of(self, function: str) -> int:
        for i, token in enumerate(self._code):
            if token.value == function and self._code[i - 1].value == "void":
                while self._code[i].value != "{":
                    i += 1
                return i
        raise KeyError(function)

    # Statements

    def _block(self) -> None:
        self._expect("{")
        while not self._accept("}"):
            self._statement()

    def _statement(self) -> None:
        if self._peek().kind == "mark" and self._peek().value == "{":
            self._block()
        elif self._accept("for"):
            self._loop()
        elif self._peek().value in ("if", "while", "try", "catch", "else", "do", "switch"):
            self._skip()
        else:
            self._try(lambda: self._declaration() or self._assignment())

    def _loop(self) -> None:
        start = self._at
        try:
            self._expect("(")
            while self._peek(1).value != ":":
                self._at += 1
            name = self._next().value
            self._expect(":")
            values = self._expression()
            self._expect(")")
        except Unread:
            self._at = start
            self._skip()
            return
        body = self._at
        for value in values:
            self.names[name] = value
            self._at = body
            self._statement()

    def _declaration(self) -> bool:
        """`type name = value;`, `type name{..};` or `type name;`"""
        start = self._at
        while self._peek().value in ("static", "const", "auto", "&", "*") or self._is_type():
            if self._next().value in ("const", "static"):
                continue
            if self._accept("<"):
                while not self._accept(">"):
                    self._at += 1
        if self._at == start or self._peek().kind != "name":
            self._at = start
            return False
        name = self._next().value
        if self._accept("=") or self._peek().value == "{":
            value = self._expression()
        elif self._peek().value == ";":
            value = Object()
        else:
            self._at = start
            return False
        self._expect(";")
        self.names[name] = value
        return True

    def _is_type(self) -> bool:
        following = self._peek(1)
        return self._peek().kind == "name" and (following.kind == "name" or following.value in ("<", "&", "*"))

    def _assignment(self) -> None:
        if self._peek().kind == "name" and self._peek(1).value == "." and self._peek(3).value == "=":
            target = self.names.get(self._next().value)
            self._at += 1
            name = self._next().value
            self._at += 1
            value = self._expression()
            if isinstance(target, Object):
                target.fields[name] = value
        else:
            self._expression()
        self._expect(";")

    def _try(self, read: Callable[[], Any]) -> None:
        start = self._at
        try:
            read()
        except Unread:
            self._at = start
            self._skip()

    def _skip(self) -> None:
        """To the end of a statement, with its blocks."""
        depth = 0
        while True:
            token = self._next()
            if token.kind != "mark":
                continue
            depth += (token.value in "([{") - (token.value in ")]}")
            if depth < 0:
                self._at -= 1
                return
            if not depth and (token.value == ";" or (token.value == "}" and self._peek().value not in (";", ")", ","))):
                return

    # Expressions

    def _expression(self) -> Any:
        value = self._operand()
        while self._accept("+"):
            value = value + self._operand()
        return value

    def _operand(self) -> Any:
        value = self._primary()
        while True:
            if self._accept("."):
                line = self._peek().line
                name = self._next().value
                if self._peek().value != "(":
                    raise Unread
                value = self._method(value, name, self._arguments("(", ")"), line)
            else:
                return value

    def _primary(self) -> Any:
        token = self._next()
        if token.kind == "text":
            text = token.value
            while self._peek().kind == "text":
                text += self._next().value
            return text
        if token.kind == "number":
            return token.value
        if token.kind == "name":
            if self._peek().value == "(":
                if token.value not in self._functions:
                    raise Unread
                return self._functions[token.value](*self._arguments("(", ")"))
            if "::" in token.value or token.value.startswith("COMMON_"):
                return token.value
            if token.value in self.names:
                return self.names[token.value]
        if token.value == "{":
            self._at -= 1
            return self._arguments("{", "}")
        raise Unread

    def _arguments(self, opening: str, closing: str) -> list[Any]:
        self._expect(opening)
        values = []
        while not self._accept(closing):
            if self._peek().value == "." and self._peek(2).value == "=":  # a designated initializer
                self._at += 3
            values.append(self._expression())
            self._accept(",")
        return values

    # Tokens

    def _peek(self, ahead: int = 0) -> Token:
        return self._code[self._at + ahead]

    def _next(self) -> Token:
        self._at += 1
        return self._code[self._at - 1]

    def _accept(self, value: str) -> bool:
        if self._peek().kind != "text" and self._peek().value == value:
            self._at += 1
            return True
        return False

    def _expect(self, value: str) -> None:
        if not self._accept(value):
            raise Unread


def statements_with(code: list[Token], method: str) -> Iterator[int]:
    """Lines on which a method of this name is called without arguments."""
    for i in range(len(code) - 3):
        if code[i].value == "." and code[i + 1].value == method and code[i + 3].value == ")":
            yield code[i].line
