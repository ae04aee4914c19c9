"""What `edgellm gpu setup` would build, with what, and what is missing for it. Looks, and changes nothing."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from edgellm import settings
from edgellm.contract.device_build import DeviceBuild
from edgellm.errors import UsageError
from edgellm.types.build_api import WANTED, BuildApi
from edgellm.types.machine import Machine
from edgellm_gguf import device_backends
from edgellm_gguf.device_build import cuda, packages, toolchain
from edgellm_gguf.device_build.packages import Need
from edgellm_gguf.pinned import pinned

HERE = Path(__file__).parent
DISK_BYTES = {"vulkan": 700_000_000, "cuda": 3_000_000_000}
USUAL_BYTES = 2_000_000_000
UNTRIED = "nobody has tried this on a real GPU yet: the lines are those of llama.cpp's own documentation"


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one backend is compiled here."""

    settings: tuple[str, ...]  # of CMake
    needs: tuple[Need, ...] = ()
    notes: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    wheels: bool = False  # the compiler is the package index's
    compilers: tuple[str, ...] = ()  # programs whose version belongs to the build


def work_dir() -> Path:
    """Where sources and unfinished builds lie."""
    return settings.current().cache_dir / "gpu-build"


def usual_api(machine: Machine) -> BuildApi:
    """What fits the machine's first GPU, one that programs reach where there is one: CUDA and HIP where their compilers
    are here.

    Raises:
        UsageError: none is seen.
    """
    gpus = sorted(machine.accelerators, key=lambda gpu: not gpu.usable)
    kind = next((gpu.kind for gpu in gpus if gpu.kind in WANTED), None)
    if kind is None:
        raise UsageError(
            "no GPU is seen on this machine, so nothing says which backend to build",
            hint="`edgellm doctor` says what it sees; --vulkan runs on most GPUs, and builds without one",
        )
    if kind == "rocm" and shutil.which("hipcc"):
        return "hip"
    return "vulkan" if kind == "cuda" and cuda.toolkit() is None else WANTED[kind]


def recipe(api: BuildApi, architectures: tuple[str, ...]) -> Recipe:
    """
    Raises:
        UsageError: it is not for this system, or no architecture is known.
    """
    if (api == "metal") != (sys.platform == "darwin") and api != "vulkan":
        raise UsageError(f"{api} is not for this system", hint="--vulkan is", param=api)
    of = {"vulkan": _vulkan, "cuda": _cuda, "hip": _hip, "sycl": _sycl, "metal": _metal}
    return of[api](architectures)


def plan(machine: Machine, api: BuildApi | None, architectures: tuple[str, ...]) -> DeviceBuild:
    """See `edgellm.contract.device_build.DeviceBuilder.plan_devices`."""
    chosen = api or usual_api(machine)
    made = recipe(chosen, architectures)
    needs = list(dict.fromkeys((*toolchain.common(), *made.needs)))
    former = device_backends.libraries().get(chosen)
    return DeviceBuild(
        chosen,
        architectures,
        f"llama.cpp {pinned().version}",
        configure(made, Path("SOURCES"), Path("BUILD")),
        tuple(need.text for need in needs),
        packages.commands(needs),
        made.notes,
        DISK_BYTES.get(chosen, USUAL_BYTES),
        _day(former) if former else "",
    )


def configure(made: Recipe, source: Path, build: Path) -> tuple[str, ...]:
    """CMake's command line."""
    usual = ("-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", f"-DGGML_SOURCE={source.as_posix()}")
    return ("cmake", "-S", HERE.as_posix(), "-B", build.as_posix(), *usual, *made.settings)


def _vulkan(_: tuple[str, ...]) -> Recipe:
    return Recipe(("-DGGML_VULKAN=ON",), tuple(toolchain.vulkan()), compilers=("glslc",))


def _cuda(architectures: tuple[str, ...]) -> Recipe:
    here, kit = cuda.driver(), cuda.toolkit()
    named = _capabilities(architectures) or here.capabilities
    if not named:
        raise UsageError(
            "no driver of NVIDIA tells which GPU to compile for",
            hint="name its compute capability: --arch 8.6 (RTX 30), 8.9 (RTX 40), 12.0 (RTX 50)",
            param="arch",
        )
    version = kit.version if kit else (cuda.WHEELS_MAJOR, 0)
    needs = tuple(cuda.misfits(version, here, named))
    # "real" leaves out code that a driver would compile again for newer GPUs.
    flags = [f"-DCMAKE_CUDA_ARCHITECTURES={';'.join(f'{number}-real' for number in named)}", "-DGGML_CUDA=ON"]
    notes = [UNTRIED, f"for compute capability {', '.join(map(cuda.dotted, named))}"]
    if kit:
        flags += [f"-DCMAKE_CUDA_COMPILER={kit.nvcc}", f"-DCMAKE_INSTALL_RPATH={(kit.root / 'lib64').as_posix()}"]
        return Recipe(tuple(flags), (*needs, *cuda.lacks(kit.root)), tuple(notes), compilers=(kit.nvcc,))
    notes.append(
        f"no CUDA toolkit is here: the package index's compiler is fetched, about {cuda.WHEELS_BYTES // 10**6} MB"
    )
    # Memory that is mapped by the driver's own functions would need the driver to link with.
    return Recipe((*flags, "-DGGML_CUDA_NO_VMM=ON"), needs, tuple(notes), wheels=True)


def _hip(architectures: tuple[str, ...]) -> Recipe:
    targets = (f"-DAMDGPU_TARGETS={';'.join(architectures)}",) if architectures else ()
    needs = () if shutil.which("hipcc") else (packages.HIPCC,)
    notes = (UNTRIED, *(() if architectures else ("for the GPU that is here: --arch gfx1100 names another",)))
    return Recipe(("-DGGML_HIP=ON", *targets), needs, notes, compilers=("hipcc",))


def _sycl(_: tuple[str, ...]) -> Recipe:
    needs = () if shutil.which("icpx") else (packages.SYCL,)
    environment = {"CC": "icx", "CXX": "icpx"}
    return Recipe(("-DGGML_SYCL=ON",), needs, (UNTRIED,), environment, compilers=("icpx",))


def _metal(_: tuple[str, ...]) -> Recipe:
    needs = () if shutil.which("xcrun") else (packages.XCODE,)
    notes = (UNTRIED, "the usual build of `make setup` has Metal in it on a Mac")
    return Recipe(("-DGGML_METAL=ON", "-DGGML_METAL_EMBED_LIBRARY=ON"), needs, notes, compilers=("xcrun",))


def _capabilities(architectures: tuple[str, ...]) -> tuple[int, ...]:
    """89 of "8.9", "89" or "sm_89".

    Raises:
        UsageError: it is no compute capability.
    """
    return tuple(_numbers(architectures))


def _numbers(architectures: tuple[str, ...]) -> Iterator[int]:
    for text in architectures:
        digits = text.removeprefix("sm_").replace(".", "")
        if not digits.isdecimal() or not 50 <= int(digits) <= 999:
            raise UsageError(f"{text!r} is no compute capability", hint="as 8.6, 8.9 or 12.0", param="arch")
        yield int(digits)


def _day(path: Path) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(path.stat().st_mtime, UTC).date().isoformat()
