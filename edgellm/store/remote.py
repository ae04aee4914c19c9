"""The header of a file that is not here: read from its first bytes, in windows that grow until it is whole.

What the server says of the file's length is checked against what was promised, and every tensor against that length,
before anything is downloaded. A server that ignores Range is read from its one response, as far as the header goes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Self

from edgellm.contract.source import RemoteFile
from edgellm.errors import BadArtifact, IntegrityError, SourceError, SourceUnreachable
from edgellm.formats.gguf import fields, reader
from edgellm.formats.gguf import summary as gguf_summary
from edgellm.formats.gguf.cursor import Incomplete
from edgellm.formats.gguf.header import GgufHeader, parse_gguf
from edgellm.formats.gguf.summary import Summary
from edgellm.store import http
from edgellm.store.address import redacted

FIRST_BYTES = 1024**2  # a vocabulary of 32,000 fits; one of 262,144 takes 6.5 MB
MAX_HEADER_BYTES = 64 * 1024**2
_PIECE_BYTES = 64 * 1024
_BROKEN = "its server, or a proxy on the way, is broken: try another source"
_RANGE = re.compile(r"bytes ([0-9]{1,15})-([0-9]{1,15})/([0-9]{1,15}|\*)")


def content_range(response: http.Response) -> tuple[int, int | None]:
    """(first byte, length of the whole file) of a response; (0, length) where the range was ignored."""
    if response.status == 200:
        return 0, response.number("Content-Length")
    match = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if match is None:
        raise SourceError(f"{redacted(response.url)} answers a range without saying which", hint=_BROKEN)
    return int(match[1]), None if match[3] == "*" else int(match[3])


def check_length(file: RemoteFile, total: int | None) -> int:
    """The file's length, which server and source must agree on.

    Raises:
        IntegrityError: they do not. SourceError: neither says it.
    """
    length = file.bytes if total is None else total
    if length is None:
        raise SourceError(
            f"{redacted(file.url)} does not say how long the file is",
            hint="download it by other means, then name it",
        )
    if file.bytes not in (None, length):
        raise IntegrityError(
            f"{redacted(file.url)} has {length} bytes, {file.bytes} were promised", hint="the file was replaced"
        )
    return length


def check_encoding(response: http.Response) -> None:
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding != "identity":
        raise SourceError(
            f"{redacted(response.url)} sends the file packed ({encoding}), which was not asked for", hint=_BROKEN
        )


def validator(response: http.Response) -> str:
    """What changes when the file does: ETag, else the date; "" = the server says neither."""
    return str(response.headers.get("ETag") or response.headers.get("Last-Modified") or "")


class FileHead:
    """The first bytes of a remote file. `file` has length and etag once something was read."""

    def __init__(self, file: RemoteFile) -> None:
        self.file = file
        self._data = bytearray()
        self._whole: http.Response | None = None  # of a server that ignores Range: its one response, still open

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._whole is not None:
            self._whole.close()

    def read(self, end: int) -> bytes:
        """The first `end` bytes, fewer where the file is shorter.

        Raises:
            SourceError and its kinds, UnknownModel.
        """
        if self.file.bytes is not None:
            end = min(end, self.file.bytes)
        if end > len(self._data):
            self._receive(self._whole or self._request(end), end)
        if len(self._data) < min(end, self.file.bytes or end):
            raise SourceUnreachable(
                f"{redacted(self.file.url)} hung up after {len(self._data)} bytes", hint="try again later"
            )
        return bytes(self._data)

    def _request(self, end: int) -> http.Response:
        begin = len(self._data)
        headers = {**self.file.headers, "Range": f"bytes={begin}-{end - 1}"}
        response = http.get(self.file.url, headers, hint=self.file.hint)
        try:
            if response.status == 416:
                raise BadArtifact(f"{redacted(self.file.url)} is empty", hint="it is not a model")
            check_encoding(response)
            start, total = content_range(response)
            length = check_length(self.file, total)
            etag = validator(response)
            if begin and self.file.etag and etag and etag != self.file.etag:
                raise IntegrityError(f"{redacted(self.file.url)} changed while it was read", hint="try again")
        except BaseException:
            response.close()
            raise
        self.file = replace(self.file, bytes=length, etag=self.file.etag or etag)
        if response.status == 200:
            self._data.clear()
            self._whole = response
        elif start != begin:
            response.close()
            where = redacted(self.file.url)
            raise SourceError(f"{where} sends bytes from {start}, asked for were those from {begin}", hint=_BROKEN)
        return response

    def _receive(self, response: http.Response, end: int) -> None:
        try:
            while len(self._data) < end:
                piece = response.read(min(_PIECE_BYTES, end - len(self._data)))
                if not piece:
                    break
                self._data += piece
        finally:
            if response is not self._whole:
                response.close()


def header_of(file: RemoteFile) -> tuple[GgufHeader, RemoteFile]:
    """The checked header, and the file with its length and etag.

    Raises:
        BadArtifact, UnsupportedArtifact: no sound GGUF file. SourceError and its kinds, UnknownModel.
    """
    with FileHead(file) as head:
        end = FIRST_BYTES
        while True:
            data = head.read(end)
            try:
                return parse_gguf(data, file_bytes=head.file.bytes or 0, where=redacted(file.url)), head.file
            except Incomplete as error:
                if error.needed > MAX_HEADER_BYTES:
                    raise BadArtifact(
                        f"{error.message}; a header of more than {MAX_HEADER_BYTES} bytes is none",
                        hint="it is not a model",
                    ) from None
                end = min(max(error.needed, 4 * len(data)), MAX_HEADER_BYTES)


def summary_of(files: Sequence[RemoteFile]) -> tuple[Summary, list[RemoteFile]]:
    """What the headers of all parts say; from the cache where the source's hash or etag is the same as then.

    Raises:
        As `header_of`; BadArtifact where the parts do not belong together.
    """
    stamp = " ".join(f"{file.sha256 or file.etag}-{file.bytes}" for file in files)
    name = redacted(files[0].url)
    is_stamped = all((file.sha256 or file.etag) and file.bytes is not None for file in files)
    summary = gguf_summary.cached(name, stamp) if is_stamped else None
    if summary is not None:
        return summary, list(files)
    described = [header_of(file) for file in files]
    headers = [header for header, _ in described]
    if len(headers) > 1:
        reader.check_parts(headers)
    fields.check(headers)
    summary = gguf_summary.summarize(headers)
    return (gguf_summary.keep(name, stamp, summary) if is_stamped else summary), [file for _, file in described]
