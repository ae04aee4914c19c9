"""The kinds of machines that wheels are made for."""

from __future__ import annotations

from dataclasses import dataclass

_MACOS = (11, 0)  # the first for Apple's own processors
_OF_GLIBC = ("libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "librt.so.1")
_ONE_CODE = "cmake.define.GGML_CPU_ALL_VARIANTS=OFF"
# ggml takes AMX where the processor has it, and asks no system but Linux: one that keeps no tiles, as Windows 10, ends
# the program at the first product. Code for Zen 4 takes its place.
_NO_AMX = ("ggml-cpu-sapphirerapids.dll",)
_READ = "nothing here runs its programs: its files were read"
_NO_METAL = (
    f"{_READ}; it computes on the CPU only: Metal needs Apple's SDK, which no package index has; `make setup` on a Mac "
    "builds llama.cpp with Metal"
)
_ON_ARM = f"{_READ}; PyYAML has wheels for it from Python 3.12 on, pyarrow and Ray have none"
_NO_WHEELS = (
    "EdgeLLM cannot be installed from wheels there: numpy, msgspec, psutil and PyYAML have none for it, so these are "
    "the native parts alone"
)


@dataclass(frozen=True, slots=True)
class Elf:
    """What the libraries for a Linux system are."""

    machine: str  # e_machine
    needed: tuple[str, ...]  # what the system has; libgomp and libstdc++ are missing on small ones
    glibc: tuple[int, int] | None = None  # the oldest that will do; None = musl


@dataclass(frozen=True, slots=True)
class Pe:
    """What the libraries for Windows 10 and newer are."""

    machine: str  # of the file's header, as lief names it


@dataclass(frozen=True, slots=True)
class MachO:
    """What the libraries for macOS are."""

    processor: str  # of the file's header, as lief names it
    macos: tuple[int, int]  # the oldest that will do


@dataclass(frozen=True, slots=True)
class Target:
    """One kind: how zig, CMake and wheels call it, what its libraries are, and how large llama.cpp's wheel may be."""

    name: str
    triple: str  # for zig, with the oldest system that will do
    system: str  # CMAKE_SYSTEM_NAME
    processor: str  # CMAKE_SYSTEM_PROCESSOR
    platform: str  # of the wheel's tag
    files: Elf | Pe | MachO
    library_mib: int  # at most, of the wheel with llama.cpp
    older: tuple[str, ...] = ()  # platforms of other wheels that run there, too, the newest first
    settings: tuple[str, ...] = ()  # of llama.cpp's build, where they differ
    left_out: tuple[str, ...] = ()  # files of that build
    is_usual: bool = False  # made where no target is named
    remark: str = ""  # what the wheels cannot do

    @property
    def tag(self) -> str:
        """Nothing in these wheels depends on the Python: ctypes loads the libraries."""
        return f"py3-none-{self.platform}"

    @property
    def libc(self) -> str:
        """ "glibc", "musl", or "" where the system is not Linux."""
        return ("glibc" if self.files.glibc else "musl") if isinstance(self.files, Elf) else ""


def _glibc(name: str, machine: str, loader: str, library_mib: int) -> Target:
    older = (*(f"manylinux_2_{minor}_{name}" for minor in range(28, 4, -1)),
             *(f"manylinux{old}_{name}" for old in ("2014", "2010", "1")))  # fmt: skip
    return Target(
        name, f"{name}-linux-gnu.2.28", "Linux", name, f"manylinux_2_28_{name}",
        Elf(machine, (*_OF_GLIBC, loader), (2, 28)), library_mib, older, is_usual=True,
    )  # fmt: skip


def _musl(processor: str, machine: str, library_mib: int) -> Target:
    # zig's libraries need "libc.so", which musl's loader takes for itself, whatever its file is called.
    return Target(
        f"{processor}-musl", f"{processor}-linux-musl", "Linux", processor, f"musllinux_1_2_{processor}",
        Elf(machine, ("libc.so",)), library_mib,
        tuple(f"musllinux_1_{minor}_{processor}" for minor in (2, 1, 0)),
    )  # fmt: skip


def _macos(processor: str, called: str, machine: str, library_mib: int) -> Target:
    return Target(
        f"{processor}-macos", f"{processor}-macos.{_MACOS[0]}.{_MACOS[1]}", "Darwin", called,
        f"macosx_{_MACOS[0]}_{_MACOS[1]}_{called}", MachO(machine, _MACOS), library_mib, remark=_NO_METAL,
    )  # fmt: skip


_ALL = (
    _glibc("x86_64", "EM_X86_64", "ld-linux-x86-64.so.2", 10),
    _glibc("aarch64", "EM_AARCH64", "ld-linux-aarch64.so.1", 6),
    _musl("x86_64", "EM_X86_64", 10),
    _musl("aarch64", "EM_AARCH64", 6),
    Target(
        "x86_64-windows", "x86_64-windows-gnu", "Windows", "AMD64", "win_amd64", Pe("AMD64"), 10, left_out=_NO_AMX,
    ),
    Target(
        # ggml lists codes for Arm on Linux, Android and macOS only.
        "aarch64-windows", "aarch64-windows-gnu", "Windows", "ARM64", "win_arm64", Pe("ARM64"), 6,
        settings=(_ONE_CODE,), remark=_ON_ARM,
    ),
    _macos("x86_64", "x86_64", "X86_64", 10),
    _macos("aarch64", "arm64", "ARM64", 6),
    Target(
        "armv7", "arm-linux-gnueabihf.2.28", "Linux", "armv7l", "manylinux_2_28_armv7l",
        Elf("EM_ARM", (*_OF_GLIBC, "ld-linux-armhf.so.3"), (2, 28)), 6, remark=_NO_WHEELS,
        # Its fast products of matrices ask for half precision, which the oldest processors lack.
        settings=(_ONE_CODE, "cmake.define.GGML_LLAMAFILE=OFF"),
    ),
)  # fmt: skip
TARGETS = {target.name: target for target in _ALL}
USUAL = tuple(target.name for target in _ALL if target.is_usual)
