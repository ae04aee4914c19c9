"""Arrays by name in one file (npz, without pickle): whole or absent, the same bytes for the same arrays."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgellm.errors import BadArtifact
from edgellm.files import at_once, atomic_writer, writing


def write_arrays(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Forced to the disk.

    Raises:
        DiskFull, UsageError: it cannot be written.
    """
    by_name: dict[str, Any] = dict(arrays)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_writer(path, sync=True) as file:
            np.savez(file, **by_name)


def read_arrays(path: Path, *, hint: str) -> dict[str, npt.NDArray[Any]]:
    """
    Raises:
        BadArtifact: it is missing, damaged, or holds something else.
    """
    try:
        with open(path, "rb", opener=at_once) as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, KeyError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise BadArtifact(f"{path} cannot be read: {error}", hint=hint) from error
