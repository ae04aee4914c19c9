"""What a bundle holds, and for which machines: `manifest.json`, the first file in it and the one that is signed.

Every byte of a bundle follows from it (`bundle.layout`), so what it does not say is not there.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from datetime import UTC, date, datetime
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from edgellm.bundle import serving
from edgellm.errors import BadArtifact, UnsupportedArtifact, UsageError

NAME = "manifest.json"
DIGEST = "manifest.json.sha256"  # as `sha256sum -c` takes it
SIGNATURE = "manifest.json.minisig"
INSTALL = "install"  # where it has wheels: a script for machines without EdgeLLM
INSTALL_SIGNATURE = "install.minisig"
SCHEMA = 1
PIECE = 1024**2  # bytes of a file that have a hash of their own
MAX_BYTES = 16 * 1024**2  # of the manifest: hashes of some 250 GB
MAX_FILES = 10_000
MAX_TARGETS = 1000
_MAX_PATH = 240
_MAX_FOLDERS = 8  # above a file; a model's files have three
_BLOCK = 4096  # what a file or folder takes of most disks beside its bytes
# Of one part of a path: what wheels, models and adapters are called. Nothing that a shell or another system reads
# differently, no name that is hidden, and none that is taken for a flag.
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+=!~-]*")

Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
_Text = Annotated[str, Meta(max_length=500)]
_Size = Annotated[int, Meta(ge=0, le=2**50)]
_Word = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_]{1,32}\Z")]
_Version = Annotated[str, Meta(pattern=r"^([0-9]{1,3}\.[0-9]{1,3})?\Z")]
WHEELS = "wheels/"
# pip reads other files of a folder as well: pages, with links to anywhere, and sources, which it runs.
_WHEEL = r"^wheels/[A-Za-z0-9_][A-Za-z0-9._+!-]*\.whl\Z"
_Wheel = Annotated[str, Meta(pattern=_WHEEL, max_length=_MAX_PATH)]
# A name with its extras. pip takes what begins with a dash for an option, and what has a slash, or is called as an
# archive is, for a file.
_REQUIREMENT = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?(\[[A-Za-z0-9_-]+(,[A-Za-z0-9_-]+)*\])?")


class FileEntry(Struct, frozen=True, kw_only=True):
    """One file. `pieces`: the sha256 of each MiB of it, where it has more than one."""

    path: Annotated[str, Meta(max_length=_MAX_PATH)]
    bytes: _Size
    sha256: Sha256
    executable: bool = False
    pieces: tuple[Sha256, ...] = ()


class TargetModel(Struct, frozen=True, kw_only=True):
    """The model that was chosen for a machine."""

    id: _Text
    quant: _Text
    folder: _Text  # in the bundle


class PackedPython(Struct, frozen=True, kw_only=True):
    """A Python that the bundle brings."""

    archive: _Text  # path of the tar in the bundle
    program: _Text  # path of python3 in the tar
    bytes: _Size  # unpacked


class Target(Struct, frozen=True, kw_only=True):
    """A kind of machine that the bundle is for, and what was decided for it."""

    name: _Text  # of the box in a fleet, else the profile's id
    profile: _Text  # path in the bundle
    plan: _Text  # path in the bundle
    arch: _Word
    os: _Word
    needed_bytes: _Size  # of RAM that the plan counts
    model: TargetModel
    serve: Annotated[tuple[_Text, ...], Meta(max_length=100)]  # as bundle.serving has it
    python: _Version = ""  # "3.13", of the wheels; "" = it has none
    glibc: _Version = ""  # "2.28", the oldest that the wheels may need; "" = they are for musl
    musl: _Version = ""  # "1.2", likewise
    wheels: Annotated[tuple[_Wheel, ...], Meta(max_length=MAX_FILES)] = ()  # paths in the bundle
    requires: Annotated[tuple[_Text, ...], Meta(max_length=100)] = ()  # what pip is asked for
    interpreter: PackedPython | None = None  # None = the machine has that Python
    golden: _Text = ""  # path in the bundle of what it must answer; "" = nothing was recorded


class Manifest(Struct, frozen=True, kw_only=True):
    """The whole of a bundle. `files` are sorted by path."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")]
    release: Annotated[int, Meta(ge=1, le=2**53)]  # a machine takes no smaller one unasked
    edgellm: _Text  # version that made it
    targets: Annotated[tuple[Target, ...], Meta(min_length=1, max_length=MAX_TARGETS)]
    files: Annotated[tuple[FileEntry, ...], Meta(min_length=1, max_length=MAX_FILES)]
    expires: Annotated[str, Meta(pattern=r"^([0-9]{4}(-[0-9]{2}){2})?\Z")] = (
        ""  # the first day on which it is not installed
    )
    schema: int = SCHEMA

    @property
    def bytes(self) -> int:
        """Of the files, unpacked."""
        return sum(entry.bytes for entry in self.files)

    @property
    def room(self) -> int:
        """Bytes that the unpacked files take of a disk, at most."""
        return self.bytes + _BLOCK * (len(self.files) + len(_folders(entry.path for entry in self.files)))

    def entry(self, path: str) -> FileEntry:
        """
        Raises:
            KeyError
        """
        for entry in self.files:
            if entry.path == path:
                return entry
        raise KeyError(path)


