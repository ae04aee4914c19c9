"""Grammars in Lark, written out as regular expressions: what these match, and what is refused."""

from __future__ import annotations

import re

import pytest
from support.refusals import refuses

from edgellm.errors import UnsupportedField, UsageError
from edgellm.text.lark_pattern import pattern_of_lark

PATCH = r"""
start: begin hunk+ end
begin: "*** Begin Patch" LF
end: "*** End Patch" LF?
hunk: add | delete            // the rest is left out here
add: "*** Add File: " name LF added+
delete: "*** Delete File: " name LF
name: /(.+)/
added: "+" /(.*)/ LF -> line

%import common.LF
"""
SUM = r"""
?start: value (("+" | "-") value)*
value: NUMBER | NAME
NAME.2: ("a".."f" | "_")~1..3
NUMBER: DIGIT+ ["." DIGIT{1,2}]
%import common (DIGIT, WS)
%ignore WS
"""


@pytest.mark.parametrize(
    ("definition", "text"),
    [
        (PATCH, "*** Begin Patch\n*** Add File: a.py\n+x = 1\n+\n*** End Patch"),
        (PATCH, "*** Begin Patch\n*** Delete File: (a|b).py\n*** Delete File: c\n*** End Patch\n"),
        (SUM, "1"),
        (SUM, "1.25 + _a\n- 3"),
        ('start: "a"i "b"', "Ab"),
        ('start: /x/i "\\u00e9\\n"', "X\xe9\n"),
        ('start: "a" ~ 2 "b"{,2} "c"{1,}', "aabbccc"),
        ('start: "a"~2..3 | ', "aaa"),
        ('start: "a"~2..3 | ', ""),
        ('start: "[".."^"', "]"),
        ('start:\n  | "a"\n  # none\n  | "b"', "b"),
        ('%import common.INT -> N\nstart: "/" N "$"', "/12$"),
    ],
)
def test_texts_that_it_derives_match(definition: str, text: str) -> None:
    assert re.fullmatch(pattern_of_lark(definition), text)


@pytest.mark.parametrize(
    ("definition", "text"),
    [
        (PATCH, "*** Begin Patch\n*** End Patch"),
        (PATCH, "*** Begin Patch\n*** Add File: a.py\n*** End Patch"),
        (PATCH, "xxx Begin Patch\n*** Delete File: c\n*** End Patch"),
        (SUM, "1 . 25"),  # nothing is ignored within a terminal
        (SUM, " 1"),
        (SUM, "g"),
        (SUM, "abcd"),
        ('start: "a"i "b"', "AB"),
        ('start: "a.c"', "abc"),
        ('start: "a" | "b" "c"', "ac"),
        ('start: x "c"\nx: "a" | "b"', "a"),
        ('start: ["a"] "b"', ""),
        ('start: "a" ~ 2', "aaa"),
    ],
)
def test_other_texts_do_not(definition: str, text: str) -> None:
    assert not re.fullmatch(pattern_of_lark(definition), text)


@pytest.mark.parametrize(
    "definition",
    [
        'start: "(" start ")" | "x"',
        'start: a\na: "x" b\nb: a |',
        'start: A\nA: "x" A',
        "\n".join(["start: a0", *(f"a{n}: a{n + 1} a{n + 1}" for n in range(40)), 'a40: "x"']),
        "\n".join(["start: a0", *(f"a{n}: a{n + 1}" for n in range(400)), 'a400: "x"']),
        "start: " + "(" * 2000 + '"x"' + ")" * 2000,
        "start: X\n%declare X",
        "%import python.NAME\nstart: NAME",
        "%import common.NAME\nstart: NAME",
        "%import common.WS -> A -> B\nstart: A",
        "start: /a b/x",
    ],
    ids=["itself", "others", "terminal", "doubling", "chain", "brackets", "declare", "library", "name", "twice", "x"],
)
def test_what_cannot_be_written_out_is_refused_by_name(definition: str) -> None:
    with refuses(UnsupportedField, param="tools"):
        pattern_of_lark(definition)


@pytest.mark.parametrize(
    "definition",
    [
        "",
        "x",
        'x: "a"',
        "start: x",
        'start: "a',
        'start: "\\q"',
        'start: "\\ud800"',
        'start: "b".."a"',
        'start: "a"..',
        'start: ("a"',
        'start: "a")',
        'start: * "a"',
        "start: /a",
        "start: /a)|(b/",
        "start: <x>",
        "start: ~/a/",
        'start[lazy]: "a"',
        'start: "a" :',
    ],
)
def test_what_is_no_grammar_is_refused(definition: str) -> None:
    with refuses(UsageError, param="tools"):
        pattern_of_lark(definition)
