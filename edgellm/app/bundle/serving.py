"""Which processes serve from a slot, and where they listen."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress

import psutil

from edgellm.bundle.slots import HOME, BundleSlot


def ports(slot: BundleSlot) -> list[int]:
    """Where processes listen that `run` of a slot started; [] = none does, or this user may not look.

    Anybody can give a process of his the slot's environment: those of root, of this user and of the owner of the slots
    count, and no others.
    """
    home = _home(slot)
    trusted = {0, os.geteuid(), slot.folder.parent.stat().st_uid}
    found = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            # Its users last: with what it was given, it may have become another program.
            if process.environ().get("EDGELLM_HOME") == home and trusted.issuperset(process.uids()):
                rows = process.net_connections("tcp")
                found |= {int(row.laddr.port) for row in rows if row.status == psutil.CONN_LISTEN}
    return sorted(found)


def stranger(slots: Sequence[BundleSlot], port: int) -> str:
    """Who listens at that port, where certainly no process of these slots does; "" = one does, or nobody knows.

    Nobody knows on other systems than Linux, of processes that this user may not look at, of one of another user that
    says that it is of a slot, and where a port leads out of this machine's own network.
    """
    if sys.platform != "linux" or any(port in ports(slot) for slot in slots):
        return ""
    homes, who = {_home(slot) for slot in slots}, ""
    with suppress(psutil.Error, OSError):
        rows = psutil.net_connections("tcp")
        for pid in {
            row.pid for row in rows if row.status == psutil.CONN_LISTEN and row.laddr and row.laddr.port == port
        }:
            process = psutil.Process(pid) if pid is not None else None
            if process is None or process.environ().get("EDGELLM_HOME") in homes:
                return ""
            who = f"{process.name()} (process {pid})"
        return who
    return ""


def _home(slot: BundleSlot) -> str:
    return str((slot.folder / HOME).resolve())
