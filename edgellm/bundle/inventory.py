"""What lay in folders when a slot was finished, file by file, to be compared with what lies there later.

Lists of wheels will not do: pip does not check them, and two wheels may bring the same file. What Python compiles is
left out, as it writes that anew. Links are never followed.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

import msgspec

from edgellm.files import decode_json_record

_COMPILED = "__pycache__"


class InstalledFile(msgspec.Struct, frozen=True, array_like=True):
    path: str  # from the slot's folder on; quoted as in a URL, as a name may be no text
    bytes: int
    sha256: str  # of the content; of a link: of what it leads to


def taken(folder: Path, names: Iterable[str]) -> bytes:
    """The list of the files and links of these names, and of all in the folders, as JSON; what is not there has none.

    Raises:
        OSError: a file cannot be read.
    """
    paths = sorted(path for name in names for path in _inside(folder / name))
    entries = [entry for path in paths if (entry := _entry(folder, os.path.relpath(path, folder)))]
    return msgspec.json.encode(entries)


def difference(folder: Path, content: bytes) -> str:
    """What is no longer as a list has it; "" = nothing.

    Raises:
        DamagedRecord: it is no list.
    """
    for entry in decode_json_record(content, list[InstalledFile]):
        try:
            found = _entry(folder, os.fsdecode(unquote_to_bytes(entry.path)))
        except FileNotFoundError:
            return f"{entry.path} is gone"
        except OSError as error:
            return f"{entry.path} cannot be read: {error.strerror or error}"
        if found != entry:
            return f"{entry.path} has another content than it had"
    return ""


def _inside(path: Path) -> Iterator[str]:
    if path.is_symlink() or path.is_file():
        yield str(path)
        return
    for place, folders, files in os.walk(path):
        folders[:] = [name for name in folders if name != _COMPILED]
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        yield from (os.path.join(place, name) for name in (*links, *files))


def _entry(folder: Path, path: str) -> InstalledFile | None:
    """None = it is neither a file nor a link."""
    place, name = os.path.join(folder, path), quote(os.fsencode(path))
    mode = os.lstat(place).st_mode
    if stat.S_ISLNK(mode):
        leads = os.fsencode(os.readlink(place))
        return InstalledFile(name, len(leads), hashlib.sha256(leads).hexdigest())
    if not stat.S_ISREG(mode):
        return None
    with open(os.open(place, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0)), "rb") as file:
        return InstalledFile(name, os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest())
