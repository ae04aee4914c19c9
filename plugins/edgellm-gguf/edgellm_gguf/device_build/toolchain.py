"""What of a toolchain is here: found by looking, as CMake will look."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from edgellm_gguf.device_build import packages
from edgellm_gguf.device_build.packages import Need

_PREFIXES = ("/usr", "/usr/local", "/opt/homebrew")
_PATIENCE_S = 30.0


def compiler() -> str | None:
    """The C++ compiler that CMake takes."""
    named = os.environ.get("CXX", "").split(" ")[0]
    return next(
        (path for name in ((named,) if named else ("c++", "g++", "clang++")) if (path := shutil.which(name))), None
    )


def common() -> Iterator[Need]:
    """Missing for any build."""
    if sys.platform != "win32" and compiler() is None:
        yield packages.COMPILER
    if importlib.util.find_spec("pip") is None:
        yield packages.PIP


def vulkan() -> Iterator[Need]:
    """Missing for Vulkan, as `find_package(Vulkan COMPONENTS glslc)` and `find_package(SPIRV-Headers)` look for it."""
    sdk = os.environ.get("VULKAN_SDK", "")
    if not _has_header("vulkan/vulkan.hpp", sdk):
        yield packages.VULKAN_HEADERS
    if not has_library("vulkan", sdk):
        yield packages.VULKAN_LOADER
    if shutil.which("glslc") is None and not (sdk and shutil.which("glslc", path=str(Path(sdk) / "bin"))):
        yield packages.GLSLC
    if not any(_cmake_packages("SPIRV-Headers", sdk)):
        yield packages.SPIRV_HEADERS


def lines(command: str, *arguments: str) -> list[str]:
    """What a program says on standard output; nothing where it cannot be run."""
    try:
        said = subprocess.run([command, *arguments], capture_output=True, text=True, timeout=_PATIENCE_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return said.stdout.strip().splitlines()


def version(command: str) -> str:
    """First line of what a compiler says of itself; "" where it says nothing."""
    return next(iter(lines(command, "--version")), "")


def _has_header(name: str, sdk: str) -> bool:
    """Asked of the preprocessor, which knows its own folders."""
    path = compiler()
    if path is None:
        return any((Path(prefix) / "include" / name).is_file() for prefix in (*_PREFIXES, sdk) if prefix)
    flags = ["-I", str(Path(sdk) / "include")] if sdk else []
    question = f"#if !__has_include(<{name}>)\n#error\n#endif\n"
    command = [path, *flags, "-E", "-x", "c++", "-", "-o", os.devnull]
    return subprocess.run(command, input=question, capture_output=True, text=True, check=False).returncode == 0


def has_library(name: str, sdk: str = "") -> bool:
    """Asked of the compiler, which answers with a path where it has the library."""
    path, file = compiler(), f"lib{name}.{'dylib' if sys.platform == 'darwin' else 'so'}"
    if sdk and (Path(sdk) / "lib" / file).exists():
        return True
    if path is None:
        return any((Path(prefix) / "lib" / file).exists() for prefix in _PREFIXES)
    said = subprocess.run([path, f"-print-file-name={file}"], capture_output=True, text=True, check=False)
    return Path(said.stdout.strip()).is_absolute()


def _cmake_packages(name: str, sdk: str) -> Iterator[Path]:
    named = os.environ.get("CMAKE_PREFIX_PATH", "").split(os.pathsep)
    for prefix in filter(None, (sdk, *named, *_PREFIXES)):
        for library in ("share", "lib", "lib64", "lib/*"):
            yield from Path(prefix).glob(f"{library}/cmake/{name}/{name}Config.cmake")
