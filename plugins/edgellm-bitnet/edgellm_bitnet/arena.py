"""One block of memory for all weights, in 2 MiB pages where the system gives them, or mapped from the packed file."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgellm.errors import BackendUnavailable
from edgellm.units import show_memory
from edgellm_bitnet import native
from edgellm_bitnet.layout import Layout, Slab


class Arena:
    """`n_bytes` at `address`. Close it after the engine that reads it."""

    def __init__(self, n_bytes: int) -> None:
        """Raises BackendUnavailable: out of memory."""
        self.n_bytes = n_bytes
        self._owned = native.library().bn_memory_new(n_bytes)
        if not self._owned:
            raise BackendUnavailable(
                f"no memory for {show_memory(n_bytes)} of weights", hint="take a smaller model, or close other programs"
            )
        self.address: int = self._owned
        self.mapped = False
        self.bytes: npt.NDArray[np.uint8] = np.ctypeslib.as_array((ctypes.c_uint8 * n_bytes).from_address(self.address))

    @classmethod
    def of_file(cls, path: Path, offset: int, n_bytes: int) -> Arena:
        """Read-only and mapped: the system may drop pages and read them again. 4 KiB pages, so slower to read."""
        self = object.__new__(cls)
        self.n_bytes, self._owned, self.mapped = n_bytes, None, True
        self.bytes = np.memmap(path, np.uint8, "r", offset, (n_bytes,))
        self.address = self.bytes.ctypes.data
        return self

    def matrix(self, slab: Slab) -> native.Matrix:
        """The native view of a slab."""
        at = self.address
        return native.Matrix(
            slab.kind, slab.rows, slab.cols, slab.group, at + slab.data,
            at + slab.scales if slab.scales != slab.end else None, at + slab.sub if slab.sub != slab.end else None,
        )  # fmt: skip

    def vector(self, slab: Slab) -> npt.NDArray[np.float32]:
        """float32 (rows * cols,) of an F32 slab."""
        return self.bytes[slab.data : slab.data + 4 * slab.rows * slab.cols].view(np.float32)

    def address_of(self, layout: Layout, key: str) -> int | None:
        slab = layout.slabs.get(key)
        return None if slab is None else self.address + slab.data

    def pages(self) -> str:
        """What the memory was given in, for `edgellm doctor` and the engine's details."""
        if self.mapped:
            return "mapped from the packed file in 4 KiB pages: memory is short"
        huge = _huge_bytes(self.address, self.n_bytes)
        if huge is None:
            return "page size unknown on this system"
        return f"{min(1.0, huge / self.n_bytes):.0%} in 2 MiB pages"

    def close(self) -> None:
        if self._owned:
            native.library().bn_memory_free(self._owned, self.n_bytes)
        self._owned = None


def _huge_bytes(address: int, n_bytes: int) -> int | None:
    """Bytes of this range's mappings that are in large pages (/proc/self/smaps); None = the system does not say."""
    try:
        text = Path("/proc/self/smaps").read_text("ascii", "replace")
    except OSError:
        return None
    total, inside = 0, False
    for line in text.splitlines():
        if span := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(span[1], 16) < address + n_bytes and int(span[2], 16) > address
        elif inside and line.startswith("AnonHugePages:"):
            total += 1024 * int(line.split()[1])
    return total
