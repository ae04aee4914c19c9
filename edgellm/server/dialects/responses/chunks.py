"""Answers of `/v1/responses`, in events and whole."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import msgspec

from edgellm.errors import ContextOverflow
from edgellm.server import errors, sse
from edgellm.server.answers import require_complete
from edgellm.server.dialects.responses.answer import (
    ResponsesAnswer,
    ResponsesFailure,
    ResponsesIncomplete,
    ResponsesThinkingUsed,
    ResponsesUsage,
)
from edgellm.server.dialects.responses.body import ResponsesBody
from edgellm.server.dialects.responses.output import OpenItem, OpenMessage, OutputItems, new_id
from edgellm.server.dialects.responses.tools import ResponsesToolChoice
from edgellm.server.request_log import RequestRecord
from edgellm.server.schemas.logprobs import ChatLogprobs
from edgellm.server.schemas.usage import CompletionTimings
from edgellm.server.served_model import ServedModel
from edgellm.types.event import Delta, Done, Event, Usage

_encode = msgspec.json.encode
LARGE_BYTES = 64 * 1024  # of a response that is begun; the settings of the request are in it
Keep = Callable[[ResponsesAnswer], bool]


class ResponsesChunks(sse.Chunks):
    """Each event has a number, and its type also as the name of the event."""

    def __init__(
        self, model: ServedModel, body: ResponsesBody, record: RequestRecord, notes: Sequence[str], keep: Keep
    ) -> None:
        """`keep`: takes the response when it is complete, if it is to be stored. False: it has no room for it."""
        self._response = begun(model, body)
        self._record = record
        self._notes = list(notes)
        self._keep = keep
        self._output = OutputItems(body)
        self._number = 0
        self._template: _Template | None = None  # for the item that is open

    def are_long(self, events: Sequence[Event]) -> bool:
        """The first and the last hold the whole response."""
        hold_it = not self._number or any(isinstance(event, Done) for event in events)
        return (hold_it and self._is_large) or super().are_long(events)

    @cached_property
    def _is_large(self) -> bool:
        return len(_encode(self._response)) > LARGE_BYTES

    def text(self, delta: Delta) -> bytes:
        head = self._head()
        if moved := list(self._output.follow(delta)):
            self._template = None
            head += b"".join([self._event(f"response.{name}", fields) for name, fields in moved])
        item = self._output.open
        if delta.kind == "call_name" or item is None:
            return head
        text = item.push(delta)
        if not text and not delta.logprobs:
            return head
        if delta.logprobs and delta.kind == "text":
            logprobs = ChatLogprobs.of(delta.logprobs).content
            return head + self._event(f"response.{item.delta}", {**item.place, "delta": text, "logprobs": logprobs})
        if self._template is None:
            self._template = _Template(item)
        return head + self._template.fill(text, self._next())

    def last(self, done: Done) -> bytes:
        require_complete(done)
        head = self._head()
        is_cut = done.finish_reason == "length"
        ended = self._output.end("incomplete" if is_cut else "completed")
        told = [self._event(f"response.{name}", fields) for name, fields in ended]
        response = self._ended(done)
        return head + b"".join(told) + self._event(f"response.{response.status}", {"response": response})

    def waiting(self) -> bytes:
        """An event, since clients that give up on a silent stream count no comments."""
        return self._head() or self._event("response.in_progress", {"response": self._response})

    def failed(self, error: Exception, request_id: str) -> bytes:
        code, message = errors.code_of(error), errors.message_of(error)
        head = self._head()
        told = self._event("error", {"code": code, "message": message, "param": getattr(error, "param", None) or None})
        self._output.close("incomplete")
        response = msgspec.structs.replace(
            self._response,
            status="failed",
            error=ResponsesFailure(_failure_code(error), message),
            output=self._output.items,
        )
        return head + told + self._event("response.failed", {"response": response})

    def whole(self, events: Sequence[Event]) -> ResponsesAnswer:
        """The response of a request without a stream."""
        for event in events:
            if isinstance(event, Delta):
                self._output.follow(event)
                if event.kind != "call_name" and self._output.open is not None:
                    self._output.open.push(event)
        done = events[-1]
        assert isinstance(done, Done)
        require_complete(done)
        self._output.end("incomplete" if done.finish_reason == "length" else "completed")
        return self._ended(done)

    def _ended(self, done: Done) -> ResponsesAnswer:
        """It whole, and kept."""
        is_cut = done.finish_reason == "length"
        response = msgspec.structs.replace(
            self._response,
            status="incomplete" if is_cut else "completed",
            completed_at=None if is_cut else int(time.time()),
            incomplete_details=ResponsesIncomplete("max_output_tokens") if is_cut else None,
            output=self._output.items,
            usage=ResponsesUsage.of(self._record.usage or Usage(0, 0)),
            timings=CompletionTimings.of(done.timings, done.usage),
            notes=self._notes or msgspec.UNSET,
        )
        if not response.store or self._keep(response):
            return response
        return msgspec.structs.replace(response, store=False, notes=[*self._notes, "not_stored"])

    def _head(self) -> bytes:
        if self._number:
            return b""
        response = {"response": self._response}
        return self._event("response.created", response) + self._event("response.in_progress", response)

    def _event(self, name: str, fields: dict[str, Any]) -> bytes:
        encoded = _encode({"type": name, **fields, "sequence_number": self._next()})
        return b"event: %b\ndata: %b\n\n" % (name.encode(), encoded)

    def _next(self) -> int:
        self._number += 1
        return self._number - 1


class _Template:
    """The events that bring the text of one item, which differ in it and in their number."""

    def __init__(self, item: OpenItem) -> None:
        name = f"response.{item.delta}"
        more: dict[str, Any] = {"logprobs": []} if item.delta == OpenMessage.delta else {}
        fields = _encode({"type": name, **item.place, **more}).removesuffix(b"}")
        self._head = b'event: %b\ndata: %b,"delta":' % (name.encode(), fields)

    def fill(self, text: str, number: int) -> bytes:
        return b'%b%b,"sequence_number":%d}\n\n' % (self._head, _encode(text), number)


def _failure_code(error: Exception) -> str:
    """One of the few that clients know in a response. Of a prompt that is too long they make a shorter one."""
    if isinstance(error, ContextOverflow):
        return errors.code_of(error)
    status = errors.status_of(error)
    return "server_error" if status >= 500 else "rate_limit_exceeded" if status == 429 else "invalid_prompt"


def begun(model: ServedModel, body: ResponsesBody) -> ResponsesAnswer:
    """A response before anything is answered, with the request's settings."""
    choice = body.tool_choice
    answer_format = body.text.format if body.text else None
    return ResponsesAnswer(
        id=new_id("resp"),
        created_at=int(time.time()),
        instructions=body.instructions,
        max_output_tokens=body.max_output_tokens,
        metadata=body.metadata or {},
        model=model.id_for(body.model),
        parallel_tool_calls=body.parallel_tool_calls is not False,
        previous_response_id=body.previous_response_id,
        reasoning=ResponsesThinkingUsed(body.effort, body.reasoning.summary if body.reasoning else None),
        store=body.store is not False,
        temperature=body.temperature,
        text={"format": _said(answer_format) if answer_format else {"type": "text"}},
        tool_choice=_said(choice) if isinstance(choice, ResponsesToolChoice) else choice or "auto",
        tools=[{**_said(tool), "strict": bool(tool.strict)} for tool in body.shown_tools],
        top_logprobs=body.top_logprobs or 0,
        top_p=body.top_p,
        truncation=body.truncation or "disabled",
    )


def _said(fields: msgspec.Struct) -> dict[str, Any]:
    """The fields that were sent."""
    return {name: value for name, value in msgspec.to_builtins(fields).items() if value is not None}
