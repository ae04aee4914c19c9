"""What no command expects of the system: a full disk behind standard output, a program that may not be started."""

from __future__ import annotations

import errno

from edgellm.errors import EdgeLLMError, StoreUnwritable, UsageError
from edgellm.errors.open_files import room_for_files

_REMEDIES = {
    errno.EROFS: "its file system is read-only: name another folder, or set EDGELLM_HOME to one that can be written",
    errno.ENOSPC: "make room, or name another folder",
    errno.EDQUOT: "make room, or name another folder",
    errno.EIO: "the disk fails: look into the system's log",
}

# What was to be written was not; other errors are none of the store.
_UNSTORED = (errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)


def of_system(error: OSError) -> EdgeLLMError:
    """The same error with what to do. One without the name of a file is taken for one of standard output, where that
    can be."""
    reason = error.strerror or str(error)
    if hint := room_for_files(error):
        where = f" ({error.filename} cannot be opened)" if error.filename else ""
        return UsageError(f"{reason[:1].lower()}{reason[1:]}{where}", hint=hint)
    what = error.filename or "the output cannot be written"
    usual = "look at its permissions" if error.filename else "look where standard output leads"
    kind = StoreUnwritable if error.errno in _UNSTORED else EdgeLLMError
    return kind(f"{what}: {reason}", hint=_REMEDIES.get(error.errno or 0, usual))
