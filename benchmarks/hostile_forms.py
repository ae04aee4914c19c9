"""Schemas, grammars and tools that are made to be slow: what `benchmarks/attack.py --grammars` sends."""

from __future__ import annotations

from typing import Any

Fields = dict[str, Any]


def hostile_forms() -> dict[str, Fields]:
    """Fields of a request, by what is hostile in them. Some are refused, others are answered."""
    optional = {f"p{at}": {"type": "string"} for at in range(5_000)}
    ambiguous = 'start: e\ne: e e | "a" | e e e'
    nested = '{"items":' * 20_000 + "{}" + "}" * 20_000
    doubling = {
        f"d{at}": {"type": "array", "items": {"anyOf": [{"$ref": f"#/$defs/d{at + 1}"}] * 2}} for at in range(60)
    }
    parameters = {"type": "object", "properties": {f"p{at}": {"type": "string"} for at in range(8)}}
    functions = [{"type": "function", "function": {"name": f"f{at}", "parameters": parameters}} for at in range(128)]
    long_text = {"structured_outputs": {"choice": ["a" * 60_000]}}
    return {
        "nested 20,000 deep": {"structured_outputs": {"json": nested}},
        "20,000 parentheses": {"structured_outputs": {"regex": "(" * 20_000 + "a" + ")" * 20_000}},
        "5,000 optional properties": {"json_schema": {"type": "object", "properties": optional}},
        "400 optional properties": {
            "json_schema": {"type": "object", "properties": dict(list(optional.items())[:400])}
        },
        "ambiguous Lark": {"grammar": ambiguous},
        "ambiguous GBNF": {"grammar": 'root ::= e\ne ::= e e | "a" | e e e'},
        "3,000 values of an enum": {"json_schema": {"enum": [f"value {at}" for at in range(3_000)]}},
        "definitions that double": {"json_schema": {"$defs": {**doubling, "d60": {}}, "$ref": "#/$defs/d0"}},
        "a million items": {"json_schema": {"type": "array", "minItems": 1_000_000, "items": {"type": "integer"}}},
        "a pattern of powers": {"structured_outputs": {"regex": "((((a{1,50}){1,50}){1,50}){1,50})"}},
        "patterns that count": {"structured_outputs": {"regex": "(.*a.{200}|.*b.{200}|.*c.{200})"}},
        "355 choices a, aa, aaa": {"structured_outputs": {"choice": ["a" * at for at in range(1, 356)]}},
        "200 choices a b, a ba b": {"structured_outputs": {"choice": ["a b" * at for at in range(1, 201)]}},
        "one long choice": long_text,
        "one long choice, 8 answers": long_text | {"n": 8},
        "one long choice, logprobs": long_text | {"logprobs": True},
        "a long constant": {"json_schema": {"const": "a" * 60_000}},
        "a pattern of one long text": {"structured_outputs": {"regex": "x(a{200}){200}b*"}},
        "128 tools": {"tools": functions, "tool_choice": "required"},
    }
