"""Events of a stream as Anthropic has them, and the whole answer."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from edgellm.server import sse
from edgellm.server.answers import require_complete
from edgellm.server.dialects.anthropic.answer import (
    SIGNATURE,
    AnswerBlock,
    AnthropicAnswer,
    AnthropicUsage,
    blocks,
    stop_reason,
)
from edgellm.server.dialects.anthropic.body import AnthropicMessagesBody
from edgellm.server.error_form import ANTHROPIC
from edgellm.server.schemas.answer import call_id
from edgellm.types.event import Completion, Delta, Done, Prefill, Usage

HOLE = "\0"
_encode = msgspec.json.encode
# By kind of delta: the block that it is a part of, without what identifies a call, and the delta that adds to it.
_BLOCKS: dict[str, dict[str, Any]] = {
    "text": {"type": "text", "text": ""},
    "reasoning": {"type": "thinking", "thinking": "", "signature": ""},
    "call_arguments": {"type": "tool_use", "input": {}},
}
_DELTAS = {
    "text": {"type": "text_delta", "text": HOLE},
    "reasoning": {"type": "thinking_delta", "thinking": HOLE},
    "call_arguments": {"type": "input_json_delta", "partial_json": HOLE},
}


class AnthropicChunks(sse.Chunks):
    """Of one request. Blocks follow one another; new text of the open one is filled into a template of its own."""

    error_form = ANTHROPIC

    def __init__(self, model: str, body: AnthropicMessagesBody, notes: Sequence[str]) -> None:
        self._id = f"msg_{uuid.uuid4().hex}"
        self._model = model
        self._max_tokens = body.max_tokens
        self._hides_thinking = body.hides_thinking
        self._notes = list(notes)
        self._begun = False
        self._open: tuple[str, int] | None = None  # kind of its deltas, number of the call
        self._index = -1  # of the block that was opened last
        self._template: sse.Template | None = None  # of its deltas

    def progress(self, prefill: Prefill) -> bytes:
        """The beginning, once it is known how much of the prompt was cached; then a sign of life."""
        return _PING if self._begun else self._begin(Usage(prefill.total, 0, prefill.cached))

    def waiting(self) -> bytes:
        return _PING

    def text(self, delta: Delta) -> bytes:
        if self._template is not None and (delta.kind, delta.call) == self._open:
            return self._template.fill(delta.text)
        if delta.kind == "call_name":
            return self._opens("call_arguments", delta.call, id=call_id(), name=delta.text)
        if (delta.kind, delta.call) == self._open or not delta.text:
            return b""  # thinking that is not shown; logprobs without text
        return self._opens(delta.kind, delta.call) + self.text(delta)

    def last(self, done: Done) -> bytes:
        require_complete(done)
        delta = {"stop_reason": stop_reason(done, self._max_tokens), "stop_sequence": done.stop or None}
        notes = {"notes": self._notes} if self._notes else {}
        end = _event("message_delta", delta=delta, usage=AnthropicUsage.of(done.usage), **notes)
        begin = b"" if self._begun else self._begin(msgspec.structs.replace(done.usage, completion_tokens=0))
        return begin + self._closed() + end + _event("message_stop")

    def whole(self, answer: Completion, done: Done) -> AnthropicAnswer:
        content = blocks(answer, hides_thinking=self._hides_thinking)
        return self._answer(done.usage, content, stop_reason(done, self._max_tokens), done.stop or None, self._notes)

    def _answer(
        self,
        usage: Usage,
        content: list[AnswerBlock],
        reason: str | None = None,
        stop_sequence: str | None = None,
        notes: list[str] | UnsetType = UNSET,
    ) -> AnthropicAnswer:
        of = AnthropicUsage.of(usage)
        return AnthropicAnswer(
            self._id, "message", "assistant", self._model, content, reason, stop_sequence, of, notes or UNSET
        )

    def _begin(self, usage: Usage) -> bytes:
        self._begun = True
        return _event("message_start", message=self._answer(usage, []))

    def _opens(self, kind: str, call: int, **of_call: str) -> bytes:
        """The end of the block before, and the beginning of the next one."""
        begin = b"" if self._begun else self._begin(Usage(0, 0))
        closed = self._closed()
        self._index += 1
        self._open = (kind, call)
        hidden = kind == "reasoning" and self._hides_thinking
        self._template = None if hidden else _template(self._index, kind)
        block = {**_BLOCKS[kind], **of_call}
        return begin + closed + _event("content_block_start", index=self._index, content_block=block)

    def _closed(self) -> bytes:
        """The end of the open block, if there is one."""
        if self._open is None:
            return b""
        kind, _ = self._open
        self._open = self._template = None
        signed = b""
        if kind == "reasoning":
            signature = {"type": "signature_delta", "signature": SIGNATURE}
            signed = _event("content_block_delta", index=self._index, delta=signature)
        return signed + _event("content_block_stop", index=self._index)


def _event(kind: str, **fields: Any) -> bytes:
    return _framed(kind) + _encode({"type": kind, **fields}) + b"\n\n"


def _framed(kind: str) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: "


def _template(index: int, kind: str) -> sse.Template:
    chunk = {"type": "content_block_delta", "index": index, "delta": _DELTAS[kind]}
    return sse.Template(chunk, HOLE, _framed("content_block_delta"))


_PING = _event("ping")
