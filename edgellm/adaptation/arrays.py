"""Arrays by name in one file (npz, without pickle): whole or absent, the same bytes for the same arrays."""

from __future__ import annotations

import contextlib
import os
import tokenize
import weakref
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgellm.errors import BadArtifact
from edgellm.files import at_once, atomic_writer, writing

# What zipfile and NumPy raise at a file of somebody else's making.
_DAMAGE = (OSError, ValueError, KeyError, EOFError, AttributeError, TypeError, RuntimeError, zipfile.BadZipFile)
# NumPy reads headers as Python; which of these it raises goes by version and machine.
_NO_HEADER = (MemoryError, OverflowError, RecursionError, SyntaxError, tokenize.TokenError)


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


class ArrayFile(Mapping[str, npt.NDArray[Any]]):
    """Those whose names begin with `prefix`, by the rest of the name. Each is read when it is asked for: together they
    may be more than there is memory for."""

    def __init__(self, path: Path, *, hint: str, prefix: str = "") -> None:
        """Reads each once, and keeps none.

        Raises:
            BadArtifact: it is missing, damaged, or holds something else.
        """
        self._path, self._hint = path, hint
        with self._whole():
            file = open(path, "rb", opener=at_once)  # noqa: SIM115 - closed with the last reference
            weakref.finalize(self, file.close)
            self._arrays = np.load(file, allow_pickle=False)
            _check_sizes(self._arrays.zip, os.fstat(file.fileno()).st_size)
        self._names = {name.removeprefix(prefix): name for name in self._arrays.files if name.startswith(prefix)}
        for name in self:
            self[name]

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        place = self._names[name]
        with self._whole():
            array: npt.NDArray[Any] = self._arrays[place]
            return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    @contextlib.contextmanager
    def _whole(self) -> Iterator[None]:
        try:
            yield
        except _NO_HEADER as error:
            problem = "a header of it makes no array that memory holds"
            raise BadArtifact(f"{self._path} cannot be read: {problem}", hint=self._hint) from error
        except _DAMAGE as error:
            raise BadArtifact(f"{self._path} cannot be read: {error}", hint=self._hint) from error


def _check_sizes(members: zipfile.ZipFile, n_bytes: int) -> None:
    """None is compressed, as `write_arrays` compresses none: one would be unpacked to any size.

    Raises:
        ValueError.
    """
    for member in members.infolist():
        if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
            raise ValueError(f"{member.filename[:80]!r} is compressed")
    if (claimed := sum(member.file_size for member in members.infolist())) > n_bytes:
        raise ValueError(f"its arrays claim {claimed} bytes, the file has {n_bytes}")


def read_arrays(path: Path, *, hint: str) -> dict[str, npt.NDArray[Any]]:
    """
    Raises:
        BadArtifact: it is missing, damaged, or holds something else.
    """
    return dict(ArrayFile(path, hint=hint))
