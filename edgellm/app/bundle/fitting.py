"""Which target of a bundle this machine is."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from pathlib import Path

from edgellm.bundle.manifest import Manifest, Target
from edgellm.errors import NothingFits, UnsupportedArtifact, UsageError
from edgellm.types.machine import Machine
from edgellm.units import show_memory


def fitting_target(manifest: Manifest, name: str, machine: Machine) -> Target:
    """The target that is meant, or the only one that this machine can be.

    Raises:
        UnsupportedArtifact, NothingFits, UsageError.
    """
    named = [target for target in manifest.targets if name in ("", target.name)]
    if not named:
        hint = f"there are: {', '.join(target.name for target in manifest.targets)}"
        raise UsageError(f"the bundle has no target {name!r}", hint=hint, param="target")
    problems = {target.name: _unfit(target, machine) for target in named}
    fitting = [target for target in named if not problems[target.name]]
    if not fitting:
        told = "; ".join(f"{name} is for {problem}" for name, problem in problems.items())
        hint = "make a bundle for this machine: `edgellm profile --out FILE` writes what it is"
        if any(_runs_here(target, machine) and _is_for_other_python(target) for target in named):
            hint = f"make the bundle with --python {_python()}, or install it with an EdgeLLM that runs on that Python"
        raise UnsupportedArtifact(f"the bundle is not for this machine: {told}", hint=hint)
    if len(fitting) > 1:
        names = ", ".join(target.name for target in fitting)
        message = f"{len(fitting)} targets of the bundle fit this machine"
        raise UsageError(message, hint=f"name one with --target: {names}", param="target")
    target = fitting[0]
    memory = min(machine.memory.total_bytes, machine.limits.memory_bytes or machine.memory.total_bytes)
    if target.needed_bytes > memory:
        what = f"{target.model.id} {target.model.quant} needs {show_memory(target.needed_bytes)} of memory"
        message = f"{what}, this machine has {show_memory(memory)}"
        raise NothingFits(message, hint="make a bundle for a machine of this size")
    return target


def _unfit(target: Target, machine: Machine) -> str:
    """What this machine would have to be; "" = it is."""
    if not _runs_here(target, machine):
        return f"{target.os} {target.arch}, this is {machine.os} {machine.cpu.arch}"
    if not target.wheels:
        return ""
    if _is_for_other_python(target):
        return f"Python {target.python}, this is {_python()}"
    wanted, oldest = ("musl", target.musl) if target.musl else ("glibc", target.glibc)
    name, version = c_library()
    if name != wanted or _version(version) < _version(oldest):
        return f"{wanted} {oldest} or newer, this is {name or 'another library'} {version}".rstrip()
    return ""


def _runs_here(target: Target, machine: Machine) -> bool:
    return (target.os, target.arch) == (machine.os, machine.cpu.arch)


def _is_for_other_python(target: Target) -> bool:
    return bool(target.wheels) and target.interpreter is None and target.python != _python()


def _python() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def c_library(folder: Path = Path("/lib")) -> tuple[str, str]:
    """Name and version of this system's: "glibc" or "musl", both "" where it is neither.

    Python tells of musl from 3.14 on only; before that it takes a program that needs "libc.so" for one of another
    library. musl's loader, in the folder, writes its version where no program is given.
    """
    name, version = platform.libc_ver()
    loader = folder / f"ld-musl-{platform.machine()}.so.1"
    if name == "glibc" or not loader.exists():
        return name, version
    told = subprocess.run([loader], capture_output=True, text=True, check=False).stderr
    match = re.search(r"^Version ([\d.]+)$", told, re.MULTILINE)
    return ("musl", match[1]) if match else ("", "")


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdecimal())
