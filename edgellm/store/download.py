"""Downloads one file. It resumes an earlier try and keeps to a rate. The file is complete and checked, or absent.

    NAME.<...>.incomplete     being downloaded (`store.partial` says who writes into it)
    NAME                      every byte was counted and hashed

A killed process leaves the first. The next process requests only the missing bytes.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from edgellm import settings
from edgellm.contract.source import FetchedFile, Progress, RemoteFile
from edgellm.errors import DiskFull, IntegrityError, SourceError, SourceUnreachable
from edgellm.files import FULL, is_plain
from edgellm.store import http, partial
from edgellm.store.address import redacted
from edgellm.store.remote import check_encoding, check_length, content_range, validator

if TYPE_CHECKING:
    from hashlib import _Hash

CHUNK_BYTES = 256 * 1024  # what a kill can lose
_TRIES = 5  # with little between two of them
_LITTLE_BYTES = 1024**2  # or a hundredth of the file
_REPORT_S = 0.1
_OTHER = "the file was replaced at its source, or its server is broken: fetch it again later"


class Throttle:
    """Holds a stream of bytes to a rate; None = as fast as it comes."""

    def __init__(self, bytes_per_s: int | None) -> None:
        self._rate = bytes_per_s
        self._due = time.monotonic()

    @property
    def chunk_bytes(self) -> int:
        """At most a tenth of a second's worth, so that the stream is even."""
        return CHUNK_BYTES if self._rate is None else max(1024, min(CHUNK_BYTES, self._rate // 10))

    def wait(self, n_bytes: int) -> None:
        """After `n_bytes`: wait until the rate allows more."""
        if self._rate is not None:
            now = time.monotonic()
            self._due = max(self._due, now - 0.1) + n_bytes / self._rate
            time.sleep(max(0.0, self._due - now))


def throttle() -> Throttle:
    """As EDGELLM_MAX_RATE says.

    Raises:
        UsageError: it is not a rate.
    """
    return Throttle(settings.current().download_rate)


def download(file: RemoteFile, target: Path, report: Callable[[int], None], limit: Throttle | None = None) -> str:
    """Bring `file` to `target`; return its sha256. `report` is told the bytes so far, about ten times a second.

    The caller holds a lock, so that two processes do not fetch the same file.

    Raises:
        SourceUnreachable: the network gave up; what came stays for the next try.
        IntegrityError: another length or hash than promised; nothing stays. DiskFull, SourceError, UnknownModel.
    """
    part = partial.claim(file, target)
    job = _Download(file, part, report, limit or throttle())
    try:
        sha256 = job.run()
        if file.sha256 and sha256 != file.sha256.lower():
            part.unlink()
            if job.resumed:  # what was here already may have been the wrong part
                return download(file, target, report, limit)
            raise IntegrityError(
                f"{target.name} from {redacted(file.url)} has sha256 {sha256}, {file.sha256} was promised",
                hint="fetch it again; if it repeats, the source has another file than it says",
            )
        os.replace(part, target)
    finally:
        partial.release(part, file, target)
    return sha256


def total_of(files: Sequence[RemoteFile], n_bytes: int | None) -> int | None:
    """Bytes of all parts, None where a source does not say them.

    Raises:
        IntegrityError: not the `n_bytes` that were promised.
    """
    sizes = [file.bytes for file in files]
    total = None if None in sizes else sum(size for size in sizes if size is not None)
    if None not in (total, n_bytes) and total != n_bytes:
        where = redacted(files[0].url)
        raise IntegrityError(f"{where} has {total} bytes, {n_bytes} were promised", hint=_OTHER)
    return total


def download_all(
    files: Sequence[RemoteFile], folder: Path, what: str, progress: Progress, *, n_bytes: int | None = None
) -> list[FetchedFile]:
    """Bring the parts of one model into `folder`, one after the other; those that are here already stay where they lie.

    Raises:
        As `download` and `total_of`.
    """
    total = total_of(files, n_bytes)
    done = 0
    limit = throttle()
    fetched = []
    for file in files:
        if file.path is not None:
            fetched.append(FetchedFile(file.path, file.sha256))
            done += file.bytes or 0
            continue
        if not is_plain(file.name):
            raise SourceError(f"{file.name!r} is not a file name", hint="its source is not to be trusted")
        target = folder / file.name

        def report(here: int, before: int = done) -> None:
            progress(before + here, total, what)

        sha256 = _finished(target, file) or download(file, target, report, limit)
        fetched.append(FetchedFile(target, file.sha256, sha256))
        done += target.stat().st_size
    return fetched


def _finished(target: Path, file: RemoteFile) -> str:
    """The hash of a part that an earlier try finished; "" if it is not there, or has other contents."""
    if not file.sha256 or not target.is_file() or target.stat().st_size != file.bytes:
        return ""
    with open(target, "rb") as whole:
        sha256 = hashlib.file_digest(whole, "sha256").hexdigest()
    return sha256 if sha256 == file.sha256.lower() else ""


class _Download:
    """One run at one file. `resumed`: some of it was here before."""

    def __init__(self, file: RemoteFile, part: Path, report: Callable[[int], None], limit: Throttle) -> None:
        self.file = file
        self.part = part
        self.resumed = False
        self._report = report
        self._reported_at = 0.0
        self._limit = limit
        self._size = 0
        self._hash: _Hash = hashlib.sha256()

    def run(self) -> str:
        try:
            # Unbuffered: what was received is in the file, whenever the process is killed.
            with open(self.part, "ab+", buffering=0) as out:
                self._resume(out)
                self._collect(out)
                os.fsync(out.fileno())
        except IntegrityError:
            self.part.unlink(missing_ok=True)
            raise
        except OSError as error:
            if error.errno not in FULL:
                raise
            self.part.unlink(missing_ok=True)
            raise DiskFull(
                f"the disk of {self.part.parent} was full after {self._size} bytes", hint="free space, then fetch again"
            ) from error
        self._report(self._size)
        return self._hash.hexdigest()

    def _resume(self, out: BinaryIO) -> None:
        """Hash what an earlier try left."""
        out.seek(0)
        while piece := out.read(CHUNK_BYTES):
            self._hash.update(piece)
            self._size += len(piece)
        self.resumed = self._size > 0
        if self.file.bytes is not None and self._size > self.file.bytes:
            self._restart(out)

    def _restart(self, out: BinaryIO) -> None:
        out.truncate(0)
        out.seek(0)
        self._size, self._hash, self.resumed = 0, hashlib.sha256(), False

    def _collect(self, out: BinaryIO) -> None:
        failures, mark, why = 0, self._size, ""
        while self.file.bytes is None or self._size < self.file.bytes:
            if failures == _TRIES:
                raise SourceUnreachable(
                    f"{redacted(self.file.url)} {why or 'hung up'} after {self._size} of {self.file.bytes} bytes",
                    hint="try again: what is here already is kept",
                )
            if failures:
                time.sleep(http.BACKOFF_S * 2 ** (failures - 1))
            with self._request(out) as response:
                why = self._receive(response, out)
            little = min(_LITTLE_BYTES, (self.file.bytes or 0) // 100)
            failures = failures + 1 if self._size - mark <= little else 1
            mark = self._size

    def _request(self, out: BinaryIO) -> http.Response:
        """A response that begins where the file ends."""
        headers = dict(self.file.headers)
        if self._size:
            headers["Range"] = f"bytes={self._size}-"
        response = http.get(self.file.url, headers, hint=self.file.hint)
        try:
            if response.status == 416:
                where = redacted(self.file.url)
                raise IntegrityError(f"{where} has no byte {self._size}, it was promised longer", hint=_OTHER)
            check_encoding(response)
            start, total = content_range(response)
            etag = validator(response)
            is_other = bool(etag and self.file.etag and not self.file.sha256 and etag != self.file.etag)
            if start != self._size or (is_other and self._size):
                if start != 0:
                    raise IntegrityError(f"{redacted(self.file.url)} changed while it was fetched", hint="try again")
                self._restart(out)  # the range was ignored: from the beginning
            self.file = replace(self.file, bytes=check_length(self.file, total))
        except BaseException:
            response.close()
            raise
        return response

    def _receive(self, response: http.Response, out: BinaryIO) -> str:
        """Write the body to the file. Return why it stalled; "" if it is complete or the server hung up."""
        assert self.file.bytes is not None
        while True:
            try:
                # One more than is missing, to notice a server that sends more.
                piece = response.read(min(self._limit.chunk_bytes, self.file.bytes - self._size + 1))
            except SourceUnreachable as error:
                return f"stopped sending: {http.reason_of(error)}"
            if not piece:
                return ""
            if self._size + len(piece) > self.file.bytes:
                where = redacted(self.file.url)
                raise IntegrityError(f"{where} sends more than the {self.file.bytes} bytes promised", hint=_OTHER)
            out.write(piece)
            self._hash.update(piece)
            self._size += len(piece)
            if time.monotonic() - self._reported_at > _REPORT_S:
                self._report(self._size)
                self._reported_at = time.monotonic()
            self._limit.wait(len(piece))
