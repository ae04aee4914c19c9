"""Response templates in the ways of those in use, the row each of them is, and answers of such models."""

from __future__ import annotations

from typing import Any, NamedTuple

from edgellm.types.markup import (
    AnswerMarkup,
    HarmonyCalls,
    JsonCalls,
    LiteralCalls,
    Markup,
    NamedCalls,
    ReasoningMarkup,
    TaggedCalls,
)

OBJECT = {"type": "function", "function": "{content}"}
NAMED = {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}}
THINK = {"open": "<think>", "close": "</think>"}
THINKS = ReasoningMarkup("<think>", "</think>")
JSON = {"content": "json", "repeats": True, "transform": OBJECT}
HERMES = {"open": "<tool_call>", "close": "</tool_call>", **JSON}
CALL = '{"name": "weather", "arguments": {"city": "Köln", "days": 2, "tags": ["a", "}"]}}'
PING = '{"name": "ping", "arguments": {}}'
BODY = '{"city": "Köln", "days": 2}'


def template(**fields: Any) -> dict[str, Any]:
    return {"defaults": {"role": "assistant"}, "start_anchor": "<|assistant|>", "fields": fields}


class Case(NamedTuple):
    template: dict[str, Any]
    markup: Markup
    answers: tuple[str, ...]
    opened: str = ""  # what the prompt ends with, behind the anchor


def _of_tags(name: str, parameter: str, **field: Any) -> dict[str, Any]:
    arguments = {"tag_pattern": parameter, **field.pop("content_args", {})}
    return {
        "open_pattern": name,
        "repeats": True,
        "content": "xml-inline",
        "content_args": arguments,
        "transform": NAMED,
        **field,
    }


