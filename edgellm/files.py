"""Files that are whole or absent: written under a temporary name in the same folder, then renamed. Room, locks, names.

What a program keeps in a file of its own, and what a user named, is read within bounds, as anything may lie there.

The temporary name is unique, so that two processes never write into the same one; it begins with a dot and ends in
`.part`. Permissions are those of any new file (0666 without the umask).
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import select
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, TypeVar

from edgellm.errors import DiskFull, EdgeLLMError, UsageError
from edgellm.units import show_size

SPARE_BYTES = 64 * 1024**2  # left free on the disk after a download
FULL = (errno.ENOSPC, errno.EDQUOT)  # the disk, or the user's share of it
PIPE_PATIENCE_S = 60.0  # for each part of what comes through a pipe that somebody named
_LOCK_POLL_S = 0.2
_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}

T = TypeVar("T")


class DamagedRecord(ValueError):
    """What lies in the place of a record is none, however it came to be so: cut, flipped, nested without an end."""


def expanded(path: str | Path) -> Path:
    """With a home in place of `~` or `~NAME`. Where nobody has that name, or a home, the path stays as it stands."""
    return Path(os.path.expanduser(path))


def safe_name(text: str) -> str:
    """`text` as one file name: no separators, no leading dot, at most 120 characters. Different texts may collide
    only where they differ in characters that are replaced; the digest in an entry's name keeps those apart."""
    return re.sub(r"[^A-Za-z0-9._+-]", "-", text).lstrip(".-")[:120] or "unnamed"


def package_data(package: str, name: str) -> bytes:
    """A file that ships in a package of EdgeLLM.

    Raises:
        UsageError: it is not there, as in an app that was frozen without data files.
    """
    from importlib import resources

    try:
        return resources.files(package).joinpath(name).read_bytes()
    except FileNotFoundError as error:
        hint = "include the data files of edgellm in a frozen app (docs/sdk.md), or install edgellm again"
        raise UsageError(f"{name} of {package} is missing from this installation", hint=hint) from error


def is_plain(name: str) -> bool:
    """Whether `name` is one component that `safe_name` would leave as it is."""
    return safe_name(name) == name


def nearest_existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists: whose disk it will be on."""
    return next(path for path in (folder, *folder.parents) if os.path.exists(path))


def require_room(folder: Path, n_bytes: int, what: str, *, hint: str) -> None:
    """Refuse before the first byte, with the numbers, what would fill the disk. `what` begins the sentence.

    Raises:
        DiskFull.
    """
    place = nearest_existing(folder)
    needed, free = n_bytes + SPARE_BYTES, shutil.disk_usage(place).free
    if needed > free:
        need = f"{what} needs {show_size(needed)} in {place}, of which {show_size(SPARE_BYTES)} stay free"
        raise DiskFull(f"{need}; {show_size(free)} are free", hint=hint)


def reserve(file: BinaryIO, n_bytes: int) -> None:
    """Find out that the disk is too full before an hour of work.

    Raises:
        OSError.
    """
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file.fileno(), 0, n_bytes)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise


@contextlib.contextmanager
def writing(path: Path, *, needs: str = "", param: str = "") -> Iterator[None]:
    """Turns errors of the file system into ours, where the user named `path`. `needs` goes behind it on a full disk.

    Raises:
        DiskFull, UsageError.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (*FULL, errno.EFBIG):
            hint = "make room or choose another folder"
            raise DiskFull(f"{path}{needs}: {error.strerror}", hint=hint) from None
        message = f"{path} cannot be written: {error.strerror}"
        raise UsageError(message, hint="choose another folder", param=param) from None


def try_to_write(folder: Path) -> None:
    """Before what takes long is to be kept in the folder, which is made where it is not there.

    Raises:
        OSError: nothing can be written into it.
    """
    import tempfile

    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def require_free(output: Path, *, force: bool) -> None:
    """Before the work, not after it.

    Raises:
        UsageError: there is something at `output`, which is to be replaced with `force` only.
    """
    if output.exists() and not force:
        raise UsageError(f"{output} exists", hint="name another file, or replace it with --force", param="output")


@contextlib.contextmanager
def locked(path: Path, busy: Callable[[], None]) -> Iterator[None]:
    """Hold the lock file at `path`, between processes. Where another one holds it, `busy` raises, or it is waited for.

    Raises:
        OSError: the lock file cannot be made.
    """
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    make_private(path)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        busy()
        lock.acquire(poll_interval=_LOCK_POLL_S)
    try:
        yield
    finally:
        lock.release()


