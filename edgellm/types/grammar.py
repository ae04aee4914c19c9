"""What an answer has to look like: a JSON schema, a pattern, a grammar, or one of a few texts.

Everything here is a client's, so its size is bounded before anything reads it further.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from edgellm.errors import UsageError

GrammarKind = Literal["json_schema", "regex", "lark", "gbnf", "choice"]
MAX_GRAMMAR_BYTES = 64 * 1024
MAX_PROPERTIES = 500  # of all objects in a schema: 5,000 optional ones take 4 s to compile
MAX_SCHEMA_DEPTH = 64
MAX_CHOICES = 1024
ANY_OBJECT = '{"type": "object"}'


class Grammar(msgspec.Struct, frozen=True):
    """`text`: the schema or the list of choices as JSON, or the pattern or grammar itself."""

    kind: GrammarKind
    text: str
    param: str = ""  # the field of a request that asked for it, for errors

    def __post_init__(self) -> None:
        size = len(self.text.encode(errors="replace"))
        if size > MAX_GRAMMAR_BYTES:
            raise self.refused(f"has {size} bytes", f"{MAX_GRAMMAR_BYTES} are allowed")
        if not self.text.strip():
            raise self.refused("is empty", "send one, or leave the field out")
        if self.kind == "json_schema":
            self._check_schema(self._json())
        elif self.kind == "choice":
            self._check_choices(self._json())

    @classmethod
    def of_schema(cls, schema: dict[str, Any] | bool, param: str = "") -> Grammar:
        """An answer that is JSON valid under `schema` (draft 2020-12), with properties in the schema's order."""
        return cls("json_schema", json.dumps(schema, ensure_ascii=False, separators=(",", ":")), param)

    def refused(self, problem: str, hint: str) -> UsageError:
        noun = {"json_schema": "JSON schema", "regex": "pattern", "choice": "list of choices"}.get(self.kind, "grammar")
        return UsageError(f"the {noun} {problem}", hint=hint, param=self.param)

    def _json(self) -> Any:
        try:
            return json.loads(self.text)
        except (ValueError, RecursionError) as error:
            raise self.refused(f"is not JSON: {error}"[:200], "send valid JSON") from None

    def _check_choices(self, choices: Any) -> None:
        if not isinstance(choices, list) or not choices or not all(isinstance(text, str) and text for text in choices):
            raise self.refused("does not hold texts", "send a list of at least one text, none of them empty")
        if len(choices) > MAX_CHOICES:
            raise self.refused(f"holds {len(choices)} texts", f"{MAX_CHOICES} are allowed")

    def _check_schema(self, schema: Any) -> None:
        if not isinstance(schema, dict | bool):
            raise self.refused("is not an object", 'send an object such as {"type": "object"}')
        n_properties = 0
        for depth, part in _parts(schema):
            if depth > MAX_SCHEMA_DEPTH:
                raise self.refused(f"is nested over {MAX_SCHEMA_DEPTH} levels deep", "send a flatter one")
            properties = part.get("properties")
            n_properties += len(properties) if isinstance(properties, dict) else 0
            reference = part.get("$ref")
            if isinstance(reference, str) and not reference.startswith("#"):
                raise self.refused(
                    f"refers to {reference[:60]!r}, and nothing is fetched for a schema", "put it under $defs"
                )
        if n_properties > MAX_PROPERTIES:
            raise self.refused(f"has {n_properties} properties", f"{MAX_PROPERTIES} are allowed")


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
