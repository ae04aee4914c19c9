"""What a library for macOS says of itself, held against its wheel's tag."""

from __future__ import annotations

import io
from collections.abc import Iterator

import lief
from targets import MachO

SYSTEM = "/usr/lib/"
BESIDE = "@rpath/"
OWN_FOLDER = "@loader_path"


def faults(data: bytes, siblings: frozenset[str], expected: MachO) -> Iterator[str]:
    """`siblings`: names of the libraries in its folder."""
    files = lief.MachO.parse(io.BytesIO(data))
    if files is None or len(files) != 1:
        yield "is no Mach-O file for one processor"
        return
    (file,) = files
    if file.header.cpu_type.name != expected.processor:
        yield f"for {file.header.cpu_type.name}, not {expected.processor}"
    names = sorted({str(library.name) for library in file.libraries})
    if not names:
        yield "does not say what it needs"
    for library in names:
        if not library.startswith(SYSTEM) and library.removeprefix(BESIDE) not in siblings:
            yield f"needs {library}"
    yield from (f"searches {path.path}" for path in file.rpaths if path.path.rstrip("/") != OWN_FOLDER)
    oldest = tuple((file.build_version.minos if file.has_build_version else [])[:2])
    if oldest != expected.macos:
        yield f"for macOS {'.'.join(map(str, oldest)) or 'of no version'}, not {'.'.join(map(str, expected.macos))}"
    if expected.processor == "ARM64" and not file.has_code_signature:
        yield "is not signed, so Apple's processors refuse it"
