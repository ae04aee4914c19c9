"""What is known of a machine's GPUs beyond what their drivers report."""

from __future__ import annotations

from edgellm.types.gpu import Gpu
from edgellm.types.machine import Machine


def gpus_of(machine: Machine) -> tuple[Gpu | None, ...]:
    """In the order of its accelerators; None where neither name nor bandwidth says anything."""
    from edgellm.hardware import gpu_table

    return tuple(gpu_table.find(gpu, machine.memory.total_bytes) for gpu in machine.accelerators)
