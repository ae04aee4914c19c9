"""Events of a stream, in the forms of all dialects: where one ends, and what of it is text that the model wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from edgellm.server import continued

NDJSON = "application/x-ndjson"
SSE = "text/event-stream"
_MARK = b"data: "
_DONE = b"[DONE]"
# Signs of life, and how far a prompt was read: they come when they come.
_PASSING = ("ping",)
_DELTA_TEXTS = ("text", "thinking", "partial_json")
_LINE_TEXTS = ("response", "thinking")


class Text(NamedTuple):
    """A piece of text within an event: which part of the answer it goes on, and where it stands."""

    channel: str
    holder: dict[str, Any]
    key: str

    @property
    def value(self) -> str:
        text: str = self.holder[self.key]
        return text


class StreamEvent:
    """One event; `data` is its JSON, None where it has none."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self._head, marked, tail = raw.rpartition(_MARK) if _MARK in raw else (b"", b"", raw)
        self._mark = marked
        self.data = _object(tail)
        self.texts = [text for text in _texts(self.data or {}) if text.value]
        self.tokens = None if self.data is not None else continued.tokens_of(raw)  # of the event that comes next

    @property
    def is_passing(self) -> bool:
        """Whether it says nothing of the answer, so that another stream of the same answer may lack it."""
        if self.data is None:
            return _DONE not in self.raw
        return self.data.get("type") in _PASSING or "prompt_progress" in self.data

    @property
    def error(self) -> str | None:
        """The code, or else the type, of the error that it tells; None = it tells none."""
        return error_of(self.data or {})

    def encoded(self) -> bytes:
        """With what was changed in `data`."""
        if self.data is None:
            return self.raw
        end = b"\n\n" if self._mark else b"\n"
        return self._head + self._mark + json.dumps(self.data, ensure_ascii=False).encode() + end


class EventReader:
    """Cuts the bytes of a stream into events."""

    def __init__(self, media_type: str) -> None:
        self._end = b"\n" if media_type == NDJSON else b"\n\n"
        self._rest = b""

    def feed(self, chunk: bytes) -> Iterator[StreamEvent]:
        *whole, self._rest = (self._rest + chunk).split(self._end)
        for raw in whole:
            yield StreamEvent(raw + self._end)


def error_of(data: dict[str, Any]) -> str | None:
    """The code, or else the type, of the error that an event or a whole answer is; None = it is none."""
    if data.get("type") == "error" and "code" in data:  # of Responses
        return str(data["code"])
    response = data.get("response")  # of Responses what was made; of Ollama a piece of text
    error = data.get("error") or (response.get("error") if isinstance(response, dict) else None)
    if not error:
        return None
    told = error if isinstance(error, dict) else data  # Ollama's has its code beside it
    return str(told.get("code") or told.get("type"))


def _object(tail: bytes) -> dict[str, Any] | None:
    try:
        data = json.loads(tail)
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None


def _texts(data: dict[str, Any]) -> Iterator[Text]:
    kind = data.get("type")
    if isinstance(kind, str) and isinstance(data.get("delta"), str):  # Responses
        yield Text(f"{kind} {data.get('output_index')} {data.get('content_index')}", data, "delta")
    elif kind == "content_block_delta":  # Anthropic
        yield from _named(str(data.get("index")), data["delta"], _DELTA_TEXTS)
    elif isinstance(data.get("choices"), list):  # OpenAI
        for choice in data["choices"]:
            yield from _of_choice(choice)
    elif "done" in data:  # Ollama
        yield from _named("", data, _LINE_TEXTS)
        yield from _named("message", data.get("message"), ("content", "thinking"))
    elif "stop" in data:  # llama-server
        yield from _named("", data, ("content",))


def _of_choice(choice: dict[str, Any]) -> Iterator[Text]:
    number = f"{choice.get('index')}"
    yield from _named(number, choice, ("text",))
    delta = choice.get("delta") or {}
    yield from _named(f"{number} delta", delta, ("content", "reasoning_content"))
    for call in delta.get("tool_calls") or ():
        # The event that names a call belongs to the form of the stream.
        if not (call.get("function") or {}).get("name"):
            yield from _named(f"{number} call {call.get('index')}", call.get("function"), ("arguments",))


def _named(channel: str, holder: object, keys: tuple[str, ...]) -> Iterator[Text]:
    if isinstance(holder, dict):
        for key in keys:
            if isinstance(holder.get(key), str):
                yield Text(f"{channel} {key}", holder, key)
