"""Golden prompts: a JSON file, a list of objects with `prompt` and `contains`."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgellm.errors import UsageError
from edgellm.files import DamagedRecord, read_json_record

_MOST_BYTES = 1024**2


class GoldenPrompt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A prompt, and what the greedy answer to it must contain."""

    prompt: str
    contains: str


def read(path: Path) -> tuple[tuple[str, str], ...]:
    """
    Raises:
        UsageError: the file cannot be read, or has another form.
    """
    hint = 'write [{"prompt": "2+2?", "contains": "4"}]'
    try:
        rows = read_json_record(path, list[GoldenPrompt], _MOST_BYTES)
    except (OSError, DamagedRecord) as error:
        raise UsageError(f"the golden prompts of {path} cannot be read: {error}", hint=hint, param="golden") from None
    return tuple((row.prompt, row.contains) for row in rows)
