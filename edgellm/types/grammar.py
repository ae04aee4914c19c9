"""What an answer has to look like: a JSON schema, a pattern, a grammar, or one of a few texts.

Everything here is a client's, so its size is bounded before anything reads it further.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from edgellm.errors import UsageError
from edgellm.types.brackets import nesting
from edgellm.types.checks import check_types
from edgellm.types.closed_schema import close
from edgellm.types.grammar_tree import Json, Node, Pattern, nodes

GrammarKind = Literal["json_schema", "regex", "lark", "gbnf", "choice", "tree"]
MAX_GRAMMAR_BYTES = 64 * 1024
# A tree is made here, of schemas that are bounded one by one: 128 tools of eight properties take 80 to 370 KiB.
MAX_TREE_BYTES = 512 * 1024
MAX_PROPERTIES = 400  # of all objects in a schema
MAX_OPTIONAL = 100  # properties of an object: the library reads four items for each, and 500 at most (grammar_check)
MAX_SCHEMA_DEPTH = 64
MAX_CHOICES = 1024
# The library follows references and rules by recursion in native code: chains of 1,150 definitions and of 3,000 rules
# overflow a stack of 8 MiB, which ends the process.
MAX_DEFINITIONS = 100  # that a schema refers to
MAX_RULES = 500  # of a grammar; colons are counted
MAX_NESTING = 64  # of brackets, in patterns and grammars
_OTHER_LANGUAGES = ("%json", "%lark", "%llguidance", "%regex")  # would bring in what is bounded above
# As JSON writes them, but for \b \t \n \f \r; answers have no \uXXXX (see text/grammar_source.py).
_CONTROL = re.compile(r"(?<!\\)(?:\\\\)*\\u00|\x7f")
ANY_OBJECT = '{"type": "object"}'


class Grammar(msgspec.Struct, frozen=True):
    """What an answer has to look like. `kind` says what `text` is:

    - "json_schema": a JSON schema, as text; `of_schema` makes one of a dict.
    - "regex": a pattern that the whole answer matches. It is Rust's regex, in which `\\d` and `\\w` mean every script:
      `[0-9]` for ASCII digits.
    - "choice": a JSON list of texts, of which the answer is one.
    - "lark": a grammar in Lark, as llguidance has it.
    - "gbnf": a grammar in GBNF, as llama.cpp has it.
    - "tree": a `grammar_tree` as JSON, which `of_tree` makes.
    """

    kind: GrammarKind
    text: str
    param: str = ""  # the field of a request that asked for it, for errors
    checked: bool = False  # as it is once it is made: a worker does not do it again, beside its answers

    def __post_init__(self) -> None:
        if self.checked:
            return
        check_types(self, "this grammar cannot be used")
        size = len(self.text.encode(errors="replace"))
        most = MAX_TREE_BYTES if self.kind == "tree" else MAX_GRAMMAR_BYTES
        if size > most:
            raise self.refused(f"has {size} bytes", f"{most} are allowed")
        if not self.text.strip():
            raise self.refused("is empty", "send one, or leave the field out")
        if self.kind == "tree":
            self._check_tree()
        elif self.kind in ("json_schema", "choice"):
            value = self._json()
            (self._check_schema if self.kind == "json_schema" else self._check_choices)(value)
            # As we read it: what a text says twice, or escapes, is not read in another way later.
            try:
                msgspec.structs.force_setattr(self, "text", _dumped(value))
            except ValueError:  # 1e999
                raise self.refused("holds a number that is too large", "send a smaller one") from None
            if self.kind == "json_schema" and _CONTROL.search(self.text):
                raise self.refused("holds a control character in a text", "leave it out: answers cannot hold one")
        else:
            self._check_text()
        msgspec.structs.force_setattr(self, "checked", True)

    @classmethod
    def of_schema(cls, schema: dict[str, Any] | bool, param: str = "", *, closed: bool = False) -> Grammar:
        """An answer that is JSON valid under `schema` (draft 2020-12), with properties in the schema's order.

        An object may have more properties than the schema lists, where it does not say `additionalProperties: false`.
        `closed`: it may not, as with llama.cpp.
        """
        try:
            grammar = cls("json_schema", _dumped(schema), param)
        except (TypeError, ValueError, RecursionError) as error:
            raise UsageError(
                f"the JSON schema is not plain JSON: {error}"[:200],
                hint="send dicts, lists, texts and numbers",
                param=param,
            ) from None
        if not closed:
            return grammar
        inside = grammar._json()
        close(inside)
        return cls("json_schema", _dumped(inside), param)

    @classmethod
    def of_tree(cls, root: Node, param: str = "") -> Grammar:
        """Raises UsageError: it has too many bytes, or a schema or pattern in it is refused."""
        return cls("tree", msgspec.json.encode(root).decode(), param)

    @property
    def tree(self) -> Node:
        """Of the kind "tree"."""
        root: Node = msgspec.json.decode(self.text, type=Node)
        return root

    def refused(self, problem: str, hint: str) -> UsageError:
        noun = {"json_schema": "JSON schema", "regex": "pattern", "choice": "list of choices"}.get(self.kind, "grammar")
        return UsageError(f"the {noun} {problem}", hint=hint, param=self.param or "grammar")

    def _json(self) -> Any:
        try:
            return json.loads(self.text, parse_constant=_no_number)
        except (ValueError, RecursionError) as error:
            raise self.refused(f"is not JSON: {error}"[:200], "send valid JSON") from None

    def _check_text(self) -> None:
        if nesting(self.text, is_pattern=self.kind == "regex") > MAX_NESTING:
            raise self.refused(f"is nested over {MAX_NESTING} levels deep", "write it flatter")
        if self.kind == "regex":
            return
        n_rules = self.text.count(":") - self.text.count("::=")
        if n_rules > MAX_RULES:
            raise self.refused(f"has {n_rules} rules", f"{MAX_RULES} are allowed")
        if other := next((word for word in _OTHER_LANGUAGES if word in self.text), None):
            raise self.refused(f"has {other}", "send a schema or a pattern in its own field")

    def _check_tree(self) -> None:
        try:
            root = self.tree
        except (msgspec.DecodeError, RecursionError) as error:
            raise self.refused(f"is no tree: {error}"[:200], "make it with Grammar.of_tree") from None
        for node in nodes(root):
            if isinstance(node, Json):
                Grammar.of_schema(node.schema, self.param)
            for pattern in node.patterns if isinstance(node, Pattern) else ():
                Grammar("regex", pattern, self.param)

    def _check_choices(self, choices: Any) -> None:
        if not isinstance(choices, list) or not choices or not all(isinstance(text, str) and text for text in choices):
            raise self.refused("does not hold texts", "send a list of at least one text, none of them empty")
        if len(choices) > MAX_CHOICES:
            raise self.refused(f"holds {len(choices)} texts", f"{MAX_CHOICES} are allowed")

    def _check_schema(self, schema: Any) -> None:
        if not isinstance(schema, dict | bool):
            raise self.refused("is not an object", 'send an object such as {"type": "object"}')
        if isinstance(schema, dict) and "x-guidance" in schema:
            raise self.refused("has x-guidance", "leave it out: how a schema is compiled is not a client's to say")
        n_properties = 0
        references: set[str] = set()
        for depth, part in _parts(schema):
            if depth > MAX_SCHEMA_DEPTH:
                raise self.refused(f"is nested over {MAX_SCHEMA_DEPTH} levels deep", "send a flatter one")
            properties = part.get("properties")
            if isinstance(properties, dict):
                n_properties += len(properties)
                self._check_optional(properties, part.get("required"))
            least = part.get("minProperties")
            if isinstance(least, int) and least > 1:
                # The library counts a key that is written twice as two.
                raise self.refused(f"has minProperties {least}", "name the properties under required")
            reference = part.get("$ref")
            if not isinstance(reference, str):
                continue
            references.add(reference)
            if not reference.startswith("#"):
                raise self.refused(
                    f"refers to {reference[:60]!r}, and nothing is fetched for a schema", "put it under $defs"
                )
        if len(references) > MAX_DEFINITIONS:
            raise self.refused(f"refers to {len(references)} definitions", f"{MAX_DEFINITIONS} are allowed")
        if n_properties > MAX_PROPERTIES:
            raise self.refused(f"has {n_properties} properties", f"{MAX_PROPERTIES} are allowed")

    def _check_optional(self, properties: dict[str, Any], required: Any) -> None:
        names = {name for name in required if isinstance(name, str)} if isinstance(required, list) else set()
        n_optional = len(properties.keys() - names)
        if n_optional > MAX_OPTIONAL:
            hint = f"{MAX_OPTIONAL} are allowed; name the others under required"
            raise self.refused(f"has an object with {n_optional} optional properties", hint)


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is not a number")


def _dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _parts(schema: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    """Every object in it, with how deep it lies; without recursion."""
    waiting = [(0, schema)]
    while waiting:
        depth, part = waiting.pop()
        if isinstance(part, dict):
            yield depth, part
            waiting += ((depth + 1, value) for value in part.values())
        elif isinstance(part, list):
            waiting += ((depth + 1, value) for value in part)
