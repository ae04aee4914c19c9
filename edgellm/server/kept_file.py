"""Files of the page, answered from memory: an answer that its client does not take holds no file open."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

PIECE_BYTES = 64 * 1024  # written at a time, so that a slow client holds no more


class KeptFile(Response):
    """The content of `path`, with `headers` beside its own (type, length, time, tag)."""

    def __init__(self, path: Path, *, status_code: int = 200, headers: Mapping[str, str] | None = None) -> None:
        status = os.stat(path)
        described = FileResponse(path, stat_result=status).headers
        own = {name: described[name] for name in ("content-type", "last-modified", "etag")}
        super().__init__(_content(path, status.st_mtime_ns), status_code, {**own, **(headers or {})})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for begin in range(0, len(self.body) or 1, PIECE_BYTES):
            end = begin + PIECE_BYTES
            await send({"type": "http.response.body", "body": self.body[begin:end], "more_body": end < len(self.body)})


class KeptFiles(StaticFiles):
    """A folder of them."""

    def file_response(
        self, full_path: str | os.PathLike[str], stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        response = super().file_response(full_path, stat_result, scope, status_code)
        return KeptFile(Path(full_path), status_code=status_code) if isinstance(response, FileResponse) else response


@lru_cache(maxsize=256)
def _content(path: Path, _mtime_ns: int) -> bytes:
    return path.read_bytes()
