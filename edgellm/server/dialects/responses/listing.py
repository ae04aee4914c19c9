"""Pages of items, as OpenAI's API lists things."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from edgellm.errors import UsageError
from edgellm.server.dialects.responses.stored import KeptItem, listed

LIMIT, MAX_LIMIT = 20, 100
# Of the items of a page, as JSON; whoever wants the rest asks for the next. Items of 1024 parts take milliseconds each.
MAX_BYTES = 256 * 1024


class ResponsesItemList(msgspec.Struct, frozen=True):
    data: list[Any]
    first_id: str | None
    last_id: str | None
    has_more: bool
    object: str = "list"


def page(items: Sequence[KeptItem], query: Mapping[str, str]) -> ResponsesItemList:
    """Items from the one behind `after` on, written one by one: call it in a thread. There is one at least.

    Args:
        query: `limit`, `order` (desc or asc) and `after`, an id.

    Raises:
        UsageError: one of them cannot be.
    """
    limit, order, after = query.get("limit", str(LIMIT)), query.get("order", "desc"), query.get("after")
    n_most = int(limit) if limit.isdecimal() and len(limit) <= 3 else 0  # Python reads no number of thousands of digits
    if not 1 <= n_most <= MAX_LIMIT:
        raise UsageError(f"limit={limit[:20]!r} is out of range", hint=f"1 to {MAX_LIMIT}", param="limit")
    if order not in ("asc", "desc"):
        raise UsageError(f"order={order[:20]!r} is unknown", hint="send asc or desc", param="order")
    ordered = list(items if order == "asc" else reversed(items))
    if after is not None:
        ids = [item.id for item in ordered]
        if after not in ids:
            raise UsageError(f"after={after[:80]!r} is no item of it", hint="send the last_id of a page", param="after")
        ordered = ordered[ids.index(after) + 1 :]
    shown, n_bytes = list[msgspec.Raw](), 0
    for item in ordered[:n_most]:
        if n_bytes >= MAX_BYTES:
            break
        shown.append(msgspec.Raw(msgspec.json.encode(listed(item.read()))))
        n_bytes += len(bytes(shown[-1]))
    first, last = (ordered[0].id, ordered[len(shown) - 1].id) if shown else (None, None)
    return ResponsesItemList(shown, first, last, len(ordered) > len(shown))
