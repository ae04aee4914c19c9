"""What a plugin's native library is built from, and where a build is kept. Knows no pip: `install.py` runs it.

Most libraries are built for the processor they are built on (-march=native), so builds are kept by version, settings,
compiler and processor: a second checkout on the same machine compiles nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Whatever of these is set changes what a compiler makes.
BUILD_VARIABLES = ("CC", "CXX", "CFLAGS", "CXXFLAGS", "CPPFLAGS", "LDFLAGS", "CMAKE_ARGS", "CMAKE_GENERATOR")


class Failed(Exception):
    """One part could not be installed: `reason`, and what to do about it in `hint`."""

    def __init__(self, reason: str, hint: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Native:
    """[tool.edgellm.native]: a package that comes as source and is built here once, then cached."""

    folder: Path  # the plugin's
    requirement: str  # file with a line for pip, exact and with its hash: "llama-cpp-python==0.3.36 --hash=sha256:..."
    settings: tuple[str, ...] = ()  # pip config settings of this one build; {here} is the plugin's folder
    build_env: str = ""  # variable that names one of the `builds`
    builds: dict[str, tuple[str, ...]] = field(default_factory=dict)  # more settings, by name; the first is the usual
    inputs: tuple[str, ...] = ()  # files in the plugin's folder that every build reads
    prebuilt_env: str = ""  # variable that names a folder with a ready library
    prebuilt_library: str = ""  # its base name: "llama" is libllama.so, libllama.dylib or llama.dll
    prebuilt_settings: tuple[str, ...] = ()  # settings that build the Python part only, without a compiler

    @classmethod
    def read(cls, folder: Path, table: dict[str, Any]) -> Native:
        """From the TOML table, its arrays made tuples."""
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in table.items()}
        fields["builds"] = {name: tuple(settings) for name, settings in table.get("builds", {}).items()}
        return cls(folder, **fields)

    @property
    def wheel(self) -> str:
        """Name and release: "llama-cpp-python==0.3.36"."""
        return (self.folder / self.requirement).read_text("utf-8").split()[0]

    @property
    def packed(self) -> str:
        """As `make wheels` packs it, of which no index has a release: "llama-cpp-python==0.3.36+edgellm"."""
        return f"{self.wheel}+edgellm"

    def build_inputs(self) -> list[object]:
        """All that decides what a compiler makes, except the compiler."""
        # A file that one build's settings name changes that build alone.
        own = [text.partition("{here}/")[2] for text in self.builds.get(self.build, ()) if "{here}/" in text]
        files = [(self.folder / file).read_text("utf-8") for file in (*self.inputs, *own)]
        variables = {name: os.environ.get(name) for name in BUILD_VARIABLES}
        return [self.wheel, files, variables, *filter(None, [self.build]), processor(), sysconfig.get_platform()]

    @property
    def build(self) -> str:
        """The name that the environment gives, or that of the usual build; "" = there is only one."""
        return (os.environ.get(self.build_env, "") if self.build_env else "") or next(iter(self.builds), "")

    def build_settings(self) -> tuple[str, ...]:
        """
        Raises:
            Failed: there is no build of that name.
        """
        if self.build and self.build not in self.builds:
            raise Failed(f"{self.build_env}={self.build} is no build", f"one of {', '.join(self.builds)}, or unset it")
        return (*self.settings, *self.builds.get(self.build, ()))

    def prebuilt_folder(self) -> Path | None:
        """The folder with a ready library that the environment names, None where it names none.

        Raises:
            Failed: it names one without the library. Building another would not help: the variable rules at run time.
        """
        value = os.environ.get(self.prebuilt_env, "") if self.prebuilt_env else ""
        if not value:
            return None
        name = self.prebuilt_library
        for file in (f"lib{name}.so", f"lib{name}.dylib", f"{name}.dll", f"lib{name}.dll"):
            if (Path(value) / file).exists():
                return Path(value)
        raise Failed(
            f"{self.prebuilt_env}={value} holds no lib{name}.so",
            f"name the folder with lib{name}.so in {self.prebuilt_env}, or unset it to build one here",
        )

    def choose(self) -> tuple[tuple[str, ...], Path]:
        """Config settings to build with, and the shelf in the cache that such a build is kept on.

        Raises:
            Failed: no compiler, or a prebuilt library or a build was named that is not there.
        """
        folder = self.prebuilt_folder()
        settings = self.prebuilt_settings if folder else self.build_settings()
        key = digest(settings, self.build_inputs(), None if folder else compilers())
        shelf = cache_dir() / "wheels" / f"{self.wheel.replace('==', '-')}-{key}"
        return tuple(text.replace("{here}", self.folder.as_posix()) for text in settings), shelf


def cache_dir() -> Path:
    """As `edgellm.settings.cache_dir`, without platformdirs, which is not installed yet."""
    if home := os.environ.get("EDGELLM_HOME"):
        return Path(home) / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "edgellm"
    if os.name == "nt":
        return Path(os.environ.get("LOCALAPPDATA", str(Path.home()))) / "edgellm" / "edgellm" / "Cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgellm"


def compilers(*, cxx: bool = True) -> dict[str, str]:
    """C and C++ compiler as CMake will find them -> first line of --version.

    Raises:
        Failed: one of them is missing. Windows is not asked: CMake finds Visual Studio without PATH.
    """
    if os.name == "nt":
        return {}
    versions = {}
    for variable, candidates in (("CC", ("cc", "gcc", "clang")), ("CXX", ("c++", "g++", "clang++"))):
        if variable == "CXX" and not cxx:
            continue
        named = os.environ.get(variable, "").split(" ")[0]
        path = next((p for name in ((named,) if named else candidates) if (p := shutil.which(name))), None)
        if path is None:
            language = "C" if variable == "CC" else "C++"
            raise Failed(
                f"no {language} compiler ({named or ', '.join(candidates)} not found)",
                "install one: apt-get install gcc g++ (Debian), dnf install gcc gcc-c++ (Fedora), "
                "xcode-select --install (macOS)",
            )
        answer = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
        versions[variable] = answer.stdout.partition("\n")[0]
    return versions


def processor() -> str:
    """What -march=native sees: model and feature flags of the first processor."""
    try:
        first = Path("/proc/cpuinfo").read_text("utf-8", errors="replace").split("\n\n")[0]
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    fields = ("model name", "flags", "Features", "CPU part", "CPU implementer")
    return "\n".join(line for line in first.splitlines() if line.startswith(fields))


def digest(*inputs: object) -> str:
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()[:16]
