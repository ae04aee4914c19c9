"""What a process takes of memory, as Linux counts it."""

from __future__ import annotations

from pathlib import Path


def status() -> dict[str, int]:
    """The sizes of /proc/self/status, in bytes."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {line[0].rstrip(":"): int(line[1]) * 1024 for line in lines if len(line) == 3 and line[2] == "kB"}


def highest_without_libraries() -> int:
    """Bytes: the highest resident set less the pages of files, but for those of models."""
    sizes = status()
    return sizes["VmHWM"] - (sizes["RssFile"] - _pages_of_models())


def _pages_of_models() -> int:
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if not line.split()[0].endswith(":"):
            inside = line.endswith(".gguf")
        elif inside and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total
