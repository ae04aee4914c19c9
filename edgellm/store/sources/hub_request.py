"""What the hub says of a file, and its answers as huggingface_hub's functions take one.

huggingface_hub's own client waits without end for headers that come byte by byte; `store.http` asks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from edgellm.store import http

if TYPE_CHECKING:
    import httpx2

_NOT_COPIED = ("content-encoding", "content-length", "transfer-encoding")
_PUBLIC = ("https://huggingface.co", "https://hf.co")  # where a mirror may send us; the token does not go along


@dataclass(frozen=True, slots=True)
class FileHeaders:
    """As the hub sent them: "" or None = it did not."""

    etag: str
    commit: str
    bytes: int | None


def describe(url: str, headers: Mapping[str, str]) -> FileHeaders:
    """A file of the hub. A redirect to another hub is followed; one to the server with the bytes has what is asked for.

    Raises:
        As `http.request`; huggingface_hub's errors: the hub refuses.
    """
    from huggingface_hub import constants, hf_raise_for_status

    hubs = {urlsplit(hub)[:2] for hub in (constants.ENDPOINT, *_PUBLIC)}
    timeout_s = constants.HF_HUB_ETAG_TIMEOUT
    with http.request("HEAD", url, headers, timeout_s=timeout_s, is_followed=lambda to: urlsplit(to)[:2] in hubs) as it:
        answer = answer_of(it, b"")
        hf_raise_for_status(answer)
        etag = answer.headers.get(constants.HUGGINGFACE_HEADER_X_LINKED_ETAG) or answer.headers.get("ETag") or ""
        n_bytes = it.number(constants.HUGGINGFACE_HEADER_X_LINKED_SIZE)
        if n_bytes is None and not answer.is_redirect:
            n_bytes = it.number("Content-Length")
        commit = answer.headers.get(constants.HUGGINGFACE_HEADER_X_REPO_COMMIT, "")
    return FileHeaders(etag.removeprefix("W/").strip('"'), commit, n_bytes)


def answer_of(response: http.Response, content: bytes) -> httpx2.Response:
    """A response and its whole body."""
    import httpx2

    headers = {name: value for name, value in response.headers.items() if name not in _NOT_COPIED}
    request = httpx2.Request("GET", response.url)
    return httpx2.Response(response.status, headers=headers, content=content, request=request)
