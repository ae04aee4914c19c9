"""Which processors the scheduler lets this process run on (`taskset`, cpusets, job schedulers)."""

from __future__ import annotations

import os
import re
import sys

from edgellm.hardware.linux.sysfs import SysRoot, parse_cpu_list


def read(tree: SysRoot) -> frozenset[int] | None:
    """None where unknown: a recorded tree without /proc/self/status, or a system without affinity (macOS)."""
    if tree.live and sys.platform == "linux":
        return frozenset(os.sched_getaffinity(0))
    match = re.search(r"^Cpus_allowed_list:\s*(\S+)$", tree.text("/proc/self/status") or "", re.MULTILINE)
    return parse_cpu_list(match[1]) if match else None
