"""What `llguidance` compiles for a grammar: each kind in the language that the library has for it, or in its Lark."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from edgellm.text.endless import can_end
from edgellm.text.forcing import MOST, NO_FORCING, may_force, reach
from edgellm.text.json_patterns import exact_patterns
from edgellm.text.lark import lark_of
from edgellm.types.grammar import Grammar
from edgellm.types.grammar_tree import Json, Node, OneOf, Pattern, Text

# Without a bound on blanks between the parts of JSON, a small model may write them until the answer is full. With
# \uXXXX a key could be spelled in a second way, and pass as one that the schema does not name.
JSON_OPTIONS = {
    "whitespace_pattern": r"\n?[ \t]{0,20}",
    "json_allowed_escapes": 'nrbtf\\"',
    "lenient": False,
    "coerce_one_of": False,
}
_LARK_START = re.compile(r"\s*start\s*:(?!:=)")


def source(library: Any, grammar: Grammar, specials: Mapping[str, int]) -> str:
    """`specials`: ids of control tokens by their text.

    Raises:
        UsageError: no answer under it ends.
        ValueError, RecursionError: it has an error.
    """
    if (root := _tree(grammar)) is not None:
        own = specials if grammar.kind == "tree" else {}
        return str(library.grammar_from("lark", lark_of(root, own, JSON_OPTIONS)))
    if grammar.kind == "json_schema":
        schema = {} if grammar.text == "true" else exact_patterns(json.loads(grammar.text))
        return str(library.LLMatcher.grammar_from_json_schema(json.dumps(schema), {}, JSON_OPTIONS))
    if grammar.kind == "regex":
        return str(library.grammar_from("regex", grammar.text))
    # The library's own look at which of the two it is takes minutes for a text of blanks.
    is_lark = any(_LARK_START.match(line) for line in grammar.text.splitlines())
    text = grammar.text if is_lark or grammar.kind == "lark" else _lark_of_gbnf(grammar.text)
    if not can_end(text):
        raise grammar.refused("has no answer that ends", "give rules that refer to themselves an alternative without")
    return str(library.grammar_from("lark", NO_FORCING + text))


def _tree(grammar: Grammar) -> Node | None:
    """The grammar as a tree, where it is one, or must be written as one because what it forces may be long."""
    match grammar.kind:
        case "tree":
            return grammar.tree
        case "choice":
            return OneOf(tuple(map(Text, json.loads(grammar.text))))
        case "regex":
            return Pattern((grammar.text,)) if reach(grammar.text) > MOST else None
        case "json_schema" if grammar.text.startswith("{"):
            root = Json(json.loads(grammar.text))
            return None if may_force(root) else root
    return None


def _lark_of_gbnf(text: str) -> str:
    from llguidance.gbnf_to_lark import gbnf_to_lark

    try:
        return str(gbnf_to_lark(text))
    except Exception as error:  # the translation raises many kinds
        raise ValueError(str(error)) from None
