"""Errors as the clients of each dialect expect them. What fails before any route is asked, such as a wrong key, has the
form of the dialect that the path belongs to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
from starlette.types import Scope

from edgellm.errors import UnsupportedField
from edgellm.server import errors

# By which Anthropic's clients see that they have to send the whole conversation each time.
UNTHREADED = {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}
OVERLOADED = 529  # Anthropic's status for a server that has too much to do; its clients try again


class ErrorForm(NamedTuple):
    """Of one dialect.

    Attributes:
        describe: the body of a response; takes the error and the id of the request.
        status_of: its status.
        framed: a body as a part of a stream.
    """

    describe: Callable[[Exception, str], dict[str, Any]]
    status_of: Callable[[Exception], int]
    framed: Callable[[bytes], bytes]

    def encode(self, error: Exception, request_id: str) -> bytes:
        """`describe` as JSON."""
        return msgspec.json.encode(self.describe(error, request_id))

    def in_stream(self, error: Exception, request_id: str) -> bytes:
        """What ends a stream that has begun."""
        return self.framed(self.encode(error, request_id))


def form_for(scope: Scope) -> ErrorForm:
    """The form for whoever sent this request."""
    return ANTHROPIC if lists_for_anthropic(scope) else form_of(scope["path"])


def lists_for_anthropic(scope: Scope) -> bool:
    """Whether Anthropic's clients ask for models, which they do at OpenAI's path."""
    is_theirs = any(name == b"anthropic-version" for name, _ in scope["headers"])
    return is_theirs and scope["path"].removeprefix("/v1").startswith("/models")


def form_of(path: str) -> ErrorForm:
    """The form for whoever asks for this path."""
    return next((form for prefix, form in _FORMS.items() if path.startswith(prefix)), OPENAI)


def _openai(error: Exception, _: str) -> dict[str, Any]:
    return errors.describe(error)


def _anthropic(error: Exception, request_id: str) -> dict[str, Any]:
    kind = _ANTHROPIC_KINDS.get(_anthropic_status(error), "api_error")
    detail: dict[str, Any] = {"type": kind, "message": errors.message_of(error)}
    if isinstance(error, UnsupportedField) and error.param == "thread":
        detail["details"] = UNTHREADED
    return {"type": "error", "error": detail, "request_id": request_id}


def _anthropic_status(error: Exception) -> int:
    status = errors.status_of(error)
    return OVERLOADED if status == 503 and errors.code_of(error) == "overloaded" else status


def _ollama(error: Exception, _: str) -> dict[str, Any]:
    return {"error": errors.message_of(error), "code": errors.code_of(error)}


_ANTHROPIC_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "invalid_request_error",
    413: "request_too_large",
    415: "invalid_request_error",
    417: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
    504: "timeout_error",
    OVERLOADED: "overloaded_error",
}
OPENAI = ErrorForm(_openai, errors.status_of, lambda body: b"data: " + body + b"\n\n")
ANTHROPIC = ErrorForm(_anthropic, _anthropic_status, lambda body: b"event: error\ndata: " + body + b"\n\n")
OLLAMA = ErrorForm(_ollama, errors.status_of, lambda body: body + b"\n")
_FORMS = {"/v1/messages": ANTHROPIC, "/messages": ANTHROPIC, "/api/": OLLAMA}  # by the beginning of the path
