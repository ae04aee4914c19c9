"""What control groups allow this process: memory, processor time and processors.

Version 1, version 2 and hybrids of both. The limit of any ancestor applies, so every level from the process's group up
to the mount point is read, and the one that leaves the least room counts. Nothing here changes a group.

Used memory is what cannot be reclaimed: usage - (active_file + inactive_file + slab_reclaimable - dirty - writeback).
Both file lists count as reclaimable, as in the kernel's own MemAvailable (mm/show_mem.c, si_mem_available): a model
that was hashed and then read is on the active list, and counting that as used (as `docker stats` does) would refuse the
very model whose pages are already here. Dirty pages stay used: version 1 does not wait for them to be written before it
kills. tmpfs pages are on the anonymous lists and stay used.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from edgellm.hardware.linux.sysfs import SysRoot, parse_cpu_list

# Version 1 writes "no limit" as the largest page-aligned signed 64-bit number; pages go up to 64 KiB.
NO_LIMIT_V1 = 2**63 - 65536
_MAX_DEPTH = 64


@dataclass(frozen=True, slots=True)
class Group:
    """This process's group of one controller. `levels` are its folders, own group first, mount point last."""

    version: int
    levels: tuple[str, ...]
    exact: bool  # False: the process's own folder is not visible here, only an ancestor


@dataclass(frozen=True, slots=True)
class MemoryLimit:
    limit_bytes: int
    used_bytes: int
    source: str

    @property
    def room_bytes(self) -> int:
        return self.limit_bytes - self.used_bytes


@dataclass(frozen=True, slots=True)
class _Mount:
    root: str  # folder of the hierarchy that is mounted
    point: str  # where
    version: int
    controllers: frozenset[str]  # version 1 only


def memory_limit(tree: SysRoot, notes: list[str]) -> MemoryLimit | None:
    """The level that leaves the least room; None = no level has a limit."""
    group = find(tree, "memory")
    if group is None:
        return None
    if not group.exact:
        source = f"limits read from {group.levels[0]}" if group.levels else "its limits are unknown"
        notes.append(f"this process's memory cgroup is not visible here: {source}")
    limits = [limit for folder in group.levels if (limit := _level_limit(tree, group, folder)) is not None]
    return min(limits, key=lambda limit: limit.room_bytes, default=None)


def _level_limit(tree: SysRoot, group: Group, folder: str) -> MemoryLimit | None:
    stat = parse_stat(tree.text(f"{folder}/memory.stat"))
    if group.version == 2:
        # memory.high does not kill but throttles so hard that a model above it crawls.
        values = [tree.integer(f"{folder}/{name}") for name in ("memory.max", "memory.high")]
        usage, prefix = tree.integer(f"{folder}/memory.current"), ""
    else:
        # The second also names a limit of an ancestor that is mounted out of sight.
        values = [tree.integer(f"{folder}/memory.limit_in_bytes"), stat.get("hierarchical_memory_limit")]
        usage, prefix = tree.integer(f"{folder}/memory.usage_in_bytes"), "total_"
    limits = [value for value in values if value is not None and 0 <= value < NO_LIMIT_V1]
    if not limits:
        return None
    source = f"cgroup v{group.version} {folder}"
    return MemoryLimit(min(limits), used_bytes(usage or 0, stat, prefix), source)


def used_bytes(usage: int, stat: dict[str, int], prefix: str = "") -> int:
    """Bytes of `usage` that reclaim cannot give back. Version 1 sums over child groups under `total_` names."""

    def field(name: str) -> int:
        return stat.get(prefix + name, 0)

    dirty = field("file_dirty") + field("file_writeback") + field("dirty") + field("writeback")
    reclaimable = field("active_file") + field("inactive_file") + field("slab_reclaimable") - dirty
    return max(0, usage - max(0, reclaimable))


def parse_stat(text: str | None) -> dict[str, int]:
    return {name: int(value) for name, value in re.findall(r"^(\w+) (\d{1,20})$", text or "", re.MULTILINE)}


def cpu_quota(tree: SysRoot) -> tuple[float, Group, str] | None:
    """(cores, group, folder) of the smallest quota; None = no level has one."""
    group = find(tree, "cpu")
    if group is None:
        return None
    quotas = ((_level_quota(tree, group, folder), folder) for folder in group.levels)
    limits = [(cores, group, folder) for cores, folder in quotas if cores is not None]
    return min(limits, key=lambda quota: quota[0], default=None)


