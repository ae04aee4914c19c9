"""The kinds of machines that wheels are made for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Target:
    """One kind: how zig, CMake, wheels and ELF files call it, and how large the wheel with llama.cpp may be there."""

    name: str
    triple: str  # for zig, with the oldest glibc that will do
    processor: str  # CMAKE_SYSTEM_PROCESSOR
    platform: str  # of the wheel's tag
    machine: str  # e_machine of its ELF files
    loader: str
    glibc: tuple[int, int]
    library_mib: int  # at most, of the wheel with llama.cpp

    @property
    def tag(self) -> str:
        """Nothing in these wheels depends on the Python: ctypes loads the libraries."""
        return f"py3-none-{self.platform}"


TARGETS = {
    "x86_64": Target(
        "x86_64", "x86_64-linux-gnu.2.28", "x86_64", "manylinux_2_28_x86_64",
        "EM_X86_64", "ld-linux-x86-64.so.2", (2, 28), 10,
    ),
    "aarch64": Target(
        "aarch64", "aarch64-linux-gnu.2.28", "aarch64", "manylinux_2_28_aarch64",
        "EM_AARCH64", "ld-linux-aarch64.so.1", (2, 28), 6,
    ),
}  # fmt: skip
