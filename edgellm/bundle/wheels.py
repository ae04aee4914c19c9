"""Which wheels of some folders a machine needs: those that fit its processor, system and Python, and nothing missing.

pip answers that for the Python that it runs in only. What is wanted here is small: names, versions and markers of
wheels that lie there, read by `packaging`, which pip is made of. The library is in the extra `edgellm[make-bundle]`.
"""

from __future__ import annotations

import contextlib
import re
import zipfile
import zlib
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from edgellm.errors import UsageError
from edgellm.files import open_named

if TYPE_CHECKING:
    from packaging.metadata import RawMetadata
    from packaging.requirements import Requirement
    from packaging.tags import Tag
    from packaging.version import Version

UNPACKED = 4  # times its size, wheels take at most once installed, with their bytecode
MAX_METADATA_BYTES = 4 * 1024**2
_MAX_REQUIREMENTS = 1000  # of one wheel
_MAX_UNPACKED = 16 * 1024**3
_MAX_FILES = 100_000
_MAX_INFO_BYTES = 32 * 1024**2  # of a list such as RECORD, which is read as a whole where the wheel is installed
_MAX_NAME = 255  # bytes of a name in a folder, as Linux has them
_SHOWN = 200  # characters of what is wrong with a wheel
_SHOWN_NAME = 100
# `x-1.0.data/scripts/y` lies in another folder than the package. Over a file `x-1.0.data` `installer` never ends, nor,
# before 1.1, over `x-1.0.data2/y`.
_BESIDE = re.compile(r"[^-]+-[^-]+\.data")
_OLDEST_GLIBC = 17  # 2.17, manylinux2014; 2.5 and 2.12 before it are served by no wheel for Python 3.11
_OF_GLIBC_2_17 = "manylinux2014"
_MAX_ROUNDS = 100
# What the libraries raise over damaged, encrypted and unknown contents.
UNSOUND = (OSError, zipfile.BadZipFile, zlib.error, LZMAError, RuntimeError, EOFError, LookupError, ValueError)


