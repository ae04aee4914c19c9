"""Circumstances to decide in, with as much in them as a test cares for."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from edgellm.hardware import gpu_table
from edgellm.selection.backend_facts import BackendFacts
from edgellm.selection.context import SelectionContext
from edgellm.types.machine import Machine
from edgellm.types.model import ModelCard


def context(
    machine: Machine,
    cards: Iterable[ModelCard],
    backends: Iterable[BackendFacts],
    stored: Collection[str] = (),
    **learned: Any,
) -> SelectionContext:
    gpus = tuple(gpu_table.find(gpu, machine.memory.total_bytes) for gpu in machine.accelerators)
    return SelectionContext(machine, tuple(backends), tuple(cards), frozenset(stored), **{"gpus": gpus} | learned)
