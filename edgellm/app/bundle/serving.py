"""Which processes serve from a slot, and where they listen."""

from __future__ import annotations

from contextlib import suppress

import psutil

from edgellm.bundle.slots import HOME, BundleSlot


def ports(slot: BundleSlot) -> list[int]:
    """Where processes listen that `run` of a slot started; [] = none does, or this user may not look."""
    home = str((slot.folder / HOME).resolve())
    found = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get("EDGELLM_HOME") == home:
                rows = process.net_connections("tcp")
                found |= {int(row.laddr.port) for row in rows if row.status == psutil.CONN_LISTEN}
    return sorted(found)
