"""The JSON beside what is stored: a record of a version, and a file of a size."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec

from edgellm.files import DamagedRecord, decode_json_record, open_named, read_regular
from edgellm.types.store_problem import (
    FileUnreadable,
    Forbidden,
    OtherSize,
    RecordOfNewer,
    RecordUnreadable,
    StoreProblem,
)

T = TypeVar("T")
PathText = Annotated[str, msgspec.Meta(pattern=r"^[^\x00]*$")]  # of a field: with a NUL, it names no file


class _Version(msgspec.Struct):
    """Of a record: what is looked at first."""

    schema: Annotated[int, msgspec.Meta(ge=1)]


def read_record(path: Path, kind: type[T], *, schema: int, max_bytes: int) -> T | StoreProblem:
    """The record at `path`, or why it cannot be read. `schema`: the newest that is understood.

    Raises:
        FileNotFoundError: there is none.
    """
    try:
        content = read_regular(path, max_bytes)
        written = decode_json_record(content, _Version).schema
        if written > schema:
            return RecordOfNewer(str(path), written, schema)
        return decode_json_record(content, kind)
    except FileNotFoundError:
        raise
    except PermissionError:
        return Forbidden(str(path))
    except OSError as error:
        return RecordUnreadable(str(path), error.strerror or str(error))
    except DamagedRecord as error:
        return RecordUnreadable(str(path), str(error))


def unreadable(path: Path, error: OSError) -> StoreProblem:
    if isinstance(error, PermissionError):
        return Forbidden(str(path))
    return FileUnreadable(str(path), error.strerror or str(error))


def size_problem(path: Path, n_bytes: int) -> StoreProblem | None:
    """What is wrong with a file of which `n_bytes` were stored, without hashing it."""
    try:
        with open_named(path) as file:
            there = os.fstat(file.fileno()).st_size
    except OSError as error:
        return unreadable(path, error)
    return None if there == n_bytes else OtherSize(str(path), there, n_bytes)
