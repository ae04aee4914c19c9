"""Lines of a stream as Ollama has them, and the whole answer."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import UNSET

from edgellm.server import sse
from edgellm.server.answers import require_complete
from edgellm.server.dialects.ollama.answers import (
    STOPPED,
    OllamaAnswer,
    OllamaAnswerMessage,
    OllamaChatAnswer,
    OllamaGenerateAnswer,
    OllamaToolCall,
    durations,
    written,
)
from edgellm.server.error_form import OLLAMA
from edgellm.server.schemas.logprobs import ChatLogprobs
from edgellm.types.event import Completion, Delta, Done
from edgellm.types.logprob import TokenLogprob
from edgellm.types.message import ToolCall

HOLE = "\0"


class OllamaChunks(sse.Chunks):
    """Of one request. A call is one line, with all of its arguments."""

    media_type = b"application/x-ndjson"
    event_end = b"\n"
    error_form = OLLAMA
    answer_type: type[OllamaAnswer]

    def __init__(self, model: str, notes: Sequence[str]) -> None:
        self._head: dict[str, Any] = {"model": model, "created_at": written(datetime.now(UTC))}
        self._notes = list(notes)
        self._templates: dict[str, sse.Template] = {}
        self._call: list[Delta] = []  # the name and the arguments so far of one that has not ended

    @abstractmethod
    def _part(self, text: str, *, thought: str | None = None, calls: Sequence[OllamaToolCall] = ()) -> dict[str, Any]:
        """The fields of a line, or of a whole answer, that hold what the model wrote."""

    def text(self, delta: Delta) -> bytes:
        if delta.kind == "call_arguments" and self._call:
            self._call.append(delta)
            return b""
        called = self._called() if self._call else b""
        if delta.kind in ("call_name", "call_arguments"):
            self._call = [delta]
            return called
        if delta.logprobs:
            return called + self._line(self._said(delta), logprobs=_logprobs(delta.logprobs))
        template = self._templates.get(delta.kind)
        if template is None:
            hole = msgspec.structs.replace(delta, text=HOLE)
            template = sse.Template({**self._head, **self._said(hole), "done": False}, HOLE, b"", b"\n")
            self._templates[delta.kind] = template
        return called + template.fill(delta.text)

    def waiting(self) -> bytes:
        return self._line(self._part(""))

    def last(self, done: Done) -> bytes:
        require_complete(done)
        called = self._called() if self._call else b""
        end = {"done": True, "done_reason": STOPPED.get(done.finish_reason, "stop")}
        notes = {"notes": self._notes} if self._notes else {}
        return called + self._line(self._part(""), **end, **durations(done.usage, done.timings), **notes)

    def whole(self, answer: Completion) -> OllamaAnswer:
        calls = [OllamaToolCall.of(call, index) for index, call in enumerate(answer.calls)]
        return self._answer(
            self._part(answer.text, thought=answer.reasoning or None, calls=calls),
            done_reason=STOPPED.get(answer.finish_reason, "stop"),
            logprobs=_logprobs(answer.logprobs) if answer.logprobs else UNSET,
            **durations(answer.usage, answer.timings),
        )

    def loaded(self) -> OllamaAnswer:
        """The answer where nothing was asked but that the model is there."""
        return self._answer(self._part(""), done_reason="load")

    def _answer(self, part: dict[str, Any], **end: Any) -> OllamaAnswer:
        return self.answer_type(**self._head, **part, done=True, notes=self._notes or UNSET, **end)

    def _said(self, delta: Delta) -> dict[str, Any]:
        return self._part("", thought=delta.text) if delta.kind == "reasoning" else self._part(delta.text)

    def _called(self) -> bytes:
        """The line of the call that has ended."""
        name, *arguments = self._call
        call = ToolCall(name.text, "".join(delta.text for delta in arguments))
        tokens = [token for delta in self._call for token in delta.logprobs]
        self._call = []
        logprobs = {"logprobs": _logprobs(tokens)} if tokens else {}
        return self._line(self._part("", calls=[OllamaToolCall.of(call, name.call)]), **logprobs)

    def _line(self, part: dict[str, Any], **more: Any) -> bytes:
        return msgspec.json.encode({**self._head, **part, "done": False, **more}) + b"\n"


class OllamaChatChunks(OllamaChunks):
    """Of `/api/chat`."""

    answer_type = OllamaChatAnswer

    def _part(self, text: str, *, thought: str | None = None, calls: Sequence[OllamaToolCall] = ()) -> dict[str, Any]:
        thinking = UNSET if thought is None else thought
        return {"message": OllamaAnswerMessage("assistant", text, thinking, list(calls) or UNSET)}


class OllamaGenerateChunks(OllamaChunks):
    """Of `/api/generate`."""

    answer_type = OllamaGenerateAnswer

    def _part(self, text: str, *, thought: str | None = None, calls: Sequence[OllamaToolCall] = ()) -> dict[str, Any]:
        return {"response": text, **({} if thought is None else {"thinking": thought})}


def _logprobs(tokens: Sequence[TokenLogprob]) -> list[Any]:
    return ChatLogprobs.of(tokens).content
