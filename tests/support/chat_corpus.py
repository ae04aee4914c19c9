"""The cases of llama.cpp's `tests/test-chat.cpp`: what each family of models writes, and what it means."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgellm.types.message import Message, Tool, ToolCall
from support.cpp_reader import Object, Reader, tokens


@dataclass(frozen=True)
class Tester:
    template: str


@dataclass(frozen=True, eq=False)
class CorpusCase:
    """One answer, and the message that it has to be read as. A text compares without white space around it."""

    template: str  # name of the file
    text: str
    line: int = 0
    messages: tuple[Message, ...] = (Message("user", "Hey there!\nWhat can you do?"),)
    tools: tuple[Tool, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    content: str = ""
    reasoning: str = ""
    calls: tuple[ToolCall, ...] = ()
    partial: bool = False

    @property
    def reads_thoughts(self) -> bool:
        return not str(self.options.get("reasoning_format", "NONE")).endswith("NONE")

    @property
    def thinking(self) -> bool:
        return bool(self.options.get("enable_thinking", True))

    @property
    def continues(self) -> str:
        """ "CONTENT" or "REASONING" where the last message is continued."""
        return str(self.options.get("continue_final_message", "")).rpartition("_")[2].replace("NONE", "")


def cases(folder: Path) -> list[CorpusCase]:
    """All that are run, in the order of the file."""
    code = tokens((folder / "tests/test-chat.cpp").read_text(encoding="utf-8"))
    collected: list[CorpusCase] = []

    def method(value: Any, name: str, arguments: list[Any], line: int) -> Any:
        if isinstance(value, Tester):
            return CorpusCase(Path(value.template).name, arguments[0], line)
        if isinstance(value, CorpusCase):
            if name == "run":
                collected.append(value)
            return _with(value, name, arguments)
        return value

    def inner(path: str, debug: bool = False) -> None:
        reader.body_of("test_lfm2_parser", template_path=path)

    reader = Reader(code, {**_FUNCTIONS, "test_lfm2_parser": inner}, method)
    reader.globals("common_chat_tool", "common_chat_msg")
    reader.names["detailed_debug"] = False
    reader.body_of("test_template_output_peg_parsers")
    return collected


def _with(case: CorpusCase, name: str, arguments: list[Any]) -> CorpusCase:
    value = arguments[0] if arguments else True
    if name == "tools":
        return replace(case, tools=tuple(map(_tool, value)))
    if name == "messages":
        return replace(case, messages=tuple(map(_message, value)))
    if name == "expect":
        message = _message(value)
        return replace(case, content=message.content, reasoning=message.reasoning, calls=message.calls)
    if name == "expect_content":
        return replace(case, content=value)
    if name == "expect_reasoning":
        return replace(case, reasoning=value)
    if name == "expect_tool_calls":
        return replace(case, calls=tuple(map(_call, value)))
    if name == "is_partial":
        return replace(case, partial=value)
    return replace(case, options={**case.options, name: value})


def _tool(value: Sequence[str]) -> Tool:
    name, description, parameters = value
    return Tool(name, description, json.loads(parameters) if parameters else {})


def _call(value: Sequence[Any]) -> ToolCall:
    name, arguments, call_id = [*value, "", ""][:3]
    return ToolCall(name, arguments or "", call_id or "")


def _message(value: Any) -> Message:
    if isinstance(value, Message):
        return value
    if isinstance(value, list):
        return Message(value[0], value[1] if isinstance(value[1], str) else "".join(part[1] for part in value[2]))
    assert isinstance(value, Object)
    role, calls = value.fields.get("role", "assistant"), value.fields.get("tool_calls", ())
    return Message(
        role,
        value.fields.get("content", ""),
        value.fields.get("reasoning_content", ""),
        tuple(map(_call, calls)),
        value.fields.get("tool_call_id", ""),
    )


def _said(content: str, reasoning: str = "", name: str = "", arguments: str = "", call_id: str = "") -> Message:
    calls = (ToolCall(name, arguments, call_id),) if name or call_id else ()
    return Message("assistant", content, reasoning, calls)


def _many(reasoning: str, content: str, calls: Sequence[Sequence[str]]) -> Message:
    return Message("assistant", content, reasoning, tuple(map(_call, calls)))


_FUNCTIONS = {
    "peg_tester": lambda path, debug=False: Tester(path),
    "std::string": lambda text="": text,
    "simple_assist_msg": _said,
    "message_with_tool_calls": lambda name, arguments: _said("", "", name, arguments),
    "message_with_tool_calls_and_reasoning": lambda name, arguments, reasoning: _said("", reasoning, name, arguments),
    "message_with_reasoning_content_and_multiple_tool_calls": _many,
    "message_with_content_and_tool_call": lambda content, name, arguments: _said(content, "", name, arguments),
    "message_with_reasoning_and_tool_call": lambda thought, name, arguments: _said("", thought, name, arguments),
}
