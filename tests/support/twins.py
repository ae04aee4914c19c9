"""One conversation, and its bodies in each dialect of HTTP."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from typing import Any

WORDS = ("hello", "größe", "世界", "<|im_end|>", "</think>", '{"a": 1}', "line\nbreak", "🎈", "[INST]", " ")
TOOLS = {
    "weather": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "add": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "number"}}},
}


@dataclass
class Turn:
    """What a user says, and what the assistant makes of it: thoughts, a text, calls with their results."""

    question: str
    thought: str = ""
    text: str = ""
    calls: list[tuple[str, str, dict[str, Any], str]] = field(default_factory=list)  # id, name, arguments, result


@dataclass
class Twin:
    """A conversation that ends with a question, and how it is to be answered."""

    system: str
    turns: list[Turn]
    question: str
    tools: list[str]
    temperature: float
    top_p: float
    seed: int
    max_tokens: int
    stop: list[str]

    @classmethod
    def generated(cls, number: int) -> Twin:
        chance = random.Random(number)

        def text() -> str:
            return "".join(chance.choices(WORDS, k=chance.randint(1, 4)))

        def call(index: int) -> tuple[str, str, dict[str, Any], str]:
            arguments = {"city": text()} if chance.random() < 0.5 else {"a": chance.randint(-9, 9), "b": 0.5}
            name = "weather" if "city" in arguments else "add"
            return f"call_{number}_{index}", name, arguments, text()

        tools = ["weather", "add"] if chance.random() < 0.7 else []
        turns = []
        for index in range(chance.randint(0, 3)):
            calls = [call(index * 10 + n) for n in range(chance.randint(0, 2))] if tools else []
            turns.append(Turn(text(), text() if chance.random() < 0.5 else "", "" if calls else text(), calls))
        return cls(
            text() if chance.random() < 0.6 else "",
            turns,
            text(),
            tools,
            round(chance.random(), 2),
            round(0.1 + 0.9 * chance.random(), 2),
            chance.randint(0, 2**31),
            chance.randint(1, 64),
            ["END"] if chance.random() < 0.3 else [],
        )

    def chat(self) -> dict[str, Any]:
        """Of /v1/chat/completions."""
        messages: list[dict[str, Any]] = [{"role": "system", "content": self.system}] if self.system else []
        for turn in self.turns:
            answer = {"role": "assistant", "content": turn.text, "reasoning_content": turn.thought or None}
            calls = [
                {"id": call, "type": "function", "function": {"name": name, "arguments": written(arguments)}}
                for call, name, arguments, _ in turn.calls
            ]
            messages += [{"role": "user", "content": turn.question}, answer | ({"tool_calls": calls} if calls else {})]
            messages += [{"role": "tool", "tool_call_id": one[0], "content": one[3]} for one in turn.calls]
        return {
            "messages": [*messages, {"role": "user", "content": self.question}],
            **self._drawn(),
            "max_completion_tokens": self.max_tokens,
            "stop": self.stop,
            "tools": [
                {"type": "function", "function": {"name": name, "description": name, "parameters": TOOLS[name]}}
                for name in self.tools
            ],
        }

    def anthropic(self) -> dict[str, Any]:
        """Of /v1/messages."""
        messages: list[dict[str, Any]] = []
        for turn in self.turns:
            thought = [{"type": "thinking", "thinking": turn.thought, "signature": "x"}] if turn.thought else []
            text = [{"type": "text", "text": turn.text}] if turn.text else []
            calls = [{"type": "tool_use", "id": one[0], "name": one[1], "input": one[2]} for one in turn.calls]
            results = [{"type": "tool_result", "tool_use_id": one[0], "content": one[3]} for one in turn.calls]
            messages += [
                {"role": "user", "content": turn.question},
                {"role": "assistant", "content": [*thought, *text, *calls]},
                *([{"role": "user", "content": results}] if results else []),
            ]
        return {
            "messages": [*messages, {"role": "user", "content": self.question}],
            "system": self.system,
            **self._drawn(),
            "max_tokens": self.max_tokens,
            "stop_sequences": self.stop,
            "tools": [{"name": name, "description": name, "input_schema": TOOLS[name]} for name in self.tools],
        }

    def responses(self) -> dict[str, Any]:
        """Of /v1/responses."""
        items: list[dict[str, Any]] = []
        for turn in self.turns:
            items.append({"role": "user", "content": turn.question})
            if turn.thought:
                content = [{"type": "reasoning_text", "text": turn.thought}]
                items.append({"type": "reasoning", "id": "rs_1", "summary": [], "content": content})
            if turn.text:
                items.append({"role": "assistant", "content": turn.text})
            for call, name, arguments, _ in turn.calls:
                items.append({"type": "function_call", "call_id": call, "name": name, "arguments": written(arguments)})
            items += [{"type": "function_call_output", "call_id": one[0], "output": one[3]} for one in turn.calls]
        return {
            "input": [*items, {"role": "user", "content": self.question}],
            "instructions": self.system or None,
            **self._drawn(),
            "max_output_tokens": self.max_tokens,
            "stop": self.stop,
            "store": False,
            "tools": [
                {"type": "function", "name": name, "description": name, "parameters": TOOLS[name], "strict": False}
                for name in self.tools
            ],
        }

    def ollama(self) -> dict[str, Any]:
        """Of /api/chat."""
        messages: list[dict[str, Any]] = [{"role": "system", "content": self.system}] if self.system else []
        for turn in self.turns:
            calls = [{"id": one[0], "function": {"name": one[1], "arguments": one[2]}} for one in turn.calls]
            messages += [
                {"role": "user", "content": turn.question},
                {"role": "assistant", "content": turn.text, "thinking": turn.thought, "tool_calls": calls},
                *({"role": "tool", "tool_call_id": one[0], "content": one[3]} for one in turn.calls),
            ]
        return {
            "messages": [*messages, {"role": "user", "content": self.question}],
            "options": {**self._drawn(), "num_predict": self.max_tokens, "stop": self.stop},
            "stream": False,
            "tools": self.chat()["tools"],
        }

    def _drawn(self) -> dict[str, Any]:
        return {"temperature": self.temperature, "top_p": self.top_p, "seed": self.seed}


def written(arguments: dict[str, Any]) -> str:
    """As models write them."""
    return json.dumps(arguments, ensure_ascii=False)
