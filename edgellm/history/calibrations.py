"""Calibrations of this machine, kept: one file for each backend, build of it, and processor.

New thread counts are added to those that are stored. A file is replaced atomically and under a lock, so neither a
reader nor a second writer loses anything. A file that cannot be read is ignored with a warning, until the next
calibration replaces it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from pathlib import Path
from typing import Any

import msgspec

from edgellm import settings
from edgellm.files import write_atomic
from edgellm.types.calibration import Calibration
from edgellm.types.machine import Machine

log = logging.getLogger("edgellm.types.calibration")

SCHEMA = 1
MAX_BYTES = 1 << 20
_BY_TYPE = ("decode", "prefill", "attention", "attention_prefill", "row_s")  # (type, threads) -> number
_BY_THREADS = ("layer_s", "element_s", "element_prefill_s")  # threads -> number


class _Stored(msgspec.Struct):
    schema: int
    key: dict[str, str]
    rates: dict[str, dict[str, dict[int, float]]]  # field -> type -> threads -> number
    layers: dict[str, dict[int, float]]  # field -> threads -> number
    scatter: float
    date: str
    heads: dict[str, dict[int, dict[int, float]]] = {}  # cache type -> numbers in a head -> threads -> rate
    # cache type -> numbers in a head -> key/value heads -> threads -> seconds
    apart: dict[str, dict[int, dict[int, dict[int, float]]]] = {}


def load(machine: Machine, backend: str, build: str, notes: list[str] | None = None) -> Calibration | None:
    """What was measured on this processor with this build; None = nothing, or nothing usable (a note says why)."""
    path = _path(machine, backend, build)
    try:
        stored = msgspec.json.decode(_read(path), type=_Stored)
        if stored.schema != SCHEMA or stored.key != _key(machine, backend, build):
            raise ValueError("it describes another processor, build or version")
        return _from_stored(stored, build)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        reason = f"{path.name}: {str(error) or type(error).__name__}"[:200]
        note = f"the stored calibration of {backend} is not usable ({reason}): run `edgellm calibrate`"
        log.warning(note)
        if notes is not None:
            notes.append(note)
        return None


def save(machine: Machine, backend: str, calibration: Calibration) -> Calibration:
    """Store a calibration beside the thread counts that were measured before; return all of it.

    Raises:
        OSError: the folder cannot be written.
    """
    from filelock import FileLock

    path = _path(machine, backend, calibration.build)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        before = load(machine, backend, calibration.build)
        merged = calibration if before is None else _merged(before, calibration)
        write_atomic(path, msgspec.json.encode(_to_stored(machine, backend, merged)), sync=True)
    return merged


def _merged(before: Calibration, calibration: Calibration) -> Calibration:
    every = (*_BY_TYPE, *_BY_THREADS, "attention_by_head", "attention_apart_s")
    tables = {name: getattr(before, name) | getattr(calibration, name) for name in every}
    return dataclasses.replace(calibration, **tables)


def _key(machine: Machine, backend: str, build: str) -> dict[str, str]:
    cpu = machine.cpu
    return {"backend": backend, "build": build, "cpu": cpu.model, "arch": cpu.arch, "isa": " ".join(sorted(cpu.isa))}


def _path(machine: Machine, backend: str, build: str) -> Path:
    key = msgspec.json.encode(_key(machine, backend, build), order="sorted")
    return settings.current().cache_dir / "calibration" / f"{backend}-{hashlib.sha256(key).hexdigest()[:16]}.json"


def _read(path: Path) -> bytes:
    with open(path, "rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"longer than {MAX_BYTES} bytes")
    return data


def _to_stored(machine: Machine, backend: str, c: Calibration) -> _Stored:
    rates: dict[str, dict[str, dict[int, float]]] = {}
    for name in _BY_TYPE:
        for (kind, threads), rate in sorted(getattr(c, name).items()):
            rates.setdefault(name, {}).setdefault(kind, {})[threads] = rate
    layers = {name: dict(sorted(getattr(c, name).items())) for name in _BY_THREADS}
    heads: dict[str, dict[int, dict[int, float]]] = {}
    for (kind, size, threads), rate in sorted(c.attention_by_head.items()):
        heads.setdefault(kind, {}).setdefault(size, {})[threads] = rate
    apart: dict[str, dict[int, dict[int, dict[int, float]]]] = {}
    for (kind, size, count, threads), seconds in sorted(c.attention_apart_s.items()):
        apart.setdefault(kind, {}).setdefault(size, {}).setdefault(count, {})[threads] = seconds
    return _Stored(SCHEMA, _key(machine, backend, c.build), rates, layers, c.scatter, c.date, heads, apart)


def _from_stored(stored: _Stored, build: str) -> Calibration:
    tables: dict[str, Any] = {
        name: {
            (kind, threads): rate
            for kind, by_threads in stored.rates.get(name, {}).items()
            for threads, rate in by_threads.items()
        }
        for name in _BY_TYPE
    }
    tables |= {name: stored.layers.get(name, {}) for name in _BY_THREADS}
    tables["attention_by_head"] = {
        (kind, size, threads): rate
        for kind, by_size in stored.heads.items()
        for size, by_threads in by_size.items()
        for threads, rate in by_threads.items()
    }
    tables["attention_apart_s"] = {
        (kind, size, count, threads): seconds
        for kind, by_size in stored.apart.items()
        for size, by_count in by_size.items()
        for count, by_threads in by_count.items()
        for threads, seconds in by_threads.items()
    }
    for name, table in tables.items():
        rate_like = name not in ("row_s", "attention_apart_s", *_BY_THREADS)
        if any(not 0 <= number < 1e6 or (rate_like and number == 0) for number in table.values()):
            raise ValueError(f"{name} holds a number that is no rate")
        if any(count < 1 for key in table if isinstance(key, tuple) for count in key[1:]):
            raise ValueError(f"{name} holds a size or a number of threads below 1")
    if not tables["decode"] or not tables["prefill"]:
        raise ValueError("it holds no rates")
    return Calibration(**tables, scatter=stored.scatter, build=build, date=stored.date)
