"""Brackets of patterns and grammars: which close what, and how deep they lie."""

from __future__ import annotations

import pytest
from support.refusals import refuses

from edgellm.errors import UsageError
from edgellm.types.brackets import is_balanced, nesting
from edgellm.types.grammar import MAX_GRAMMAR_BYTES, MAX_NESTING, Grammar


@pytest.mark.parametrize(
    ("pattern", "is_it"),
    [
        ("a(b)", True),
        (r"\(", True),
        ("[(]", True),
        ("[]()]", True),
        ("a)(b", False),
        ("(", False),
        ("[^])]", True),
        ("[[:alpha:])]", True),
        ("()\\", True),
        ("[(", True),
        ("[(\\", True),
    ],
)
def test_balanced(pattern: str, is_it: bool) -> None:
    assert is_balanced(pattern) is is_it


@pytest.mark.parametrize("opened", ["[)", "[[:a", "[^)", "[\\)"])
def test_a_class_that_is_never_closed_is_read_once(opened: str) -> None:
    # Read once for each bracket, these take minutes.
    pattern = opened * (MAX_GRAMMAR_BYTES // len(opened) - 1) + "\\"
    assert is_balanced(pattern)
    assert nesting(pattern, is_pattern=True) == 0


@pytest.mark.parametrize(
    ("text", "pattern_depth", "grammar_depth"),
    [
        ("([{}])", 1, 3),
        ("[()}" * 9, 0, 10),
        ("(}" * 9, 9, 9),
        (")]}" * 9 + "(", 1, 1),
        (r"\(" * 9, 0, 0),
        ("[(]" * 9, 0, 10),
    ],
)
def test_a_bracket_closes_only_its_own_kind(text: str, pattern_depth: int, grammar_depth: int) -> None:
    assert nesting(text, is_pattern=True) == pattern_depth
    assert nesting(text, is_pattern=False) == grammar_depth


@pytest.mark.parametrize(("kind", "opened"), [("regex", "(}"), ("lark", "[()}"), ("gbnf", "(]")])
def test_brackets_that_others_seem_to_close_are_nested(kind: str, opened: str) -> None:
    with refuses(UsageError, param="grammar"):
        Grammar(kind, opened * (MAX_NESTING + 1))  # type: ignore[arg-type]
