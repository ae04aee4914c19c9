"""Contract: what turns a model of one format into another (`hookspecs.register_converters`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgellm.contract.source import Progress
from edgellm.types.model import Artifact


@dataclass(frozen=True, slots=True)
class Conversion:
    """What `edgellm convert` was asked for."""

    source: Artifact  # identified, its header not yet believed
    target: Path  # the file or folder to write
    to: str  # the registered `to_format`: "i2_s", "tq2_0", ...
    embedding: str = ""  # type of the embedding and output tables, "" = as they are
    i2s_layout: str = ""  # "x86" or "arm" for the order of I2_S codes in the source, "" = found out from the data
    replace: bool = False  # whether `target` may exist
    bits: int = 0  # of each weight, where the format leaves that open: 4, 8 or 16, 0 = about as many as it has


@dataclass(frozen=True, slots=True)
class Converted:
    """What came of it. `notes` is everything that differs from the source, one sentence each."""

    path: Path
    bytes: int
    notes: tuple[str, ...] = ()


class Converter(Protocol):
    """Writes the whole file or folder or none of it, and loses nothing without a note.

    Raises:
        ArtifactError: the source is broken, or cannot be held by the target; names the tensor and the values.
        UsageError: an option has no meaning here, or the target cannot be written. DiskFull: no room for it.
    """

    def __call__(self, conversion: Conversion, progress: Progress) -> Converted: ...
