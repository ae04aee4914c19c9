"""Patterns in schemas: what the library reads in another way within texts of JSON is written for it, nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgellm.builtin.echo import EchoEngine
from edgellm.errors import GrammarFailed
from edgellm.text.json_patterns import exact_patterns, without_nul
from edgellm.text.matcher import GrammarCompiler
from edgellm.types.grammar import Grammar
from edgellm.types.plan import Settings

ENGINE = EchoEngine(Settings(n_ctx=64))


@pytest.mark.parametrize(
    ("pattern", "exact"),
    [
        ("a[^b]", r"a[^\x00b]"),
        ("[^]b]", r"[^\x00\]b]"),
        ("[^-b]", r"[^\x00\-b]"),
        ("[^--b]", r"[^\x00\-\-b]"),
        ("[^-]", r"[^\x00\-]"),
        ("[a[^b]]", r"[a[^\x00b]]"),
        (r"\[^b]", r"\[^b]"),
        (r"\\[^b]", r"\\[^\x00b]"),
        ("[ab^]^", "[ab^]^"),
    ],
)
def test_negated_classes_name_nul(pattern: str, exact: str) -> None:
    assert without_nul(pattern) == exact


def test_all_else_in_a_schema_stays() -> None:
    pattern: dict[str, Any] = {"pattern": "[^a]"}
    schema = {
        **pattern,
        "enum": [pattern],
        "const": pattern,
        "properties": {"pattern": pattern, "enum": pattern},
        "patternProperties": {"^[^b]": True},
        "$defs": {"const": {"anyOf": [pattern, False]}},
    }
    exact: dict[str, Any] = {"pattern": r"[^\x00a]"}
    assert exact_patterns(schema) == {
        **exact,
        "enum": [pattern],
        "const": pattern,
        "properties": {"pattern": exact, "enum": exact},
        "patternProperties": {r"^[^\x00b]": True},
        "$defs": {"const": {"anyOf": [exact, False]}},
    }


@pytest.mark.parametrize(
    ("pattern", "text", "matches"),
    [
        ('^[^"]$', '"', False),
        ('^[^"]$', "\\", True),
        (r"^[^\\]$", "\\", False),
        (r'^[^"\\]*$', 'a"', False),
        ("^[^a]$", '"', True),
        ("^.$", '"', True),
        ("^.$", "\n", False),
        (r"^\S$", "\\", True),
        (r"^[^\s]$", "\n", False),
    ],
)
def test_a_pattern_means_in_json_what_it_means_elsewhere(pattern: str, text: str, matches: bool) -> None:
    matcher = GrammarCompiler(ENGINE.tokenizer, ENGINE.info).matcher(
        Grammar.of_schema({"pattern": pattern, "type": "string"})
    )
    written = json.dumps(text).encode()
    try:
        for byte in written:
            matcher.accept(byte)
    except GrammarFailed:
        assert not matches
    else:
        assert matches
