"""Real control groups, made and removed here. Where none can be made, the group "cgroup" is reported as not run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.waiting import PATIENCE_S

from edgellm.units import MIB

pytestmark = pytest.mark.cgroup

LIMIT = 700 * MIB
CACHED = 640 * MIB

# Joins the groups, then does its work as a member. Imports come first: their pages are not what is tested.
CHILD = """
import json, os, sys, time
from edgellm.hardware.probe import probe

for folder in sys.argv[2:]:
    with open(f"{folder}/cgroup.procs", "w") as file:
        file.write(str(os.getpid()))
if sys.argv[1]:
    with open(sys.argv[1], "rb", buffering=0) as file:
        while file.read(1 << 20):
            pass
probe(measure=False)  # what importing and probing touch is charged now
machine = probe(measure=False)
limits = machine.limits
print(json.dumps({
    "limit": limits.memory_bytes, "used": limits.memory_used_bytes, "cpus": limits.cpus, "source": limits.source,
    "budget": machine.memory_budget_bytes, "threads": machine.compute_threads, "cores": machine.cpu.cores,
}), flush=True)
if sys.argv[1]:
    held = b"x" * machine.memory_budget_bytes  # dies of the limit if the budget is a lie
    print(len(held))
"""


def run(file: str, *groups: Path) -> list[str]:
    command = [sys.executable, "-c", CHILD, file, *map(str, groups)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, f"status {done.returncode}: {done.stderr[-2000:]}"
    return done.stdout.splitlines()


def usage(group: Path) -> int:
    """Peak of what the kernel charged to the group, page cache included."""
    files = ("memory.max_usage_in_bytes", "memory.peak", "memory.current")
    return int(next((group / name).read_text() for name in files if (group / name).exists()))


def test_warm_page_cache_does_not_count_against_a_700_mib_limit(
    make_group: Callable[..., Path], tmp_path: Path
) -> None:
    group = make_group("memory", v1__memory__limit_in_bytes=str(LIMIT), v2__memory__max=str(LIMIT))
    file = tmp_path / "model"
    file.touch()
    os.truncate(file, CACHED)  # a hole: reading it fills the page cache without waiting for a disk
    first, held = run(str(file), group)
    limits = json.loads(first)

    assert usage(group) > CACHED  # the cache was warm, and charged to the group
    assert (limits["limit"], limits["source"].split(";")[0].split()[-1]) == (LIMIT, str(group))
    assert limits["used"] < 60 * MIB
    assert limits["budget"] == LIMIT - limits["used"] - LIMIT // 4
    assert int(held) == limits["budget"]  # and all of it could really be had


def test_half_the_cores_as_quota_give_half_the_threads(make_group: Callable[..., Path]) -> None:
    cores = json.loads(run("")[0])["cores"]
    if cores < 2:
        pytest.skip("one core has no half that a thread could be taken from")
    quota = str(cores * 100_000 // 2)
    group = make_group(
        "cpu", v1__cpu__cfs_period_us="100000", v1__cpu__cfs_quota_us=quota, v2__cpu__max=f"{quota} 100000"
    )
    limits = json.loads(run("", group)[0])

    assert limits["cpus"] == cores / 2
    assert limits["threads"] == -(-cores // 2)  # of an odd number, the half thread counts
    assert str(group) in limits["source"]
