"""What the models on this box take of its memory, as predicted: a file of each replica, which counts while it lives.

Several models share a box. Each plans for what the others leave, one after the other.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import psutil
from msgspec import Struct

from edgellm import settings
from edgellm.files import locked, write_atomic


class Entry(Struct, frozen=True):
    """One model."""

    name: str  # by which it is served
    n_bytes: int
    pid: int  # of its replica
    started: float  # when that process began: numbers of processes come again

    @property
    def lasts(self) -> bool:
        try:
            return psutil.Process(self.pid).create_time() == self.started
        except psutil.NoSuchProcess:
            return False


class Ledger:
    """That of one node: on a machine there may be several."""

    def __init__(self, node_id: str) -> None:
        self._folder = folder() / node_id

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Nobody else plans for this box meanwhile."""
        with locked(self._folder / "lock", lambda: None):
            yield

    def others(self, name: str) -> tuple[Entry, ...]:
        """The models here but for that one, by name."""
        entries = [msgspec.json.decode(file.read_bytes(), type=Entry) for file in self._folder.glob("*.json")]
        return tuple(sorted((e for e in entries if e.name != name and e.lasts), key=lambda entry: entry.name))

    def put(self, name: str, n_bytes: int) -> None:
        """This process runs it; 0 bytes where nothing is predicted of it."""
        entry = Entry(name, n_bytes, os.getpid(), psutil.Process().create_time())
        file = hashlib.sha256(name.encode()).hexdigest()[:16]  # a name may be a path
        write_atomic(self._folder / f"{file}.json", msgspec.json.encode(entry))


def folder() -> Path:
    """Where they lie; whoever leaves a cluster removes it."""
    return settings.current().data_dir / "cluster" / "memory"