@dataclass(frozen=True, slots=True)
class Platform:
    """A Linux machine as wheels see it."""

    arch: str  # "x86_64", "aarch64"
    python: str  # "3.13"
    glibc: str  # "2.28", the oldest that a wheel may need; "" = the machine has musl
    musl: str = ""  # "1.2", likewise

    @property
    def label(self) -> str:
        library = f"musl {self.musl}" if self.musl else f"glibc {self.glibc}"
        return f"Python {self.python} on {self.arch} with {library}"

    def ranks(self) -> Mapping[Tag, int]:
        """Tag -> rank of the wheels that run there; the least is the best."""
        from packaging import tags

        version = tuple(_numbers(self.python, "python"))
        platforms = [*(f"{name}_{self.arch}" for name in self._systems()), f"linux_{self.arch}"]
        interpreter = f"cp{version[0]}{version[1]}"
        ordered = (
            *tags.cpython_tags(version, platforms=platforms),
            *tags.compatible_tags(version, interpreter, platforms),
        )
        return {tag: rank for rank, tag in reversed(list(enumerate(ordered)))}

    def _systems(self) -> list[str]:
        """In tags, of the machine's C library and of older ones, the newest first."""
        if self.musl:
            return [f"musllinux_1_{minor}" for minor in range(_numbers(self.musl, "musl")[1], -1, -1)]
        minors = range(_numbers(self.glibc, "glibc")[1], _OLDEST_GLIBC - 1, -1)
        older = (_OF_GLIBC_2_17,) if _OLDEST_GLIBC in minors else ()
        return [*(f"manylinux_2_{minor}" for minor in minors), *older]

    def environment(self) -> dict[str, str]:
        """What markers of requirements ask for."""
        return {
            "implementation_name": "cpython", "implementation_version": f"{self.python}.0", "os_name": "posix",
            "platform_machine": self.arch, "platform_python_implementation": "CPython", "platform_release": "",
            "platform_system": "Linux", "platform_version": "", "python_full_version": f"{self.python}.0",
            "python_version": self.python, "sys_platform": "linux",
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel file, and what it says of itself."""

    path: Path
    name: str  # as the index compares it
    version: Version
    metadata: RawMetadata = field(repr=False)
    unpacked_bytes: int


def needed(roots: Sequence[str], folders: Sequence[Path], platform: Platform) -> list[Wheel]:
    """The wheels with which `pip install --no-index` of `roots` succeeds on `platform`, by name: of each the newest.

    Raises:
        UsageError: some are not in the folders, with what asks for them; a file there is no wheel, or one of those is
            damaged.
    """
    from packaging.utils import canonicalize_name

    candidates = _candidates(folders, platform)
    asked = [(requirement, "you") for requirement in map(_requirement, roots)]
    wheels: dict[str, Wheel] = {}
    for _ in range(_MAX_ROUNDS):
        chosen = {name: _best(name, asked, candidates) for name in {canonicalize_name(r.name) for r, _ in asked}}
        if missing := sorted(name for name, wheel in chosen.items() if wheel is None):
            raise _missing(missing, asked, candidates, folders, platform)
        wheels = {name: wheel for name, wheel in sorted(chosen.items()) if wheel is not None}
        more = list(_asked_by(wheels.values(), asked, platform))
        if not more:
            break
        asked += more
    for wheel in wheels.values():
        state = wheel.path.stat()
        _require_installable(wheel.path, state.st_mtime_ns, state.st_size)
    return list(wheels.values())


@cache  # the machines of a fleet get the same wheels
def _require_installable(path: Path, *_state: int) -> None:
    """Read all of it: what is damaged, or would lie elsewhere, is told here, and not by pip on a machine that cannot
    fetch another one."""
    with unpacked(path) as archive:
        members = archive.infolist()
        n_bytes = _unpacked_bytes(archive)
        if len(members) > _MAX_FILES or n_bytes > _MAX_UNPACKED:
            raise zipfile.BadZipFile(f"it has {len(members):,} files of {n_bytes:,} bytes")
        files = {member.filename for member in members if not member.is_dir()}
        for member in members:
            name = PurePosixPath(member.filename)
            if member.filename.removesuffix("/") != str(name):
                raise zipfile.BadZipFile(f"{member.filename[:_SHOWN_NAME]!r} is no plain path")
            if problem := _problem(name, member.file_size, files):
                raise zipfile.BadZipFile(f"{member.filename[:_SHOWN_NAME]!r} {problem}")
        if damaged := archive.testzip():
            raise zipfile.BadZipFile(f"{damaged[:_SHOWN_NAME]!r} is damaged")


def _problem(name: PurePosixPath, n_bytes: int, files: Container[str]) -> str:
    if not is_inside(name):
        return "leads out of it"
    if any(len(part.encode()) > _MAX_NAME for part in name.parts):
        return "has a name that is too long"
    if any(str(folder) in files for folder in name.parents):
        return "lies below a file"
    beside = _BESIDE.match(name.parts[0])
    if str(name) in files and beside and (beside[0] != name.parts[0] or len(name.parts) < 3):
        return "has no place: files of .data lie in folders such as scripts/"
    is_list = len(name.parts) == 2 and name.parts[0].endswith(".dist-info")
    return f"has {n_bytes:,} bytes" if is_list and n_bytes > _MAX_INFO_BYTES else ""


def is_inside(path: PurePosixPath) -> bool:
    """Whether a path of a wheel is one below where the wheel is installed."""
    return not path.is_absolute() and ".." not in path.parts


def _unpacked_bytes(archive: zipfile.ZipFile) -> int:
    return sum(member.file_size for member in archive.infolist())


@cache
def _requirement(text: str) -> Requirement:
    from packaging.requirements import Requirement

    return Requirement(text)


_Asked = list[tuple["Requirement", str]]  # what is required, and by whom


def _asked_by(wheels: Iterable[Wheel], asked: _Asked, platform: Platform) -> Iterable[tuple[Requirement, str]]:
    """Requirements of the wheels that are not among those that were asked already."""
    from packaging.utils import canonicalize_name

    there = {(str(requirement), by) for requirement, by in asked}
    for wheel in wheels:
        extras = {extra for r, _ in asked if canonicalize_name(r.name) == wheel.name for extra in r.extras}
        for text in wheel.metadata.get("requires_dist", ()):
            requirement = _requirement(text)
            if (str(requirement), wheel.name) not in there and _applies(requirement, extras, platform):
                yield requirement, wheel.name


def _applies(requirement: Requirement, extras: Iterable[str], platform: Platform) -> bool:
    marker = requirement.marker
    environments = ({**platform.environment(), "extra": extra} for extra in ("", *sorted(extras)))
    return marker is None or any(marker.evaluate(environment) for environment in environments)


def _best(name: str, asked: _Asked, candidates: Mapping[str, Sequence[Wheel]]) -> Wheel | None:
    from packaging.utils import canonicalize_name

    specifiers = [requirement.specifier for requirement, _ in asked if canonicalize_name(requirement.name) == name]
    fitting = (w for w in candidates.get(name, ()) if all(s.contains(w.version, prereleases=True) for s in specifiers))
    return next(fitting, None)


def _candidates(folders: Sequence[Path], platform: Platform) -> dict[str, list[Wheel]]:
    """The wheels that run on `platform`, by name, the best first."""
    from packaging.utils import InvalidWheelFilename, parse_wheel_filename

    ranks = platform.ranks()
    rows = []
    for path in sorted(path for folder in folders for path in _files(folder)):
        try:
            name, version, build, tags = parse_wheel_filename(path.name)
        except InvalidWheelFilename as error:
            hint = "name folders with the wheels of edgellm, its plugins and what they need"
            raise UsageError(f"{path} has no name of a wheel: {error}", hint=hint, param="wheels") from None
        fits = [ranks[tag] for tag in tags if tag in ranks]
        if fits:
            rows.append((name, version, build, -min(fits), path))
    # Of equal ones the last that was named stays first, whatever its folder is called.
    rows.sort(key=lambda row: row[:4], reverse=True)
    by_name: dict[str, list[Wheel]] = {}
    for name, version, _, _, path in rows:
        by_name.setdefault(name, []).append(Wheel(path, name, version, *_read(path)))
    return by_name


def _files(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if path.suffix == ".whl"]
    except (FileNotFoundError, NotADirectoryError):
        problem = "is not a folder"
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    raise UsageError(f"{folder} {problem}", hint="see --wheels", param="wheels")


def _read(path: Path) -> tuple[RawMetadata, int]:
    from packaging.metadata import parse_email

    with unpacked(path) as archive:
        names = [n for n in archive.namelist() if n.count("/") == 1 and n.endswith(".dist-info/METADATA")]
        if not names:
            raise zipfile.BadZipFile("it has no METADATA")
        if archive.getinfo(names[0]).file_size > MAX_METADATA_BYTES:
            raise zipfile.BadZipFile(f"its METADATA has more than {MAX_METADATA_BYTES} bytes")
        metadata = parse_email(archive.read(names[0]))[0]
        asked = metadata.get("requires_dist", ())
        if len(asked) > _MAX_REQUIREMENTS:
            raise zipfile.BadZipFile(f"it asks for {len(asked):,} others")
        for text in asked:
            if (marker := _requirement(text).marker) is not None:
                marker.evaluate({"extra": ""})
        return metadata, _unpacked_bytes(archive)


@contextlib.contextmanager
def unpacked(path: Path) -> Iterator[zipfile.ZipFile]:
    """The archive of a wheel.

    Raises:
        UsageError: the wheel, or what the block reads of it, is not sound.
    """
    try:
        with open_named(path) as file, zipfile.ZipFile(file) as archive:
            yield archive
    except UNSOUND as error:
        raise unsound(path, error) from None


def unsound(path: Path, error: Exception) -> UsageError:
    reason = str(getattr(error, "strerror", None) or error).partition("\n")[0][:_SHOWN] or type(error).__name__
    return UsageError(f"{path} is no sound wheel: {reason}", hint="fetch or build it again", param="wheels")


def _missing(
    names: Sequence[str],
    asked: _Asked,
    candidates: Mapping[str, Sequence[Wheel]],
    folders: Sequence[Path],
    platform: Platform,
) -> UsageError:
    from packaging.utils import canonicalize_name

    lines = []
    for name in names:
        wishes = [f"{r.name}{r.specifier} ({by})" for r, by in asked if canonicalize_name(r.name) == name]
        there = ", ".join(str(wheel.version) for wheel in candidates.get(name, ())) or "none"
        lines.append(f"{', '.join(wishes)}; there: {there}")
    where = ", ".join(map(str, folders))
    message = f"wheels for {platform.label} are missing in {where}: {'; '.join(lines)}"
    system = f"musllinux_{platform.musl}" if platform.musl else f"manylinux_{platform.glibc}"
    tags = f"--platform {system.replace('.', '_')}_{platform.arch} --python-version {platform.python}"
    hint = f"fetch them there: pip download --only-binary=:all: {tags} -d FOLDER NAME"
    return UsageError(message, hint=hint, param="wheels")


def _numbers(text: str, param: str) -> list[int]:
    parts = text.split(".")
    if len(parts) != 2 or not all(part.isascii() and part.isdigit() and len(part) < 4 for part in parts):
        raise UsageError(f"{param}={text!r} is no version of two numbers", hint="as 3.13, 2.28 or 1.2", param=param)
    return [int(part) for part in parts]
