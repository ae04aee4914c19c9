"""Which processes serve from a slot, and where they listen."""

from __future__ import annotations

import os
from contextlib import suppress

import psutil

from edgellm.bundle.slots import HOME, BundleSlot


def ports(slot: BundleSlot) -> list[int]:
    """Where processes listen that `run` of a slot started; [] = none does, or this user may not look.

    Anybody can give a process of his the slot's environment: those of root, of this user and of the owner of the slots
    count, and no others.
    """
    home = str((slot.folder / HOME).resolve())
    trusted = {0, os.geteuid(), slot.folder.parent.stat().st_uid}
    found = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            # Its users last: with what it was given, it may have become another program.
            if process.environ().get("EDGELLM_HOME") == home and trusted.issuperset(process.uids()):
                rows = process.net_connections("tcp")
                found |= {int(row.laddr.port) for row in rows if row.status == psutil.CONN_LISTEN}
    return sorted(found)
