"""Answers of `/v1/chat/completions`, in chunks and whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from edgellm.server.dialects.openai.chunks import OpenAIChunks
from edgellm.server.input_text import InputText
from edgellm.server.request_log import RequestRecord
from edgellm.server.schemas.answer import AnswerMessage, ChatChoice, ChatCompletion, call_id, finish_reason
from edgellm.server.schemas.chat import ChatBody
from edgellm.server.schemas.logprobs import ChatLogprobs
from edgellm.server.schemas.usage import CompletionTimings
from edgellm.server.served_model import ServedModel
from edgellm.types.event import Completion, Delta, Done
from edgellm.types.logprob import TokenLogprob


class ChatChunks(OpenAIChunks):
    """Of each choice first its role; of each call first its name, then arguments, or the text, without it."""

    prefix, object = "chatcmpl", "chat.completion.chunk"

    def __init__(self, model: ServedModel, body: ChatBody, record: RequestRecord, notes: Sequence[str]) -> None:
        super().__init__(model, body, record, notes)
        self._legacy = body.legacy
        self._custom_tools = body.custom_tools
        self._tells_logprobs = bool(body.logprobs)  # also of an answer that has no token
        self._inputs: dict[tuple[int, int], InputText] = {}  # of custom tools, by choice and call

    def text(self, delta: Delta) -> bytes:
        call = delta.choice, delta.call
        if delta.kind == "call_name" and delta.text in self._custom_tools:
            self._inputs[call] = InputText()
        elif delta.kind == "call_arguments" and call in self._inputs:
            delta = msgspec.structs.replace(delta, text=self._inputs[call].push(delta.text))
            if not (delta.text or delta.logprobs):
                return b""
        return super().text(delta)

    def last(self, done: Done) -> bytes:
        held = [
            Delta(text, 0, kind="call_arguments", call=call, choice=choice)
            for (choice, call), input_text in self._inputs.items()
            if choice == done.choice and (text := input_text.finish())
        ]
        return b"".join([*map(super().text, held), super().last(done)])

    def _begin(self, number: int, delta: Delta | None) -> list[dict[str, Any]]:
        # Null as from llama-server, whose clients take an empty text for a part of the answer.
        return [_choice(number, {"role": "assistant", "content": None}, None)]

    def _choice(self, number: int, reason: str | None, delta: Delta | None = None) -> dict[str, Any]:
        if reason is not None:
            return _choice(number, {}, finish_reason(reason, legacy=self._legacy))
        assert delta is not None
        return _choice(number, self._delta(delta), None)

    def _delta(self, delta: Delta) -> dict[str, Any]:
        if delta.kind == "text":
            return {"content": delta.text}
        if delta.kind == "reasoning":
            return {"reasoning_content": delta.text}
        kind, part = ("custom", "input") if (delta.choice, delta.call) in self._inputs else ("function", "arguments")
        if delta.kind == "call_arguments":
            written = {part: delta.text}
            return self._call(delta, written, {kind: written})
        begun = {"name": delta.text, part: ""}
        return self._call(delta, begun, {"id": call_id(), "type": kind, kind: begun})

    def _call(self, delta: Delta, function: dict[str, str], call: dict[str, Any]) -> dict[str, Any]:
        return {"function_call": function} if self._legacy else {"tool_calls": [{"index": delta.call, **call}]}

    def _logprobs(self, number: int, tokens: Sequence[TokenLogprob]) -> ChatLogprobs:
        return ChatLogprobs.of(tokens)

    def whole(self, answer: Completion, timings: CompletionTimings) -> ChatCompletion:
        choices = [
            ChatChoice(
                number,
                AnswerMessage.of(choice, legacy=self._legacy, custom_tools=self._custom_tools),
                finish_reason(choice.finish_reason, legacy=self._legacy),
                ChatLogprobs.of(choice.logprobs) if self._tells_logprobs else None,
            )
            for number, choice in enumerate(answer.choices or (answer,))
        ]
        head = {**self._head, "object": "chat.completion"}
        return ChatCompletion(**head, choices=choices, usage=self._usage(), timings=timings, notes=self._notes)


def _choice(number: int, delta: dict[str, Any], reason: str | None) -> dict[str, Any]:
    return {"index": number, "delta": delta, "logprobs": None, "finish_reason": reason}
