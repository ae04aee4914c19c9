"""Hardware profiles: a `Machine` as TOML, one file per device, so that one can plan for a device without having it.

`load` trusts nothing: a profile may come from a stranger. The format is described in docs/hardware.md.
"""

from __future__ import annotations

import dataclasses
import difflib
import errno
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgellm import tables
from edgellm.errors import UnknownProfile, UsageError
from edgellm.files import read_regular, utf8_text
from edgellm.hardware.linux import isa
from edgellm.types.machine import Machine

MAX_FILE_BYTES = 1024**2
SCHEMA = 1

_WRITES_ONE = "`edgellm profile --out FILE` writes a profile"
_FORMAT = "docs/hardware.md describes the format; `edgellm profile --out FILE` writes an example"
_ID = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_MAX_TEXT = 500
_COMPUTED = ("memory_budget_bytes", "compute_threads")
_MAX_ITEMS = 256
_TIB = 1024**4
# Smallest and largest value of every number by the end of its key: far above any machine there is, and small enough
# that no later arithmetic overflows or prints nonsense.
_RANGES: dict[str, tuple[float, float]] = {
    "_bytes": (0, 1024 * _TIB),
    "bandwidth_gb_s": (0.01, 1e6),
    "cores": (1, 65536),
    "threads": (1, 65536),
    "cpus": (0.001, 65536),
    "cpuset": (1, 65536),
    "cpuset_cores": (1, 65536),
    "capacity": (0, 1024),
    "max_mhz": (1, 100_000),
    "group": (0, 2**32 - 1),
    "schema": (SCHEMA, SCHEMA),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Profile:
    """A machine, and what else its file states of it."""

    machine: Machine
    calibrations: Mapping[str, Any]  # by backend, as `history.calibrations.read` takes them


def folder() -> Path:
    """Where the profiles lie: in an installed wheel beside this file, in a checkout at its root."""
    packaged = Path(__file__).parent / "data"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "hardware_profiles"


def names() -> list[str]:
    """Ids of the profiles that come with EdgeLLM, sorted."""
    return sorted(path.stem for path in folder().glob("*.toml"))


def is_path(name_or_path: str) -> bool:
    return name_or_path.endswith((".toml", ".json")) or "/" in name_or_path or "\\" in name_or_path


def load(name_or_path: str) -> Machine:
    """The machine of that profile.

    Raises:
        As `load_whole`.
    """
    return load_whole(name_or_path).machine


def load_whole(name_or_path: str) -> Profile:
    """The profile of that name, or of that file where it ends in `.toml` or `.json` or has a folder in it.

    A JSON file is a dump of `edgellm doctor --json` or `edgellm profile --json` from the machine itself.

    Raises:
        UnknownProfile: no profile or file of that name, with the closest ones.
        UsageError: the file is not a valid profile.
    """
    if is_path(name_or_path):
        return _read(Path(name_or_path))
    profile_ids = names()
    if name_or_path not in profile_ids:
        close = difflib.get_close_matches(name_or_path, profile_ids, n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(close)}? " if close else ""
        raise UnknownProfile(
            f"no hardware profile named {name_or_path!r}",
            hint=f"{hint}`edgellm profile --list` shows all {len(profile_ids)}",
        )
    path = folder() / f"{name_or_path}.toml"
    profile = _read(path)
    if profile.machine.id != name_or_path:
        tables.Place(str(path), hint=_FORMAT).refuse(f"{profile.machine.id!r} is not the name of the file", field="id")
    return profile


def dump(machine: Machine, calibrations: Mapping[str, Any] | None = None) -> str:
    """TOML that `parse` reads back to an equal `Profile`. What has its default value is left out."""
    import tomli_w

    measured = {"calibrations": calibrations} if calibrations else {}
    return tomli_w.dumps({"schema": machine.schema, **_plain(machine), **measured})


def parse(text: str, source: Path) -> Profile:
    """A profile from its text; `source` is named in errors.

    Raises:
        UsageError: not TOML, an unknown key, a wrong type, or a value out of range.
    """
    place = tables.Place(str(source), hint=_FORMAT)
    data = _from_json(text, source) if source.suffix == ".json" else tables.parse_toml(text, source, _WRITES_ONE)
    calibrations = data.pop("calibrations", {})
    if not isinstance(calibrations, dict):
        place.refuse("must be a table", field="calibrations")
    cpu = data.get("cpu")
    if isinstance(cpu, dict) and "cores" in cpu:
        cpu.setdefault("threads", cpu["cores"])
    _add_bandwidth_source(data.get("memory"))
    machine = tables.convert(data, Machine, place)
    for key, problem in _violations(machine):
        place.refuse(problem, field=key)
    return Profile(machine, calibrations)


def _add_bandwidth_source(memory: object) -> None:
    """A file that was written before there was `bandwidth_source` says it in `bandwidth_basis` only."""
    basis = memory.get("bandwidth_basis") if isinstance(memory, dict) else None
    if isinstance(memory, dict) and isinstance(basis, str) and basis.startswith("measured"):
        memory.setdefault("bandwidth_source", "measured")
        memory.setdefault("bandwidth_contended", basis.endswith("beside other programs"))


def _from_json(text: str, source: Path) -> dict[str, Any]:
    """The machine in a dump, without what is computed from it, and the calibrations beside it."""
    hint = "`edgellm doctor --json > FILE` writes one"
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{source} is not valid JSON: {error}", hint=hint) from None
    tables.check_numbers(data, tables.Place(str(source), hint=hint))
    machine = data.get("machine", data) if isinstance(data, dict) else None
    if not isinstance(machine, dict):
        raise UsageError(f"{source} holds no machine", hint=hint)
    kept = {key: value for key, value in machine.items() if key not in _COMPUTED}
    if "machine" in data and isinstance(calibrations := data.get("calibrations"), dict):
        kept["calibrations"] = {name: table for name, table in calibrations.items() if table is not None}
    return kept


def _read(path: Path) -> Profile:
    try:
        raw = read_regular(path, MAX_FILE_BYTES)
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the name
        if isinstance(error, OSError) and error.errno == errno.EFBIG:
            what = f"{path} is larger than a profile may be ({MAX_FILE_BYTES} bytes)"
            raise UsageError(what, hint="give a profile file") from None
        # Whoever gave the name of a file that is not there may have meant one of these.
        is_gone = isinstance(error, FileNotFoundError)
        hint = "`edgellm profile --list` shows the profiles that come with EdgeLLM" if is_gone else _WRITES_ONE
        reason = error.strerror if isinstance(error, OSError) else error
        raise UnknownProfile(f"profile {str(path)!r} cannot be read: {reason}", hint=hint) from None
    try:
        return parse(utf8_text(raw), path)
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8 text", hint=_WRITES_ONE) from None


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        fields = ((field, getattr(value, field.name)) for field in dataclasses.fields(value))
        return {field.name: _plain(item) for field, item in fields if item != _default(field)}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default  # MISSING, which equals no value, where the field is required


def _violations(machine: Machine) -> Iterator[tuple[str, str]]:
    """Every (key, problem) of a machine that has the right types."""
    yield from _values(machine)
    if _ID.fullmatch(machine.id) is None or len(machine.id) > 64:
        yield "id", f"{machine.id!r} is not an id: lower-case letters, digits and single dashes, at most 64"
    for name in machine.cpu.isa:
        if name not in isa.NAMES:
            close = difflib.get_close_matches(name, isa.NAMES, n=1)
            yield "cpu.isa", f"unknown instruction set {name!r}" + (f", did you mean {close[0]!r}?" if close else "")
    cpu = machine.cpu
    if cpu.threads < cpu.cores:
        yield "cpu.threads", f"{cpu.threads} threads on {cpu.cores} cores"
    if (cpu.performance_cores or 0) > cpu.cores:
        yield "cpu.performance_cores", f"{cpu.performance_cores} of {cpu.cores} cores"
    if cpu.clusters and sum(cluster.cores for cluster in cpu.clusters) != cpu.cores:
        yield "cpu.clusters", f"their cores do not add up to {cpu.cores}"
    if (machine.memory.available_bytes or 0) > machine.memory.total_bytes:
        yield "memory.available_bytes", "more than memory.total_bytes"


def _values(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Numbers out of range, and text that is long or could steer a terminal."""
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _values(getattr(value, field.name), f"{key}.{field.name}".lstrip("."))
    elif isinstance(value, tuple):
        if len(value) > _MAX_ITEMS:
            yield key, f"{len(value)} entries, at most {_MAX_ITEMS} are allowed"
        for item in value:
            yield from _values(item, key)
    elif isinstance(value, str):
        if len(value) > _MAX_TEXT or not value.isprintable():
            yield key, f"text longer than {_MAX_TEXT} characters or with control characters"
    elif isinstance(value, int | float) and not isinstance(value, bool):
        low, high = next(limits for end, limits in _RANGES.items() if f".{key}".endswith(end))
        if not low <= value <= high:
            yield key, f"{value} is out of range ({low} to {high})"
