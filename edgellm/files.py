"""Files that are whole or absent: written under a temporary name in the same folder, then renamed.

The temporary name is unique, so that two processes never write into the same one; it begins with a dot and ends in
`.part`. Permissions are those of any new file (0666 without the umask).
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


def nearest_existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists: whose disk it will be on."""
    return next(path for path in (folder, *folder.parents) if os.path.exists(path))


def write_atomic(path: Path, data: bytes, *, sync: bool = False) -> None:
    """Write `data` to `path`, in the place of what was there. A reader sees the old file or the new one, never a part.

    `sync`: forced to the disk before it gets its name, for what cannot be made again.

    Raises:
        OSError: it cannot be written; the old file stays.
    """
    with atomic_writer(path, sync=sync) as file:
        file.write(data)


@contextlib.contextmanager
def atomic_writer(path: Path, *, sync: bool = False, replace: bool = True) -> Iterator[BinaryIO]:
    """A file to write to; it gets the name `path` where the block ends without an error, and is removed otherwise.

    Raises:
        FileExistsError: `path` exists and `replace` is False; also where it came up meanwhile.
        OSError: it cannot be written.
    """
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    with open(part, "xb") as file:
        try:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
            file.close()  # before the rename, for Windows
            if replace:
                os.replace(part, path)
            else:
                rename_new(part, path)
        except BaseException:
            # Closing flushes, which fails again on a full disk.
            with contextlib.suppress(OSError):
                file.close()
            part.unlink(missing_ok=True)
            raise


def rename_new(part: Path, path: Path) -> None:
    """Give `part` the name `path`, which must be free. Unlike a rename, a link never replaces a file.

    Raises:
        FileExistsError: `path` exists. OSError: it cannot be written.
    """
    try:
        os.link(part, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        os.replace(part, path)
        return
    part.unlink()
