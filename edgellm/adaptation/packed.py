"""Training data as a tuner reads it: rows of token ids in one file of arrays (npz, without pickle).

tokens      (n,)           int32  all rows, one after another
supervised  (n,)           bool   whether this very token counts for the loss
documents   (n,)           int32  from 1 on in each row, ascending
starts      (n_rows + 1,)  int64  where each row begins, and the end of the last
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgellm.adaptation.arrays import read_arrays, write_arrays
from edgellm.contract.tuner import Batch
from edgellm.errors import BadArtifact
from edgellm.types.tuning import TuneSize

_AGAIN = "start the tuning anew"


@dataclass(frozen=True, eq=False)
class Packed:
    tokens: npt.NDArray[np.int32]
    supervised: npt.NDArray[np.bool_]
    documents: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int64]

    @property
    def n_rows(self) -> int:
        return len(self.starts) - 1

    @functools.cached_property
    def size(self) -> TuneSize:
        counts = np.add.reduceat(self.supervised, self.starts[:-1], dtype=np.int64)
        return TuneSize(
            n_rows=self.n_rows,
            n_tokens=len(self.tokens),
            n_supervised=int(counts.sum()),
            most_supervised=int(counts.max()),
            longest=int(np.diff(self.starts).max()),
        )

    @functools.cached_property
    def sha256(self) -> str:
        digest = hashlib.sha256()
        for field in fields(self):
            array = np.ascontiguousarray(getattr(self, field.name))
            digest.update(f"{field.name} {array.dtype.str} {array.shape}\n".encode())
            digest.update(array.data)
        return digest.hexdigest()

    def batch(self, rows: Sequence[int]) -> Batch:
        """These rows, padded on the right to the longest of them."""
        lengths = [int(self.starts[row + 1] - self.starts[row]) for row in rows]
        shape = len(rows), max(lengths)
        tokens, documents = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        positions, supervised = np.zeros(shape, np.int32), np.zeros(shape, np.bool_)
        for at, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            own = slice(self.starts[row], self.starts[row + 1])
            tokens[at, :length], supervised[at, :length] = self.tokens[own], self.supervised[own]
            documents[at, :length] = numbers = self.documents[own]
            begins = np.r_[True, numbers[1:] != numbers[:-1]]
            places = np.arange(length)
            positions[at, :length] = places - np.maximum.accumulate(np.where(begins, places, 0))
        return Batch(tokens, supervised, positions, documents)


def write(path: Path, packed: Packed) -> None:
    """The whole file or none of it.

    Raises:
        DiskFull, UsageError: it cannot be written.
    """
    write_arrays(path, {field.name: getattr(packed, field.name) for field in fields(packed)})


def read(path: Path) -> Packed:
    """
    Raises:
        BadArtifact: it is missing, or no such file.
    """
    arrays = read_arrays(path, hint=_AGAIN)
    if missing := [field.name for field in fields(Packed) if field.name not in arrays]:
        raise BadArtifact(f"{path} lacks {', '.join(missing)}", hint=_AGAIN)
    packed = Packed(**arrays)
    if problem := _problem(packed):
        raise BadArtifact(f"{path}: {problem}", hint=_AGAIN)
    return packed


def _problem(packed: Packed) -> str:
    kinds = {"tokens": np.int32, "supervised": np.bool_, "documents": np.int32, "starts": np.int64}
    for name, kind in kinds.items():
        array = getattr(packed, name)
        if array.dtype != kind or array.ndim != 1:
            return f"{name} is {array.dtype} {array.shape}"
    n, starts = len(packed.tokens), packed.starts
    if not len(packed.supervised) == len(packed.documents) == n:
        return f"{n} tokens, {len(packed.supervised)} marks and {len(packed.documents)} document numbers"
    if len(starts) < 2 or starts[0] != 0 or starts[-1] != n or (np.diff(starts) < 1).any():
        return "its rows do not follow one another"
    if packed.tokens.min() < 0 or packed.documents.min() < 1 or not packed.supervised.any():
        return "a token or document has no number, or nothing is supervised"
    return ""
