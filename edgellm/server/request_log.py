"""One line for each request: who asked, what came of it, how many tokens, how long. Never what was asked or answered.

The id comes from the client (`x-request-id`) or is made here, and goes back with the response.
"""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

from starlette.types import Scope

from edgellm.server import clients
from edgellm.types.event import Done, Event, Usage

HEADER = b"x-request-id"
# In place of an error's code, where nobody waited any more: the client closed the connection, or this server did. No
# client reads the status; the first is nginx's.
CLIENT_CLOSED, CUT_OFF = (499, "client_closed"), (503, "cut_off")
_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_log = logging.getLogger("edgellm.requests")


@dataclass(slots=True)
class RequestRecord:
    """A request on its way through the server. Routes fill in what they learn; `of_scope` finds it."""

    id: str
    client: str
    method: str
    path: str  # as it was sent, so on one line
    counts_as: str = ""  # the client, where clients take turns
    status: int = 0
    usage: Usage | None = None  # until now
    error: str = ""  # its code
    ignored: str = ""  # fields that nothing here knows, as the response names them
    _began: float = field(default_factory=time.monotonic)
    _first: float = 0.0  # when the response began

    @classmethod
    def begin(cls, scope: Scope) -> RequestRecord:
        """For a new request, in whose `state` it is kept."""
        sent = next((value for name, value in scope["headers"] if name == HEADER), b"")
        request_id = sent.decode() if _ID.fullmatch(sent) else uuid.uuid4().hex
        path = scope.get("raw_path", b"").decode("ascii", "replace")[:200]
        record = cls(request_id, client_of(scope), scope["method"][:20], path, clients.asks(scope))
        scope.setdefault("state", {})["record"] = record
        return record

    def responds(self, status: int) -> None:
        """The response begins."""
        self.status = status
        self._first = time.monotonic()

    def sees(self, events: Sequence[Event], n: int = 1) -> None:
        """A part of the answers, of which there are `n` to each prompt. A prompt counts once."""
        for event in events:
            if isinstance(event, Done):
                before, of_first = self.usage or Usage(0, 0), event.choice % n == 0
                self.usage = Usage(
                    before.prompt_tokens + event.usage.prompt_tokens * of_first,
                    before.completion_tokens + event.usage.completion_tokens,
                    before.cached_tokens + event.usage.cached_tokens * of_first,
                    before.reasoning_tokens + event.usage.reasoning_tokens,
                )

    @property
    def seconds(self) -> float:
        """Since it came."""
        return time.monotonic() - self._began

    def end(self) -> None:
        """Write the line."""
        if not _log.isEnabledFor(logging.INFO):
            return
        now = time.monotonic()
        facts: dict[str, object] = {
            "id": self.id,
            "client": self.client,
            "method": self.method,
            "path": self.path,
            "status": self.status,
            "first_ms": round(1e3 * ((self._first or now) - self._began), 1),
            "ms": round(1e3 * (now - self._began), 1),
        }
        if self.usage is not None:
            facts["prompt_tokens"] = self.usage.prompt_tokens
            facts["cached_tokens"] = self.usage.cached_tokens
            facts["completion_tokens"] = self.usage.completion_tokens
        if self.ignored:
            facts["ignored"] = self.ignored
        if self.error:
            facts["error"] = self.error
        _log.info("request", extra={"facts": facts})


def log_unread(client: str, status: int, code: str) -> None:
    """The line of a request that could not be read."""
    _log.info("request", extra={"facts": {"client": client, "status": status, "error": code}})


def of_scope(scope: Scope) -> RequestRecord:
    """The record of the request that is being answered."""
    record: RequestRecord = scope["state"]["record"]
    return record


def cut_off(state: dict[str, object], status: int, code: str) -> None:
    """The connection of a request with this state is closed, which is no client's doing."""
    state["cut_off"] = status, code


def note_closed(scope: Scope) -> int:
    """Why the connection of a request is gone, for its record. Returns the status."""
    status, code = scope["state"].get("cut_off", CLIENT_CLOSED)
    of_scope(scope).error = code
    return int(status)


def client_of(scope: Scope) -> str:
    """The address that a request came from; "" where the server does not know."""
    client = scope.get("client")
    return str(client[0]) if client else ""
