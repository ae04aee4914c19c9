"""A machine, as the rules see it: frozen, serializable, the same whether probed here or read from a profile.

What could not be found out is None, with the reason in `Machine.notes`. `hardware/` fills it in;
`hardware/profiles.py` reads and writes it as TOML.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from edgellm.types.gpu_problem import GpuProblem

JETSON_OWN_BYTES = 2_800_000_000  # what system and CUDA keep of a memory that the GPU shares
DESKTOP_BYTES = 4 * 1024**3  # the least that Windows 11 and Ubuntu 24.04 Desktop ask for (docs/explain/memory-model.md)


# Of a data sheet's numbers: read at the public pages that `source` names, or written from memory.
SourceTrust = Literal["verified", "unverified"]
BandwidthSource = Literal["measured", "theoretical"]


@dataclass(frozen=True, slots=True)
class Cluster:
    """Cores of one kind on a hybrid or big.LITTLE processor."""

    kind: str  # "performance", "efficiency" or "middle", by capacity
    cores: int  # physical
    capacity: int | None = None  # Linux cpu_capacity, 0..1024
    max_mhz: int | None = None


@dataclass(frozen=True, slots=True)
class Cpu:
    arch: str  # "x86_64", "aarch64", "armv7l", ...
    model: str = "unknown"
    cores: int = 1  # physical, online, whole machine
    threads: int = 1  # logical, online, whole machine
    isa: tuple[str, ...] = ()  # usable by the operating system, sorted; names as in docs/hardware.md
    performance_cores: int | None = None  # physical cores that are not efficiency cores; None = all alike
    clusters: tuple[Cluster, ...] = ()  # empty = all cores alike
    l1d_bytes: int | None = None  # per core
    l2_bytes: int | None = None  # per core
    l3_bytes: int | None = None  # whole machine


@dataclass(frozen=True, slots=True)
class Memory:
    total_bytes: int
    available_bytes: int | None = None  # None in a profile: planned as if nothing else ran
    swap_bytes: int = 0
    bandwidth_gb_s: float | None = None  # 1e9 bytes per second, sequential read
    bandwidth_basis: str = ""  # for people: "measured: 2 threads, 2 MiB pages" or "theoretical"
    bandwidth_source: BandwidthSource = "theoretical"
    bandwidth_contended: bool = False  # measured while other programs ran


@dataclass(frozen=True, slots=True)
class Accelerator:
    kind: str  # "cuda", "rocm", "xe", "metal", "vulkan"
    name: str
    vram_bytes: int | None = None
    free_bytes: int | None = None
    bandwidth_gb_s: float | None = None
    unified: bool = False  # shares the machine's RAM
    usable: bool = True  # False: no program of this user reaches it; `Machine.gpu_problems` says why
    display: bool | None = None  # a screen is drawn by it; None = not known
    slot: str = ""  # on the PCI bus, "0000:01:00.0", as libraries name devices, too; "" = none, or not told


@dataclass(frozen=True, slots=True)
class Limits:
    """What the container or the scheduler allows; None = no limit."""

    memory_bytes: int | None = None
    memory_used_bytes: int | None = None  # of memory_bytes, without page cache that can be reclaimed
    cpus: float | None = None  # quota, in cores
    cpuset: int | None = None  # logical processors this process may run on
    cpuset_cores: int | None = None  # physical cores among them worth using: fast ones where there are any
    source: str = ""  # "cgroup v2 /sys/fs/cgroup/app", "cgroup v1 ...", "affinity"


@dataclass(frozen=True, slots=True)
class Disk:
    path: str
    free_bytes: int


@dataclass(frozen=True, slots=True)
class Provenance:
    kind: str  # "measured" or "datasheet"
    source: str = ""
    date: str = ""
    version: str = ""
    trust: SourceTrust | None = None  # None = not stated


def metal_bytes(total_bytes: int) -> int:
    """What Metal lets a program wire of so much RAM where nothing else is set: two thirds, above 36 GiB three quarters.

    Source: measured recommendedMaxWorkingSetSize values collected by the llama.cpp project.
    """
    return total_bytes * 2 // 3 if total_bytes <= 36 * 1024**3 else total_bytes * 3 // 4


@dataclass(frozen=True, slots=True)
class Machine:
    id: str
    name: str
    cpu: Cpu
    memory: Memory
    os: str = "linux"
    accelerators: tuple[Accelerator, ...] = ()
    limits: Limits = field(default_factory=Limits)
    disk: Disk | None = None
    provenance: Provenance | None = None
    notes: tuple[str, ...] = ()  # what is unknown and why, in words
    gpu_problems: tuple[GpuProblem, ...] = ()  # of GPUs, whether they are in `accelerators` or not
    desktop: bool = False  # somebody works at it; said in profiles, as here the system tells what is available
    schema: int = 1

    @property
    def source_trust(self) -> SourceTrust | None:
        return None if self.provenance is None else self.provenance.trust

    @property
    def has_session(self) -> bool:
        """A desktop's session will run beside, and is in no number that is known."""
        return self.desktop and self.memory.available_bytes is None

    @property
    def memory_budget_bytes(self) -> int:
        """Bytes a model may use here: the least of available RAM and the room left in the limit, less a reserve.

        The reserve is max(10 %, 512 MiB) of the memory that counts, with what a desktop's session takes where nothing
        tells what is available, but at most a quarter of it, so that a 700 MiB container keeps a usable budget. Source:
        docs/explain/memory-model.md; the quarter is ours.
        """
        room = self.memory.available_bytes if self.memory.available_bytes is not None else self.memory.total_bytes
        scope = self.memory.total_bytes
        if self.limits.memory_bytes is not None:
            room = min(room, self.limits.memory_bytes - (self.limits.memory_used_bytes or 0))
            scope = min(scope, self.limits.memory_bytes)
        session = DESKTOP_BYTES if self.has_session else 512 * 1024**2
        reserve = min(max(scope // 10, session), scope // 4)
        cap = self.memory_cap
        return max(0, room - reserve) if cap is None else max(0, min(room - reserve, cap[0]))

    @property
    def memory_cap(self) -> tuple[int, str] | None:
        """Most bytes that one program gets of a machine of this kind, and why; None = there is no such rule.

        Source: docs/explain/memory-model.md; the limit of Metal is `recommendedMaxWorkingSetSize`.
        """
        total = self.memory.total_bytes
        if self.os in ("android", "ios"):
            return total // 2, "a phone leaves a program half of its memory"
        shared = {gpu.kind: gpu for gpu in self.accelerators if gpu.unified}
        if (metal := shared.get("metal")) is not None:
            # Profiles and the probe state the limit that is set; without it, the system's rule counts.
            return min(metal.vram_bytes or metal_bytes(total), total), "Metal leaves a program no more of the memory"
        if "cuda" in shared:
            return max(0, total - JETSON_OWN_BYTES), "system and CUDA keep 2.6 GiB of a memory that the GPU shares"
        return None

    @property
    def compute_threads(self) -> int:
        """Threads a compute-bound loop should use: fast physical cores, within quota and cpuset, at least 1."""
        allowed = [float(self.cpu.performance_cores or self.cpu.cores)]
        if self.limits.cpus is not None:
            allowed.append(self.limits.cpus)
        # Two siblings of one core share its arithmetic units, so cores count where they are known.
        cpuset = self.limits.cpuset if self.limits.cpuset_cores is None else self.limits.cpuset_cores
        if cpuset is not None:
            allowed.append(float(cpuset))
        cores = min(allowed)
        # A quota of 1.5 cores is used best by 2 threads: the second one fills the half.
        return max(1, int(cores) + (1 if cores % 1 >= 0.5 else 0))
