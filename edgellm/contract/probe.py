"""Asks a native library about itself in a throwaway process, which may crash, and keeps the answer in a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

import msgspec

from edgellm.contract.child import ask
from edgellm.files import DamagedRecord, read_json_record, write_atomic
from edgellm.settings import variables

MAX_BYTES = 1024**2
T = TypeVar("T")
# Verdicts that no file keeps, as they may pass or there is no place for them: a process asks once, not each time.
_unwritten: dict[Path, object] = {}


@dataclass(frozen=True, slots=True)
class Probed:
    """The result of one run of a probe."""

    answer: str  # its last line on stdout
    problem: str = ""  # why there is no answer, in words; "" = there is one
    signal: str = ""  # that it died of: "SIGILL"


def probe_library(
    module: str, name: str, timeout_s: float, environment: Mapping[str, str] = MappingProxyType({})
) -> Probed:
    """Run a probe; `name` is what the problem calls the library. `environment` is added to this process's own."""
    answer, end = ask(module, timeout_s=timeout_s, env={**environment, **variables()})
    if end.timed_out:
        return Probed(answer, f"{name} did not answer within {timeout_s:.0f} s")
    if end.signal:
        return Probed(answer, f"{name} dies of {end.signal} here", end.signal)
    if end.returncode:
        return Probed(answer, f"{name} does not load: {end.last_words or 'no output'}")
    return Probed(answer or "no output")


def kept(path: Path, kind: type[T], probe: Callable[[], tuple[T, bool]]) -> T:
    """The verdict that is kept at `path`; without one, what `probe` finds: kept there where it says that it will last,
    and otherwise while this process lives."""
    if (verdict := read_kept(path, kind)) is not None:
        return verdict
    verdict, lasts = probe()
    if not (lasts and _wrote(path, verdict)):
        _unwritten[path] = verdict
    return verdict


def read_kept(path: Path, kind: type[T]) -> T | None:
    """Of the file, or of this process; None where there is neither, or a file that is damaged or none of ours."""
    try:
        return read_json_record(path, kind, MAX_BYTES)
    except (OSError, DamagedRecord):
        verdict = _unwritten.get(path)
        return verdict if isinstance(verdict, kind) else None


def _wrote(path: Path, verdict: object) -> bool:
    """False where there is no place for it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, msgspec.json.encode(verdict))
    except OSError:
        return False
    return True
