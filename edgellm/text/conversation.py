"""Turns a conversation into the messages that one chat template takes, as far as its capabilities say.

What it lacks is written in another way, and named: system text goes into what the user says, calls and their results
become text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import msgspec

from edgellm.text.call_writer import Call, write_calls
from edgellm.text.template_caps import REASONING_PARTS, TemplateCaps, shaped_content, thought_parts
from edgellm.types.json_counts import check_counts
from edgellm.types.markup import Markup
from edgellm.types.message import Message, Tool, ToolCall

PromptNote = Literal[
    "system_merged",  # into what the user says
    "tools_prompted",  # described in the system message, because the template describes none
    "calls_as_text",  # as JSON in the answer, because the template writes none, or in a way that is not known
    "results_as_user",  # what tools returned, in the user's name
    "calls_split",  # one message for each call
    "arguments_wrapped",  # what is no JSON object became {"arguments": text}
    "reasoning_dropped",  # what was thought before
    "roles_dropped",  # all of it one text, because the template does not write who says what
    "thinking_unsupported",  # asked for, and the model marks no thoughts
]
# Calls that the prompt asks for are JSON without markers: `edgellm.types.markup.JsonCalls()`.
_TOOLS_TEXT = """You can call these functions:
{tools}
To call one, answer with nothing but a JSON object: {{"name": "NAME OF THE FUNCTION", "arguments": {{...}}}}
Where no function helps, answer as usual."""
_BETWEEN = "\n\n"
_ID_LETTERS = "0123456789abcdefghijklmnopqrstuvwxyz"
_SHORT_ID = 9  # letters and digits, which Mistral's templates insist on


class Mark(Protocol):
    """Marks special texts in what somebody wrote: `edgellm.text.cuts.Marker.mark`."""

    def __call__(self, value: Any, *, of_assistant: bool = False) -> Any: ...


@dataclass(slots=True)
class Adapted:
    """Messages as the template takes them, and what was changed."""

    messages: list[dict[str, Any]]
    notes: set[PromptNote] = field(default_factory=set)


def adapted(
    messages: Sequence[Message],
    tools: Sequence[Tool],
    caps: TemplateCaps,
    *,
    mark: Mark,
    markup: Callable[[], Markup],
) -> Adapted:
    """The conversation for a template with these capabilities, marked. `markup`: how the model writes calls itself.

    Raises:
        UsageError: the calls have too many arguments, or arguments that are nested too deeply.
    """
    arguments = [call.arguments.encode(errors="replace") for message in messages for call in message.calls]
    check_counts(*arguments, what="what the calls have as arguments", param="messages")
    return _Adapter(caps, mark, markup, prompts_tools=bool(tools) and caps.tools is None).adapt(messages, tools)


class _Adapter:
    def __init__(self, caps: TemplateCaps, mark: Mark, markup: Callable[[], Markup], *, prompts_tools: bool) -> None:
        self._caps = caps
        self._mark = mark
        self._markup = markup
        self._notes: set[PromptNote] = {"tools_prompted"} if prompts_tools else set()
        if not caps.roles:
            self._notes.add("roles_dropped")
        # What is asked for is also what the model finds in the conversation.
        self._writes_calls = caps.arguments is not None and not prompts_tools
        self._writes_results = caps.tool_role and not prompts_tools

    def adapt(self, messages: Sequence[Message], tools: Sequence[Tool]) -> Adapted:
        names = {call.id: call.name for message in messages for call in message.calls if call.id}
        shown = list(messages)
        if "tools_prompted" in self._notes:
            shown.insert(0, Message("system", _tools_text(tools)))
        shaped = [part for message in self._split(self._systems(shown)) for part in self._message(message, names)]
        if not self._caps.repeated_roles:
            shaped = _merged_roles(shaped)
        return Adapted([shaped_content(message, self._caps.content) for message in shaped], self._notes)

    def _systems(self, messages: Sequence[Message]) -> list[Message]:
        """System text in one message at the beginning, or in front of what the user says next."""
        first = next((i for i, message in enumerate(messages) if message.role != "system"), len(messages))
        out: list[Message] = []
        waiting = [message.content for message in messages[:first] if message.content]
        if waiting and self._caps.system:
            out.append(Message("system", _BETWEEN.join(waiting)))
            waiting = []
        for message in messages[first:]:
            if message.role == "system" and not self._caps.late_system:
                waiting.append(message.content)
            elif message.role == "user" and waiting:
                out.append(msgspec.structs.replace(message, content=self._user_text([*waiting, message.content])))
                waiting = []
            else:
                out.append(message)
        return [*out, Message("user", self._user_text(waiting))] if waiting else out

    def _user_text(self, texts: list[str]) -> str:
        self._notes.add("system_merged")
        return _BETWEEN.join(text for text in texts if text)

    def _split(self, messages: Sequence[Message]) -> Iterable[Message]:
        """Several calls in one message become messages with one call, each with its result behind it."""
        if not self._writes_calls or self._caps.parallel_calls:
            yield from messages
            return
        results = {message.call_id: message for message in messages if message.role == "tool" and message.call_id}
        moved: set[str] = set()
        for message in messages:
            if len(message.calls) < 2:
                if message.call_id not in moved:
                    yield message
                continue
            self._notes.add("calls_split")
            for index, call in enumerate(message.calls):
                first = message if index == 0 else Message("assistant")
                yield msgspec.structs.replace(first, calls=(call,))
                if call.id in results:
                    yield results[call.id]
                    moved.add(call.id)

    def _message(self, message: Message, names: dict[str, str]) -> Iterable[dict[str, Any]]:
        if message.role == "assistant":
            yield self._assistant(message)
        elif message.role == "tool":
            yield self._result(message, message.name or names.get(message.call_id, ""))
        else:
            name = {"name": self._mark(message.name)} if message.name else {}
            yield {"role": message.role, "content": self._mark(message.content), **name}

    def _assistant(self, message: Message) -> dict[str, Any]:
        content = self._mark(message.content, of_assistant=True)
        shaped: dict[str, Any] = {"role": "assistant", "content": content}
        if message.calls and self._writes_calls:
            shaped["tool_calls"] = [self._call(call) for call in message.calls]
            if self._caps.null_content and not message.content:
                shaped["content"] = None
        elif message.calls:
            shaped["content"] = "\n".join(text for text in (content, *self._written(message.calls)) if text)
        return self._thought(message.reasoning, shaped) if message.reasoning else shaped

    def _thought(self, reasoning: str, shaped: dict[str, Any]) -> dict[str, Any]:
        """The message, with what was thought before it."""
        thought = self._mark(reasoning, of_assistant=True)
        if not self._caps.reasoning:
            self._notes.add("reasoning_dropped")
            return shaped
        if self._caps.reasoning == REASONING_PARTS:
            return shaped | {"content": thought_parts(thought, shaped["content"] or "")}
        return shaped | {self._caps.reasoning: thought}

    def _written(self, calls: Sequence[ToolCall]) -> list[str]:
        """Calls as the model writes them, or as the prompt asks for them."""
        made = [Call(call.name, self._object(call)) for call in calls]
        row = None if "tools_prompted" in self._notes else self._markup().calls
        written = write_calls(row, made, self._mark)
        if written is not None:
            return [written]
        self._notes.add("calls_as_text")
        return [self._mark(_json(call._asdict())) for call in made]

    def _call(self, call: ToolCall) -> dict[str, Any]:
        arguments = call.arguments if self._caps.arguments == "text" else self._object(call)
        function = {"name": self._mark(call.name), "arguments": self._mark(arguments)}
        return {"id": self._id(call.id), "type": "function", "function": function}

    def _object(self, call: ToolCall) -> dict[str, Any]:
        try:
            value = json.loads(call.arguments) if call.arguments.strip() else {}
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict):
            return value
        self._notes.add("arguments_wrapped")  # a model may write what is no JSON, and be told so by the result
        return {"arguments": call.arguments}

    def _result(self, message: Message, name: str) -> dict[str, Any]:
        if self._writes_results:
            content = self._mark(message.content)
            shaped = {"role": "tool", "content": content, "tool_call_id": self._id(message.call_id)}
            return shaped | ({"name": self._mark(name)} if name else {})
        self._notes.add("results_as_user")
        return {"role": "user", "content": self._mark(f"Result of {name or 'the function'}:\n{message.content}")}

    def _id(self, call_id: str) -> str:
        return _short_id(call_id) if self._caps.short_ids else str(self._mark(call_id))


def message_texts(messages: Sequence[Message]) -> Iterator[str]:
    """All that somebody wrote in them."""
    for message in messages:
        yield from (message.content, message.reasoning, message.name, message.call_id)
        for call in message.calls:
            yield from (call.name, call.arguments, call.id)


def tool_spec(tool: Tool) -> dict[str, Any]:
    """As OpenAI's API writes it."""
    parameters = tool.parameters or {"type": "object", "properties": {}}
    return {"name": tool.name, "description": tool.description, "parameters": parameters}


