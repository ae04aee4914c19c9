"""Why a stored model is not used, as data. See `edgellm.types.reason`."""

from __future__ import annotations

from edgellm.types.basis import Fact


class FileUnreadable(Fact, frozen=True):
    """A file of it is gone or cannot be opened."""

    path: str
    error: str


class Forbidden(Fact, frozen=True):
    """This user may not read a file of it, or its record: another one stored it."""

    path: str


class OtherSize(Fact, frozen=True):
    """A file was cut, or something was added to it."""

    path: str
    n_bytes: int
    stored_bytes: int


class OtherHash(Fact, frozen=True):
    """A file has other bytes than were stored."""

    path: str
    sha256: str
    stored_sha256: str


class RecordUnreadable(Fact, frozen=True):
    """The record beside its files cannot be read, or is none."""

    path: str
    error: str


class RecordOfNewer(Fact, frozen=True):
    """A newer version of EdgeLLM wrote the record. Its files may be sound."""

    path: str
    schema: int
    read_schema: int  # the newest that this version reads


StoreProblem = FileUnreadable | Forbidden | OtherSize | OtherHash | RecordUnreadable | RecordOfNewer
