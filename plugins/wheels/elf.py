"""What an ELF file says of itself, held against its wheel's tag."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Set

from elftools.common.exceptions import ELFError
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection
from elftools.elf.sections import SymbolTableSection
from targets import Elf

_VERSION = re.compile(r"GLIBC_(\d+)\.(\d+)(\.\d+)?")
# What musl 1.2.5 has, which zig links against, and 1.2.0 lacks, which the tag promises. Its symbols have no versions.
NEWER_THAN_THE_TAG = frozenset({
    "_Fork", "gettid", "preadv2", "pthread_getname_np", "pwritev2", "qsort_r", "reallocarray", "statx", "tcgetwinsize",
    "tcsetwinsize",
})  # fmt: skip


def faults(data: bytes, siblings: frozenset[str], expected: Elf) -> Iterator[str]:
    """`siblings`: names of the libraries in its folder."""
    try:
        elf = ELFFile(io.BytesIO(data))
    except ELFError as error:
        yield f"is no ELF file: {error}"
        return
    if elf["e_machine"] != expected.machine:
        yield f"for {elf['e_machine']}, not {expected.machine}"
    for section in elf.iter_sections():
        if isinstance(section, DynamicSection):
            for tag in section.iter_tags():
                yield from _dynamic(tag, siblings.union(expected.needed))
        elif isinstance(section, GNUVerNeedSection):
            for library, versions in section.iter_versions():
                for version in versions:
                    yield from _version(library.name, version.name, expected)
        elif isinstance(section, SymbolTableSection) and section.name == ".dynsym" and expected.glibc is None:
            wanted = {symbol.name for symbol in section.iter_symbols() if symbol["st_shndx"] == "SHN_UNDEF"}
            yield from (f"needs {name} of a newer musl" for name in sorted(wanted & NEWER_THAN_THE_TAG))


def _dynamic(tag: object, known: Set[str]) -> Iterator[str]:
    kind = tag.entry.d_tag  # type: ignore[attr-defined]
    if kind == "DT_NEEDED" and tag.needed not in known:  # type: ignore[attr-defined]
        yield f"needs {tag.needed}"  # type: ignore[attr-defined]
    if kind == "DT_TEXTREL":
        yield "has text relocations"
    if kind in ("DT_RPATH", "DT_RUNPATH"):
        path = getattr(tag, "runpath", "") or getattr(tag, "rpath", "")
        if path.strip(":") != "$ORIGIN":
            yield f"searches {path}"


def _version(library: str, version: str, expected: Elf) -> Iterator[str]:
    match = _VERSION.fullmatch(version)
    if match is None or expected.glibc is None or (int(match[1]), int(match[2])) > expected.glibc:
        yield f"needs {version} of {library}"
