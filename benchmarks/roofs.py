"""The roofs of this machine: how fast it reads memory and multiplies bytes (`roofs.c`, compiled here).

    python benchmarks/roofs.py [--threads 1,2] [--mib 1024] [--passes 7] [--json]

Two threads of a virtual machine may sit on two cores or on one, and move: bracket every measurement with a probe.
"""

from __future__ import annotations

import argparse
import atexit
import functools
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PAGES = {"huge": "2 MiB", "small": "4 KiB"}


@dataclass(frozen=True, slots=True)
class Read:
    """Sequential reading by `threads` threads, each in its own part of one buffer."""

    threads: int
    pages: str  # asked for: "2 MiB" or "4 KiB"
    in_huge_pages: float  # share of the buffer that really was in 2 MiB pages
    kernel: str
    gb_s: float


@dataclass(frozen=True, slots=True)
class Int8:
    """Dot products of bytes in registers, with 32-bit sums."""

    threads: int
    kernel: str
    gmac_s: float


@functools.cache
def program() -> Path:
    """`roofs.c` compiled with $CC or cc, in a folder that goes away with this process. FileNotFoundError without one;
    CalledProcessError where it does not compile (Linux on x86-64 or 64-bit ARM, gcc 11 or clang 12 or newer)."""
    folder = tempfile.mkdtemp(prefix="roofs-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    binary = Path(folder, "roofs")
    source = Path(__file__).with_suffix(".c")
    subprocess.run([os.environ.get("CC", "cc"), "-O2", "-pthread", source, "-o", binary], check=True)
    return binary


def measure(what: Sequence[str], threads: Sequence[int], mib: int, passes: int) -> list[Read | Int8]:
    """`what` holds "huge", "small" and "int8"; the order of the answer is theirs, within it that of `threads`."""
    command = [str(program()), ",".join(map(str, threads)), str(mib), str(passes), *what]
    rows: list[dict[str, Any]] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    kinds = {"read": Read, "int8": Int8}
    return [kinds[row.pop("what")](**row) for row in rows]


def read(threads: int, pages: str = "huge", mib: int = 1024, passes: int = 5) -> Read:
    """One bandwidth probe: 0.3 to 1 second."""
    (row,) = measure([pages], [threads], mib, passes)
    assert isinstance(row, Read)
    return row


def int8(threads: int, passes: int = 5) -> Int8:
    """The best of the instructions that this processor has."""
    rows = [row for row in measure(["int8"], [threads], 2, passes) if isinstance(row, Int8)]
    return max(rows, key=lambda row: row.gmac_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--threads", default=f"1,{cores}" if cores > 1 else "1", help="e.g. 1,2 (default: %(default)s)")
    parser.add_argument("--mib", type=int, default=1024, help="MiB to read (default: %(default)s)")
    parser.add_argument("--passes", type=int, default=7, help="the median of so many (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="one JSON list")
    options = parser.parse_args()
    threads = [int(part) for part in options.threads.split(",")]
    rows = measure([*PAGES, "int8"], threads, options.mib, options.passes)
    if options.json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
        return
    for row in rows:
        if isinstance(row, Read):
            obtained = f"{row.in_huge_pages:.0%} in 2 MiB pages"
            print(f"{row.threads:3} threads  {row.gb_s:8.1f} GB/s    {row.pages} pages asked, {obtained}, {row.kernel}")
        else:
            print(f"{row.threads:3} threads  {row.gmac_s:8.1f} GMAC/s  {row.kernel}")


if __name__ == "__main__":
    main()
