"""Responses that can be asked for later, and gone on from. They are in memory, and gone when the server ends.

Each is bound to the key of the request that made it: with another key it is not there.
"""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import msgspec
from starlette.requests import Request

from edgellm.errors import UsageError
from edgellm.server.dialects.responses.answer import OutputItem, ResponsesAnswer, ResponsesMessageItem
from edgellm.server.dialects.responses.body import ResponsesBody
from edgellm.server.dialects.responses.items import ResponsesItem
from edgellm.server.dialects.responses.output import new_id
from edgellm.server.errors import HttpError
from edgellm.server.intake import MAX_BODY_BYTES
from edgellm.types.message import MAX_MESSAGES

MAX_RESPONSES = 1024
MAX_BYTES = 64 * 1024**2  # that all responses with their conversations take
# Beside its JSON an item takes an object, its id, a place in the conversation and one among all items.
ITEM_BYTES = 512
_PREFIXES = {"reasoning": "rs", "function_call": "fc", "custom_tool_call": "ctc", "compaction": "cmp"}
Owner = bytes
_decode = msgspec.json.Decoder(ResponsesItem).decode


class KeptItem(msgspec.Struct, frozen=True, weakref=True):
    """An item as JSON: text of Python takes up to eight times as much, where one character is beyond U+FFFF."""

    id: str
    json: bytes
    has_own_id: bool  # made here, and not by a client

    @property
    def n_bytes(self) -> int:
        return len(self.json) + len(self.id) + ITEM_BYTES

    def read(self) -> ResponsesItem:
        return _decode(self.json)


class Conversation(NamedTuple):
    """What was said until now, and what it takes: that of a long one is not counted again for each answer."""

    items: tuple[KeptItem, ...] = ()
    n_bytes: int = 0

    def followed_by(self, items: Sequence[KeptItem]) -> Conversation:
        return Conversation((*self.items, *items), self.n_bytes + sum(item.n_bytes for item in items))

    @property
    def json_bytes(self) -> int:
        return sum(len(item.json) for item in self.items)

    def read(self) -> list[ResponsesItem]:
        return [item.read() for item in self.items]


class ReferredTo(NamedTuple):
    """What a body names of what is kept. `items`: those that it refers to, by their place in its input."""

    earlier: Conversation = Conversation()
    items: Mapping[int, KeptItem] = MappingProxyType({})
    json_bytes: int = 0


class StoredResponse(NamedTuple):
    """Of the whole conversation the last `n_output` items are the answer."""

    owner: Owner
    client: str  # where clients take turns
    answer: bytes  # JSON
    conversation: Conversation
    n_output: int

    @property
    def n_bytes(self) -> int:
        return len(self.answer) + self.conversation.n_bytes

    @property
    def items(self) -> tuple[KeptItem, ...]:
        return self.conversation.items

    @property
    def input(self) -> tuple[KeptItem, ...]:
        return self.items[: len(self.items) - self.n_output]


class StoredResponses:
    """Of one server; safe to use from any thread."""

    def __init__(self, max_responses: int = MAX_RESPONSES, max_bytes: int = MAX_BYTES) -> None:
        self.max_responses = max_responses
        self.max_bytes = max_bytes
        self._responses: dict[str, StoredResponse] = {}  # the oldest first
        # Those of all conversations that are kept: an item is in several, and goes with the last of them.
        self._items = WeakValueDictionary[tuple[Owner, str], KeptItem]()
        self._n_bytes = 0
        self._lock = threading.Lock()

    def keep(
        self, owner: Owner, client: str, answer: ResponsesAnswer, earlier: Conversation, sent: Sequence[KeptItem]
    ) -> bool:
        """False: it is so large that there is no room for it. `sent`: the items of the request."""
        new = [*sent, *kept_items(map(_sent_back, answer.output), have_own_ids=True)]
        encoded = _written(answer)
        stored = StoredResponse(owner, client, encoded, earlier.followed_by(new), len(answer.output))
        if stored.n_bytes > self.max_bytes:
            return False  # all others of its client would have to go first
        with self._lock:
            self._responses[answer.id] = stored
            self._n_bytes += stored.n_bytes
            # Whoever shares the key could guess an id that a client made, and so read what that one said.
            self._items.update({(owner, item.id): item for item in new if item.has_own_id})
            self._make_room()
            return answer.id in self._responses

    def require(self, owner: Owner, response_id: str) -> StoredResponse:
        """
        Raises:
            HttpError: 404, there is none of that id for that owner.
        """
        stored = self._get(owner, response_id)
        if stored is None:
            shown = repr(response_id[:80])
            hint = "it was not stored, deleted, made with another key, or dropped for newer ones"
            raise HttpError(404, f"there is no response {shown}", code="response_not_found", hint=hint)
        return stored

    def delete(self, owner: Owner, response_id: str) -> None:
        """
        Raises:
            HttpError: as `require`.
        """
        self.require(owner, response_id)
        with self._lock:
            if response_id in self._responses:
                self._drop(response_id)

    def fill_in(self, owner: Owner, body: ResponsesBody, n_body_bytes: int = 0) -> ReferredTo:
        """Put items in the place of references to them. What `body` names takes, with it, no more than a body may.

        Raises:
            UsageError: it refers to what is not kept, or the whole conversation is too long.
        """
        earlier = self._earlier(owner, body)
        n_bytes = _within_a_body(n_body_bytes + earlier.json_bytes, "previous_response_id")
        items = dict[int, KeptItem]()
        sent = body.input if isinstance(body.input, list) else []
        for index, item in enumerate(sent):
            if item is not None and item.is_reference:
                where = f"input[{index}].id"
                items[index] = self._item(owner, item.id or "", where)
                n_bytes = _within_a_body(n_bytes + len(items[index].json), where)
        if items:
            body.input = [items[index].read() if index in items else item for index, item in enumerate(sent)]
        return ReferredTo(earlier, items, n_bytes - n_body_bytes)

    def _earlier(self, owner: Owner, body: ResponsesBody) -> Conversation:
        if body.previous_response_id is None:
            return Conversation()
        stored = self._get(owner, body.previous_response_id)
        if stored is None:
            raise _not_kept(body.previous_response_id, "previous_response_id")
        n_items = len(stored.items) + len(body.items)
        if n_items > MAX_MESSAGES:
            raise UsageError(
                f"the conversation has {n_items} items with those before, of {MAX_MESSAGES} that are allowed",
                hint="send what matters of it as input, without previous_response_id",
                param="previous_response_id",
            )
        return stored.conversation

    def _item(self, owner: Owner, item_id: str, where: str) -> KeptItem:
        with self._lock:
            found = self._items.get((owner, item_id))
        if found is None:
            raise _not_kept(item_id, where)
        return found

    def _get(self, owner: Owner, response_id: str) -> StoredResponse | None:
        with self._lock:
            stored = self._responses.get(response_id)
        return stored if stored is not None and stored.owner == owner else None

    def _make_room(self) -> None:
        """The client that has most loses its oldest, as often as there are too many, or too many bytes."""
        held = Counter(one.client for one in self._responses.values())
        n_bytes = Counter[str]()
        for one in self._responses.values():
            n_bytes[one.client] += one.n_bytes
        while (are_many := len(self._responses) > self.max_responses) or self._n_bytes > self.max_bytes:
            counts = held if are_many else n_bytes
            largest = max(counts, key=counts.__getitem__)
            oldest = next(name for name, one in self._responses.items() if one.client == largest)
            held[largest] -= 1
            n_bytes[largest] -= self._responses[oldest].n_bytes
            self._drop(oldest)

    def _drop(self, response_id: str) -> None:
        stored = self._responses.pop(response_id)
        self._n_bytes -= stored.n_bytes


