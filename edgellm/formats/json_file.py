"""JSON files that lie beside the weights of a model, read within bounds."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from edgellm.errors import BadArtifact, UsageError
from edgellm.types.json_counts import check_counts

MAX_BYTES = 16 * 1024**2
MAX_VALUES = 500_000  # each takes up to 150 bytes; a list of 6,400 added tokens has 50,000
_AGAIN = "fetch it again"


def read_object(place: Path, *, most: int = MAX_BYTES, required: bool = False) -> dict[str, Any]:
    """The JSON object in a file; empty where the file is missing.

    Raises:
        BadArtifact: as `read_json`; it holds something else, or is missing and required.
    """
    raw = _read(place, most)
    if raw is None and required:
        raise BadArtifact(f"{place} is missing", hint="fetch the whole folder")
    content = {} if raw is None else _parsed(place, raw)
    if not isinstance(content, dict):
        raise BadArtifact(f"{place} is not a JSON object", hint=_AGAIN)
    return content


def read_json(place: Path, *, most: int = MAX_BYTES) -> Any:
    """What a file holds; None where it is missing.

    Raises:
        BadArtifact: no JSON, more than `most` bytes or MAX_VALUES values, or no regular file.
    """
    raw = _read(place, most)
    return None if raw is None else _parsed(place, raw)


def _read(place: Path, most: int) -> bytes | None:
    """A whole file; None where there is none. A pipe or a device would never end: refused."""
    try:
        if not stat.S_ISREG(os.stat(place).st_mode):
            raise BadArtifact(f"{place} is not a regular file", hint=_AGAIN)
        with place.open("rb") as file:
            raw = file.read(most + 1)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise BadArtifact(f"{place} cannot be read: {error}", hint=_AGAIN) from error
    if len(raw) > most:
        raise BadArtifact(f"{place} has more than {most} bytes", hint=_AGAIN)
    return raw


def _parsed(place: Path, raw: bytes) -> Any:
    try:
        check_counts(raw, max_values=MAX_VALUES, max_parts=MAX_VALUES, what=str(place))
    except UsageError as error:
        raise BadArtifact(error.message, hint=_AGAIN) from None
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise BadArtifact(f"{place} cannot be read: {error}", hint=_AGAIN) from error
