"""What the system says where the store cannot be written, in words of who asked for it."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from edgellm.errors import DiskFull, EdgeLLMError, StoreUnwritable, UsageError
from edgellm.files import FULL

_REMEDIES = {
    errno.EACCES: "run this as a user who may write there",
    errno.EPERM: "run this as a user who may write there",
    errno.EROFS: "mount its file system so that it can be written",
    errno.EIO: "the disk fails: look into the system's log",
}


@contextlib.contextmanager
def changing_store(folder: Path, failed: str, *, is_new: bool = True) -> Iterator[None]:
    """The block changes `folder`, an entry of the store. `failed` says what was not done, as "no model can be stored".
    `is_new`: another store would do.

    Raises:
        DiskFull, StoreUnwritable: the system refused. UsageError: this shell allows no such file.
    """
    try:
        yield
    except OSError as error:
        raise _refusal(error, folder, failed, is_new) from error


def _refusal(error: OSError, folder: Path, failed: str, is_new: bool) -> EdgeLLMError:
    if error.errno in FULL:
        return DiskFull(f"the disk of {folder.parent} was full", hint="free space, or set EDGELLM_HOME")
    if error.errno == errno.EFBIG:
        return UsageError(
            f"{folder} cannot be written: this shell or this file system allows no file of that size",
            hint="raise `ulimit -f`, or set EDGELLM_HOME to a folder on another disk",
        )
    remedy = _REMEDIES.get(error.errno or 0, "check its permissions")
    hint = f"{remedy}, or set EDGELLM_HOME to a folder of your own" if is_new else remedy
    return StoreUnwritable(f"{failed}: {folder} cannot be written: {error.strerror or error}", hint=hint)