CASES = {
    "hermes": Case(
        template(thinking=THINK, tool_calls=HERMES, content={"close": "<|im_end|>"}),
        Markup(THINKS, JsonCalls("<tool_call>", "</tool_call>")),
        (
            "Hello <b>there</b>.",
            "<think>\nHm.\n</think>\n\nHello.",
            f"<think>Hm <tool_call></think><tool_call>\n{CALL}\n</tool_call>",
            f"I look.<tool_call>{PING}</tool_call><tool_call>\n{CALL}\n</tool_call>",
        ),
    ),
    "patterns around": Case(
        template(
            reasoning_content=THINK,
            tool_calls={"open_pattern": r"\s*<tool_call>", "close": "</tool_call>", **JSON},
            content={"close_pattern": r"\s*(?:<\|im_end\|>|<\|endoftext\|>)"},
        ),
        Markup(THINKS, JsonCalls("\n<tool_call>", "</tool_call>")),
        ("Hello.", f"I look.\n\n<tool_call>\n{CALL}\n</tool_call>\n<tool_call>\n{PING}\n</tool_call>"),
    ),
    "ernie": Case(
        template(
            thinking={"open_pattern": r"(?:^|<think>\s*)", "close": "</think>"},
            content={"open": "<response>\n", "close_pattern": r"\n?</response>"},
            tool_calls=HERMES,
        ),
        Markup(THINKS, JsonCalls("<tool_call>", "</tool_call>"), AnswerMarkup("<response>", "</response>")),
        (
            "Hm.\n</think>\n\n<response>\nHello.\n</response>\n",
            f"Hm.\n</think>\n\n<tool_call>\n{CALL}\n</tool_call>\n",
        ),
        "<think>\n",
    ),
    "cohere": Case(
        template(
            thinking={"open": "<|START_THINKING|>", "close": "<|END_THINKING|>"},
            content={"open": "<|START_RESPONSE|>", "close": "<|END_RESPONSE|>"},
            tool_calls={
                "open": "<|START_ACTION|>",
                "close": "<|END_ACTION|>",
                "content": "json",
                "transform_each": True,
                "transform": {"type": "function", "function": {"name": "{tool_name}", "arguments": "{parameters}"}},
            },
        ),
        Markup(
            ReasoningMarkup("<|START_THINKING|>", "<|END_THINKING|>"),
            JsonCalls(
                section_open="<|START_ACTION|>",
                section_close="<|END_ACTION|>",
                array=True,
                name_key="tool_name",
                arguments_key="parameters",
            ),
            AnswerMarkup("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
        ),
        (
            "<|START_THINKING|>Hm.<|END_THINKING|><|START_RESPONSE|>Hello.<|END_RESPONSE|>",
            '<|START_THINKING|>Hm.<|END_THINKING|><|START_ACTION|>[\n    {"tool_call_id": "0", "tool_name": "ping", '
            '"parameters": {}},\n    {"tool_name": "weather", "parameters": {"city": "Köln"}}\n]<|END_ACTION|>',
        ),
    ),
    "harmony": Case(
        template(
            thinking={"open": "<|channel|>analysis<|message|>", "close": "<|end|>"},
            content={"open": "<|channel|>final<|message|>", "close": ["<|end|>", "<|return|>"]},
            tool_calls={
                "open_pattern": r"<\|channel\|>commentary to=functions\.(?P<name>\w+).*?<\|message\|>",
                "close": "<|call|>",
                **JSON,
                "transform": NAMED,
            },
        ),
        Markup(ReasoningMarkup("<|channel|>analysis<|message|>", "<|end|>"), HarmonyCalls()),
        (
            "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Hello.<|return|>",
            "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary to=functions.weather "
            f"<|constrain|>json<|message|>{BODY}<|call|>",
        ),
    ),
    "gemma 4": Case(
        template(
            thinking={"open": "<|channel>thought\n", "close": "<channel|>"},
            tool_calls={
                "open_pattern": r"<\|tool_call>call:(?P<name>\w+)",
                "close": "<tool_call|>",
                **JSON,
                "content_args": {"unquoted_keys": True, "string_delims": [['<|"|>', '<|"|>']]},
                "transform": NAMED,
            },
            content={"close": ["<turn|>", "<eos>"]},
        ),
        Markup(
            ReasoningMarkup("<|channel>thought", "<channel|>"),
            LiteralCalls("<|tool_call>", "call:", "<tool_call|>", brackets="{}", assign=":", quote='<|"|>'),
        ),
        (
            "<|channel>thought\nHm.<channel|>Hello.",
            '<|tool_call>call:weather{city:<|"|>Köln, "x"<|"|>,days:2,tags:[<|"|>a<|"|>],place:{lat:1.5}}<tool_call|>',
        ),
    ),
    "qwen 3.5": Case(
        template(
            thinking=THINK,
            tool_calls=_of_tags(
                r"<tool_call>\s*<function=(?P<name>[^>\n]+)>",
                r"<parameter=(?P<key>[^>\n]+)>\s*(?P<value>.*?)\s*</parameter>",
                close_pattern=r"</function>\s*</tool_call>",
            ),
            content={},
        ),
        Markup(
            THINKS,
            TaggedCalls(
                "<tool_call>\n<function=",
                ">",
                "<parameter=",
                ">\n",
                "\n</parameter>",
                "",
                "</function>\n</tool_call>",
            ),
        ),
        (
            "<think>\nHm.\n</think>\n\nHello.",
            "<think>\nHm.\n</think>\n\n<tool_call>\n<function=weather>\n<parameter=city>\nKöln\n</parameter>\n"
            "<parameter=days>\n2\n</parameter>\n</function>\n</tool_call>",
        ),
    ),
    "qwen 3 coder, without the inner close": Case(
        template(
            tool_calls=_of_tags(
                r"<tool_call>\s*<function=(?P<name>\w+)>",
                r"<parameter=(?P<key>\w+)>\s*(?P<value>.*?)\s*</parameter>",
                close="</tool_call>",
                content_args={"value_parser": {"name": "json", "args": {"allow_non_json": True}}},
            ),
            content={},
        ),
        Markup(
            None,
            TaggedCalls(
                "<tool_call>\n<function=",
                ">",
                "<parameter=",
                ">\n",
                "\n</parameter>",
                "",
                "</function>\n</tool_call>",
            ),
        ),
        (
            "<tool_call>\n<function=weather>\n<parameter=city>\nKöln\n</parameter>\n<parameter=tags>\n[1, 2]\n"
            "</parameter>\n</function>\n</tool_call>",
            "<tool_call>\n<function=ping>\n</function>\n</tool_call>",
        ),
    ),
    "glm": Case(
        template(
            tool_calls=_of_tags(
                r"<tool_call>(?P<name>[^\n<]+)",
                r"<arg_key>(?P<key>.*?)</arg_key>\s*<arg_value>(?P<value>.*?)</arg_value>",
                close="</tool_call>",
            ),
            content={},
        ),
        Markup(
            None,
            TaggedCalls("<tool_call>", "", "<arg_key>", "</arg_key>", "</arg_value>", "<arg_value>", "</tool_call>"),
        ),
        (
            "<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Köln</arg_value>\n<arg_key>days</arg_key>\n"
            "<arg_value>2</arg_value>\n</tool_call>",
            "<tool_call>ping\n</tool_call>",
        ),
    ),
    "mistral": Case(
        template(
            thinking={"open": "[THINK]", "close": "[/THINK]"},
            tool_calls={"open_pattern": r"\[TOOL_CALLS\](?P<name>\S+?)\[ARGS\]", **JSON, "transform": NAMED},
            content={"close": "</s>"},
        ),
        Markup(ReasoningMarkup("[THINK]", "[/THINK]"), NamedCalls("[TOOL_CALLS]", "[ARGS]")),
        ("[THINK]Hm.[/THINK]Hello.", f"[TOOL_CALLS]weather[ARGS]{BODY}"),
    ),
    "mistral with ids": Case(
        template(
            tool_calls={
                "open_pattern": r"\[TOOL_CALLS\](?P<name>\w+)\[CALL_ID\](?P<id>\w+)\[ARGS\]",
                **JSON,
                "transform": {**NAMED, "id": "{id}"},
            },
        ),
        Markup(None, NamedCalls("[TOOL_CALLS]", "[ARGS]", id_open="[CALL_ID]")),
        (f"[TOOL_CALLS]weather[CALL_ID]abc[ARGS]{BODY}",),
    ),
    "mistral nemo": Case(
        template(
            tool_calls={
                "open": "[TOOL_CALLS]",
                "content": "json",
                "transform_each": True,
                "transform": {"id": "{id}", "function": {"name": "{name}", "arguments": "{arguments}"}},
            },
            content={},
        ),
        Markup(None, JsonCalls(section_open="[TOOL_CALLS]", array=True, id_key="id")),
        (f'Well.[TOOL_CALLS][{CALL[:-1]}, "id": "abc"}}, {PING[:-1]}, "id": "x"}}]',),
    ),
    "lfm2": Case(
        template(
            tool_calls={
                "open": "<|tool_call_start|>",
                "close": "<|tool_call_end|>",
                "content": "python-call-list",
                "transform_each": True,
                "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{arguments}"}},
            },
            content={},
        ),
        Markup(
            None,
            LiteralCalls(
                "<|tool_call_start|>", "[", "]<|tool_call_end|>", brackets="()", assign="=", quote='"', listed=True
            ),
        ),
        ('<|tool_call_start|>[weather(city="Köln", days=2), ping()]<|tool_call_end|>Well.',),
    ),
    "wrapped, with keys of its own": Case(
        template(
            tool_calls={
                **HERMES,
                "transform": {"function": {"name": "{content.call.tool}", "arguments": "{content.call.args}"}},
            },
            content={},
        ),
        Markup(
            None,
            JsonCalls("<tool_call>", "</tool_call>", wrapper="call", name_key="tool", arguments_key="args"),
        ),
        (f'<tool_call>{{"call": {{"tool": "weather", "args": {BODY}}}}}</tool_call>',),
    ),
    "several thoughts": Case(
        template(thinking={**THINK, "repeats": True, "join": "", "content_args": {"strip": False}}, content={}),
        Markup(ReasoningMarkup("<think>", "</think>", again=True)),
        ("<think>Hm.</think><think>Ah.</think>Hello.",),
    ),
}
