"""What one row of training data means, in the forms that are in use: by its keys.

    messages [tools]                  OpenAI: role, content, tool_calls, ... and `weight: 0` for what is only read
    conversations [system, tools]     ShareGPT: from, value; calls as LLaMA-Factory has them
    prompt, completion                texts, or lists of messages
    instruction [input], output       Alpaca [system, history]
    text

Sources: platform.openai.com, Supervised fine-tuning; hiyouga/LLaMA-Factory, data/README.md; tatsu-lab/stanford_alpaca.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from edgellm.adaptation.findings import Findings
from edgellm.adaptation.held import json_of
from edgellm.errors import UsageError
from edgellm.text.message_input import message_of
from edgellm.types.checks import in_python
from edgellm.types.message import MAX_MESSAGES, MAX_TOOLS, Message, Tool, ToolCall
from edgellm.types.tuning_data import Refused, TrainingChat, TrainingPair, TrainingRecord, TrainingText

_PREFERENCES = ("chosen", "rejected")
_SPEAKERS = {
    "system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant",
    "model": "assistant", "chatgpt": "assistant", "bing": "assistant", "bard": "assistant",
    "tool": "tool", "observation": "tool", "function_response": "tool", "function_call": "function_call",
}  # fmt: skip


class _Wrong(Exception):
    def __init__(self, kind: Refused, field: str = "", value: object = "") -> None:
        super().__init__(kind, field, value)
        self.kind, self.field, self.value = kind, field, value


class _Function(msgspec.Struct):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None


class _WrappedFunction(msgspec.Struct):
    function: _Function


def record_of(row: object, line: int, findings: Findings) -> TrainingRecord | None:
    """None where the row cannot be learned: the findings say why."""
    try:
        if not isinstance(row, dict):
            raise _Wrong("not_an_object", value=_kind(row))
        form = next((form for form in _FORMS if all(key in row for key in form[0])), None)
        if form is None or any(key in row for key in _PREFERENCES):
            kind: Refused = "preferences" if any(key in row for key in _PREFERENCES) else "no_form"
            raise _Wrong(kind, value=", ".join(map(str, row)))
        needed, optional, make = form
        findings.ignore(key for key in row if key not in (*needed, *optional))
        record = make(row, line)
        _check(record, findings)
    except _Wrong as wrong:
        findings.add(line, wrong.kind, field=wrong.field, value=wrong.value)
        return None
    return record


def _check(record: TrainingRecord, findings: Findings) -> None:
    if isinstance(record, TrainingText):
        _need_text(record.text, "text")
    elif isinstance(record, TrainingPair):
        _need_text(record.completion, "completion", "empty_answer")
    else:
        _check_chat(record, findings)


def _check_chat(chat: TrainingChat, findings: Findings) -> None:
    answers = [place for place, message in enumerate(chat.messages) if message.role == "assistant"]
    if not {*answers} - chat.unlearned:
        raise _Wrong("no_answer")
    for place, message in enumerate(chat.messages):
        if message.content.strip() or message.calls:
            continue
        if place in answers and place not in chat.unlearned:
            raise _Wrong("empty_answer", f"messages[{place}]")
        findings.add(chat.line, "empty_turn", field=f"messages[{place}]")


def _need_text(text: str, field: str, kind: Refused = "empty_text") -> None:
    if not text.strip():
        raise _Wrong(kind, field)


def _openai(row: Mapping[str, Any], line: int) -> TrainingChat:
    messages = _list(row, "messages")
    unlearned = {
        place
        for place, message in enumerate(messages)
        if isinstance(message, dict) and message.get("weight") == 0 and message.get("role") == "assistant"
    }
    return TrainingChat(line, _messages(messages, "messages"), _tools(row), frozenset(unlearned))


def _share_gpt(row: Mapping[str, Any], line: int) -> TrainingChat:
    turns = _list(row, "conversations")
    _bound(turns, "conversations", MAX_MESSAGES)
    said = [_turn(turn, f"conversations[{place}]") for place, turn in enumerate(turns)]
    return TrainingChat(line, tuple(_system(row) + said), _tools(row))


def _turn(turn: object, field: str) -> Message:
    if not isinstance(turn, dict):
        raise _Wrong("wrong_type", field, _kind(turn))
    if "from" not in turn and "role" in turn:
        return _message(turn, field)
    speaker, value = (_text(turn, key, f"{field}.") for key in ("from", "value"))
    role = _SPEAKERS.get(speaker)
    if role is None:
        raise _Wrong("bad_message", f"{field}.from", speaker)
    return (
        Message("assistant", calls=_share_gpt_calls(value, field)) if role == "function_call" else Message(role, value)
    )


def _share_gpt_calls(value: str, field: str) -> tuple[ToolCall, ...]:
    try:
        content = json_of(value)
        calls = content if isinstance(content, list) else [content]
        _bound(calls, f"{field}.value", MAX_TOOLS)
        return tuple(message_of({"role": "assistant", "tool_calls": [{"function": c} for c in calls]}).calls)
    except UsageError as error:
        raise _Wrong("bad_message", f"{field}.value", error.message) from None
    except (msgspec.MsgspecError, RecursionError) as error:
        raise _Wrong("bad_message", f"{field}.value", error) from None


def _prompt_completion(row: Mapping[str, Any], line: int) -> TrainingChat | TrainingPair:
    if isinstance(row["prompt"], list) and isinstance(row["completion"], list):
        said = _messages(row["prompt"], "prompt")
        completion = _messages(row["completion"], "completion")
        unlearned = frozenset(place for place, message in enumerate(said) if message.role == "assistant")
        return TrainingChat(line, said + completion, _tools(row), unlearned)
    return TrainingPair(line, _text(row, "prompt"), _text(row, "completion"))


def _alpaca(row: Mapping[str, Any], line: int) -> TrainingChat:
    instruction, output = _text(row, "instruction"), _text(row, "output")
    given = _text(row, "input") if row.get("input") is not None else ""
    earlier = []
    history = _list(row, "history") if row.get("history") else []
    _bound(history, "history", MAX_MESSAGES // 2)
    for place, pair in enumerate(history):
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise _Wrong("wrong_type", f"history[{place}]", _kind(pair))
        earlier += [Message("user", pair[0]), Message("assistant", pair[1])]
    asked = f"{instruction}\n\n{given}" if given.strip() else instruction
    return TrainingChat(line, (*_system(row), *earlier, Message("user", asked), Message("assistant", output)))


def _plain(row: Mapping[str, Any], line: int) -> TrainingText:
    return TrainingText(line, _text(row, "text"))


def _system(row: Mapping[str, Any]) -> list[Message]:
    return [Message("system", _text(row, "system"))] if row.get("system") else []


def _messages(messages: list[Any], field: str) -> tuple[Message, ...]:
    _bound(messages, field, MAX_MESSAGES)
    return tuple(_message(message, f"{field}[{place}]") for place, message in enumerate(messages))


def _bound(items: object, field: str, most: int) -> None:
    """Before each of them is looked at: no such row fits into a context."""
    if isinstance(items, list) and len(items) > most:
        raise _Wrong("too_many", field, len(items))


def _message(message: object, field: str) -> Message:
    if not isinstance(message, dict):
        raise _Wrong("wrong_type", field, _kind(message))
    _bound(message.get("tool_calls"), f"{field}.tool_calls", MAX_TOOLS)
    try:
        return message_of(message)
    except msgspec.ValidationError as error:
        problem, where, allowed = in_python(error)
        place = f"{field}{'.' if where else ''}{where}"
        raise _Wrong("wrong_type" if allowed else "bad_message", place, problem) from None
    except UsageError as error:
        raise _Wrong("bad_message", field, error.message) from None


def _tools(row: Mapping[str, Any]) -> tuple[Tool, ...]:
    """OpenAI's form, or the functions alone; some sets keep them as JSON in a text."""
    given = row.get("tools")
    try:
        if isinstance(given, str):
            given = json_of(given) if given.strip() else None
        _bound(given, "tools", MAX_TOOLS)
        rows = msgspec.convert(given or [], list[dict[str, Any]])
        wrapped = [row if "function" in row else {"function": row} for row in rows]
        functions = [each.function for each in msgspec.convert(wrapped, list[_WrappedFunction])]
        return tuple(Tool(each.name, each.description or "", each.parameters or {}) for each in functions)
    except UsageError as error:
        raise _Wrong("bad_tool", "tools", error.message) from None
    except (msgspec.MsgspecError, RecursionError) as error:
        raise _Wrong("bad_tool", "tools", error) from None


