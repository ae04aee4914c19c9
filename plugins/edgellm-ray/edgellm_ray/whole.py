"""Answers of one box that are about what runs, made those of all boxes."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from edgellm_ray import lists
from edgellm_ray.board import Board, Failure, Row

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


class OfAllBoxes:
    """An ASGI app around the one that asks a box, which lets the client see its own, or refuses."""

    def __init__(self, app: ASGIApp, board: Board) -> None:
        self._app = app
        self._board = board

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        make = _made(scope) if scope["type"] == "http" and scope["method"] == "GET" else None
        if make is None:
            await self._app(scope, receive, send)
            return
        begin: dict[str, Any] = {}
        parts: list[bytes] = []

        async def instead(message: Message) -> None:
            if message["type"] == "http.response.start":
                begin.update(message)
                return
            parts.append(message.get("body", b""))
            if message.get("more_body"):
                return
            body = b"".join(parts)
            if begin["status"] == 200:
                body = make(body, self._board)
            kept = [(name, value) for name, value in begin["headers"] if name != b"content-length"]
            await send({**begin, "headers": [*kept, (b"content-length", str(len(body)).encode())]})
            await send({"type": "http.response.body", "body": body})

        await self._app(scope, receive, instead)


def _made(scope: Scope) -> Callable[[bytes, Board], bytes] | None:
    """What makes the answer that of all boxes; None = it stays that of one."""
    if (name := lists.asked_for(scope)) is not None:
        return functools.partial(_list, name)
    return _MADE.get(scope["path"])


def _list(name: str, body: bytes, board: Board) -> bytes:
    services = board.services()
    return json.dumps(lists.joined([service.lists[name] for service in services])).encode() if services else body


def together(pages: Sequence[str]) -> str:
    """Metrics of several boxes as one page: each metric is described once, before all of its lines."""
    by_head: dict[str, list[str]] = {}
    for page in pages:
        head = ""
        for line in page.splitlines():
            if line.startswith("# HELP"):
                head = line
                by_head.setdefault(head, [])
            elif line not in by_head[head]:
                by_head[head].append(line)
    return "".join("\n".join((head, *lines)) + "\n" for head, lines in by_head.items())


def _metrics(_: bytes, board: Board) -> bytes:
    return together([row.metrics for row in board.rows()]).encode()


def _plan(body: bytes, board: Board) -> bytes:
    """That of the box that answers, and what runs on each."""
    return json.dumps({**json.loads(body), "boxes": _boxes(board)}, ensure_ascii=False).encode()


def _activity(body: bytes, board: Board) -> bytes:
    """Slots and queue of all boxes; the last answers, and the memory, are those of the box that answers."""
    rows = board.rows()
    sums = {name: sum(getattr(row, name) for row in rows) for name in ("n_slots", "n_busy", "n_waiting")}
    return json.dumps({**json.loads(body), **(sums if rows else {}), "boxes": _boxes(board)}).encode()


def _boxes(board: Board) -> list[dict[str, Any]]:
    return [*map(_box, board.rows()), *map(_failed, board.failures())]


def _box(row: Row) -> dict[str, Any]:
    plan = {name: row.plan[name] for name in ("state", "reason", "model", "quant", "backend", "settings", "reasons")}
    load = {name: getattr(row, name) for name in ("n_slots", "n_busy", "n_waiting", "n_answered", "decode_tok_s")}
    return {"node": row.node, "service": row.service.name, **plan, "memory_bytes": row.memory_bytes, **load}


def _failed(failure: Failure) -> dict[str, Any]:
    nothing: dict[str, Any] = {"model": "", "quant": "", "backend": "", "settings": None, "reasons": []}
    load = {"n_slots": 0, "n_busy": 0, "n_waiting": 0, "n_answered": 0, "decode_tok_s": 0.0}
    own = {"node": failure.node, "service": failure.service, "state": "failed", "reason": failure.reason}
    return {**own, **nothing, "memory_bytes": 0, **load}


_MADE: dict[str, Callable[[bytes, Board], bytes]] = {
    "/metrics": _metrics,
    "/edgellm/plan": _plan,
    "/edgellm/activity": _activity,
}
