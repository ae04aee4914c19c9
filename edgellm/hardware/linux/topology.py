"""Which processors are online, which of them share a core, which cores are fast, and what caches they have.

Reads sysfs, falls back on /proc/cpuinfo, and notes where it had to. Limits of a container are read in limits.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgellm.hardware.linux import arm
from edgellm.hardware.linux.cpuinfo import CpuInfo
from edgellm.hardware.linux.sysfs import SysRoot, parse_cpu_list, parse_cpu_mask, parse_size
from edgellm.types.machine import Cluster

CPU = "/sys/devices/system/cpu"

# Cores whose capacity differs by less are of one kind: ten equal cores of a GB10 say 1024, 1017 and 997.
SAME_KIND = 0.9
# Work is split evenly, so n cores finish with the slowest. From 60 % up, all parts known to have such cores (Snapdragon
# 8 Gen 3: 1 + 5, GB10: 10 + 10) gain more by their number than they lose by waiting; at 40 % (RK3588: 4 + 4) they lose.
MIDDLE = 0.6

Core = frozenset[int]  # logical processors that share one physical core


@dataclass(frozen=True, slots=True)
class Topology:
    """`kinds` maps each core to "performance", "middle" or "efficiency"; empty where all are alike or not known."""

    online: frozenset[int]
    cores: tuple[Core, ...]
    kinds: Mapping[Core, str]
    clusters: tuple[Cluster, ...]
    notes: tuple[str, ...]

    @property
    def workers(self) -> tuple[Core, ...]:
        """Cores that should get an even share of the work: all that are not efficiency cores."""
        return tuple(core for core in self.cores if self.kinds.get(core) != "efficiency") or self.cores

    def usable_cores(self, allowed: frozenset[int]) -> int:
        """Cores that a process confined to `allowed` should use: fast ones where it has any, siblings counted once."""
        fast = sum(1 for core in self.workers if core & allowed)
        return fast or sum(1 for core in self.cores if core & allowed)


@dataclass(frozen=True, slots=True)
class Caches:
    """Bytes: level 1 data and level 2 per core, level 3 of the whole machine."""

    l1d: int | None = None
    l2: int | None = None
    l3: int | None = None


def read(tree: SysRoot, info: CpuInfo) -> Topology:
    notes: list[str] = []
    online = _online(tree, info, notes)
    cores = _cores(tree, info, online, notes)
    kinds, clusters = _kinds(tree, info, cores)
    if not kinds and info.field("CPU part") and (unnamed := online - arm.core_names(info).keys()):
        notes.append(f"kinds of cores unknown: /proc/cpuinfo does not tell the part of {len(unnamed)} of {len(online)}")
    return Topology(online, cores, kinds, clusters, tuple(notes))


def _online(tree: SysRoot, info: CpuInfo, notes: list[str]) -> frozenset[int]:
    present = parse_cpu_list(tree.line(f"{CPU}/present")) or frozenset()
    online = parse_cpu_list(tree.line(f"{CPU}/online")) or frozenset(info.processors)
    if not online:
        notes.append("number of processors unknown (no cpu/online in /sys, none in /proc/cpuinfo): one assumed")
        return frozenset({0})
    if offline := len(present - online):
        notes.append(f"offline processors: {offline} of {len(present | online)}")
    return online


def _cores(tree: SysRoot, info: CpuInfo, online: frozenset[int], notes: list[str]) -> tuple[Core, ...]:
    cores: dict[int, Core] = {}
    for cpu in sorted(online):
        if cpu not in cores:
            core = (_siblings(tree, cpu) or frozenset()) & online
            if cpu not in core:
                return _cores_from_cpuinfo(info, online, notes)
            cores.update(dict.fromkeys(core, core))
    return tuple(sorted(set(cores.values()), key=min))


def _siblings(tree: SysRoot, cpu: int) -> Core | None:
    topology = f"{CPU}/cpu{cpu}/topology"
    listed = tree.line(f"{topology}/core_cpus_list") or tree.line(f"{topology}/thread_siblings_list")
    return parse_cpu_list(listed) or parse_cpu_mask(tree.line(f"{topology}/thread_siblings"))


def _cores_from_cpuinfo(info: CpuInfo, online: frozenset[int], notes: list[str]) -> tuple[Core, ...]:
    groups: dict[tuple[str, str], set[int]] = {}
    for cpu, fields in info.processors.items():
        if cpu in online and "physical id" in fields and "core id" in fields:
            groups.setdefault((fields["physical id"], fields["core id"]), set()).add(cpu)
    if sum(map(len, groups.values())) == len(online):
        return tuple(sorted(map(frozenset, groups.values()), key=min))
    notes.append("physical cores unknown (no topology in /sys, no core id in cpuinfo): each processor counts as one")
    return tuple(frozenset({cpu}) for cpu in sorted(online))


def _kinds(tree: SysRoot, info: CpuInfo, cores: tuple[Core, ...]) -> tuple[dict[Core, str], tuple[Cluster, ...]]:
    capacity = {core: tree.integer(f"{CPU}/cpu{min(core)}/cpu_capacity") for core in cores}
    kinds = _kinds_by_type(tree, cores) or _kinds_by_speed(tree, info, cores, capacity)
    if len(set(kinds.values())) < 2:
        return {}, ()
    clusters = []
    for kind in ("performance", "middle", "efficiency"):
        if members := [core for core in cores if kinds[core] == kind]:
            khz = tree.integer(f"{CPU}/cpu{min(members[0])}/cpufreq/cpuinfo_max_freq")
            capacities = [value for core in members if (value := capacity[core]) is not None]
            clusters.append(Cluster(kind, len(members), max(capacities, default=None), khz // 1000 if khz else None))
    return kinds, tuple(clusters)


def _kinds_by_type(tree: SysRoot, cores: tuple[Core, ...]) -> dict[Core, str]:
    """Hybrid Intel: one perf unit per kind of core, each with its list of processors."""
    fast = parse_cpu_list(tree.line("/sys/devices/cpu_core/cpus"))
    if not fast or not tree.exists("/sys/devices/cpu_atom/cpus"):
        return {}
    return {core: "performance" if core & fast else "efficiency" for core in cores}


def _kinds_by_speed(
    tree: SysRoot, info: CpuInfo, cores: tuple[Core, ...], capacity: Mapping[Core, int | None]
) -> dict[Core, str]:
    """By the kernel's capacity; else by firmware's highest performance (Intel), else by core design and clock (Arm).

    CPPC is asked on Intel only: on AMD it ranks equal cores by quality, 166 to 231 within one die.
    """
    if all(capacity.values()):
        return _grade({core: float(value or 0) for core, value in capacity.items()})
    if info.field("vendor_id") == "GenuineIntel":
        cppc = {core: tree.integer(f"{CPU}/cpu{min(core)}/acpi_cppc/highest_perf") or 0 for core in cores}
        # An Intel efficiency core is at about 60 % of the fast ones; favoured cores differ by less than a fifth.
        top = max(cppc.values(), default=0)
        return {core: "performance" if value >= 0.8 * top else "efficiency" for core, value in cppc.items()}
    return _kinds_by_part(tree, arm.core_names(info), cores)


def _kinds_by_part(tree: SysRoot, names: Mapping[int, str], cores: tuple[Core, ...]) -> dict[Core, str]:
    """Small designs are efficiency cores; the others differ by clock. A core of unknown design leaves all unknown."""
    if not all(min(core) in names for core in cores):
        return {}
    speed = {core: float(tree.integer(f"{CPU}/cpu{min(core)}/cpufreq/cpuinfo_max_freq") or 0) for core in cores}
    if not all(speed.values()):
        speed = {core: arm.MAX_MHZ.get(names[min(core)], 1.0) for core in cores}
    little = {core for core in cores if names[min(core)] in arm.LITTLE}
    if little and len(little) < len(cores):
        rest = _grade({core: value for core, value in speed.items() if core not in little})
        return {core: "efficiency" if core in little else rest[core] for core in cores}
    return _grade(speed) if len(set(names.values())) > 1 else {}


def _grade(speed: Mapping[Core, float]) -> dict[Core, str]:
    top = max(speed.values(), default=0.0)

    def kind(value: float) -> str:
        return "performance" if value >= SAME_KIND * top else "middle" if value >= MIDDLE * top else "efficiency"

    return {core: kind(value) for core, value in speed.items()}


def caches(tree: SysRoot, topology: Topology) -> Caches:
    """Levels 1 and 2 of a fast core (its share, where cores share one), level 3 summed over its instances."""
    first = next((core for core in topology.cores if topology.kinds.get(core) == "performance"), topology.cores[0])
    per_core = {level: size for level, size, _ in _cache_levels(tree, topology, min(first)) if level < 3}
    l3: dict[Core, int] = {}
    counted: set[int] = set()
    for core in topology.cores:
        if not core & counted:
            for level, size, shared in _cache_levels(tree, topology, min(core)):
                if level == 3:
                    l3[shared] = size
                    counted |= shared
    return Caches(per_core.get(1), per_core.get(2), sum(l3.values()) or None)


def _cache_levels(tree: SysRoot, topology: Topology, cpu: int) -> list[tuple[int, int, Core]]:
    """(level, bytes, processors that share it) of one processor's data caches; levels 1 and 2 as a core's share."""
    levels = []
    for name in tree.names(f"{CPU}/cpu{cpu}/cache"):
        path = f"{CPU}/cpu{cpu}/cache/{name}"
        if name.startswith("index") and tree.line(f"{path}/type") in ("Data", "Unified"):
            level, size = tree.integer(f"{path}/level"), parse_size(tree.line(f"{path}/size"))
            listed = parse_cpu_list(tree.line(f"{path}/shared_cpu_list"))
            shared = listed or parse_cpu_mask(tree.line(f"{path}/shared_cpu_map")) or frozenset()
            if level and size:
                shared = shared & topology.online | {cpu}
                sharing = sum(1 for core in topology.cores if core & shared) if level < 3 else 1
                levels.append((level, size // max(1, sharing), shared))
    return levels