def owner_of(request: Request) -> Owner:
    """Who sends it: a digest of the key."""
    headers = request.headers
    _, _, bearer = headers.get("authorization", "").partition(" ")
    return hashlib.sha256((bearer.strip() or headers.get("x-api-key", "")).encode()).digest()


def kept_items(
    items: Iterable[ResponsesItem | None],
    kept: Mapping[int, KeptItem] = MappingProxyType({}),
    *,
    have_own_ids: bool = False,
) -> list[KeptItem]:
    """What is kept of items: written, so call it in a thread.

    Args:
        kept: those that are already, by their place.
        have_own_ids: all their ids were made here.
    """
    return [
        kept.get(index) or _kept(item, have_own_ids or not item.id)
        for index, item in enumerate(items)
        if item is not None
    ]


def _kept(item: ResponsesItem, has_own_id: bool) -> KeptItem:
    item = with_id(item)
    fields = {name: value for name, value in msgspec.structs.asdict(item).items() if value is not None}
    return KeptItem(item.id or "", _written(fields), has_own_id)


def _written(value: object) -> bytes:
    """As JSON, copied: msgspec leaves up to half as much room behind what it wrote."""
    return bytes(memoryview(msgspec.json.encode(value)))


def _sent_back(item: OutputItem) -> ResponsesItem:
    """It as clients send it with the next request, without logprobs."""
    if isinstance(item, ResponsesMessageItem):
        content = [msgspec.structs.replace(part, logprobs=[]) for part in item.content]
        item = msgspec.structs.replace(item, content=content)
    return msgspec.convert(msgspec.to_builtins(item), ResponsesItem)


def with_id(item: ResponsesItem) -> ResponsesItem:
    return item if item.id else msgspec.structs.replace(item, id=new_id(_PREFIXES.get(item.type or "", "msg")))


def listed(item: ResponsesItem) -> dict[str, Any]:
    """It as clients expect items that they ask for."""
    fields = {name: value for name, value in msgspec.to_builtins(item).items() if value is not None}
    fields = {"type": "message", "status": "completed", **fields}
    if isinstance(item.content, str):
        said = {"type": "output_text", "annotations": []} if item.role == "assistant" else {"type": "input_text"}
        fields["content"] = [{**said, "text": item.content}]
    elif item.content is not None:
        fields["content"] = [dict(_said(part)) for part in fields["content"]]
    return fields


def _said(part: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    yield from ((name, value) for name, value in part.items() if value is not None)
    if part["type"] == "output_text":
        yield "annotations", []


def _within_a_body(n_bytes: int, where: str) -> int:
    """
    Raises:
        UsageError: it is more.
    """
    if n_bytes > MAX_BODY_BYTES:
        what = f"the body has {n_bytes} bytes with what it refers to, of {MAX_BODY_BYTES} that are allowed"
        raise UsageError(what, hint="send what matters of it as input", param=where)
    return n_bytes


def _not_kept(name: str, where: str) -> UsageError:
    hint = "send the conversation itself; what is kept is lost when the server ends, or dropped for newer responses"
    return UsageError(f"{where}: {name[:80]!r} is not kept here", hint=hint, param=where)
