"""A grammar in Lark as one regular expression: every rule is written out where it is used.

So a grammar can be kept to wherever a pattern can, also within a text of JSON. There its terminals could not be met one
by one: llguidance ends one at the first byte that cannot go on with it, and behind a backslash it is too late for that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import NamedTuple

from edgellm.errors import UnsupportedField, UsageError
from edgellm.types.brackets import is_balanced
from edgellm.types.grammar import MAX_GRAMMAR_BYTES

MAX_WRITTEN = 16 * MAX_GRAMMAR_BYTES  # characters in all: rules that use others twice each double what is written
_TOKEN = re.compile(
    r"""(?P<rule>^[ \t]*[?!]*_?[A-Za-z][\w-]*(?:\.\d+)?[ \t]*:)
    | (?P<blank>[ \t\r]+|\n|(?://|\#)[^\n]*)
    | (?P<text>"(?:\\.|[^"\\\n])*"i?)
    | (?P<pattern>/(?:\\.|[^/\\\n])+/[a-z]*)
    | (?P<name>_?[A-Za-z][\w-]*)
    | (?P<directive>%\w+)
    | (?P<counts>\{\d+(?:,\d*)?\}|\{,\d+\}|~[ ]*\d+(?:[ ]*\.\.[ ]*\d+)?)
    | (?P<mark>->|\.\.|[()\[\]|?*+.,])
    | (?P<other>.)""",
    re.VERBOSE | re.MULTILINE,
)
_EXPONENT = "[eE][+-]?[0-9]+"
_DECIMAL = r"(?:[0-9]+\.[0-9]*|\.[0-9]+)"
_FLOAT = f"(?:{_DECIMAL}(?:{_EXPONENT})?|[0-9]+{_EXPONENT})"
# The terminals that `%import common` knows: https://github.com/lark-parser/lark, lark/grammars/common.lark
_COMMON = {
    "DIGIT": "[0-9]",
    "HEXDIGIT": "[0-9a-fA-F]",
    "INT": "[0-9]+",
    "SIGNED_INT": "[+-]?[0-9]+",
    "DECIMAL": _DECIMAL,
    "FLOAT": _FLOAT,
    "SIGNED_FLOAT": f"[+-]?{_FLOAT}",
    "NUMBER": f"(?:{_FLOAT}|[0-9]+)",
    "SIGNED_NUMBER": f"[+-]?(?:{_FLOAT}|[0-9]+)",
    "ESCAPED_STRING": r'"(?:[^"\\\n]|\\.)*"',
    "LCASE_LETTER": "[a-z]",
    "UCASE_LETTER": "[A-Z]",
    "LETTER": "[a-zA-Z]",
    "WORD": "[a-zA-Z]+",
    "CNAME": "[a-zA-Z_][a-zA-Z0-9_]*",
    "WS_INLINE": r"[ \t]+",
    "WS": r"[ \t\f\r\n]+",
    "CR": r"\r",
    "LF": r"\n",
    "NEWLINE": r"(?:\r?\n)+",
    "SH_COMMENT": r"#[^\n]*",
    "CPP_COMMENT": r"//[^\n]*",
    "C_COMMENT": r"/\*(?:[^*]|\*+[^*/])*\*+/",
    "SQL_COMMENT": r"--[^\n]*",
}


class _Token(NamedTuple):
    kind: str  # a group of _TOKEN; "end" behind the last one
    text: str


_END = _Token("end", "")


def pattern_of_lark(definition: str) -> str:
    """What matches the texts that the rule `start` derives.

    Raises:
        UnsupportedField: rules that lead back to themselves, or what is written out gets too long.
        UsageError: it cannot be read.
    """
    try:
        return _Rules(definition).written("start")
    except RecursionError:
        raise _unsupported("nests rules too deeply") from None


class _Rules:
    def __init__(self, definition: str) -> None:
        self._bodies: dict[str, list[_Token]] = {}
        self._written = dict[str, str]()
        self._open: list[str] = []
        self._n_left = MAX_WRITTEN
        ignored = []
        for head, body in _statements(definition):
            if head.kind == "rule":
                self._bodies[head.text.strip().lstrip("?!").rstrip(": \t").partition(".")[0]] = body
            elif head.text == "%ignore":
                ignored.append(body)
            elif head.text == "%import":
                self._written |= _imported(body)
            else:
                raise _unsupported(f"has {head.text[:40]}")
        between = "|".join(_Expression(self, body, "").whole() for body in ignored)
        self._between = f"(?:{between})*" if between else ""

    def written(self, name: str) -> str:
        if name not in self._written:
            if name in self._open:
                raise _unsupported(f"has the rule {name[:40]}, which leads back to itself")
            if name not in self._bodies:
                raise _unreadable(f"has no rule {name[:40]}")
            self._open.append(name)
            self._written[name] = _Expression(self, self._bodies[name], self.behind(name)).whole()
            self._open.pop()
        return self._written[name]

    def behind(self, name: str) -> str:
        """What may come behind each terminal of this rule: what is ignored; within a terminal nothing is."""
        return "" if name.isupper() else self._between

    def spend(self, n_chars: int) -> None:
        self._n_left -= n_chars
        if self._n_left < 0:
            raise _unsupported("gets too long when its rules are written out")


class _Expression:
    """The body of one rule, read from left to right."""

    def __init__(self, rules: _Rules, tokens: list[_Token], behind: str) -> None:
        self._rules = rules
        self._tokens = iter(tokens)
        self._next = next(self._tokens, _END)
        self._behind = behind

    def whole(self) -> str:
        written = self._alternatives()
        if self._next != _END:
            raise _unreadable(f"cannot be read at {self._next.text[:40]!r}")
        return written

    def _take(self) -> _Token:
        token, self._next = self._next, next(self._tokens, _END)
        return token

    def _accept(self, mark: str) -> bool:
        if self._next != ("mark", mark):
            return False
        self._take()
        return True

    def _alternatives(self) -> str:
        parts = [self._sequence()]
        while self._accept("|"):
            parts.append(self._sequence())
        return f"(?:{'|'.join(parts)})"

    def _sequence(self) -> str:
        items = []
        while self._next.kind in ("text", "pattern", "name") or self._next in (("mark", "("), ("mark", "[")):
            items.append(self._item())
            self._rules.spend(len(items[-1]))
        if self._accept("->"):  # a name for what was read, which changes nothing
            self._take()
        return "".join(items)

    def _item(self) -> str:
        token = self._take()
        written = self._group(token.text) if token.kind == "mark" else self._atom(token)
        group = f"(?:{written})" if self._behind else written
        if self._next.kind == "counts":
            low, comma, high = re.sub(r"[{}~ ]", "", self._take().text).replace("..", ",").partition(",")
            return f"{group}{{{low or 0}{comma}{high}}}"
        mark = next(filter(self._accept, "?*+"), "")
        return f"{group}{mark}" if mark else written

    def _group(self, opened: str) -> str:
        written = self._alternatives()
        if not self._accept(")" if opened == "(" else "]"):
            raise _unreadable(f"does not close {opened}")
        return written if opened == "(" else f"(?:{written}?)"

    def _atom(self, token: _Token) -> str:
        if token.kind == "name":
            written = self._rules.written(token.text)
            return written + self._behind if token.text.isupper() else written
        if token.kind == "pattern":
            return _pattern(token.text) + self._behind
        if not self._accept(".."):
            return _text(token.text) + self._behind
        first, last = _string(token.text), _string(self._take().text)
        if len(first) != 1 or len(last) != 1 or first > last:
            raise _unreadable(f"has a range from {first[:10]!r} to {last[:10]!r}")
        ends = (re.sub(r"[\\^\[\]&~-]", r"\\\g<0>", char) for char in (first, last))
        return f"[{'-'.join(ends)}]{self._behind}"


def _statements(definition: str) -> Iterator[tuple[_Token, list[_Token]]]:
    """Heads of rules, and directives, each with what follows."""
    head, body = _END, list[_Token]()
    for match in _TOKEN.finditer(definition):
        token = _Token(match.lastgroup or "", match[0])
        if token.kind in ("rule", "directive"):
            if head != _END:
                yield head, body
            head, body = token, []
        elif token.kind == "other" or (token.kind != "blank" and head == _END):
            raise _unreadable(f"cannot be read at {definition[match.start() :][:40]!r}")
        elif token.kind != "blank":
            body.append(token)
    if head != _END:
        yield head, body


def _imported(body: list[_Token]) -> dict[str, str]:
    """`common.NAME`, `common.NAME -> OWN` and `common (NAME, NAME)`."""
    library, *names = [token.text for token in body if token.kind == "name"] or [""]
    renamed = ("mark", "->") in body
    own = names[1:] if renamed else names
    chosen = names[:1] if renamed else names
    if library != "common" or not chosen or len(own) != len(chosen) or not _COMMON.keys() >= set(chosen):
        raise _unsupported(f"imports {' '.join([library, *names])[:60]}")
    return {name: f"(?:{_COMMON[one]})" for name, one in zip(own, chosen, strict=True)}


def _pattern(token: str) -> str:
    body, _, flags = token[1:].rpartition("/")
    if not set(flags) <= set("imsu"):
        raise _unsupported(f"has a pattern with the flags {flags[:20]}")
    if not is_balanced(body):
        raise _unreadable(f"has the pattern {body[:40]!r}, which does not close what it opens")
    return f"(?{flags}:{body})"


def _text(token: str) -> str:
    escaped = re.sub(r"[\\^$.|?*+()\[\]{}]", r"\\\g<0>", _string(token))
    return f"(?{'i' if token.endswith('i') else ''}:{escaped})"


def _string(token: str) -> str:
    try:
        text = str(json.loads(token.removesuffix("i")))
        text.encode()  # half of a surrogate pair is no text
        return text
    except ValueError:
        raise _unreadable(f"has {token[:40] or 'nothing'} where a text as JSON writes it has to be") from None


def _unsupported(what: str) -> UnsupportedField:
    hint = "send rules without recursion and without what only one parser knows, or a pattern"
    return UnsupportedField(f"the grammar of a tool {what}, which calls cannot be kept to", hint=hint, param="tools")


def _unreadable(what: str) -> UsageError:
    hint = "send a grammar in Lark: https://lark-parser.readthedocs.io"
    return UsageError(f"the grammar of a tool {what}", hint=hint, param="tools")
