"""Layers: tar files whose bytes follow from what is in them, and from nothing else.

They are not compressed: what zlib makes of the same bytes differs from one of its versions to the next, and a model
hardly shrinks. A tool that pushes to a registry compresses them where that is wanted.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO, cast

from edgellm.bundle.layout import MTIME, unpacked_at
from edgellm.bundle.writer import Content
from edgellm.errors import UsageError
from edgellm.image.writer import Blob

TYPE = "application/vnd.oci.image.layer.v1.tar"
_MOUNTED = ("proc", "sys", "dev")  # of a root: whoever runs it mounts these
_WHITEOUT = ".wh."  # a name that begins so deletes something of the layers below
_MAX_PIECE = 1024**2


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link in a layer."""

    path: str
    target: str


@dataclass(frozen=True, slots=True)
class OwnedFolder:
    """A folder of a layer that belongs to whoever runs the image."""

    path: str
    owner: int


def write(blob: Blob, contents: Iterable[Content], more: Iterable[Link | OwnedFolder] = ()) -> None:
    """A layer with these files, and the folders that they are in, all of root's.

    Raises:
        UsageError: a path is there twice, below a file, or none of a layer's. OSError.
    """
    things: dict[str, Content | Link | OwnedFolder | None] = {}
    every: list[Content | Link | OwnedFolder] = [*contents, *more]
    for thing in every:
        place = PurePosixPath(thing.path)
        if place.is_absolute() or any(part == ".." or part.startswith(_WHITEOUT) for part in place.parts):
            hint = "leave out the wheel that brings it"
            raise UsageError(f"{thing.path} is no name of a file in a layer", hint=hint, param="wheels")
        folders = [str(folder) for folder in place.parents[:-1]]
        is_folder = isinstance(thing, OwnedFolder)
        below = next((folder for folder in folders if isinstance(things.get(folder), Content | Link)), "")
        if below:
            raise _conflict(f"{below} would be a file of the image and a folder with {thing.path} in it")
        if thing.path in things and not (is_folder and things[thing.path] is None):
            is_both = (things[thing.path] is None) != is_folder
            raise _conflict(f"{thing.path} would be {'a file and a folder' if is_both else 'two files'} of the image")
        things |= {folder: None for folder in folders if folder not in things}
        things[thing.path] = thing
    with _archive(blob) as archive:
        for path in sorted(things, key=lambda path: PurePosixPath(path).parts):
            _add(archive, path, things[path])


def _conflict(message: str) -> UsageError:
    return UsageError(message, hint="leave one of the wheels out", param="wheels")


def write_root(blob: Blob, root: Path, latest: int | None) -> None:
    """A layer with all of a folder: owners, modes and times as they are, with two exceptions. Files of whoever runs
    this become root's, and what is newer than `latest` (seconds since 1970) gets that time.

    Raises:
        UsageError: a name has a meaning of its own in a layer, or something cannot be read. OSError: of the blob.
    """
    with _archive(blob) as archive:
        for path in _below(root):
            try:
                member = archive.gettarinfo(path, path.relative_to(root).as_posix())
            except OSError as error:
                raise _unreadable(path, error) from None
            if member is None:  # a socket
                continue
            if path.name.startswith(_WHITEOUT):
                hint = "take it out of the root: it would delete a file of the image"
                raise UsageError(f"{path} has a name that layers do not carry", hint=hint, param="root")
            member.uid = 0 if member.uid == os.geteuid() else member.uid
            member.gid = 0 if member.gid == os.getegid() else member.gid
            member.uname = member.gname = ""
            member.mtime = int(member.mtime) if latest is None else min(int(member.mtime), latest)
            if member.isreg():
                with _of_root(path) as file:
                    archive.addfile(member, file)
            else:
                archive.addfile(member)


def _of_root(path: Path) -> BinaryIO:
    try:
        return open(path, "rb")
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> UsageError:
    message = f"{path} cannot be read: {error.strerror}"
    return UsageError(message, hint="make an image as a user who may read all of the root", param="root")


def _below(root: Path) -> Iterator[Path]:
    """All paths in an order that depends on names only, folders before what is in them."""

    def fail(error: OSError) -> None:
        raise _unreadable(error.filename, error) from None

    for place, folders, files in os.walk(root, onerror=fail):
        folder = Path(place)
        names = sorted((*folders, *files))
        if folder.parent == root and folder.name in _MOUNTED:
            folders.clear()
            continue
        folders.sort()
        yield from (folder / name for name in names)


def _archive(blob: Blob) -> tarfile.TarFile:
    # A blob is written from its beginning to its end, which is all that this mode asks for.
    return tarfile.open(fileobj=cast("IO[bytes]", blob), mode="w|", format=tarfile.PAX_FORMAT, bufsize=_MAX_PIECE)


def _add(archive: tarfile.TarFile, path: str, thing: Content | Link | OwnedFolder | None) -> None:
    member = tarfile.TarInfo(path)
    member.mtime = MTIME
    if isinstance(thing, Content):
        # As in a slot: records of the store have this time, and Python's bytecode, in a volume, knows a source by it.
        member.mtime = unpacked_at(thing.sha256)
        member.size, member.mode = thing.n_bytes, 0o755 if thing.executable else 0o644
        with _opened(thing) as file:
            archive.addfile(member, file)
        return
    if isinstance(thing, Link):
        member.type, member.linkname, member.mode = tarfile.SYMTYPE, thing.target, 0o777
    else:
        member.type, member.mode = tarfile.DIRTYPE, 0o755
        if thing is not None:
            member.uid = member.gid = thing.owner
    archive.addfile(member)


def _opened(content: Content) -> Any:
    return open(content.data, "rb") if isinstance(content.data, Path) else io.BytesIO(content.data)
