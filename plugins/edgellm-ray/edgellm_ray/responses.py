"""Which session and model a response that `/v1/responses` keeps belongs to: only the box that answers it has it. No Ray
here.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

PATH = "/v1/responses"
MOST = 100_000


class Responses:
    """Sessions and names of models by ids of responses, the newest."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._places: OrderedDict[str, tuple[str, str | None]] = OrderedDict()

    def learn(self, data: dict[str, Any], session: str, model: str | None = None) -> None:
        """`data`: a whole answer to a request of PATH, or the first event of a stream of it."""
        response = data.get("response", data)
        name = response.get("id") if isinstance(response, dict) else None
        if session and isinstance(name, str):
            self._places[name] = session, model
            while len(self._places) > self._most:
                self._places.popitem(last=False)

    def session_of(self, path: str, previous: str) -> str:
        """That of the response which a path names, or which a body goes on with; "" where there is none, or it was made
        by another front.
        """
        return self._places.get(_named(path) or previous, ("", None))[0]

    def model_of(self, path: str) -> str | None:
        """What the response that a path names was asked of; None where nothing is known of it."""
        return self._places.get(_named(path), ("", None))[1]


def _named(path: str) -> str:
    """The response that a path is about."""
    return path.removeprefix(f"{PATH}/").partition("/")[0] if path.startswith(f"{PATH}/") else ""
