"""Which session a response that `/v1/responses` keeps belongs to: only the box that answers it has it. No Ray here."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

PATH = "/v1/responses"
MOST = 100_000


class Responses:
    """Sessions by ids of responses, the newest."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._sessions: OrderedDict[str, str] = OrderedDict()

    def learn(self, data: dict[str, Any], session: str) -> None:
        """`data`: a whole answer to a request of PATH, or the first event of a stream of it."""
        response = data.get("response", data)
        name = response.get("id") if isinstance(response, dict) else None
        if session and isinstance(name, str):
            self._sessions[name] = session
            while len(self._sessions) > self._most:
                self._sessions.popitem(last=False)

    def session_of(self, path: str, previous: str) -> str:
        """That of the response which a path names, or which a body goes on with; "" where there is none, or it was made
        by another front.
        """
        if path.startswith(f"{PATH}/"):
            return self._sessions.get(path.removeprefix(f"{PATH}/").partition("/")[0], "")
        return self._sessions.get(previous, "")
