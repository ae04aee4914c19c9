"""What to do where no more files can be opened, sockets and pipes among them."""

from __future__ import annotations

import errno

TOO_FEW = "allow this program more open files (`ulimit -n`, LimitNOFILE= of a service)"
_REMEDIES = {
    errno.EMFILE: TOO_FEW,
    errno.ENFILE: "end other programs: this machine has no more open files to give",
}


def room_for_files(error: OSError) -> str:
    """What to do; "" where it has another cause."""
    return _REMEDIES.get(error.errno or 0, "")
