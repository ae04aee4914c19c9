"""`keep_alive`: how long a model is to stay loaded. The one that is served stays as long as the server runs."""

from __future__ import annotations

import re
from typing import Annotated

from msgspec import Meta

from edgellm.errors import UsageError
from edgellm.server.schemas.fields import shortened

STAYS = "model_stays_loaded"  # the note of an answer to a request that wants the model gone
KeepAlive = Annotated[
    str | float | None,
    Meta(description="Extension. Seconds, or text as 5m. Changes nothing: the model is loaded while the server runs."),
]
_MAX_LENGTH = 40  # characters of a text
_DURATION = re.compile(
    r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:ns|us|µs|ms|s|m|h)?(?:\d+(?:\.\d*)?(?:ns|us|µs|ms|s|m|h))*", re.ASCII
)
_NUMBER = re.compile(r"\d+(?:\.\d*)?|\.\d+", re.ASCII)


def unloads(value: str | float | None) -> bool:
    """Whether the model is to be gone at once: 0 of any unit.

    Raises:
        UsageError: it is no duration. Negative ones are, and mean for ever.
    """
    if not isinstance(value, str):
        return value == 0 and value is not None
    if len(value) > _MAX_LENGTH or not _DURATION.fullmatch(value):
        what = f"keep_alive: {shortened(value)} is not a duration"
        raise UsageError(what, hint='send seconds, or text as "5m" or "1h30m"', param="keep_alive")
    return not any(float(number) for number in _NUMBER.findall(value))
