"""The events of an answer as output items, one after another: thoughts, a message, calls."""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, ClassVar, NamedTuple

import msgspec

from edgellm.server.dialects.responses.answer import (
    OutputItem,
    ResponsesCallItem,
    ResponsesCustomCallItem,
    ResponsesMessageItem,
    ResponsesOutputText,
    ResponsesReasoningItem,
    ResponsesThought,
)
from edgellm.server.dialects.responses.body import ResponsesBody
from edgellm.server.dialects.responses.sealed import sealed
from edgellm.server.input_text import InputText
from edgellm.server.schemas.answer import call_id
from edgellm.server.schemas.logprobs import ChatLogprobs
from edgellm.types.event import Delta


class StreamedEvent(NamedTuple):
    """What a stream tells: its type without "response.", and the fields beside that."""

    name: str
    fields: dict[str, Any]


class OpenItem(ABC):
    """An item that is being written.

    Attributes:
        delta: the kind of events that bring its text.
        place: the fields by which such an event says where it belongs.
    """

    prefix: ClassVar[str]
    delta: str

    def __init__(self, index: int) -> None:
        self.id = new_id(self.prefix)
        self.index = index
        self.place: dict[str, Any] = {"item_id": self.id, "output_index": index}
        self._texts: list[str] = []

    @property
    def text(self) -> str:
        return "".join(self._texts)

    def push(self, delta: Delta) -> str:
        """Take more of it. Returns the text that is sent now."""
        self._texts.append(delta.text)
        return delta.text

    def finish(self) -> None:  # noqa: B027
        """There is no more of it."""

    def begin(self) -> Iterator[StreamedEvent]:
        yield self._item_event("output_item.added", "in_progress")
        yield from self._parts_begin()

    def end(self, status: str) -> Iterator[StreamedEvent]:
        yield from self._parts_end()
        yield self._item_event("output_item.done", status)

    @abstractmethod
    def item(self, status: str) -> OutputItem: ...

    def _parts_begin(self) -> Iterable[StreamedEvent]:
        return ()

    @abstractmethod
    def _parts_end(self) -> Iterable[StreamedEvent]: ...

    def _item_event(self, name: str, status: str) -> StreamedEvent:
        return StreamedEvent(name, {"output_index": self.index, "item": self.item(status)})


class OpenMessage(OpenItem):
    prefix, delta = "msg", "output_text.delta"

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self.place["content_index"] = 0
        # As JSON: the end of a stream repeats those of all tokens four times.
        self._logprobs: list[bytes] = []

    def push(self, delta: Delta) -> str:
        self._logprobs += map(msgspec.json.encode, ChatLogprobs.of(delta.logprobs).content)
        return super().push(delta)

    def item(self, status: str) -> ResponsesMessageItem:
        return ResponsesMessageItem(self.id, status, [] if status == "in_progress" else [self._part()])

    def _part(self) -> ResponsesOutputText:
        return ResponsesOutputText(self.text, self._all_logprobs())

    def _all_logprobs(self) -> Any:
        return msgspec.Raw(b"[%b]" % b",".join(self._logprobs))

    def _parts_begin(self) -> Iterable[StreamedEvent]:
        yield StreamedEvent("content_part.added", {**self.place, "part": ResponsesOutputText("", [])})

    def _parts_end(self) -> Iterable[StreamedEvent]:
        yield StreamedEvent("output_text.done", {**self.place, "text": self.text, "logprobs": self._all_logprobs()})
        yield StreamedEvent("content_part.done", {**self.place, "part": self._part()})


