"""The grammar of an answer that has a form of its own, or calls tools."""

from __future__ import annotations

import json
from collections.abc import Sequence

from edgellm.errors import UsageError
from edgellm.text.call_grammar import call_grammar, called_with
from edgellm.types.grammar import Grammar
from edgellm.types.grammar_tree import Json, Node, OneOf, Pattern, Text
from edgellm.types.markup import JsonCalls, Markup
from edgellm.types.message import Tool


def answer_or_call(
    answer: Grammar, markup: Markup, tools: Sequence[Tool], *, parallel: bool, opened: str = ""
) -> Grammar:
    """Either of them; arguments as of `call_grammar`.

    Raises:
        UsageError: an answer in Lark or GBNF, whose rules nothing can be put beside; what `call_grammar` raises.
    """
    calls = call_grammar(markup, tools, "required", parallel=parallel, opened=opened)
    shape = markup.calls or JsonCalls()
    if calls is None:
        return answer
    if answer.kind == "json_schema" and isinstance(shape, JsonCalls) and not (shape.open or shape.section_open):
        # Both begin with a brace. The library looks no further than to the end of a literal text, so neither is one.
        return Grammar.of_tree(OneOf((_node(answer), *(_as_json(tool, shape) for tool in tools))), answer.param)
    return Grammar.of_tree(OneOf((_node(answer), calls.tree)), answer.param)


def _as_json(tool: Tool, shape: JsonCalls) -> Json:
    """One call, as an object of which no part is literal text."""
    arguments = {"type": "object", "additionalProperties": False, **called_with(tool)}
    definitions = arguments.pop("$defs", {})
    return Json({
        "type": "object",
        "properties": {shape.name_key: {"const": tool.name}, shape.arguments_key: arguments},
        "required": [shape.name_key, shape.arguments_key],
        "additionalProperties": False,
        **({"$defs": definitions} if definitions else {}),
    })  # fmt: skip


def _node(answer: Grammar) -> Node:
    match answer.kind:
        case "json_schema":
            return Json(json.loads(answer.text))
        case "regex":
            return Pattern((answer.text,))
        case "choice":
            return OneOf(tuple(map(Text, json.loads(answer.text))))
        case "tree":
            return answer.tree
        case _:
            what = f"tools do not go with a grammar in {answer.kind}"
            raise UsageError(what, hint="send a schema, a pattern or choices with them", param=answer.param or "tools")
