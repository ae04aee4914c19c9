"""Errors as HTTP responses, in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`. Other dialects
have theirs in `error_form.py`.

The status comes from the class (`edgellm.errors`), never from the text. `HttpError` is for what only HTTP knows: paths,
methods, media types, sizes, origins.
"""

from __future__ import annotations

from typing import Any

from edgellm.errors import ContextOverflow, EdgeLLMError, Unauthorized, UnknownModel, UsageError

# Codes that clients of OpenAI's API expect; every other class keeps its own code.
OPENAI_CODES: dict[type[EdgeLLMError], str] = {
    ContextOverflow: "context_length_exceeded",
    UnknownModel: "model_not_found",
    Unauthorized: "invalid_api_key",
}
# A request that was answered with one of these may be sent again after so many seconds; the official clients do.
BUSY = (429, 503, 529)
RETRY_AFTER_S = 1
OUT_OF_MEMORY = "out_of_memory"


class HttpError(Exception):
    """A request that is refused because of its path, method, headers or size. `status` is the HTTP status.

    `closes`: what follows on the connection is not to be read.
    """

    def __init__(self, status: int, message: str, *, code: str, hint: str = "", closes: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.closes = closes
        self.message = f"{message}; {hint}" if hint else message
        self.code = code


def out_of_memory() -> HttpError:
    """For a request whose work met the end of the memory that this process may take."""
    full = "the server has no memory left for this request"
    return HttpError(503, full, code=OUT_OF_MEMORY, hint="send less, or try again in a moment")


def status_of(error: Exception) -> int:
    """HTTP status of any exception; 500 for an unexpected one."""
    error = _typed(error)
    if isinstance(error, HttpError):
        return error.status
    return error.http_status if isinstance(error, EdgeLLMError) else 500


def describe(error: Exception) -> dict[str, Any]:
    """The body of the response to a request that failed."""
    param = (error.param or None) if isinstance(error, UsageError) else None
    kind = _type(status_of(error))
    return {"error": {"message": message_of(error), "type": kind, "param": param, "code": code_of(error)}}


def message_of(error: Exception) -> str:
    """What went wrong and what to do; of an unexpected error nothing that is private."""
    error = _typed(error)
    if isinstance(error, HttpError):
        return error.message
    return str(error) if isinstance(error, EdgeLLMError) else "internal error; the server's log has the details"


def code_of(error: Exception) -> str:
    """The stable name of an error, as clients of OpenAI's API expect it."""
    error = _typed(error)
    if isinstance(error, HttpError):
        return error.code
    return OPENAI_CODES.get(type(error), error.code) if isinstance(error, EdgeLLMError) else "internal_error"


def _typed(error: Exception) -> Exception:
    return out_of_memory() if isinstance(error, MemoryError) else error


def headers_of(status: int) -> list[tuple[bytes, bytes]]:
    """Headers of an error response, without its length."""
    headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if status in BUSY:
        headers.append((b"retry-after", str(RETRY_AFTER_S).encode()))
    return headers


def _type(status: int) -> str:
    """OpenAI's name for the kind of error that a status stands for."""
    if status == 401:
        return "authentication_error"
    if status == 403:
        return "permission_error"
    if status == 429:
        return "rate_limit_error"
    return "invalid_request_error" if status < 500 else "server_error"
