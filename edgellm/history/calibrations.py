"""Calibrations of this machine, kept: one file for each backend, build of it, and processor.

New thread counts are added to those that are stored, and what is measured beside other programs takes no quiet rate's
place (`history.occasions`). A file is replaced atomically and under a lock, so neither a reader nor a second writer
loses anything. A file that cannot be read is ignored with a warning, until the next calibration replaces it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from edgellm import settings
from edgellm.errors import UsageError
from edgellm.files import make_private, read_json_record, write_atomic
from edgellm.history import occasions
from edgellm.history.plausible import problem_in
from edgellm.types.calibration import Calibration, Occasion
from edgellm.types.machine import Machine

log = logging.getLogger("edgellm.types.calibration")

SCHEMA = 1
MAX_BYTES = 1 << 20
FOLDER = "calibration"  # in the cache
_BY_TYPE = ("decode", "prefill", "attention", "attention_prefill", "row_s")  # (type, threads) -> number
_BY_THREADS = ("layer_s", "element_s", "element_prefill_s")  # threads -> number
_TABLES = (*_BY_TYPE, *_BY_THREADS, "attention_by_head", "attention_apart_s")


class Tables(msgspec.Struct):
    """A `Calibration` as JSON holds it: there are no pairs as keys, so each part of a key is a level of its own."""

    rates: dict[str, dict[str, dict[int, float]]]  # field -> type -> threads -> number
    layers: dict[str, dict[int, float]]  # field -> threads -> number
    scatter: float
    heads: dict[str, dict[int, dict[int, float]]] = {}  # cache type -> numbers in a head -> threads -> rate
    # cache type -> numbers in a head -> key/value heads -> threads -> seconds
    apart: dict[str, dict[int, dict[int, dict[int, float]]]] = {}
    occasions: dict[int, Occasion] = {}  # threads -> what they were measured beside; not in older files

    @classmethod
    def of(cls, calibration: Calibration) -> Tables:
        levels = {name: _levels(getattr(calibration, name)) for name in _TABLES}
        return cls(
            rates={name: levels[name] for name in _BY_TYPE if levels[name]},
            layers={name: levels[name] for name in _BY_THREADS},
            scatter=calibration.scatter,
            heads=levels["attention_by_head"],
            apart=levels["attention_apart_s"],
            occasions=calibration.occasions,
        )

    def calibration(self) -> Calibration:
        """Without build and date."""
        tables: dict[str, Any] = {name: dict(_rows(self.rates.get(name, {}))) for name in _BY_TYPE}
        tables |= {name: self.layers.get(name, {}) for name in _BY_THREADS}
        tables |= {"attention_by_head": dict(_rows(self.heads)), "attention_apart_s": dict(_rows(self.apart))}
        return Calibration(**tables, scatter=self.scatter, occasions=self.occasions)


class _Stored(Tables, kw_only=True):
    schema: int
    key: dict[str, str]
    date: str


class _Stated(Tables, kw_only=True):
    """As a profile or a dump of another machine holds it."""

    build: str
    date: str


def stated(calibration: Calibration) -> dict[str, Any]:
    """A calibration as tables of JSON or TOML, for `read` elsewhere."""
    tables = msgspec.structs.asdict(Tables.of(calibration))
    table: dict[str, Any] = msgspec.to_builtins(
        _Stated(**tables, build=calibration.build, date=calibration.date), str_keys=True
    )
    return table


def read(tables: Mapping[str, Any], source: str) -> dict[str, Calibration]:
    """Backend -> calibration, as the file `source` states them.

    Raises:
        UsageError: it states what no calibration is.
    """
    return {backend: _read(table, f"{source}: calibrations.{backend}") for backend, table in tables.items()}


def _read(table: Any, place: str) -> Calibration:
    try:
        told = msgspec.convert(table, type=_Stated, str_keys=True)
        calibration = told.calibration()
        _check(calibration)
    except (ValueError, TypeError, RecursionError) as error:
        hint = "`edgellm calibrate`, then `edgellm profile --out FILE` on that machine write it"
        raise UsageError(f"{place}: {str(error)[:200]}", hint=hint, param="calibrations") from None
    return dataclasses.replace(calibration, build=told.build, date=told.date)


def load(machine: Machine, backend: str, build: str, notes: list[str] | None = None) -> Calibration | None:
    """What was measured on this processor with this build; None = nothing, or nothing usable (a note says why)."""
    path = _path(machine, backend, build)
    try:
        stored = read_json_record(path, _Stored, MAX_BYTES)
        if stored.schema != SCHEMA or stored.key != _key(machine, backend, build):
            raise ValueError("it describes another processor, build or version")
        calibration = stored.calibration()
        _check(calibration)
        return dataclasses.replace(calibration, build=build, date=stored.date)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
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
    make_private(path.with_suffix(".lock"))
    with FileLock(path.with_suffix(".lock")):
        before = load(machine, backend, calibration.build)
        merged = calibration if before is None else occasions.merged(before, calibration)
        write_atomic(path, entry(machine, backend, merged)[1], sync=True)
    return merged


def entry(machine: Machine, backend: str, calibration: Calibration) -> tuple[str, bytes]:
    """The file that keeps it, by its name in FOLDER, and what it holds."""
    tables = msgspec.structs.asdict(Tables.of(calibration))
    key = _key(machine, backend, calibration.build)
    content = msgspec.json.encode(_Stored(**tables, schema=SCHEMA, key=key, date=calibration.date))
    return _path(machine, backend, calibration.build).name, content


def _key(machine: Machine, backend: str, build: str) -> dict[str, str]:
    cpu = machine.cpu
    return {"backend": backend, "build": build, "cpu": cpu.model, "arch": cpu.arch, "isa": " ".join(sorted(cpu.isa))}


def _path(machine: Machine, backend: str, build: str) -> Path:
    key = msgspec.json.encode(_key(machine, backend, build), order="sorted")
    return settings.current().cache_dir / FOLDER / f"{backend}-{hashlib.sha256(key).hexdigest()[:16]}.json"


def _levels(table: Mapping[Any, float]) -> dict[Any, Any]:
    """`{("f16", 2): rate}` -> `{"f16": {2: rate}}`."""
    levels: dict[Any, Any] = {}
    for key, number in sorted(table.items()):
        *outer, last = key if isinstance(key, tuple) else (key,)
        level = levels
        for part in outer:
            level = level.setdefault(part, {})
        level[last] = number
    return levels


def _rows(levels: Mapping[Any, Any], outer: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], float]]:
    """The other way round."""
    for part, below in levels.items():
        if isinstance(below, dict):
            yield from _rows(below, (*outer, part))
        else:
            yield (*outer, part), below


def _check(calibration: Calibration) -> None:
    """
    Raises:
        ValueError: see `plausible.problem_in`.
    """
    if problem := problem_in(calibration):
        raise ValueError(problem)