class _Schema(Struct):
    schema: int


def encode(manifest: Manifest) -> bytes:
    """Equal manifests are equal bytes; their number does not depend on the hashes."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"


def decode(content: bytes) -> Manifest:
    """
    Raises:
        BadArtifact: it is malformed, or names files that cannot be. UnsupportedArtifact: it is of a newer version.
    """
    try:
        schema = msgspec.json.decode(content, type=_Schema).schema
        if schema > SCHEMA:
            message = f"the bundle has schema {schema}, this version of EdgeLLM reads {SCHEMA}"
            raise UnsupportedArtifact(message, hint="update edgellm, or make the bundle with this version")
        manifest = msgspec.json.decode(content, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise damaged(f"its manifest cannot be read: {error}") from None
    for problem in _problems(manifest):
        raise damaged(problem)
    return manifest


def damaged(what: str) -> BadArtifact:
    return BadArtifact(f"this is no sound bundle: {what}", hint="copy it again, and use none of it")


def n_pieces(n_bytes: int) -> int:
    """How many hashes of pieces a file of that size has."""
    return -(-n_bytes // PIECE) if n_bytes > PIECE else 0


def check_path(path: str) -> str:
    """What is wrong with a path in a bundle; "" = nothing."""
    parts = path.split("/")
    if len(path) > _MAX_PATH or len(parts) > _MAX_FOLDERS + 1 or not all(map(_PART.fullmatch, parts)):
        return f"{path[:120]!r} is no path that a bundle may hold"
    return f"{path!r} is a name of the bundle's own" if path in (NAME, DIGEST, SIGNATURE) else ""


def check_requirement(text: str) -> str:
    """What is wrong with what pip is asked for; "" = nothing."""
    return "" if _REQUIREMENT.fullmatch(text) else f"{text[:120]!r} is no name of a package"


def _problems(manifest: Manifest) -> Iterable[str]:
    paths = [entry.path for entry in manifest.files]
    for before, path in itertools.pairwise(["", *paths]):
        if problem := check_path(path):
            yield problem
        if path <= before:
            yield f"{path!r} stands behind {before!r}: paths must ascend, each once"
    # On some file systems these are one name.
    if len({path.lower() for path in paths}) < len(paths):
        yield "two paths differ in capitals only"
    folders = _folders(path.lower() for path in paths)
    if clash := folders & {path.lower() for path in paths}:
        yield f"{min(clash)!r} is a file and a folder"
    for entry in manifest.files:
        if len(entry.pieces) != n_pieces(entry.bytes):
            yield f"{entry.path!r} has {entry.bytes} bytes and {len(entry.pieces)} hashes of pieces"
    if manifest.expires and not _is_date(manifest.expires):
        yield f"{manifest.expires!r} is no date"
    for path in paths:
        if path.lower().startswith(WHEELS) and not re.search(_WHEEL, path):
            yield f"{path!r} is no wheel, and lies among them"
    names = [target.name for target in manifest.targets]
    if len(set(names)) < len(names):
        yield "two targets have one name"
    there = set(paths)
    for target in manifest.targets:
        yield from _problems_of(target, there, folders)


def _folders(paths: Iterable[str]) -> set[str]:
    return {path[:at] for path in paths for at, char in enumerate(path) if char == "/"}


def _problems_of(target: Target, paths: set[str], folders: set[str]) -> Iterable[str]:
    model = f"{target.model.id}:{target.model.quant}"
    if not target.name or not target.name.isprintable() or not model.isprintable():
        yield f"{target.name[:120]!r} for {model[:120]!r} is no text on one line"
    for text in target.requires:
        if problem := check_requirement(text):
            yield f"target {target.name[:120]!r}: {problem}"
    if problem := serving.problem(model, target.serve):
        yield f"target {target.name[:120]!r} {problem}"
    needed = [target.profile, target.plan, *target.wheels]
    needed += [target.golden] if target.golden else []
    if target.interpreter is not None:
        needed.append(target.interpreter.archive)
        if problem := check_path(target.interpreter.program):
            yield problem
    for path in needed:
        if path not in paths:
            yield f"target {target.name!r} needs {path[:120]!r}, which is not there"
    if target.model.folder.lower() not in folders:
        yield f"target {target.name!r} needs {target.model.folder[:120]!r}, which is not there"


def _is_date(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def check_expiry_date(text: str, today: str = "") -> None:
    """
    Raises:
        UsageError: it is no date, or one that has come, from which on nobody installs the bundle.
    """
    if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text) or not _is_date(text):
        raise UsageError(f"{text!r} is no date", hint="write it as 2027-01-31", param="expires")
    if (today or datetime.now(UTC).date().isoformat()) >= text:
        message = f"{text} has come already, so the bundle could not be installed any more"
        raise UsageError(message, hint="give a day to come with --expires", param="expires")
