"""How long programs kept GPUs busy, as the kernel tells it of each open graphics device.

Format: Documentation/gpu/drm-usage-stats.rst of Linux. i915 and most drivers count nanoseconds of each engine, xe
counts cycles beside all that passed. Of other users' programs nothing can be read.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

from edgellm.hardware.linux.sysfs import SysRoot

_LINE = re.compile(r"^drm-([\w-]+):[ \t]*(\S+)", re.MULTILINE)
# Engines beside the cores that compute: they copy, or decode and encode videos.
_APART = re.compile(r"(copy|bcs|video|vcs|vecs|enc|dec|jpeg|vcn|vpe)")
_NEVER = 1 << 62


@dataclass(frozen=True, slots=True)
class Busy:
    """Of one engine of one client: how much of what had passed it was kept busy, in nanoseconds or in cycles."""

    used: int
    passed: int


Clients = dict[tuple[str, str, str], Busy]  # by slot, client and engine


def read(tree: SysRoot, at_ns: int | None = None) -> Clients:
    """Every client that may be read. `at_ns`: when; None = now."""
    clients: Clients = {}
    for path in _open_devices(tree):
        told = dict(_LINE.findall(tree.text(path) or ""))
        slot, client = told.get("pdev", ""), told.get("client-id")
        if client is None:
            continue
        passed_ns = time.monotonic_ns() if at_ns is None else at_ns
        for name, value in told.items():
            kind, _, engine = name.partition("-")
            if kind not in ("engine", "cycles") or engine.startswith("capacity-") or _APART.match(engine):
                continue
            parts = _count(told.get(f"engine-capacity-{engine}")) or 1
            used = _count(value)
            passed = passed_ns if kind == "engine" else _count(told.get(f"total-cycles-{engine}"))
            if used is not None and passed is not None:
                clients[slot, client, f"{kind} {engine}"] = Busy(used, passed * parts)
    return clients


def shares(before: Clients, after: Clients) -> dict[str, float]:
    """Of each GPU by slot, the share of the time between in which its busiest engine computed."""
    engines: dict[tuple[str, str], float] = {}
    for (slot, client, engine), now in after.items():
        was = before.get((slot, client, engine))
        if was is not None and now.passed > was.passed and now.used >= was.used:
            used = (now.used - was.used) / (now.passed - was.passed)
            engines[slot, engine] = engines.get((slot, engine), 0.0) + used
    by_slot: dict[str, float] = {}
    for (slot, _), share in engines.items():
        by_slot[slot] = max(by_slot.get(slot, 0.0), min(share, 1.0))
    return by_slot


def _open_devices(tree: SysRoot) -> Iterator[str]:
    """Files that tell of an open graphics device."""
    for process in tree.names("/proc"):
        if not process.isdecimal():
            continue
        for number in tree.names(f"/proc/{process}/fdinfo"):
            if not tree.live or _is_graphics(f"/proc/{process}/fd/{number}"):
                yield f"/proc/{process}/fdinfo/{number}"


def _is_graphics(link: str) -> bool:
    try:
        return os.readlink(link).startswith("/dev/dri/")
    except OSError:
        return False


def _count(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() and int(text) < _NEVER else None