def _list(row: Mapping[str, Any], key: str) -> list[Any]:
    """A list, or JSON of one, as a column of CSV has it."""
    value = row[key]
    if isinstance(value, str):
        try:
            value = json_of(value)
        except msgspec.DecodeError as error:
            raise _Wrong("not_json", key, error) from None
    if not isinstance(value, list):
        raise _Wrong("wrong_type", key, _kind(value))
    return value


def _text(row: Mapping[str, Any], key: str, before: str = "") -> str:
    if row.get(key) is None:
        raise _Wrong("missing", before + key)
    if not isinstance(row[key], str):
        raise _Wrong("wrong_type", before + key, _kind(row[key]))
    return str(row[key])


def _kind(value: object) -> str:
    """The type, as JSON calls it."""
    kinds: tuple[tuple[type | tuple[type, ...], str], ...] = (
        (bool, "true or false"), (str, "text"), ((int, float), "a number"), (list, "a list"), (dict, "an object"),
    )  # fmt: skip
    return next((name for kind, name in kinds if isinstance(value, kind)), "null")


_Make = Callable[[Mapping[str, Any], int], TrainingRecord]
_FORMS: tuple[tuple[tuple[str, ...], tuple[str, ...], _Make], ...] = (
    (("messages",), ("tools",), _openai),
    (("conversations",), ("system", "tools"), _share_gpt),
    (("prompt", "completion"), ("tools",), _prompt_completion),
    (("instruction", "output"), ("input", "system", "history"), _alpaca),
    (("text",), (), _plain),
)