def _tools_text(tools: Sequence[Tool]) -> str:
    return _TOOLS_TEXT.format(tools="\n".join(_json(tool_spec(tool)) for tool in tools))


def _merged_roles(messages: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of messages of one role in a row, one: templates that want turns refuse the rest."""
    out: list[dict[str, Any]] = []
    for message in messages:
        last = out[-1] if out else {}
        is_text = all(isinstance(one.get("content"), str) and "tool_calls" not in one for one in (last, message))
        if message["role"] == last.get("role") != "tool" and is_text:
            texts = [text for text in (last["content"], message["content"]) if text]
            out[-1] = last | message | {"content": _BETWEEN.join(texts)}
        else:
            out.append(message)
    return out


def _short_id(call_id: str) -> str:
    """Nine letters and digits, the same for the same id."""
    if len(call_id) == _SHORT_ID and call_id.isascii() and call_id.isalnum():
        return call_id
    number = int.from_bytes(_digest(call_id))
    letters = []
    for _ in range(_SHORT_ID):
        number, digit = divmod(number, len(_ID_LETTERS))
        letters.append(_ID_LETTERS[digit])
    return "".join(letters)


def _digest(text: str) -> bytes:
    import hashlib

    return hashlib.sha256(text.encode("utf-8", "replace")).digest()


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
