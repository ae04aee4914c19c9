"""What the container, the scheduler and the shell allow this process."""

from __future__ import annotations

import re

from edgellm.hardware.linux import cgroup
from edgellm.hardware.linux.cgroup import MemoryLimit
from edgellm.hardware.linux.sysfs import SysRoot
from edgellm.hardware.linux.topology import Topology
from edgellm.types.machine import Limits

# Of the address space, what a worker takes beside its memory: libraries, stacks, arenas of its threads. SmolLM2-135M on
# two threads took 380 MiB.
WORKER_BYTES = 400 * 1024**2


def read(tree: SysRoot, topology: Topology, affinity: frozenset[int] | None) -> tuple[Limits, list[str]]:
    """Limits of this process. `affinity` is the set of processors it may run on, None where unknown."""
    notes: list[str] = []
    sources: list[str] = []
    memory_limits = [limit for limit in (cgroup.memory_limit(tree, notes), address_space(tree)) if limit is not None]
    memory = min(memory_limits, key=lambda limit: limit.room_bytes, default=None)
    if memory is not None:
        sources.append(f"memory: {memory.source}")
    quota = cgroup.cpu_quota(tree)
    if quota is not None:
        sources.append(f"cpus: cgroup v{quota[1].version} {quota[2]}")
    allowed = topology.online
    for what, cpus in (("affinity", affinity), ("cgroup cpuset", cgroup.cpuset(tree))):
        if cpus and (usable := allowed & cpus) and usable != allowed:
            allowed = usable
            sources.append(f"cpuset: {what}")
    confined = allowed != topology.online
    limits = Limits(
        memory_bytes=memory.limit_bytes if memory else None,
        memory_used_bytes=memory.used_bytes if memory else None,
        cpus=quota[0] if quota else None,
        cpuset=len(allowed) if confined else None,
        cpuset_cores=topology.usable_cores(allowed) if confined else None,
        source="; ".join(sources),
    )
    return limits, notes


def address_space(tree: SysRoot) -> MemoryLimit | None:
    """RLIMIT_AS, which the worker inherits; None = unlimited. Libraries, stacks and mapped model files count."""
    limit = re.search(r"^Max address space +(\d{1,20}) ", tree.text("/proc/self/limits") or "", re.MULTILINE)
    return MemoryLimit(int(limit[1]), WORKER_BYTES, "ulimit -v") if limit else None
