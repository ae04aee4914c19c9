"""What is asked of every backend over HTTP, feature by feature: the rows of docs/conformance.md.

A feature is a request and what its answer has to be. A cell of the page is yes, or the code of a typed refusal.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import jsonschema

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
SCHEMA = {
    "type": "object",
    "properties": {"unit": {"enum": ["C", "F"]}, "exact": {"type": "boolean"}},
    "required": ["unit", "exact"],
    "additionalProperties": False,
}
TOOLS = [
    {"type": "function", "function": {"name": name, "description": "Tells it.", "parameters": SCHEMA}}
    for name in ("get_weather", "get_time")
]
NAMED = {"type": "function", "function": {"name": "get_time"}}
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "get_time", "arguments": '{"unit": "C", "exact": true}'},
}
ASKED = {"role": "user", "content": "What time is it?"}

Answer = dict[str, Any]
Check = Callable[[Answer], bool]


@dataclass(frozen=True)
class Feature:
    name: str
    path: str
    body: dict[str, Any]
    holds: Check
    beside: dict[str, Any] = field(default_factory=dict)  # fields of a second request, whose answer has to be the same

    def cell(self, client: httpx.Client) -> str:
        """ "yes", or the code of the refusal.

        Raises AssertionError: another failure than a refusal, or an answer that is not what it has to be.
        """
        answer = _answer(client, self.path, self.body)
        if "error" in answer:
            return f"`{answer['error']['code']}`"
        assert self.holds(answer), (self.name, answer)
        if self.beside:
            assert _told(_answer(client, self.path, {**self.body, **self.beside})) == _told(answer), self.name
        return "yes"


def _answer(client: httpx.Client, path: str, body: dict[str, Any]) -> Answer:
    response = client.post(path, json=body)
    assert response.status_code == 200 or 400 <= response.status_code < 500, response.text
    if body.get("stream") and response.status_code == 200:
        lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: ")]
        assert lines[-1] == "[DONE]"
        return {"chunks": [json.loads(line) for line in lines[:-1]]}
    answer: Answer = response.json()
    return answer


def _told(answer: Answer) -> list[Any]:
    return [choice.get("message") or choice.get("text") for choice in answer["choices"]]


def text(answer: Answer) -> str:
    choice = answer["choices"][0]
    return choice["text"] if "text" in choice else choice["message"]["content"]


def deltas(answer: Answer) -> Iterator[Answer]:
    for chunk in answer["chunks"]:
        for choice in chunk["choices"]:
            yield choice.get("delta") or choice


def _is_json(answer: Answer) -> bool:
    jsonschema.validate(json.loads(text(answer)), SCHEMA)
    return True


def _are_calls(calls: list[Answer], names: tuple[str, ...] = ("get_weather", "get_time")) -> bool:
    for call in calls:
        jsonschema.validate(json.loads(call["function"]["arguments"]), SCHEMA)
    return bool(calls) and all(call["function"]["name"] in names for call in calls)


def _called(answer: Answer, names: tuple[str, ...] = ("get_weather", "get_time")) -> bool:
    """A model that knows nothing may call until the answer is full, and its last call is cut then."""
    choice = answer["choices"][0]
    calls = choice["message"]["tool_calls"]
    if choice["finish_reason"] == "length" and len(calls) > 1:
        calls = calls[:-1]
    else:
        assert choice["finish_reason"] == "tool_calls", choice
    return _are_calls(calls, names)


def _called_once(answer: Answer) -> bool:
    return _called(answer) and len(answer["choices"][0]["message"]["tool_calls"]) == 1


def custom(syntax: str, definition: str) -> dict[str, Any]:
    form = {"type": "grammar", "grammar": {"syntax": syntax, "definition": definition}}
    return {"type": "custom", "custom": {"name": "shell", "format": form}}


def _called_with_text(answer: Answer) -> bool:
    (call,) = answer["choices"][0]["message"]["tool_calls"]
    return bool(re.fullmatch("(ls|cat) [a-z]{1,8}", call["custom"]["input"]))


def _has_prompt_logprobs(answer: Answer) -> bool:
    return answer["choices"][0]["logprobs"]["token_logprobs"][0] is None


def _streamed_call(answer: Answer) -> bool:
    parts = [part for delta in deltas(answer) for part in delta.get("tool_calls") or [] if part["index"] == 0]
    arguments = "".join(part["function"].get("arguments") or "" for part in parts)
    return _are_calls([{"function": {"name": parts[0]["function"]["name"], "arguments": arguments}}])


def _has_logprobs(answer: Answer) -> bool:
    entries = answer["choices"][0]["logprobs"]["content"]
    return bool(entries) and all(len(entry["top_logprobs"]) == 2 and entry["logprob"] <= 0 for entry in entries)


def chat(
    name: str, holds: Check, *, messages: list[Answer] | None = None, beside: Any = None, **fields: Any
) -> Feature:
    body = {"messages": messages or [ASKED], "max_tokens": 8, "seed": 1, **fields}
    return Feature(name, CHAT, body, holds, beside or {})


def continued(name: str, holds: Check, *, prompt: Any = "It is", **fields: Any) -> Feature:
    return Feature(name, COMPLETIONS, {"prompt": prompt, "max_tokens": 8, "seed": 1, **fields}, holds)


def formed(name: str, holds: Check, **fields: Any) -> Feature:
    return chat(name, holds, max_tokens=200, **fields)


def _is_text(answer: Answer) -> bool:
    return isinstance(text(answer), str)


def _usage(answer: Answer) -> bool:
    return bool(answer["chunks"][-1]["usage"]["completion_tokens"] and not answer["chunks"][-1]["choices"])


FEATURES: dict[str, tuple[Feature, ...]] = {
    "Chat": (
        chat("chat", _is_text),
        chat("`stream`", lambda a: isinstance("".join(d.get("content") or "" for d in deltas(a)), str), stream=True),
        chat("`stream_options.include_usage`", _usage, stream=True, stream_options={"include_usage": True}),
        chat("roles `system` and `developer`", _is_text, messages=[
            {"role": "system", "content": "Be brief."}, {"role": "developer", "content": "Be kind."}, ASKED
        ]),
        chat("tool calls and results in the history", _is_text, messages=[
            ASKED, {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "call_1", "content": "noon"},
        ]),
        chat("`n`", lambda a: [choice["index"] for choice in a["choices"]] == [0, 1, 2], n=3),
        chat("`seed`: the same text again", _is_text, temperature=1.0, beside={"user": "another"}),
        chat("`stop`", _is_text, stop=["\n", "?"]),
        chat("`temperature`, `top_p`, `top_k`, `min_p`, `typical_p`", _is_text,
             temperature=0.7, top_p=0.9, top_k=20, min_p=0.05, typical_p=0.9),
        chat("`logit_bias`", _is_text, logit_bias={"65": 5}),
        chat("`frequency_penalty`, `presence_penalty`, `repetition_penalty`", _is_text,
             frequency_penalty=0.5, presence_penalty=0.5, repetition_penalty=1.1),
        chat("`logprobs`, `top_logprobs`", _has_logprobs, logprobs=True, top_logprobs=2),
        chat("`reasoning_effort`", lambda a: "reasoning_tokens" in a["usage"]["completion_tokens_details"],
             reasoning_effort="low"),
        chat("`chat_template_kwargs`", _is_text, chat_template_kwargs={"enable_thinking": False}),
        chat("`continue_final_message`", _is_text, add_generation_prompt=False, continue_final_message=True,
             messages=[ASKED, {"role": "assistant", "content": "It is"}]),
    ),
    "Structured answers": (
        formed("`response_format` json_schema", _is_json,
               response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}),
        formed("`response_format` json_object", lambda a: a["choices"][0]["finish_reason"] == "length"
               or isinstance(json.loads(text(a)), dict), response_format={"type": "json_object"}),
        formed("`structured_outputs` json", _is_json, structured_outputs={"json": SCHEMA}),
        formed("`structured_outputs` regex", lambda a: bool(re.fullmatch("[0-9]{3}", text(a))),
               structured_outputs={"regex": "[0-9]{3}"}),
        formed("`structured_outputs` choice", lambda a: text(a) in ("yes", "no"),
               structured_outputs={"choice": ["yes", "no"]}),
        formed("`grammar` in GBNF", lambda a: text(a) in ("ab", "b"), grammar='root ::= "a"? "b"'),
        formed("`grammar` in Lark", lambda a: text(a) in ("ab", "b"), grammar='start: "a"? "b"'),
        formed("`structured_outputs` structural_tag", _is_text, structured_outputs={"structural_tag": {
            "type": "structural_tag", "triggers": ["<f"],
            "structures": [{"begin": "<f>", "schema": SCHEMA, "end": "</f>"}],
        }}),
    ),
    "Tools": (
        formed("`tools`, the model chooses", lambda a: bool(a["choices"]), tools=TOOLS),
        formed("`tool_choice` required", _called, tools=TOOLS, tool_choice="required"),
        formed("`tool_choice` a named function", lambda a: _called(a, ("get_time",)), tools=TOOLS, tool_choice=NAMED),
        formed("`tool_choice` none", lambda a: not a["choices"][0]["message"].get("tool_calls"),
               tools=TOOLS, tool_choice="none"),
        formed("`parallel_tool_calls` false", _called_once,
               tools=TOOLS, tool_choice="required", parallel_tool_calls=False),
        formed("`tool_choice` required, streamed", _streamed_call, tools=TOOLS, tool_choice="required", stream=True),
        formed("a custom tool with a pattern", _called_with_text, tools=[custom("regex", "(ls|cat) [a-z]{1,8}")],
               tool_choice="required", parallel_tool_calls=False),
        formed("a custom tool with a grammar in Lark", _called_with_text,
               tools=[custom("lark", 'start: ("ls" | "cat") " " /[a-z]{1,8}/')],
               tool_choice="required", parallel_tool_calls=False),
    ),
    "Completions": (
        continued("completions", _is_text),
        continued("`stream`", lambda a: any("text" in d for d in deltas(a)), stream=True),
        continued("several prompts", lambda a: len(a["choices"]) == 2, prompt=["It is", "They are"]),
        continued("a prompt of token ids", _is_text, prompt=[65, 66, 67]),
        continued("`n`", lambda a: len(a["choices"]) == 2, n=2),
        continued("`best_of`", lambda a: len(a["choices"]) == 1, best_of=2),
        continued("`echo`", lambda a: text(a).startswith("It is"), echo=True),
        continued("`logprobs`", lambda a: len(a["choices"][0]["logprobs"]["tokens"]) > 0, logprobs=2),
        continued("`echo` with `logprobs`: those of the prompt", _has_prompt_logprobs, echo=True, logprobs=1),
        continued("`suffix`", _is_text, suffix=" now."),
        continued("`grammar`", lambda a: text(a) in ("ab", "b"), grammar='root ::= "a"? "b"'),
    ),
    "Vectors": (
        Feature("embeddings", "/v1/embeddings", {"input": "a text"}, lambda a: len(a["data"][0]["embedding"]) > 0),
        Feature("rerank", "/v1/rerank", {"query": "a", "documents": ["b", "c"]}, lambda a: len(a["results"]) == 2),
    ),
}  # fmt: skip


def table(cells: dict[str, dict[tuple[str, str], str]]) -> str:
    """The page's tables. `cells`: by backend, then by section and feature."""
    lines = []
    for section, features in FEATURES.items():
        lines += [f"## {section}", "", f"| feature | {' | '.join(cells)} |", "|---" * (1 + len(cells)) + "|"]
        for feature in features:
            row = (column[section, feature.name] for column in cells.values())
            lines.append(f"| {feature.name} | {' | '.join(row)} |")
        lines.append("")
    return "\n".join(lines)
