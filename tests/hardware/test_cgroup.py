"""Limits from written and recorded groups; real ones are in test_cgroup_live.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edgellm.hardware.linux import cgroup
from edgellm.hardware.linux.sysfs import SysRoot
from edgellm.hardware.probe import probe
from edgellm.units import GIB, MIB

MachineAt = Callable[..., Path]


def test_warm_page_cache_in_a_700_mib_container_is_not_used_memory(machine_at: MachineAt) -> None:
    machine = probe(root=machine_at("container-v1"))

    assert machine.limits.memory_bytes == 700 * MIB
    assert machine.limits.memory_used_bytes == 50 * MIB  # 690 in use, 640 of it clean file pages on both lists
    assert machine.memory_budget_bytes == (700 - 50 - 175) * MIB
    assert machine.limits.source == (
        "memory: cgroup v1 /sys/fs/cgroup/memory; cpus: cgroup v1 /sys/fs/cgroup/cpu,cpuacct"
    )


def test_a_quota_of_half_the_cores_gives_half_the_threads(machine_at: MachineAt) -> None:
    machine = probe(root=machine_at("container-v1"))

    assert (machine.cpu.cores, machine.cpu.threads, machine.limits.cpus) == (4, 8, 2.0)
    assert machine.compute_threads == 2


def test_the_ancestor_with_least_room_binds(machine_at: MachineAt) -> None:
    machine = probe(root=machine_at("container-v2"))

    assert (machine.limits.memory_bytes, machine.limits.memory_used_bytes) == (8 * GIB, 8 * GIB - 256 * MIB)
    assert "memory: cgroup v2 /sys/fs/cgroup/kubepods;" in machine.limits.source
    assert machine.memory_budget_bytes == 0  # 256 MiB are left, less than the reserve


def test_a_quota_of_one_and_a_half_processors_gives_two_threads_on_64_cores(machine_at: MachineAt) -> None:
    machine = probe(root=machine_at("container-v2"))

    assert (machine.cpu.cores, machine.limits.cpus, machine.compute_threads) == (64, 1.5, 2)


def test_hybrid_takes_each_controller_where_it_is(machine_at: MachineAt) -> None:
    limits = probe(root=machine_at("container-hybrid")).limits

    assert limits.cpus == 3.0
    assert limits.memory_bytes == GIB  # memory.high: above it everything crawls
    # Clean file pages and slab can be had back; 36 MiB that are dirty or being written cannot, yet.
    assert limits.memory_used_bytes == (256 - (64 + 64 + 8 - 32 - 4)) * MIB


def test_siblings_of_one_core_count_once(machine_at: MachineAt) -> None:
    root = machine_at("container-v1", **{"/proc/self/status": "Cpus_allowed_list:\t0,4-5\n"})
    machine = probe(root=root)

    assert (machine.limits.cpuset, machine.limits.cpuset_cores) == (3, 2)
    assert machine.limits.source.endswith("cpuset: affinity")


def test_a_cpuset_of_the_group_confines(machine_at: MachineAt) -> None:
    root = machine_at("container-v1", **{"/sys/fs/cgroup/cpuset/cpuset.effective_cpus": "3\n"})
    machine = probe(root=root)

    assert (machine.limits.cpuset, machine.limits.cpuset_cores, machine.compute_threads) == (1, 1, 1)


@pytest.mark.parametrize("sentinel", [2**63 - 1, 2**63 - 4096, 2**63 - 65536])
def test_the_largest_number_of_version_1_is_no_limit(machine_at: MachineAt, sentinel: int) -> None:
    root = machine_at(
        "container-v1",
        **{
            "/sys/fs/cgroup/memory/memory.limit_in_bytes": f"{sentinel}\n",
            "/sys/fs/cgroup/memory/memory.stat": f"hierarchical_memory_limit {sentinel}\n",
        },
    )

    assert probe(root=root).limits.memory_bytes is None


def test_a_limit_of_an_ancestor_out_of_sight_is_heard_of(machine_at: MachineAt) -> None:
    """Version 1 in a container: only the own group is mounted, its statistics name the smallest limit above it."""
    root = machine_at(
        "container-v1",
        **{
            "/sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2**63 - 4096}\n",
            "/sys/fs/cgroup/memory/memory.stat": f"hierarchical_memory_limit {512 * MIB}\n",
        },
    )

    assert probe(root=root).limits.memory_bytes == 512 * MIB


def test_a_group_that_is_not_mounted_here_is_said_to_be_unknown(machine_at: MachineAt) -> None:
    root = machine_at("container-v2", **{"/proc/self/cgroup": "0::/elsewhere/app\n"})
    machine = probe(root=root)

    assert machine.limits.memory_bytes is None
    assert "this process's memory cgroup is not visible here: limits read from /sys/fs/cgroup" in machine.notes


def test_the_mounted_part_of_a_hierarchy_is_taken_off_the_path(machine_at: MachineAt) -> None:
    group = cgroup.find(SysRoot(machine_at("container-v1")), "memory")

    assert group == cgroup.Group(1, ("/sys/fs/cgroup/memory",), exact=True)


def test_a_path_out_of_the_namespace_leaves_the_mount_point(machine_at: MachineAt) -> None:
    root = machine_at("container-v2", **{"/proc/self/cgroup": "0::/../kubepods\n"})

    assert cgroup.find(SysRoot(root), "memory") == cgroup.Group(2, ("/sys/fs/cgroup",), exact=False)


LIMITS = "Limit                     Soft Limit           Hard Limit           Units     \n"


@pytest.mark.parametrize(
    ("soft", "source", "room_mib"),
    [
        ("524288000", "memory: ulimit -v;", 100),
        ("unlimited", "memory: cgroup v1 /sys/fs/cgroup/memory;", 650),
        ("1999999999", "memory: cgroup v1 /sys/fs/cgroup/memory;", 650),
    ],
)
def test_a_limit_of_the_address_space_counts_where_it_leaves_less_room(
    machine_at: MachineAt, soft: str, source: str, room_mib: int
) -> None:
    line = f"Max address space         {soft:<20} unlimited            bytes     \n"
    limits = probe(root=machine_at("container-v1", **{"/proc/self/limits": LIMITS + line})).limits

    assert limits.source.startswith(source)
    assert (limits.memory_bytes or 0) - (limits.memory_used_bytes or 0) == room_mib * MIB


@pytest.mark.parametrize("text", ["", "Max address space", "Max address space         many                 \n", "\0"])
def test_limits_that_cannot_be_read_are_none(machine_at: MachineAt, text: str) -> None:
    assert probe(root=machine_at("container-v1", **{"/proc/self/limits": text})).limits.memory_bytes == 700 * MIB


def test_garbage_limits_nothing_and_raises_nothing(machine_at: MachineAt) -> None:
    notes: list[str] = []
    tree = SysRoot(machine_at("garbage"))

    assert cgroup.memory_limit(tree, notes) is None
    assert cgroup.cpu_quota(tree) is None
    assert cgroup.cpuset(tree) is None


def test_mount_points_with_blanks(machine_at: MachineAt) -> None:
    root = machine_at(
        None,
        **{
            "/proc/self/cgroup": "0::/\n",
            "/proc/self/mountinfo": r"29 20 0:25 / /my\040groups rw - cgroup2 cgroup2 rw" + "\n",
            "/my groups/cpu.max": "50000 100000\n",
        },
    )

    quota = cgroup.cpu_quota(SysRoot(root))
    assert quota is not None
    assert quota[0] == 0.5
