"""A wheel's native libraries where there is no Python for the machine: native_driver.c, compiled for it, computes."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import platformdirs
import pytest
from filelock import FileLock

from support.bare_root import mirror
from support.made_wheels import PYTHON, ROOT, script, unpacked

SOURCE = ROOT / "tests" / "support" / "native_driver.c"
GROUP = "elsewhere"
NOTHING_COMPUTES = 3  # the driver's status
HEADERS = ("include", "ggml/include")  # of llama.cpp


@dataclass(frozen=True, slots=True)
class Machine:
    """One kind, by the name of its target, and what runs its programs here."""

    target: str
    command: tuple[str, ...] = ()
    package: str = ""  # of Debian, that has it
    root: tuple[str, str] | None = None  # of another processor, that the command finds a C library in: Debian's names

    @property
    def is_here(self) -> bool:
        """Its programs run on this processor."""
        return not self.command or not self.command[0].startswith("qemu")

    def runner(self) -> list[str]:
        """What a program is started with; skips, as group "elsewhere", where there is nothing to run it."""
        for program in (*self.command[:1], *(["mmdebstrap", "unshare"] if self.root else [])):
            if shutil.which(program) is None:
                pytest.skip(f"{GROUP}: no {program}: apt-get install {self.package}")
        return [*self.command, *(["-L", str(_root(*self.root))] if self.root else [])]


@dataclass(frozen=True, slots=True)
class Driver:
    """The program for a machine; the libraries of its wheels are unpacked beside it, and a test without them skips."""

    machine: Machine
    runner: list[str]
    program: Path

    @property
    def llama(self) -> Path:
        """Folder of llama.cpp's libraries."""
        return self._unpacked("llama_cpp_python") / "llama_cpp" / "lib"

    @property
    def ternary(self) -> Path:
        """The ternary engine's library."""
        (library,) = (self._unpacked("edgellm_bitnet") / "edgellm_bitnet").glob("*edgellm_bitnet.*[lo]")
        return library

    def _unpacked(self, name: str) -> Path:
        platform = script("targets").TARGETS[self.machine.target].platform
        return unpacked(name, platform, self.program.parent, GROUP)

    def llama_logits(self, model: str, target: Path, folder: Path | None = None) -> tuple[str, np.ndarray]:
        """Name of the code that computed, and float32 logits of 200 tokens in one row; "" = none runs there."""
        said, logits = self._run(target, "llama", _seen(folder or self.llama), model)
        return code(said.replace("\\", "/").rpartition("/")[2]), logits

    def ternary_logits(self, target: Path) -> dict[str, np.ndarray]:
        """By the instruction set that computed."""
        said, logits = self._run(target, "ternary", _seen(self.ternary))
        names = said.split()
        return dict(zip(names, logits.reshape(len(names), -1), strict=True))

    def _run(self, target: Path, *arguments: str) -> tuple[str, np.ndarray]:
        done = subprocess.run(
            [*self.runner, self.program, *arguments, target],
            env={**os.environ, "WINEDEBUG": "-all"}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode == NOTHING_COMPUTES:
            return "", np.empty(0, np.float32)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip(), np.fromfile(target, np.float32)


def code(library: str) -> str:
    """What a file with ggml's code for one kind of processor is called; "" = for every one."""
    return library.partition("ggml-cpu")[2].rpartition(".")[0].lstrip("-")


def _seen(path: Path) -> str:
    """As the program reads it: under wine, too, a path may begin with a slash."""
    return path.as_posix()


def _root(processor: str, package: str) -> Path:
    """A Debian's package for another processor, unpacked once into the user's cache; nothing of it is run."""
    root = Path(platformdirs.user_cache_dir("edgellm")) / "roots" / f"{package}-{processor}"
    root.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{root}.lock"):
        if not root.exists():
            part = root.with_name(f"{root.name}.part")
            shutil.rmtree(part, ignore_errors=True)
            make = ["unshare", "--user", "--map-root-user", "--mount", "mmdebstrap", "--quiet", "--mode=root"]
            make += ["--skip=check/qemu,chroot/mount", "--variant=extract", f"--architectures={processor}"]
            make += [f"--include={package}", "trixie", str(part), *filter(None, [mirror()])]
            subprocess.run(make, check=True)
            if not (part / "lib").exists():  # other packages link it
                (part / "lib").symlink_to("usr/lib")
            part.rename(root)
    return root


def driver(machine: Machine, folder: Path) -> Driver:
    """Compiled into the folder; skips where there is nothing to compile or to run it."""
    runner = machine.runner()
    target = script("targets").TARGETS[machine.target]
    sources = next((ROOT / "build" / "wheels").glob("llama-cpp-python-*+edgellm"), None)
    if sources is None or not PYTHON.exists():
        pytest.skip(f"{GROUP}: no zig, or no sources of llama.cpp (make wheels)")
    headers = [sources / "vendor" / "llama.cpp" / name for name in HEADERS]
    headers.append(ROOT / "plugins" / "edgellm-bitnet" / "native")
    program = folder / ("driver.exe" if target.system == "Windows" else "driver")
    command = [PYTHON, "-m", "ziglang", "cc", "-target", target.triple, "-O1", "-g0", "-s"]
    command += [str(SOURCE), "-o", str(program), *(f"-I{header}" for header in headers)]
    # Without it a program for musl is linked statically, and opens no library.
    command += ["-dynamic"] if target.libc == "musl" else []
    subprocess.run(command, check=True)
    return Driver(machine, runner, program)
