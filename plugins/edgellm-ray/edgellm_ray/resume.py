"""A stream that goes on where another one of the same answer broke off.

The request is asked again, with the tokens that the answer has, of a replica with the same plan, which goes on behind
them. It tells the answer from its beginning: what the client has is left out, after it was compared, so that an answer
that differs is not spliced on.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from typing import Any

from edgellm_ray.caller import MOST_TOKENS
from edgellm_ray.events import StreamEvent

_IDS = frozenset({"id", "item_id", "call_id", "response_id", "created", "created_at"})
_NUMBER = "sequence_number"  # of an event of Responses


class Diverged(Exception):
    """The second answer is another one."""


class SentStream:
    """What a client has of a stream, over all of its attempts.

    Attributes:
        tokens: ids of those that said it, as far as replicas told them, at most MOST_TOKENS.
    """

    def __init__(self) -> None:
        self.tokens = array("I")
        self._n_told = 0  # of these, in this attempt
        self._texts: dict[str, str] = defaultdict(str)  # by channel
        self._forms: list[dict[str, Any] | None] = []  # events that are no text
        self._n_events = 0
        self._head: dict[str, Any] | None = None  # ids at the top of the first event
        self._replayed_texts: dict[str, str] | None = None
        self._n_replayed = 0
        self._ids: dict[str | int | float, Any] = {}  # of this attempt -> as the client knows them

    @property
    def has_begun(self) -> bool:
        return bool(self._forms or self._texts)

    @property
    def first(self) -> dict[str, Any]:
        """What the stream began with, before any text."""
        return (self._forms and self._forms[0]) or {}

    def again(self) -> None:
        """A new attempt begins."""
        self._replayed_texts = defaultdict(str)
        self._n_replayed = self._n_told = 0
        self._ids = {}

    def take(self, event: StreamEvent) -> bytes:
        """What of an event is sent to the client.

        Raises:
            Diverged: it contradicts what the client has.
        """
        if event.tokens is not None:
            self._note(event.tokens)
            return b""
        if event.is_passing:
            return event.raw
        if self._replayed_texts is None:
            return self._first_time(event)
        return self._again(event, self._replayed_texts)

    def _note(self, told: tuple[int, ...]) -> None:
        """What an attempt begins with is what it was told to."""
        at, self._n_told = self._n_told, self._n_told + len(told)
        self.tokens.extend(told[max(len(self.tokens) - at, 0) : max(MOST_TOKENS - at, 0)])

    def _first_time(self, event: StreamEvent) -> bytes:
        if self._head is None and event.data is not None:
            self._head = _head(event.data)
        for text in event.texts:
            self._texts[text.channel] += text.value
        if not event.texts:
            self._forms.append(event.data)
        self._n_events += 1
        return event.raw

    def _again(self, event: StreamEvent, replayed: dict[str, str]) -> bytes:
        if not self._ids and self._head and event.data is not None:
            self._ids |= {value: self._head[key] for key, value in _head(event.data).items() if key in self._head}
        if not event.texts:
            return self._form(event)
        is_new = False
        for text in event.texts:
            sent, before = self._texts[text.channel], replayed[text.channel]
            now = before + text.value
            if not (sent.startswith(now) or now.startswith(sent)):
                raise Diverged
            replayed[text.channel] = now
            rest = now[max(len(sent), len(before)) :]
            text.holder[text.key] = rest
            if rest:
                self._texts[text.channel] = now
                is_new = True
        return self._sent(event) if is_new else b""

    def _form(self, event: StreamEvent) -> bytes:
        number, self._n_replayed = self._n_replayed, self._n_replayed + 1
        if number < len(self._forms):
            self._learn(event.data, self._forms[number])
            return b""
        if any(len(text) < len(self._texts[channel]) for channel, text in (self._replayed_texts or {}).items()):
            raise Diverged  # the second answer is over, or goes over to another part, before the first one did
        self._forms.append(event.data)
        return self._sent(event)

    def _learn(self, data: Any, as_sent: Any) -> None:
        """Pair the ids of an event with those of the same event as the client has it."""
        if isinstance(data, dict) and isinstance(as_sent, dict):
            if data.get("type") != as_sent.get("type") or data.keys() != as_sent.keys():
                raise Diverged
            for key, value in data.items():
                if key in _IDS and isinstance(value, str | int | float):
                    self._ids[value] = as_sent[key]
                else:
                    self._learn(value, as_sent[key])
        elif isinstance(data, list) and isinstance(as_sent, list):
            for one, other in zip(data, as_sent, strict=False):
                self._learn(one, other)

    def _sent(self, event: StreamEvent) -> bytes:
        if event.data is not None:
            event.data = self._renamed(event.data)
            if _NUMBER in event.data:
                event.data[_NUMBER] = self._n_events
        self._n_events += 1
        return event.encoded()

    def _renamed(self, data: Any) -> Any:
        if isinstance(data, dict):
            return {
                key: self._ids.get(value, value) if key in _IDS and isinstance(value, str | int | float) else
                self._renamed(value)
                for key, value in data.items()
            }  # fmt: skip
        return [self._renamed(one) for one in data] if isinstance(data, list) else data


def _head(data: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in data.items() if key in _IDS and isinstance(value, str | int | float)}
