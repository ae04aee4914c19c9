"""Who may change what a server has: programs, where it was started to allow that, and never a browser."""

from __future__ import annotations

from starlette.requests import Request

from edgellm.server.access import BROWSER_HEADERS
from edgellm.server.errors import HttpError


def check_may_manage(request: Request, *, allowed: bool, what: str, instead: str) -> None:
    """`what` would be changed; `instead`: how else.

    Raises:
        HttpError: 403, the server does not allow it, or a browser asks: then a page of anybody may be behind it.
    """
    if not allowed:
        hint = f"start it with --allow-manage, or use {instead}"
        raise HttpError(403, f"this server changes no {what} for clients", code="not_allowed", hint=hint)
    if any(name.decode() in request.headers for name in BROWSER_HEADERS):
        hint = "use a program, or the command line"
        raise HttpError(403, f"{what} are not changed for a browser", code="not_allowed", hint=hint)
