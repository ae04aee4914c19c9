"""What tuning goes on from after it was ended in any way: one file for each checkpoint, whole or absent.

A checkpoint holds what is trained, moments and random state (`Trainer.state`), the steps made, and the evaluations so
far. It holds no text and no token of the training data, but what was learned from them: whoever may not read the data
must not get it either. Files are named by the hash of what they belong to, so that another job in the same folder
neither takes nor removes them.
"""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from edgellm.adaptation.arrays import ArrayFile, write_arrays
from edgellm.contract.tuner import Arrays
from edgellm.errors import BadArtifact
from edgellm.files import DamagedRecord, decode_json_record
from edgellm.types.tune_device import CPU
from edgellm.types.tuning import TuneEvaluation, TuneSettings

_META, _STATE = "meta", "state/"
_REMOVE = "remove it to go on from an older one"
_KEPT = 2  # of the newest, beside the best


class TuneKey(msgspec.Struct, frozen=True):
    """What a checkpoint belongs to. All of it must be equal for one to be gone on from."""

    base_sha256: str
    data_sha256: str
    held_out_sha256: str
    settings: TuneSettings
    tuner: str

    @property
    def sha256(self) -> str:
        key = msgspec.to_builtins(self)
        # Number of threads and device change last bits only: `CheckpointOrigin`. Before there were devices, nothing
        # stood for them here: what was begun then is gone on from.
        key["settings"] |= {"n_threads": 1}
        del key["settings"]["device"]
        return hashlib.sha256(msgspec.json.encode(key, order="sorted")).hexdigest()


class CheckpointOrigin(msgspec.Struct, frozen=True):
    """What equal bits depend on beside the key. Of another origin a checkpoint is gone on from, and that is said."""

    machine: str
    build: str
    n_threads: int
    device: str = CPU


class _Meta(msgspec.Struct, frozen=True):
    step: int
    origin: CheckpointOrigin
    exact: bool  # whether all steps so far are of this origin
    evaluations: tuple[TuneEvaluation, ...]


@dataclass(frozen=True, eq=False)
class Checkpoint:
    step: int  # steps made
    state: Arrays
    evaluations: tuple[TuneEvaluation, ...] = ()
    exact: bool = True
    damaged: tuple[str, ...] = ()  # newer ones that could not be read


class Checkpoints:
    """Those of one job in one folder. One process writes there at a time: the caller locks it."""

    def __init__(self, folder: Path, key: TuneKey, origin: CheckpointOrigin) -> None:
        self._folder = folder
        self._name = key.sha256[:16]
        self._origin = origin

    def save(self, checkpoint: Checkpoint, *, best_step: int) -> None:
        """Keep it, the one before it and that of the best step; forget the others.

        Raises:
            DiskFull, UsageError: it cannot be written; the others stay.
        """
        meta = _Meta(checkpoint.step, self._origin, checkpoint.exact, checkpoint.evaluations)
        arrays = {f"{_STATE}{name}": array for name, array in checkpoint.state.items()}
        write_arrays(self._place(checkpoint.step), {_META: _as_array(meta)} | arrays)
        for step in {*self._steps()[:-_KEPT]} - {best_step}:
            with contextlib.suppress(OSError):
                self._place(step).unlink()

    def newest(self) -> Checkpoint | None:
        """That of the most steps, or the next where it is damaged; None where there is none."""
        damaged: list[str] = []
        for step in reversed(self._steps()):
            try:
                checkpoint = self.at(step)
            except BadArtifact as error:
                damaged.append(error.message)
            else:
                return replace(checkpoint, damaged=tuple(damaged))
        return Checkpoint(0, {}, damaged=tuple(damaged)) if damaged else None

    def at(self, step: int) -> Checkpoint:
        """
        Raises:
            BadArtifact: it is missing or damaged.
        """
        place = self._place(step)
        try:
            meta = decode_json_record(ArrayFile(place, hint=_REMOVE, prefix=_META)[""].tobytes(), _Meta)
        except (KeyError, DamagedRecord) as error:
            raise BadArtifact(f"{place} is no checkpoint: {error}", hint=_REMOVE) from error
        state = ArrayFile(place, hint=_REMOVE, prefix=_STATE)
        return Checkpoint(meta.step, state, meta.evaluations, meta.exact and meta.origin == self._origin)

    def clear_parts(self) -> None:
        """Remove what a process left that was killed while it wrote."""
        for part in self._folder.glob(f".{self._name}-*.part"):
            with contextlib.suppress(OSError):
                part.unlink()

    def _place(self, step: int) -> Path:
        return self._folder / f"{self._name}-{step:09d}.npz"

    def _steps(self) -> list[int]:
        places = self._folder.glob(f"{self._name}-*.npz")
        return sorted(int(number) for place in places if (number := place.stem.rpartition("-")[2]).isdecimal())


def _as_array(meta: _Meta) -> npt.NDArray[np.uint8]:
    return np.frombuffer(msgspec.json.encode(meta), np.uint8)
