"""What the ELF files of a wheel say of themselves, held against its tag.

A second opinion beside auditwheel's, which resolves libraries on the machine that it runs on.
"""

from __future__ import annotations

import io
import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

from auditwheel.architecture import Architecture
from auditwheel.error import NonPlatformWheelError
from auditwheel.libc import Libc
from auditwheel.wheel_abi import analyze_wheel_abi
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection
from targets import TARGETS, Target

# Of glibc; libgomp and libstdc++ are missing on small systems.
SYSTEM = frozenset({"libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "librt.so.1"})
# Sources and tools: what names them is other bytes wherever somebody else makes it.
MADE_IN = (str(Path(__file__).resolve().parents[2]), sys.prefix)
_POLICY = re.compile(r"manylinux_(\d+)_(\d+)_(\w+)")
_VERSION = re.compile(r"GLIBC_(\d+)\.(\d+)(\.\d+)?")


def faults(wheel: Path, target: Target) -> list[str]:
    """Whatever of the wheel contradicts its tag; empty = nothing. A wheel without libraries has none."""
    with zipfile.ZipFile(wheel) as archive:
        libraries = {name: archive.read(name) for name in archive.namelist() if name.endswith(".so")}
        other = [name for name in archive.namelist() if ".so." in name or name.endswith((".a", ".o"))]
    siblings = {Path(name).name for name in libraries}
    told = [f"{name}: no file of a wheel" for name in other]
    for name, data in libraries.items():
        told += [f"{name}: {fault}" for fault in _faults(ELFFile(io.BytesIO(data)), siblings, target)]
        told += [f"{name}: names {folder}, where it was made" for folder in MADE_IN if folder.encode() in data]
    if libraries:
        told += [f"no tag {target.platform}"] * (target.platform not in wheel.name)
        told += _audited(wheel, target)
    return told


def _audited(wheel: Path, target: Target) -> Iterator[str]:
    """auditwheel's opinion."""
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
    if not match or match[3] != target.processor or (int(match[1]), int(match[2])) > target.glibc:
        yield f"{policy}, says auditwheel"


def _faults(elf: ELFFile, siblings: set[str], target: Target) -> Iterator[str]:
    if elf["e_machine"] != target.machine:
        yield f"for {elf['e_machine']}, not {target.machine}"
    for section in elf.iter_sections():
        if isinstance(section, DynamicSection):
            for tag in section.iter_tags():
                yield from _dynamic(tag, siblings, target)
        elif isinstance(section, GNUVerNeedSection):
            for library, versions in section.iter_versions():
                for version in versions:
                    yield from _version(library.name, version.name, target)


def _dynamic(tag: object, siblings: set[str], target: Target) -> Iterator[str]:
    kind = tag.entry.d_tag  # type: ignore[attr-defined]
    if kind == "DT_NEEDED" and tag.needed not in SYSTEM | siblings | {target.loader}:  # type: ignore[attr-defined]
        yield f"needs {tag.needed}"  # type: ignore[attr-defined]
    if kind == "DT_TEXTREL":
        yield "has text relocations"
    if kind in ("DT_RPATH", "DT_RUNPATH"):
        path = getattr(tag, "runpath", "") or getattr(tag, "rpath", "")
        if path.strip(":") != "$ORIGIN":
            yield f"searches {path}"


def _version(library: str, version: str, target: Target) -> Iterator[str]:
    match = _VERSION.fullmatch(version)
    if match is None or (int(match[1]), int(match[2])) > target.glibc:
        yield f"needs {version} of {library}"


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        target = next((target for target in TARGETS.values() if target.platform in path.name), None)
        for fault in faults(path, target) if target else [f"{path.name} is for no target"]:
            print(fault)