def is_locked(path: Path) -> bool:
    """Whether somebody holds the lock file at `path` (`locked`); False where that cannot be told."""
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        if path.exists():
            lock.acquire(timeout=0)
    except Timeout:
        return True
    except OSError:  # a folder that is only read
        return False
    lock.release()
    return False


def files_below(folder: Path) -> dict[Path, int]:
    """All regular files in it and in its folders, with their bytes. Others may be at work there: what goes meanwhile is
    left out."""
    sizes: dict[Path, int] = {}
    for place, _, names in os.walk(folder):
        for path in (Path(place, name) for name in names):
            with contextlib.suppress(OSError):
                status = path.lstat()
                if stat.S_ISREG(status.st_mode):
                    sizes[path] = status.st_size
    return sizes


def make_private(lock: Path) -> None:
    """A lock file for this user alone: whoever can open one for reading can lock it.

    Raises:
        OSError: it cannot be made.
    """
    os.close(os.open(lock, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600))
    with contextlib.suppress(PermissionError):  # another user's, in a folder that several share
        lock.chmod(0o600)


def read_regular(path: str | Path, most: int) -> bytes:
    """A whole file, of at most `most` bytes. A pipe, a device or a folder in its place is refused without a wait.

    Raises:
        OSError: it is none, is longer, or cannot be read.
    """
    with open_named(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it is longer than {most} bytes")
    return content


def read_json_record(path: str | Path, kind: type[T], most: int) -> T:
    """What the program keeps as JSON in a file of its own, of at most `most` bytes.

    Raises:
        OSError: as `read_regular`. DamagedRecord.
    """
    return decode_json_record(read_regular(path, most), kind)


def decode_json_record(content: bytes, kind: type[T]) -> T:
    """
    Raises:
        DamagedRecord: it is no JSON, or not of that kind.
    """
    import msgspec

    try:
        return msgspec.json.decode(content, type=kind)
    except (ValueError, RecursionError, EdgeLLMError) as error:  # errors of ours: from a type's own checks
        raise DamagedRecord(str(error)) from None


def utf8_text(content: bytes) -> str:
    """The text of a file that somebody wrote, without the mark of UTF-8 that some editors begin it with.

    Raises:
        UnicodeDecodeError: it is no UTF-8.
    """
    return content.decode("utf-8-sig")


def read_named(path: str | Path, most: int, patience_s: float = PIPE_PATIENCE_S) -> bytes:
    """The first `most` bytes of a file that somebody named, or of a pipe, as a shell's `<(...)` is one.

    Raises:
        OSError: it is a folder, a device or a socket, cannot be read, or is a pipe through which nothing comes for
            `patience_s` seconds.
    """
    with open_named(path, pipe=True) as file:
        is_pipe = stat.S_ISFIFO(os.fstat(file.fileno()).st_mode)
        return _through(file.fileno(), most, patience_s) if is_pipe else file.read(most)


def _through(pipe: int, most: int, patience_s: float) -> bytes:
    content = bytearray()
    while len(content) < most:
        # A pipe that nobody has opened for writing yet would seem to have ended.
        if not select.select([pipe], [], [], patience_s)[0]:
            raise OSError(errno.ETIMEDOUT, f"nothing came through this pipe for {patience_s:g} seconds")
        with contextlib.suppress(BlockingIOError):  # another reader was faster
            part = os.read(pipe, most - len(content))
            if not part:
                break
            content += part
    return bytes(content)


@contextlib.contextmanager
def open_named(path: str | Path, *, pipe: bool = False) -> Iterator[BufferedReader]:
    """A file to read from, without a wait for anybody. `pipe`: one that does not block will do, too.

    Raises:
        OSError: it is a folder, a device, a socket or a pipe, or cannot be opened.
    """
    _require_kind(os.stat(path).st_mode, pipe=pipe)
    with open(path, "rb", opener=at_once) as file:
        _require_kind(os.fstat(file.fileno()).st_mode, pipe=pipe)  # another may lie there by now
        yield file


def _require_kind(mode: int, *, pipe: bool) -> None:
    if not (stat.S_ISREG(mode) or (pipe and stat.S_ISFIFO(mode))):
        kind = _KINDS.get(stat.S_IFMT(mode), "a device")
        raise OSError(errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL, f"it is {kind}")


def at_once(path: str, flags: int) -> int:
    """An opener for `open` that does not wait for the other end of a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o666)


def sync(path: Path) -> None:
    """Force what was written to the disk."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


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
