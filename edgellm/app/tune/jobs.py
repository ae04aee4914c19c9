"""Tunings that were begun and never finished: what they were, how far they came, and removing them.

data_dir()/tuning/<base>/<name>.<hash of what was asked>/
  job.json         the record below; settings.json, rows.npz, *.npz: what it works with
  .job.lock        held from its first step until what it made is asked and stored
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import msgspec

from edgellm import settings
from edgellm.adaptation.worker import LOCK
from edgellm.errors import UsageError
from edgellm.files import DamagedRecord, files_below, is_locked, locked, read_json_record, write_atomic
from edgellm.store.writable import changing_store
from edgellm.types.tuning_options import TuneOptions

RECORD, JOB_LOCK = "job.json", ".job.lock"
NOT_TUNED = "nothing can be tuned"
_MAX_BYTES = 1024**2
_OTHERS = "wait for it, or choose another name"


class TuneJobRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for: the same goes on where it was ended."""

    model: str  # as it was named
    base_id: str
    name: str  # of what comes of it
    data: str  # the path, absolute
    options: TuneOptions
    n_steps: int
    began_at: str = ""  # ISO 8601, UTC


@dataclass(frozen=True, slots=True)
class UnfinishedTuning:
    """`record`: None = it cannot be read, so that only removing it is left."""

    folder: Path
    bytes: int
    step: int  # of the newest checkpoint
    is_running: bool
    record: TuneJobRecord | None

    @property
    def id(self) -> str:
        """What it is removed by."""
        return f"{self.folder.parent.name}:{self.folder.name}"

    @property
    def label(self) -> str:
        """What comes of it."""
        return _label(self.folder)


def root() -> Path:
    return settings.current().data_dir / "tuning"


def note(folder: Path, record: TuneJobRecord) -> None:
    """Write what is done in `folder`, which exists. That of the first start stays.

    Raises:
        DiskFull, StoreUnwritable: it cannot be written.
    """
    if not (folder / RECORD).exists():
        begun = msgspec.structs.replace(record, began_at=datetime.now(UTC).isoformat(timespec="seconds"))
        with changing_store(folder, NOT_TUNED):
            write_atomic(folder / RECORD, msgspec.json.encode(begun), sync=True)


def unfinished() -> list[UnfinishedTuning]:
    """By base and name."""
    return [_read(folder) for folder in sorted(root().glob("*/*.*")) if folder.is_dir()]


def find(name: str) -> UnfinishedTuning:
    """The one with this id, or the only one with this label.

    Raises:
        UsageError: there is none, or more than one.
    """
    jobs = unfinished()
    chosen = [job for job in jobs if job.id == name] or [job for job in jobs if job.label == name]
    if len(chosen) != 1:
        what = f"{len(chosen)} unfinished tunings are called {name[:80]!r}"
        ids = ", ".join(job.id for job in chosen or jobs)
        raise UsageError(what, hint=f"there are: {ids}" if ids else "there is none at all", param="job")
    return chosen[0]


def check_idle(folder: Path) -> None:
    """
    Raises:
        UsageError: another process works there, or at what gets the same name.
    """
    if _is_running(files_below(folder)):
        _refuse_to_join(folder)
    _check_name(folder)


@contextlib.contextmanager
def working(folder: Path) -> Iterator[None]:
    """Until the block ends, nobody else does this tuning, or removes it: also while no worker makes steps.

    Raises:
        UsageError: as `check_idle`. DiskFull, StoreUnwritable: the folder cannot be made.
    """
    with contextlib.ExitStack() as held:
        with changing_store(folder, NOT_TUNED):
            held.enter_context(locked(folder / JOB_LOCK, lambda: _refuse_to_join(folder)))
        _check_name(folder)  # once more: two that began together are both refused
        yield


def _check_name(folder: Path) -> None:
    """That no other folder of the same base and name is worked in: only one result can be stored."""
    for other in folder.parent.glob("*.*"):
        if other != folder and _label(other) == _label(folder) and _is_running(files_below(other)):
            what = f"another process makes {_label(folder)}, with other settings or data, in {other}"
            raise UsageError(what, hint=_OTHERS, param="name")


def _label(folder: Path) -> str:
    return f"{folder.parent.name}:{folder.name.rpartition('.')[0]}"


def _refuse_to_join(folder: Path) -> NoReturn:
    raise UsageError(f"another process does this very tuning, in {folder}", hint=_OTHERS, param="name")


def remove(job: UnfinishedTuning) -> int:
    """Delete its folder, with all that is in it of the data; return the bytes freed.

    Raises:
        UsageError: it runs. StoreUnwritable: it cannot be deleted.
    """
    if _is_running(files_below(job.folder)):
        hint = "end it first, with Ctrl-C where it runs"
        raise UsageError(f"{job.id} is being tuned", hint=hint, param="job")
    with changing_store(job.folder, f"{job.id} cannot be deleted", is_new=False):
        shutil.rmtree(job.folder)
    for parent in (job.folder.parent, root()):
        if not any(parent.iterdir()):
            parent.rmdir()
    return job.bytes


def _read(folder: Path) -> UnfinishedTuning:
    files = files_below(folder)
    names = [path.stem.rpartition("-") for path in files if path.parent == folder and path.suffix == ".npz"]
    steps = [int(number) for _, dash, number in names if dash and number.isdecimal()]
    try:
        record = read_json_record(folder / RECORD, TuneJobRecord, _MAX_BYTES)
    except (OSError, DamagedRecord):
        record = None
    return UnfinishedTuning(folder, sum(files.values()), max(steps, default=0), _is_running(files), record)


def _is_running(files: Iterable[Path]) -> bool:
    """Whether a process has a lock of a tuning with these files, or of its control."""
    return any(is_locked(path) for path in files if path.name in (JOB_LOCK, LOCK))
