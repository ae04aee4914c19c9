"""/proc/cpuinfo as fields: one dictionary per processor and one for the fields that stand once for all.

What a field means is left to the callers. The layout differs by architecture, and between kernels of one architecture.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CpuInfo:
    """`processors` holds the online logical processors, by number, in the order of the file."""

    processors: dict[int, dict[str, str]]
    common: dict[str, str]

    def field(self, *names: str) -> str | None:
        """The first non-empty value of any of `names`, in that order."""
        return next((value for name in names for value in self.every(name) if value), None)

    def every(self, name: str) -> Iterator[str]:
        """The value of `name` for each processor that has it, or the common one."""
        values = [block[name] for block in self.processors.values() if name in block]
        yield from values or ([self.common[name]] if name in self.common else [])


def parse(text: str | None) -> CpuInfo:
    """Read what can be read; garbage gives no processors and no fields."""
    processors: dict[int, dict[str, str]] = {}
    common: dict[str, str] = {}
    current = common
    for line in (text or "").splitlines():
        name, colon, value = line.partition(":")
        name, value = name.strip(), value.strip()
        if not name:
            # 32-bit ARM says features once, after the last processor's blank line.
            current = common
        elif name == "processor" and value.isdecimal() and len(value) < 6:
            current = processors.setdefault(int(value), {})
        elif colon:
            current[name] = value
    *others, last = processors.values() if processors else ({},)
    if others and not any(others):
        # Arm kernels before 3.19 list bare processors, then the fields of the core that printed the file.
        common.update(last)
        last.clear()
    return CpuInfo(processors, common)
