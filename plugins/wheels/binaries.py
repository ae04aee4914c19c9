"""What the libraries in a wheel say of themselves, held against its tag.

For glibc it is a second opinion beside auditwheel's, which resolves libraries on the machine that it runs on; nothing
else reads the others here.
"""

from __future__ import annotations

import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import elf
import macho
import pe
from auditwheel.architecture import Architecture
from auditwheel.error import NonPlatformWheelError
from auditwheel.libc import Libc
from auditwheel.wheel_abi import analyze_wheel_abi
from targets import TARGETS, Elf, MachO, Target

# Sources and tools: what names them is other bytes wherever somebody else makes it.
MADE_IN = (str(Path(__file__).resolve().parents[2]), sys.prefix)
LIBRARIES = (".so", ".dylib", ".dll")
# What a build leaves that no program loads.
LEFT = (".a", ".lib", ".o", ".obj", ".pdb")
_POLICY = re.compile(r"manylinux_(\d+)_(\d+)_(\w+)")


def faults(wheel: Path, target: Target) -> list[str]:
    """Whatever of the wheel contradicts its tag; empty = nothing. A wheel without libraries has none."""
    with zipfile.ZipFile(wheel) as archive:
        libraries = {name: archive.read(name) for name in archive.namelist() if name.endswith(LIBRARIES)}
        other = [name for name in archive.namelist() if ".so." in name or name.endswith(LEFT)]
    siblings = frozenset(Path(name).name for name in libraries)
    told = [f"{name}: no file of a wheel" for name in other]
    for name, data in libraries.items():
        told += [f"{name}: {fault}" for fault in _read(data, siblings, target)]
        told += [f"{name}: names {folder}, where it was made" for folder in MADE_IN if folder.encode() in data]
    if libraries:
        told += [f"no tag {target.platform}"] * (target.platform not in wheel.name)
        told += _audited(wheel, target)
    return told


def _read(data: bytes, siblings: frozenset[str], target: Target) -> Iterator[str]:
    if isinstance(target.files, Elf):
        return elf.faults(data, siblings, target.files)
    if isinstance(target.files, MachO):
        return macho.faults(data, siblings, target.files)
    return pe.faults(data, siblings, target.files)


def _audited(wheel: Path, target: Target) -> Iterator[str]:
    """auditwheel's opinion, where it has one: it reads nothing for musl on a system with glibc."""
    if not isinstance(target.files, Elf) or target.files.glibc is None:
        return
    try:
        report = analyze_wheel_abi(
            Libc.GLIBC, Architecture(target.processor), wheel, frozenset(), disable_isa_ext_check=False,
            allow_graft=False,
        )  # fmt: skip
    except NonPlatformWheelError:
        yield f"nothing for {target.processor}, says auditwheel"
        return
    policy = report.overall_policy.name
    match = _POLICY.fullmatch(policy)
    if not match or match[3] != target.processor or (int(match[1]), int(match[2])) > target.files.glibc:
        yield f"{policy}, says auditwheel"


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        target = next((target for target in TARGETS.values() if f"-{target.platform}." in path.name), None)
        for fault in faults(path, target) if target else [f"{path.name} is for no target"]:
            print(fault)
