"""What a probed machine is called: from its hardware only, without host name or serial number."""

from __future__ import annotations

import re
from datetime import date
from typing import Any

from edgellm.types.machine import Cpu, Machine, Memory, Provenance
from edgellm.units import GIB, counted
from edgellm.version import __version__


def machine(processor: Cpu, ram: Memory, *, board: str = "", **parts: Any) -> Machine:
    """The machine of these parts, under a name that they give."""
    name = machine_name(processor, ram, board)
    return Machine(id=machine_id(name), name=name, cpu=processor, memory=ram, **parts)


def machine_name(processor: Cpu, ram: Memory, board: str = "") -> str:
    """`"Raspberry Pi 5 Model B Rev 1.0, 4 cores, 7.9 GiB"`."""
    what = board or re.sub(r"\((R|TM|tm|r)\)", "", processor.model).strip()
    if what == "unknown":
        what = f"unknown {processor.arch}"
    size = f"{ram.total_bytes / GIB:.1f} GiB" if ram.total_bytes else "memory unknown"
    return f"{re.sub(' +', ' ', what)}, {counted(processor.cores, 'core')}, {size}"


def machine_id(name: str) -> str:
    """A profile id: lower case, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:64].rstrip("-") or "unknown"


def measured() -> Provenance:
    return Provenance("measured", "edgellm profile", date.today().isoformat(), __version__)
