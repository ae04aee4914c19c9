"""llguidance, which keeps answers to a grammar: whether it is here, and which C library it needs."""

from __future__ import annotations

import importlib.metadata
import platform
import re
from dataclasses import dataclass

NAME = "llguidance"
_MANYLINUX = re.compile(r"manylinux_(\d+)_(\d+)_")
_OF_WHEELS = (2, 31)  # of all wheels of 1.9 and 1.10 for glibc on the package index


@dataclass(frozen=True, slots=True)
class GrammarLibrary:
    """What is known of it without loading it."""

    version: str  # "" = it is not installed
    needed: tuple[int, ...]  # the oldest glibc that its wheel is for, as it says; not installed: that of all wheels
    glibc: tuple[int, ...]  # of this system; () = it has another C library

    @property
    def is_system_too_old(self) -> bool:
        return bool(self.glibc) and self.glibc < self.needed


def look() -> GrammarLibrary:
    name, release = platform.libc_ver()
    glibc = tuple(int(part) for part in release.split(".")) if name == "glibc" else ()
    try:
        distribution = importlib.metadata.distribution(NAME)
    except importlib.metadata.PackageNotFoundError:
        return GrammarLibrary("", _OF_WHEELS, glibc)
    tag = _MANYLINUX.search(distribution.read_text("WHEEL") or "")
    return GrammarLibrary(distribution.version, (int(tag[1]), int(tag[2])) if tag else (), glibc)


def runs_with(glibc: str) -> bool:
    """Whether its wheels are for systems with that glibc, as "2.28"."""
    return tuple(int(part) for part in glibc.split(".") if part.isdecimal()) >= _OF_WHEELS


def dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
