"""What a DLL says of itself, held against its wheel's tag."""

from __future__ import annotations

import io
from collections.abc import Iterator

import lief
from targets import Pe

# Of every Windows from 10 on; the C library is one of many small ones.
SYSTEM = frozenset({"advapi32.dll", "kernel32.dll", "ntdll.dll"})
C_LIBRARY = "api-ms-win-crt-"


def faults(data: bytes, siblings: frozenset[str], expected: Pe) -> Iterator[str]:
    """`siblings`: names of the libraries in its folder."""
    file = lief.PE.parse(io.BytesIO(data))
    if file is None:
        yield "is no PE file"
        return
    if file.header.machine.name != expected.machine:
        yield f"for {file.header.machine.name}, not {expected.machine}"
    known = SYSTEM | {name.lower() for name in siblings}
    names = sorted({str(entry.name) for entry in (*file.imports, *file.delay_imports)})
    if not names:
        yield "does not say what it needs"
    for name in names:
        if name.lower() not in known and not name.lower().startswith(C_LIBRARY):
            yield f"needs {name}"
