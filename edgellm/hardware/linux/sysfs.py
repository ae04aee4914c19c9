"""Files of a machine, read below a root: "/" for this machine, any other folder for a recorded one.

Every reader returns None (or nothing) for what is missing, unreadable or not a regular file. A recorded tree is not
trusted: nothing outside it is read, wherever its links point.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

MAX_BYTES = 8 * 1024**2  # /proc/cpuinfo of 2,048 processors is about 3 MiB
MAX_CPUS = 8192  # CONFIG_NR_CPUS of x86-64 kernels with MAXSMP
_SIZE = re.compile(r"(\d{1,12})\s*([KMG]?)B?", re.IGNORECASE)
_RANGE = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?")


class SysRoot:
    """Reads files by their path on the machine, e.g. `tree.text("/proc/meminfo")`.

    `live`: the machine that this process runs on, whose libraries and variables count, too. What lies below another
    root is a record, unless it is said to be live, as a test does with a machine that it wrote.
    """

    def __init__(self, root: Path = Path("/"), *, live: bool | None = None) -> None:
        self.root = root
        self.live = root == Path("/") if live is None else live
        self.variables: Mapping[str, str] = os.environ if self.live else {}
        self._resolved = os.path.realpath(root)

    def text(self, path: str) -> str | None:
        """The first 8 MiB of a file, undecodable bytes replaced."""
        real = self.locate(path)
        if real is None:
            return None
        try:
            # A pipe or device in a recorded tree would block or never end.
            if not self.live and not stat.S_ISREG(os.stat(real).st_mode):
                return None
            with open(real, "rb") as file:
                return file.read(MAX_BYTES).decode("utf-8", "replace")
        except (OSError, ValueError):
            return None

    def line(self, path: str) -> str | None:
        """The whole of a one-line file, stripped of blanks and NUL bytes; None where empty."""
        text = self.text(path)
        return (text.strip(" \t\r\n\0") or None) if text is not None else None

    def integer(self, path: str) -> int | None:
        """The first decimal number of a file; None where it does not start with one."""
        match = re.match(r"\s*(-?\d{1,20})\b", self.text(path) or "")
        return int(match[1]) if match else None

    def names(self, path: str) -> list[str]:
        """Entries of a folder, sorted."""
        real = self.locate(path)
        try:
            return sorted(os.listdir(real)) if real is not None else []
        except (OSError, ValueError):
            return []

    def exists(self, path: str) -> bool:
        real = self.locate(path)
        return real is not None and os.path.exists(real)

    def locate(self, path: str) -> str | None:
        """Where `path` lies on this disk; None where it leads out of a recorded tree."""
        if self.root == Path("/"):
            return path
        try:
            real = os.path.realpath(os.path.join(self.root, path.lstrip("/")))
        except (OSError, ValueError):
            return None
        return real if real.startswith(self._resolved + os.sep) else None


def parse_cpu_list(text: str | None) -> frozenset[int] | None:
    """`"0-3,8"` -> {0, 1, 2, 3, 8}; None where absent or malformed, empty where the kernel says none."""
    if text is None:
        return None
    cpus: set[int] = set()
    for part in filter(None, re.split(r"[,\s]+", text)):
        match = _RANGE.fullmatch(part)
        if match is None:
            return None
        first, last = int(match[1]), int(match[2] or match[1])
        if last >= MAX_CPUS or last < first:
            return None
        cpus.update(range(first, last + 1))
    return frozenset(cpus)


def parse_cpu_mask(text: str | None) -> frozenset[int] | None:
    """`"00000000,0000000f"` -> {0, 1, 2, 3}: what kernels before 2.6.26 have instead of lists."""
    digits = (text or "").strip().replace(",", "")
    if not digits or len(digits) > MAX_CPUS // 4 or re.fullmatch(r"[0-9a-fA-F]+", digits) is None:
        return None
    mask = int(digits, 16)
    return frozenset(cpu for cpu in range(mask.bit_length()) if mask >> cpu & 1)


def parse_size(text: str | None) -> int | None:
    """`"32K"` -> 32768, as sysfs and /proc/meminfo write sizes; None where it is not a size."""
    match = _SIZE.fullmatch((text or "").strip())
    return int(match[1]) * {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}[match[2].upper()] if match else None
