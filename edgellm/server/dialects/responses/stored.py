"""Responses that can be asked for later, and gone on from. They are in memory, and gone when the server ends.

Each is bound to the key of the request that made it: with another key it is not there.
"""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
from starlette.requests import Request

from edgellm.errors import UsageError
from edgellm.server.dialects.responses.answer import OutputItem, ResponsesAnswer, ResponsesMessageItem
from edgellm.server.dialects.responses.body import ResponsesBody
from edgellm.server.dialects.responses.items import ResponsesItem
from edgellm.server.dialects.responses.output import new_id
from edgellm.server.errors import HttpError
from edgellm.types.message import MAX_MESSAGES

MAX_RESPONSES = 1024
MAX_BYTES = 64 * 1024**2  # that all responses with their conversations take
# Beside its JSON an item takes an object, its id, a place in the conversation and one among all items.
ITEM_BYTES = 512
_PREFIXES = {"reasoning": "rs", "function_call": "fc", "custom_tool_call": "ctc", "compaction": "cmp"}
Owner = bytes
_decode = msgspec.json.Decoder(ResponsesItem).decode


class KeptItem(NamedTuple):
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

    def read(self) -> list[ResponsesItem]:
        return [item.read() for item in self.items]


class StoredResponse(NamedTuple):
    """Of the whole conversation the last `n_output` items are the answer, and `n_new` came with it."""

    owner: Owner
    client: str  # where clients take turns
    answer: bytes  # JSON
    conversation: Conversation
    n_new: int
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

    @property
    def new(self) -> tuple[KeptItem, ...]:
        return self.items[len(self.items) - self.n_new :]


class StoredResponses:
    """Of one server; safe to use from any thread."""

    def __init__(self, max_responses: int = MAX_RESPONSES, max_bytes: int = MAX_BYTES) -> None:
        self.max_responses = max_responses
        self.max_bytes = max_bytes
        self._responses: dict[str, StoredResponse] = {}  # the oldest first
        self._items: dict[tuple[Owner, str], KeptItem] = {}
        self._n_bytes = 0
        self._lock = threading.Lock()

    def keep(
        self, owner: Owner, client: str, answer: ResponsesAnswer, earlier: Conversation, sent: Sequence[KeptItem]
    ) -> None:
        """`sent`: the items of the request."""
        new = [*sent, *kept_items(map(_sent_back, answer.output), have_own_ids=True)]
        encoded = _written(answer)
        stored = StoredResponse(owner, client, encoded, earlier.followed_by(new), len(new), len(answer.output))
        with self._lock:
            self._responses[answer.id] = stored
            self._n_bytes += stored.n_bytes
            # Whoever shares the key could guess an id that a client made, and so read what that one said.
            self._items.update({(owner, item.id): item for item in stored.new if item.has_own_id})
            self._make_room()

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

    def fill_in(self, owner: Owner, body: ResponsesBody) -> Conversation:
        """Put items in the place of references to them. Returns what was said before the input of `body`.

        Raises:
            UsageError: it refers to what is not kept, or the whole conversation is too long.
        """
        if isinstance(body.input, list):
            body.input = [self._item(owner, item, f"input[{index}]") for index, item in enumerate(body.input)]
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

    def _item(self, owner: Owner, item: ResponsesItem | None, where: str) -> ResponsesItem | None:
        if item is None or not item.is_reference:
            return item
        with self._lock:
            found = self._items.get((owner, item.id or ""))
        if found is None:
            raise _not_kept(item.id or "", f"{where}.id")
        return found.read()

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
        for item in stored.new:
            key = stored.owner, item.id
            if self._items.get(key) is item:
                del self._items[key]


def owner_of(request: Request) -> Owner:
    """Who sends it: a digest of the key."""
    headers = request.headers
    return hashlib.sha256((headers.get("authorization") or headers.get("x-api-key") or "").encode()).digest()


def kept_items(items: Iterable[ResponsesItem | None], *, have_own_ids: bool = False) -> list[KeptItem]:
    """What is kept of items: written, so call it in a thread. `have_own_ids`: all their ids were made here."""
    return [_kept(item, have_own_ids or not item.id) for item in items if item is not None]


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


def _not_kept(name: str, where: str) -> UsageError:
    hint = "send the conversation itself; what is kept is lost when the server ends, or dropped for newer responses"
    return UsageError(f"{where}: {name[:80]!r} is not kept here", hint=hint, param=where)
