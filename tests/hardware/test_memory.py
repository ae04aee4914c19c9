from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edgellm.hardware.linux import memory
from edgellm.hardware.linux.sysfs import SysRoot
from edgellm.types.machine import Memory


def test_total_available_and_swap(machine_at: Callable[..., Path]) -> None:
    ram, notes = memory.read(SysRoot(machine_at("container-v1")))

    assert ram == Memory(16384000 * 1024, 12288000 * 1024, 0)
    assert notes == []


def test_available_is_worked_out_where_the_kernel_does_not_say(machine_at: Callable[..., Path]) -> None:
    ram, notes = memory.read(SysRoot(machine_at("three-clusters")))

    assert ram.available_bytes == (524288 + 65536 + 3145728 - 131072) * 1024
    assert ram.swap_bytes == 4 * 1024**3
    assert notes == ["available memory is free + buffers + cached - shmem: no MemAvailable (Linux before 3.14)"]


def test_size_from_the_nodes(machine_at: Callable[..., Path]) -> None:
    node = "Node {0} MemTotal:       1024 kB\nNode {0} MemFree:  1 kB\n"
    files = {f"/sys/devices/system/node/node{n}/meminfo": node.format(n) for n in (0, 1)}
    ram, notes = memory.read(SysRoot(machine_at(None, **files)))

    assert (ram.total_bytes, ram.available_bytes) == (2 * 1024**2, None)
    assert notes == [
        "memory size read from /sys/devices/system/node: /proc/meminfo has no MemTotal",
        "available memory unknown: /proc/meminfo has neither MemAvailable nor MemFree",
    ]


def test_garbage_is_unknown(machine_at: Callable[..., Path]) -> None:
    ram, notes = memory.read(SysRoot(machine_at("garbage")))

    assert ram == Memory(0, None, 0)
    assert "memory size unknown: /proc/meminfo has no MemTotal" in notes
