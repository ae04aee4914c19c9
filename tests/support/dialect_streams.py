"""A request for a stream in each dialect, and what of a stream must be the same where it was told in other pieces."""

from __future__ import annotations

import json

from edgellm_ray.events import EventReader, StreamEvent

QUESTION = "The quick brown fox jumps over the lazy dog. Ünïcödé, too."
CHAT = {"messages": [{"role": "user", "content": QUESTION}], "stream": True, "temperature": 0}
REQUESTS = {
    "chat": ("/v1/chat/completions", CHAT | {"stream_options": {"include_usage": True}}),
    "text": ("/v1/completions", {"prompt": QUESTION, "stream": True, "temperature": 0, "max_tokens": 200}),
    "responses": ("/v1/responses", {"input": QUESTION, "stream": True, "temperature": 0}),
    "anthropic": ("/v1/messages", CHAT | {"max_tokens": 200}),
    "ollama chat": ("/api/chat", CHAT | {"options": {"temperature": 0}}),
    "ollama": ("/api/generate", {"prompt": QUESTION, "options": {"temperature": 0}}),
    "llama-server": ("/completion", {"prompt": QUESTION, "stream": True, "temperature": 0}),
}


def drawn_by(name: str, **values: object) -> dict[str, object]:
    """The body of a request, drawn by these values alone."""
    path, body = REQUESTS[name]
    plain = {field: value for field, value in body.items() if field not in ("temperature", "options")}
    return plain | ({"options": values} if path.startswith("/api/") else values)


def events_of(body: bytes, media_type: str) -> list[StreamEvent]:
    return list(EventReader(media_type).feed(body))


def texts(body: bytes, media_type: str) -> dict[str, str]:
    by_channel: dict[str, str] = {}
    for event in events_of(body, media_type):
        for text in event.texts:
            by_channel[text.channel] = by_channel.get(text.channel, "") + text.value
    return by_channel


def forms(body: bytes, media_type: str) -> list[str]:
    """The kinds of all events that are no text, and what is in each."""
    kept = [event for event in events_of(body, media_type) if not event.texts and not event.is_passing]
    return [json.dumps(sorted((event.data or {"end": 1}).keys())) for event in kept]
