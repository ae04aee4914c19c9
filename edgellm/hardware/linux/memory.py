"""RAM and swap of a Linux machine. What a container may use of it is in limits.py, how fast it is in bandwidth.py."""

from __future__ import annotations

import re

from edgellm.hardware.linux.sysfs import SysRoot
from edgellm.types.machine import Memory

_FIELD = re.compile(r"^(?:Node \d+ )?([A-Za-z_()]+):\s+(\d{1,15})(?: kB)?\s*$", re.MULTILINE)


def read(tree: SysRoot) -> tuple[Memory, list[str]]:
    """Total, available and swap bytes. A total of 0 is unknown, and noted."""
    fields = parse_meminfo(tree.text("/proc/meminfo"))
    notes = []
    total = fields.get("MemTotal", 0)
    if not total:
        total = _total_of_nodes(tree)
        notes.append(
            "memory size read from /sys/devices/system/node: /proc/meminfo has no MemTotal"
            if total
            else "memory size unknown: /proc/meminfo has no MemTotal"
        )
    available = fields.get("MemAvailable")
    if available is None and "MemFree" in fields:
        available = _estimate_available(fields)
        notes.append("available memory is free + buffers + cached - shmem: no MemAvailable (Linux before 3.14)")
    elif available is None:
        notes.append("available memory unknown: /proc/meminfo has neither MemAvailable nor MemFree")
    if available is not None:
        available = min(available, total)
    return Memory(total, available, fields.get("SwapTotal", 0)), notes


def parse_meminfo(text: str | None) -> dict[str, int]:
    """Field -> bytes. Counts without a unit (HugePages_Total) are not memory sizes and come out 1,024 times too big."""
    return {name: int(kib) * 1024 for name, kib in _FIELD.findall(text or "")}


def _estimate_available(fields: dict[str, int]) -> int:
    """Shmem lies in Cached but has no file to go back to, so it cannot be dropped."""
    cached = fields.get("Buffers", 0) + fields.get("Cached", 0) - fields.get("Shmem", 0)
    return fields["MemFree"] + max(0, cached)


def _total_of_nodes(tree: SysRoot) -> int:
    nodes = "/sys/devices/system/node"
    return sum(
        parse_meminfo(tree.text(f"{nodes}/{name}/meminfo")).get("MemTotal", 0)
        for name in tree.names(nodes)
        if re.fullmatch(r"node\d+", name)
    )
