"""The grammar of an answer that may or must call tools, made of the row by which its calls are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgellm.errors import UsageError
from edgellm.text.call_trees import call_shape
from edgellm.text.lark_pattern import pattern_of_lark
from edgellm.types.brackets import is_balanced
from edgellm.types.grammar import Grammar
from edgellm.types.grammar_tree import AnyText, OneOf, Repeat, TextUntil, sequence
from edgellm.types.markup import JsonCalls, Markup
from edgellm.types.message import INPUT, MAX_TOOLS, NamedTool, Tool, ToolChoice

ANY_ARGUMENTS: dict[str, Any] = {"type": "object"}
MAX_CALLS = 16  # in one answer: models that know little call for as long as they may
# Beside these a schema says more of what an object may hold than `properties` do.
_COMPOSED = ("additionalProperties", "allOf", "anyOf", "oneOf", "$ref", "patternProperties")


def call_grammar(
    markup: Markup, tools: Sequence[Tool], choice: ToolChoice, *, parallel: bool, opened: str = ""
) -> Grammar | None:
    """What an answer has to look like, behind its thoughts. None: anything goes.

    "required" and a named tool: the answer is a call, with arguments that are valid under the tool's schema; `parallel`
    allows up to MAX_CALLS. "auto": text, until a call begins, which then keeps to the schemas of strict tools. Without
    such tools nothing is enforced, unless the model's template knows no calls: then an answer that opens with a brace
    is one, {"name": .., "arguments": {..}}. `opened`: the end of the prompt, which the answer continues.

    Raises:
        UsageError: too many tools, too large ones, or a schema that calls cannot be kept to.
    """
    if choice == "none" or not tools:
        return None
    if len(tools) > MAX_TOOLS:
        raise UsageError(f"there are {len(tools)} tools", hint=f"{MAX_TOOLS} are allowed", param="tools")
    calls = markup.calls or JsonCalls()  # as a prompt asks for them where the template knows none
    if choice == "auto":
        if calls != JsonCalls() and not any(tool.strict for tool in tools):
            return None
        schemas = [(tool.name, _closed(called_with(tool)) if tool.strict else ANY_ARGUMENTS) for tool in tools]
    else:
        offered = [tool for tool in tools if choice == "required" or tool.name == choice.name]
        schemas = [(tool.name, _closed(called_with(tool))) for tool in offered]
    shape = call_shape(calls, schemas)
    start = "" if opened.rstrip().endswith(shape.start.strip()) else shape.start
    several = parallel and not isinstance(choice, NamedTool)
    called = sequence(shape.first, Repeat(shape.further, 0, MAX_CALLS - 1) if several else "", shape.end)
    if choice != "auto":
        answer = sequence(start, called)
    else:
        begins = TextUntil(start.lstrip()) if start and shape.text == AnyText() else start
        answer = OneOf((shape.text, sequence(begins, called)))
    return Grammar.of_tree(answer, "tools")


def called_with(tool: Tool) -> dict[str, Any]:
    """The schema that its arguments are kept to. Where it takes a text with a definition, that is a pattern in it.

    Raises:
        UnsupportedField, UsageError: of the definition, as `pattern_of_lark` does.
    """
    if tool.input is None or tool.input.definition is None:
        return tool.parameters
    pattern = tool.input.definition
    if tool.input.syntax == "lark":
        pattern = pattern_of_lark(pattern)
    elif not is_balanced(pattern):
        what = f"the pattern of the tool {tool.name[:60]!r} does not close the brackets that it opens"
        raise UsageError(what, hint="correct it", param="tools")
    Grammar("regex", pattern, "tools")
    argument = {**tool.parameters["properties"][INPUT], "pattern": f"^(?:{pattern})$"}
    return {**tool.parameters, "properties": {INPUT: argument}}


def _closed(parameters: dict[str, Any]) -> dict[str, Any]:
    """The schema of an object. What it does not name is left out, where it does not say that it may come."""
    schema = {"type": "object", **parameters}
    return schema if any(word in schema for word in _COMPOSED) else {**schema, "additionalProperties": False}
