"""A grammar tree in llguidance's dialect of Lark."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from edgellm.text.forcing import NO_FORCING, may_force
from edgellm.text.json_patterns import exact_patterns
from edgellm.types.grammar_tree import AnyText, Json, Node, OneOf, Pattern, Repeat, Sequence, Text, TextUntil

ANYTHING = r"/(?s:.*)/"


def lark_of(root: Node, specials: Mapping[str, int], json_options: Mapping[str, Any]) -> str:
    """`specials`: ids of control tokens by their text; `json_options`: the library's, for schemas."""
    writer = _Writer(specials, json_options)
    writer.rules[0] = f"start: {writer.term(root)}"
    return ("" if may_force(root) else NO_FORCING) + "\n".join(writer.rules)


class _Writer:
    def __init__(self, specials: Mapping[str, int], json_options: Mapping[str, Any]) -> None:
        self.rules = [""]
        self._specials = specials
        self._json_options = dict(json_options)

    def term(self, node: Node) -> str:
        """What stands for the node in the body of a rule."""
        match node:
            case Text():
                term = self._literal(node.text)
            case Pattern():
                term = self._pattern(node)
            case AnyText():
                term = _regex(rf"([^{re.escape(node.but)}](?s:.*))?") if node.but else ANYTHING
            case Json():
                schema = {"x-guidance": self._json_options, **exact_patterns(node.schema)}
                term = self._rule("%json " + json.dumps(schema, ensure_ascii=False))
            case TextUntil():
                term = self._until(node.stop)
            case Sequence():
                term = " ".join(map(self.term, node.parts)) or '""'
            case OneOf():
                term = self._one_of(node)
            case Repeat():
                most = "" if node.most is None else node.most
                term = f"({self.term(node.part)}){{{node.least},{most}}}"
        return term

    def _rule(self, body: str, attributes: str = "") -> str:
        name = f"r{len(self.rules)}"
        self.rules.append(f"{name}{attributes}: {body}")
        return name

    def _one_of(self, node: OneOf) -> str:
        """Plain texts as one terminal: a thousand of them are then one item in the parser's row, which is bounded."""
        plain = [
            part.text for part in node.parts if isinstance(part, Text) and part.text and not self._inside(part.text)
        ]
        others = [part for part in node.parts if not (isinstance(part, Text) and part.text in plain)]
        terms = list(map(self.term, others))
        if plain:
            terms.append(self._terminal(" | ".join(json.dumps(text, ensure_ascii=False) for text in plain)))
        return f"({' | '.join(terms)})"

    def _pattern(self, node: Pattern) -> str:
        patterns = [*node.patterns, *([f"[^{re.escape(node.without)}]*"] if node.without else [])]
        if len(patterns) == 1:
            return _regex(patterns[0])
        return self._terminal(" & ".join(map(_regex, patterns)))

    def _terminal(self, body: str) -> str:
        name = f"T{len(self.rules)}"
        self.rules.append(f"{name}: {body}")
        return name

    def _inside(self, text: str) -> list[str]:
        """The control tokens in a text."""
        return [special for special in self._specials if special in text]

    def _literal(self, text: str) -> str:
        """Control tokens by their ids, and what is between them."""
        inside = self._inside(text)
        if not inside:
            return json.dumps(text, ensure_ascii=False)
        longest_first = sorted(inside, key=len, reverse=True)
        parts = re.split(f"({'|'.join(map(re.escape, longest_first))})", text)
        return " ".join(
            f"<[{self._specials[part]}]>" if part in self._specials else json.dumps(part, ensure_ascii=False)
            for part in parts
            if part
        )

    def _until(self, stop: str) -> str:
        before = stop[: len(stop) - len(stop.lstrip())]
        literal = self._literal(stop[len(before) :])
        if literal.startswith("<["):  # blanks before a control token are part of the text, as that takes all it can
            return f"{ANYTHING} {literal}"
        first, *rest = self._literal(stop).split(" <[", 1)
        lazy = self._rule(f"{ANYTHING} {first}", "[lazy]")
        return " ".join([lazy, *(f"<[{ids}" for ids in rest)])


def _regex(pattern: str) -> str:
    """Between slashes, and without one, escaped or not, that would end it."""
    inner = re.sub(r"(\\[^/])|\\?/", lambda part: part[1] or r"\x2F", pattern)
    return "/" + inner.replace("\n", r"\n").replace("\r", r"\r") + "/"