class OpenReasoning(OpenItem):
    """With `as_summary` the thoughts are sent as clients expect a summary of them."""

    prefix = "rs"

    def __init__(self, index: int, *, as_summary: bool, seals: bool) -> None:
        super().__init__(index)
        self._as_summary, self._seals = as_summary, seals
        self._event = "reasoning_summary_text" if as_summary else "reasoning_text"
        self.delta = f"{self._event}.delta"
        self.place["summary_index" if as_summary else "content_index"] = 0

    def item(self, status: str) -> ResponsesReasoningItem:
        if status == "in_progress":
            return ResponsesReasoningItem(self.id, status, [])
        more: dict[str, Any] = {} if self._as_summary else {"content": [self._part(self.text)]}
        if self._seals:
            more["encrypted_content"] = sealed(self.text)
        return ResponsesReasoningItem(self.id, status, [self._part(self.text)] if self._as_summary else [], **more)

    def _part(self, text: str) -> ResponsesThought:
        return ResponsesThought("summary_text" if self._as_summary else "reasoning_text", text)

    def _parts_begin(self) -> Iterable[StreamedEvent]:
        yield StreamedEvent(f"{self._part_event}.added", {**self.place, "part": self._part("")})

    def _parts_end(self) -> Iterable[StreamedEvent]:
        yield StreamedEvent(f"{self._event}.done", {**self.place, "text": self.text})
        yield StreamedEvent(f"{self._part_event}.done", {**self.place, "part": self._part(self.text)})

    @property
    def _part_event(self) -> str:
        return "reasoning_summary_part" if self._as_summary else "content_part"


class OpenCall(OpenItem):
    prefix, delta = "fc", "function_call_arguments.delta"

    def __init__(self, index: int, name: str) -> None:
        super().__init__(index)
        self._name = name
        self._call_id = call_id()

    def item(self, status: str) -> ResponsesCallItem:
        return ResponsesCallItem(self.id, status, self._call_id, self._name, self.text)

    def _parts_end(self) -> Iterable[StreamedEvent]:
        fields = {**self.place, "name": self._name, "arguments": self.text}
        yield StreamedEvent("function_call_arguments.done", fields)


class OpenCustomCall(OpenItem):
    """Of a tool that takes a text."""

    prefix, delta = "ctc", "custom_tool_call_input.delta"

    def __init__(self, index: int, name: str) -> None:
        super().__init__(index)
        self._name = name
        self._call_id = call_id()
        self._input = InputText()
        self._held = ""

    def push(self, delta: Delta) -> str:
        text = self._input.push(delta.text)
        self._texts.append(text)
        return text

    def finish(self) -> None:
        self._held = self._input.finish()
        self._texts.append(self._held)

    def item(self, status: str) -> ResponsesCustomCallItem:
        return ResponsesCustomCallItem(self.id, status, self._call_id, self._name, self.text)

    def _parts_end(self) -> Iterable[StreamedEvent]:
        if self._held:
            yield StreamedEvent(self.delta, {**self.place, "delta": self._held})
        yield StreamedEvent("custom_tool_call_input.done", {**self.place, "input": self.text})


class OutputItems:
    """Of one answer. What methods return is for streams: it is made while it is read, which is at once or never.

    Attributes:
        items: those that are complete.
        open: the one that is being written.
    """

    def __init__(self, body: ResponsesBody) -> None:
        self.items: list[OutputItem] = []
        self.open: OpenItem | None = None
        self._as_summary, self._seals = body.sends_summary, body.seals_thoughts
        self._custom_tools = body.custom_tools
        self._open_as: tuple[str, int] | None = None

    def follow(self, delta: Delta) -> Iterable[StreamedEvent]:
        """The item that `delta` belongs to is then open. Returns what ended and began before."""
        belongs = ("call" if delta.kind.startswith("call") else delta.kind, delta.call)
        if belongs == self._open_as:
            return ()
        ended = self.close("completed")
        self.open, self._open_as = self._begun(delta), belongs
        return chain(ended, self.open.begin())

    def close(self, status: str) -> Iterable[StreamedEvent]:
        item = self.open
        if item is None:
            return ()
        item.finish()
        self.items.append(item.item(status))
        self.open = self._open_as = None
        return item.end(status)

    def end(self, status: str) -> Iterable[StreamedEvent]:
        """The end of the answer. One without anything is a message without text."""
        begun = self.follow(Delta("", 0)) if not self.items and self.open is None else ()
        return chain(begun, self.close(status))

    def _begun(self, delta: Delta) -> OpenItem:
        index = len(self.items)
        if delta.kind == "reasoning":
            return OpenReasoning(index, as_summary=self._as_summary, seals=self._seals)
        if delta.kind == "call_name":
            return (OpenCustomCall if delta.text in self._custom_tools else OpenCall)(index, delta.text)
        return OpenMessage(index)


def new_id(prefix: str) -> str:
    """One that nobody can guess."""
    return f"{prefix}_{secrets.token_hex(24)}"
