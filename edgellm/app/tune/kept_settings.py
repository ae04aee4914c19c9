"""The settings that a tuning began with, beside its checkpoints: it goes on with the same ones, though memory may be
another by then.

settings.json    the settings by name, and "sha256", a hash of all the others
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from edgellm.files import DamagedRecord, decode_json_record, read_regular, write_atomic
from edgellm.types.tuning import TuneSettings

SETTINGS = "settings.json"
_MAX_BYTES = 1024**2
_HASH = "sha256"


def write(folder: Path, settings: TuneSettings) -> None:
    """
    Raises:
        OSError: it cannot be written.
    """
    fields = msgspec.to_builtins(settings)
    content = msgspec.json.encode({**fields, _HASH: _hash(fields)})
    write_atomic(folder / SETTINGS, content, sync=True)


def read(folder: Path) -> TuneSettings | None:
    """None where there are none, or damaged ones."""
    try:
        content = read_regular(folder / SETTINGS, _MAX_BYTES)
        settings = decode_json_record(content, TuneSettings)
        fields = decode_json_record(content, dict[str, Any])
    except (OSError, DamagedRecord):
        return None
    # Earlier versions wrote none. A name that was damaged, also of the hash, would count as left out.
    sha256 = fields.pop(_HASH, None)
    is_whole = sha256 in (None, _hash(fields)) and fields.keys() <= {*TuneSettings.__struct_fields__}
    return settings if is_whole else None


def _hash(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(msgspec.json.encode(fields, order="sorted")).hexdigest()
