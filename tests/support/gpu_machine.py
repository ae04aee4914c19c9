"""A hand-written machine with GPUs, read as if it were this one, in a process of its own.

NVIDIA's library there is `nvml_stub.c`, compiled, so that everything above it is what runs elsewhere. A node whose
content is "closed GROUP" may not be opened by that process. By hand, to look at what a stranger sees:

    PYTHONPATH=tests python -m support.gpu_machine gpu-nvidia-two profile
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec

from edgellm.contract.manager import plugins
from edgellm.hardware import probe
from edgellm.hardware.linux.sysfs import SysRoot
from edgellm.hardware.nvml import LIBRARY
from edgellm.types.gpu_problem import GpuProblem
from edgellm.types.machine import Accelerator, Machine

DATA = Path(__file__).parents[1] / "data" / "hardware"
COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


def parse_tree(text: str) -> dict[str, str]:
    """Path -> content of the format described in tests/data/hardware/README.md."""
    files: dict[str, str] = {}
    current = ""
    for line in text.splitlines(keepends=True):
        if line.startswith("== "):
            current = line[3:].strip()
            files[current] = ""
        elif one_line := re.fullmatch(r"(/\S+) = (.*)\n?", line):
            files[one_line[1]] = one_line[2] + "\n"
            current = ""
        elif current:
            files[current] += line
    return files


def unpack(files: dict[str, str], root: Path) -> Path:
    for path, content in files.items():
        target = root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content, "utf-8")
        if closed := re.fullmatch(r"closed (\d+)\n", content):
            if os.geteuid() == 0:
                os.chown(target, 0, int(closed[1]))
            target.chmod(0)
    return root


def _folder() -> Path:
    """A new one, gone when this process ends."""
    folder = tempfile.mkdtemp(prefix="gpu-machine-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


@functools.cache
def stub() -> Path:
    """The compiled library."""
    folder = _folder()
    source = DATA / "nvml_stub.c"
    command = [COMPILER or "cc", "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", f"-Wl,-soname,{LIBRARY}"]
    subprocess.run([*command, "-o", folder / LIBRARY, source], check=True)
    return folder / LIBRARY


@functools.cache
def _reader() -> subprocess.Popen[bytes]:
    """A process that has imported what reads machines, and reads each in a child of its own."""
    environment = {"PATH": os.environ["PATH"], "EDGELLM_HOME": str(_folder())}
    environment |= {"EDGELLM_PLUGINS": "echo", "PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.Popen(
        [sys.executable, "-m", "support.gpu_machine"],
        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    atexit.register(process.kill)
    return process


def probed(root: Path, **variables: str) -> Machine:
    """What the probe makes of the machine whose files lie below `root`."""
    reader = _reader()
    assert reader.stdin is not None
    assert reader.stdout is not None
    reader.stdin.write(json.dumps([str(root), _library(root), variables]).encode() + b"\n")
    reader.stdin.flush()
    return msgspec.json.decode(reader.stdout.readline(), type=Machine)


def gpus(root: Path, **variables: str) -> tuple[tuple[Accelerator, ...], tuple[GpuProblem, ...]]:
    machine = probed(root, **variables)
    return machine.accelerators, machine.gpu_problems


def _library(root: Path) -> str:
    """Where the stub lies that the machine's own script is for; "" = it has none."""
    if not (root / "nvml").exists():
        return ""
    if not (wsl := root / "usr/lib/wsl/lib" / LIBRARY).exists():
        return str(stub())
    shutil.copy(stub(), wsl)
    return ""  # which the probe finds there


def _become(root: Path, library: str) -> None:
    """This process reads the machine below `root`, with no rights beyond those of its files."""
    os.environ["NVML_STUB"] = str(root / "nvml")
    if library:
        ctypes.CDLL(library)  # the loader takes what has the name already
    # So that a file without permissions is shut to root, too: capset of Linux, with none of the capabilities.
    libc = ctypes.CDLL(None, use_errno=True)
    header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if libc.capset(header, none):
        raise OSError(ctypes.get_errno(), "capset")
    probe.SysRoot = lambda _: SysRoot(root, live=True)  # type: ignore[misc,assignment]


def _read_all() -> None:
    plugins()
    for line in sys.stdin.buffer:
        if (child := os.fork()) == 0:
            root, library, variables = json.loads(line)
            os.environ |= variables
            _become(Path(root), library)
            sys.stdout.buffer.write(msgspec.json.encode(probe.probe(measure=False)) + b"\n")
            sys.stdout.buffer.flush()
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            sys.exit(1)


def _show(name: str, command: str) -> None:
    from edgellm.cli.main import main

    root = unpack(parse_tree((DATA / f"{name}.tree").read_text("utf-8")), _folder())
    _become(root, _library(root))
    sys.argv = ["edgellm", command, *(["--no-measure"] if command == "profile" else [])]
    main()


if __name__ == "__main__":
    _show(*sys.argv[1:]) if sys.argv[1:] else _read_all()
