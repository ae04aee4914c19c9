"""This machine, or one recorded as a tree of /proc and /sys, as a `Machine`.

Calls the reader of each part. What cannot be found out is None, with a sentence in `notes`. Takes under 60 ms unless it
measures the memory bandwidth.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

from edgellm import settings
from edgellm.hardware import bandwidth, identity
from edgellm.hardware.linux import affinity, cpu, gpu, limits, memory
from edgellm.hardware.linux.sysfs import SysRoot
from edgellm.hardware.printable import clean
from edgellm.types.machine import Accelerator, Disk, Machine, Provenance
from edgellm.version import __version__

STEPS = 64  # of free memory, in all of it


def probe(*, root: Path = Path("/"), measure: bool = True, refine: bool = False) -> Machine:
    """What is known of the machine.

    `root` holds proc/ and sys/. Where it is not "/", the tree is a record of another machine, and nothing of this one
    enters: no affinity, plugins, disk or bandwidth. `measure=False` takes the memory bandwidth only from an earlier
    measurement; `refine=True` measures a second and a third time, which takes up to a second.
    """
    tree = SysRoot(root)
    if not tree.live:
        return _linux(tree)
    if sys.platform == "darwin":
        from edgellm.hardware import darwin

        machine = darwin.read()
    elif sys.platform == "win32":
        from edgellm.hardware import windows

        machine = windows.read()
    else:
        machine = _linux(tree)
    return _with_bandwidth(_with_disk(_with_plugin_accelerators(steady(machine))), measure, refine)


def steady(machine: Machine) -> Machine:
    """Free memory in whole steps of a 64th of all, rounded down: a few MiB more or less from call to call would
    choose another quantization or context."""
    ram, allowed = machine.memory, machine.limits
    if ram.available_bytes is not None:
        ram = replace(ram, available_bytes=_whole_steps(ram.available_bytes, ram.total_bytes))
    if allowed.memory_bytes is not None and allowed.memory_used_bytes is not None:
        free = _whole_steps(max(0, allowed.memory_bytes - allowed.memory_used_bytes), allowed.memory_bytes)
        allowed = replace(allowed, memory_used_bytes=allowed.memory_bytes - free)
    gpus = tuple(map(_steady_device, machine.accelerators))
    return replace(machine, memory=ram, limits=allowed, accelerators=gpus)


def _steady_device(device: Accelerator) -> Accelerator:
    if device.free_bytes is None or device.vram_bytes is None:
        return device
    return replace(device, free_bytes=_whole_steps(device.free_bytes, device.vram_bytes))


def _whole_steps(n_bytes: int, of_bytes: int) -> int:
    step = max(1, of_bytes // STEPS)
    return n_bytes // step * step


def _linux(tree: SysRoot) -> Machine:
    processor, topology, cpu_notes = cpu.read(tree)
    ram, memory_notes = memory.read(tree)
    allowed, limit_notes = limits.read(tree, topology, affinity.read(tree))
    accelerators, gpu_problems = gpu.read(tree)
    board = tree.line("/proc/device-tree/model")
    recorded = Provenance("measured", "recorded /proc and /sys", version=__version__)
    return identity.machine(
        processor,
        ram,
        board=clean(board) if board else "",
        accelerators=accelerators,
        limits=allowed,
        provenance=identity.measured() if tree.live else recorded,
        notes=(*cpu_notes, *memory_notes, *limit_notes),
        gpu_problems=tuple(gpu_problems),
    )


def _with_plugin_accelerators(machine: Machine) -> Machine:
    from edgellm.contract.manager import plugins

    added: list[Accelerator] = []

    def register(accelerator: Accelerator) -> None:
        if not isinstance(accelerator, Accelerator):
            raise TypeError(f"{accelerator!r} is not an edgellm.types.machine.Accelerator")
        added.append(accelerator)

    plugins().call("probe_accelerators", register=register, machine=machine)
    return replace(machine, accelerators=(*machine.accelerators, *added))


def _with_disk(machine: Machine) -> Machine:
    """Free space where models are kept; the folder itself may not exist yet."""
    folder = settings.current().data_dir
    existing = next((path for path in (folder, *folder.parents) if path.exists()), folder)
    try:
        free = shutil.disk_usage(existing).free
    except OSError as error:
        note = f"free disk space unknown: {existing}: {error.strerror}"
        return replace(machine, notes=(*machine.notes, note))
    return replace(machine, disk=Disk(str(folder), free))


def _with_bandwidth(machine: Machine, measure: bool, refine: bool) -> Machine:
    notes = list(machine.notes)
    memory_bandwidth = bandwidth.of(machine, notes, refine=refine) if measure else bandwidth.remembered(machine, notes)
    if memory_bandwidth is None:
        if not measure:
            notes.append("memory bandwidth not measured yet: run `edgellm profile`")
        return replace(machine, notes=tuple(notes))
    ram = replace(
        machine.memory,
        bandwidth_gb_s=memory_bandwidth.gb_s,
        bandwidth_basis=memory_bandwidth.basis,
        bandwidth_source="measured",
        bandwidth_contended=memory_bandwidth.contended,
    )
    return replace(machine, memory=ram, notes=tuple(notes))
