"""How answers of a model are marked, found out from its chat template.

Conversations that differ in one thing are rendered, and the marks are what stands around the difference: Minja's and
llama.cpp's idea. Templates that do not show all that the model writes are known by signs (`known_markup.py`). What the
model's author declares (`response_template.py`) goes before both.
"""

from __future__ import annotations

import json
import re
import time
from functools import lru_cache
from typing import Any

from msgspec.structs import astuple, replace

from edgellm.errors import BadTemplate
from edgellm.text.call_shapes import Probe, calls_of, shared_head
from edgellm.text.chat import ChatTemplate
from edgellm.text.known_markup import known_markup
from edgellm.types.markup import AnswerMarkup, CallMarkup, JsonCalls, Markup, ReasoningMarkup, TaggedCalls

MAX_SECONDS = 2.0  # of processor time for all renders: templates in use take 0.03 s
MAX_TEXT = 100_000  # characters of one render: templates in use make 5,000
_USER = {"role": "user", "content": "qUESTIONq"}
_ANSWER, _THOUGHT = "aNSWERa", "tHOUGHTt"
# Ids of nine letters and digits, as Mistral's templates require.
_PROBE = Probe(("fUNCa", "fUNCb"), {"kEYa": "vALUEa", "kEYb": "vALUEb"}, ("111aaa111", "222bbb222"))
_TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "d",
            "parameters": {
                "type": "object",
                "properties": {key: {"type": "string", "description": "d"} for key in _PROBE.arguments},
                "required": list(_PROBE.arguments),
            },
        },
    }
    for name in _PROBE.names
]
_MARK = re.compile(r"<[^<>\s][^<>]*>|\[/?[A-Z][A-Z_ ]*\]")
_USUAL_THOUGHTS = (("<think>", "</think>"), ("[THINK]", "[/THINK]"), ("<thinking>", "</thinking>"))


@lru_cache(maxsize=16)
def markup_of(template: ChatTemplate, declared: Markup | None = None) -> Markup:
    """The rows that are declared, the others as the family is known for or as the template shows.

    One of these that has the marks of a declared row goes before it: it knows the white space between them, too, and
    what else the family does with thoughts.
    """
    shown = known_markup(template.source) or _Difference(template).markup()
    rows = {name: getattr(declared, name) for name in Markup.__struct_fields__} if declared else {}
    return replace(shown, **{name: row for name, row in rows.items() if row and _differs(row, getattr(shown, name))})


def _differs(row: Any, other: Any) -> bool:
    return other is None or _marks(row) != _marks(other)


def _marks(row: Any) -> tuple[Any, ...]:
    """Texts without white space, and what else makes a difference to what is read."""
    values = (row.open, row.close) if isinstance(row, ReasoningMarkup) else astuple(row)
    return (type(row), *("".join(value.split()) if isinstance(value, str) else value for value in values))


class _Difference:
    def __init__(self, template: ChatTemplate) -> None:
        self._template = template
        self._ends = time.thread_time() + MAX_SECONDS
        self._plain = self._turn({"content": _ANSWER}, tools=False) or ""
        self._head, _, self._end = self._plain.partition(_ANSWER)

    def markup(self) -> Markup:
        if not self._plain:
            return Markup(reasoning=self._usual_reasoning())
        calls = self._calls()
        reasoning, answer = self._reasoning()
        reasoning = reasoning or self._usual_reasoning()
        if reasoning and isinstance(calls, TaggedCalls):  # of these families it is known, as Qwen3.5 and GLM
            reasoning = replace(reasoning, ended_by_call=True)
        return Markup(reasoning, calls, answer)

    def _turn(self, message: dict[str, Any], *, tools: bool) -> str | None:
        """What a message of the assistant adds to a conversation."""
        messages = [_USER, {"role": "assistant", **message}]
        offered: tuple[dict[str, Any], ...] = ({"tools": _TOOLS},) if tools else ({}, {"tools": []})
        for variables in offered:
            before, whole = self._rendered([_USER], variables), self._rendered(messages, variables)
            if before is not None and whole is not None:
                return whole[len(shared_head(before, whole)) :]
        return None

    def _rendered(self, messages: list[dict[str, Any]], variables: dict[str, Any]) -> str | None:
        """None where the template refuses, or took too long already."""
        if time.thread_time() > self._ends:
            return None
        try:
            text = self._template.render(messages, add_generation_prompt=False, **variables)
        except BadTemplate:
            return None
        return text if len(text) <= MAX_TEXT else None

    def _body(self, turn: str) -> str:
        """A turn without what stands around a plain answer."""
        body = turn[len(shared_head(turn, self._head)) :].rstrip()
        return body.removesuffix(self._end.strip())

    # Thoughts

    def _reasoning(self) -> tuple[ReasoningMarkup | None, AnswerMarkup | None]:
        for key in ("reasoning_content", "reasoning", "thinking"):
            turn = self._turn({"content": _ANSWER, key: _THOUGHT}, tools=False)
            if turn and _THOUGHT in turn and _ANSWER in turn.partition(_THOUGHT)[2]:
                return self._split(turn)
        return None, None

    def _split(self, turn: str) -> tuple[ReasoningMarkup | None, AnswerMarkup | None]:
        before, _, behind = turn.partition(_THOUGHT)
        close = _MARK.search(behind.partition(_ANSWER)[0])
        if not close:
            return None, None
        start = close[0].replace("/", "", 1)
        if start == close[0]:  # not a tag that names the one it closes
            start = (_MARK.findall(before) or [""])[-1]
        rest = behind.partition(_ANSWER)[0][close.end() :].strip()
        reasoning = ReasoningMarkup(start, close[0])
        return reasoning, AnswerMarkup(rest) if _MARK.search(rest) else None

    def _usual_reasoning(self) -> ReasoningMarkup | None:
        """Templates that only take thoughts out of history, or open them in the prompt."""
        for start, end in _USUAL_THOUGHTS:
            if end in self._template.source:
                return ReasoningMarkup(start, end)
        return None

    # Calls

    def _calls(self) -> CallMarkup | None:
        for arguments in (_PROBE.arguments, json.dumps(_PROBE.arguments)):
            for content in ("", None):
                one = self._called(1, arguments, content)
                if one and all(value in one for value in (_PROBE.names[0], *_PROBE.arguments.values())):
                    two = self._called(2, arguments, content)
                    return calls_of(one, two if two and _PROBE.names[1] in two else None, _PROBE)
        # Described to the model, and left out of history.
        return JsonCalls("<tool_call>", "</tool_call>") if "<tool_call>" in self._template.source else None

    def _called(self, n: int, arguments: object, content: str | None) -> str | None:
        calls = [
            {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
            for name, call_id in zip(_PROBE.names[:n], _PROBE.ids[:n], strict=True)
        ]
        turn = self._turn({"content": content, "tool_calls": calls}, tools=True)
        return self._body(turn) if turn else None
