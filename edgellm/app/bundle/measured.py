"""What was measured on machines of a bundle, put where this machine keeps its own measurements."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgellm.files import read_regular
from edgellm.history import calibrations

_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)


def keep(files: Path, cache: Path) -> str:
    """Add a bundle's calibrations to `cache`, unless this machine measured the same. Their names say of which processor
    and build they are, so that others are never read.

    The user of the service may write in `cache`: no link there is followed.

    Returns:
        Why not all could be kept; "" = they are.
    """
    paths = sorted((files / calibrations.FOLDER).glob("*.json"))
    if not paths:
        return ""
    try:
        with _opened(cache) as folder:
            for path in paths:
                _add(path, folder)
    except OSError as error:
        return f"{cache / calibrations.FOLDER}: {error.strerror or error}"
    return ""


@contextmanager
def _opened(cache: Path) -> Iterator[int]:
    above = os.open(cache, _FOLDER)
    try:
        with suppress(FileExistsError):
            os.mkdir(calibrations.FOLDER, dir_fd=above)
        folder = os.open(calibrations.FOLDER, _FOLDER, dir_fd=above)
    finally:
        os.close(above)
    try:
        yield folder
    finally:
        os.close(folder)


def _add(path: Path, folder: int) -> None:
    """Under its name, once it is whole; a link that has the name is somebody's own, too."""
    with suppress(FileNotFoundError):
        os.stat(path.name, dir_fd=folder, follow_symlinks=False)
        return
    content, part = read_regular(path, calibrations.MAX_BYTES), f".{path.name}.{uuid.uuid4().hex[:8]}.part"
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=folder)
        with open(descriptor, "wb") as file:
            file.write(content)
        os.replace(part, path.name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(OSError):
            os.unlink(part, dir_fd=folder)
        raise