def _level_quota(tree: SysRoot, group: Group, folder: str) -> float | None:
    if group.version == 2:
        words = (tree.line(f"{folder}/cpu.max") or "max").split()
        quota = int(words[0]) if re.fullmatch(r"\d{1,18}", words[0]) else None
        period = int(words[1]) if len(words) > 1 and re.fullmatch(r"\d{1,18}", words[1]) else 100_000
    else:
        quota = tree.integer(f"{folder}/cpu.cfs_quota_us")
        period = tree.integer(f"{folder}/cpu.cfs_period_us") or 0
    if quota is None or quota <= 0 or period <= 0:
        return None
    return round(quota / period, 3)


def cpuset(tree: SysRoot) -> frozenset[int] | None:
    """Processors of this process's cpuset; None where there is none."""
    group = find(tree, "cpuset")
    for folder in group.levels if group else ():
        # "cpus" alone is the name under the `noprefix` mount option of old cpuset file systems.
        for name in ("cpuset.cpus.effective", "cpuset.effective_cpus", "cpuset.cpus", "cpus"):
            if cpus := parse_cpu_list(tree.line(f"{folder}/{name}")):
                return cpus
    return None


def find(tree: SysRoot, controller: str) -> Group | None:
    """This process's group of `controller`: of version 1 where that is mounted, else of version 2."""
    paths = _own_paths(tree)
    mounts = _mounts(tree)
    for version in (1, 2):
        offered = [m for m in mounts if m.version == version and (version == 2 or controller in m.controllers)]
        path = paths.get(controller if version == 1 else "")
        if path is None and controller == "cpuset":
            path = tree.line("/proc/self/cpuset")
        if path is not None and offered:
            groups = [_group(tree, mount, path) for mount in offered]
            return max(groups, key=lambda group: (group.exact, len(group.levels)))
    return None


def _own_paths(tree: SysRoot) -> dict[str, str]:
    """Controller -> path in its hierarchy; "" stands for version 2."""
    paths: dict[str, str] = {}
    for line in (tree.text("/proc/self/cgroup") or "").splitlines():
        number, _, rest = line.partition(":")
        controllers, colon, path = rest.partition(":")
        if colon and number.isdecimal():
            paths.update(dict.fromkeys(controllers.split(","), path))
    return paths


def _mounts(tree: SysRoot) -> list[_Mount]:
    """From mountinfo, which names the mounted folder; else from /proc/mounts, which does not."""
    entries = []
    for line in (tree.text("/proc/self/mountinfo") or "").splitlines():
        before, dash, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")
        if dash and len(fields) >= 6 and len(kind) >= 3:
            entries.append((_unescape(fields[3]), _unescape(fields[4]), kind[0], kind[2]))
    for line in (tree.text("/proc/mounts") or "").splitlines() if not entries else ():
        words = line.split(" ")
        if len(words) >= 4:
            entries.append(("/", _unescape(words[1]), words[2], words[3]))
    versions = {"cgroup": 1, "cpuset": 1, "cgroup2": 2}
    return [
        _Mount(root, point, versions[kind], frozenset(options.split(",")) | ({"cpuset"} if kind == "cpuset" else set()))
        for root, point, kind, options in entries
        if kind in versions
    ]


def _unescape(text: str) -> str:
    r"""Mount tables write blanks as octal: `\040`."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _group(tree: SysRoot, mount: _Mount, path: str) -> Group:
    """Folders from the process's group up to the mount point.

    Where only a part of the hierarchy is mounted (Docker on version 1 mounts /docker/<id> as the root), that part is
    taken off the path. A path outside of what is mounted leaves the mount point itself, which is an ancestor.
    """
    own = PurePosixPath(path)
    root = PurePosixPath(mount.root)
    inside = ".." not in own.parts and own.is_relative_to(root)
    relative = own.relative_to(root).parts[:_MAX_DEPTH] if inside else ()
    folders = ["/".join((mount.point.rstrip("/"), *relative[:depth])) for depth in range(len(relative), -1, -1)]
    visible = [folder for folder in folders if tree.exists(folder)]
    return Group(mount.version, tuple(visible), inside and visible == folders)
