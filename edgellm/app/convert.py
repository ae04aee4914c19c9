"""Runs a converter within bounds, and does not believe it: nobody knows a tensor's size before it is read."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from edgellm.contract.answers import Fault, asked, hint_for, threads_noted
from edgellm.contract.converter import Conversion, Converted, Converter
from edgellm.contract.data_limit import limited_data
from edgellm.contract.failure import tidied
from edgellm.contract.source import Progress, checked_progress
from edgellm.errors import BackendError, UnsupportedArtifact, UsageError
from edgellm.units import show_size

# Converters hold some rows of a matrix; of a folder's master weights all of them, with 12 bytes for each.
LEAST_BYTES = 4 * 1024**3
TIMES_FILE = 2


def convert(converter: Converter, conversion: Conversion, progress: Progress) -> Converted:
    """What `converter` makes of it. On Linux it may allocate twice the source's bytes and 4 GiB, and no more than is
    available.

    Raises:
        UsageError: the target exists and is not to be replaced. UnsupportedArtifact: it takes more memory.
        BackendError: the converter does not keep to its contract. Others: as `edgellm.contract.converter.Converter`.
    """
    import psutil

    if conversion.target.exists() and not conversion.replace:
        raise UsageError(f"{conversion.target} exists already", hint="choose another name")
    wanted = LEAST_BYTES + TIMES_FILE * conversion.source.bytes
    most = min(psutil.virtual_memory().available, wanted)
    key = (conversion.source.format, conversion.to)
    target, expected = conversion.target, "a Converted whose path is the target, where something lies now"
    try:
        with limited_data(most), threads_noted(key, "register_converters"):
            made = asked(
                "it",
                lambda: converter(conversion, checked_progress(progress)),
                lambda done: _is_made(done, target),
                expected,
                tidied,
            )
    except Fault as fault:
        hint = _left(conversion) + hint_for(key, "register_converters")
        raise BackendError(f"the converter to {conversion.to}: {fault}", hint=hint) from fault
    except MemoryError:
        message = f"converting {conversion.source.path} takes more memory than {show_size(most)}"
        hint = f"{_left(conversion)}convert it on a machine with more memory, if it is sound"
        raise UnsupportedArtifact(message, hint=hint) from None
    return replace(made, bytes=_size(target))


def _is_made(done: Converted, target: Path) -> bool:
    return done.path == target and target.exists()


def _size(made: Path) -> int:
    files = made.rglob("*") if made.is_dir() else (made,)
    return sum(file.stat().st_size for file in files if file.is_file())


def _left(conversion: Conversion) -> str:
    """It is not removed: what lies there may be another program's, or what the converter was to replace."""
    return f"remove {conversion.target}, which may not be whole; " if os.path.lexists(conversion.target) else ""
