"""Patterns of a schema as the library reads them right: a negated class of theirs does not match NUL.

In texts of JSON, derivre 0.3 lets a class that matches every control character match quotation marks and backslashes,
too, as it does for `.`; so `[^"]` matched one. Texts of JSON hold no NUL here (`JSON_OPTIONS` in
`edgellm.text.grammar_source`).
"""

from __future__ import annotations

import re
from typing import Any

_MAPS = frozenset(("properties", "patternProperties", "$defs", "definitions", "dependentSchemas"))
_VALUES = frozenset(("const", "enum", "default", "examples"))
# - or ] at the beginning of a class mean themselves.
_ESCAPE_OR_NEGATION = re.compile(r"\\.|\[\^(\]|-*)", re.DOTALL)


def without_nul(pattern: str) -> str:
    return _ESCAPE_OR_NEGATION.sub(_begin, pattern)


def exact_patterns(schema: Any) -> Any:
    """The schema with its patterns so.

    Raises:
        RecursionError: it is nested too deeply.
    """
    if isinstance(schema, list):
        return [exact_patterns(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {word: _exact(word, value) for word, value in schema.items()}


def _exact(word: str, value: Any) -> Any:
    if word == "pattern" and isinstance(value, str):
        return without_nul(value)
    if word in _MAPS and isinstance(value, dict):
        is_pattern = word == "patternProperties"
        return {without_nul(name) if is_pattern else name: exact_patterns(part) for name, part in value.items()}
    return value if word in _VALUES else exact_patterns(value)


def _begin(match: re.Match[str]) -> str:
    if match[1] is None:
        return match[0]
    return r"[^\x00" + "".join(f"\\{char}" for char in match[1])
