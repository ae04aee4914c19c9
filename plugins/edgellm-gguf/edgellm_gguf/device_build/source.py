"""The sources that libllama was built of, and the tools that build them, where the system has none."""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from edgellm import settings
from edgellm.contract import pip
from edgellm.errors import IntegrityError, SourceUnreachable
from edgellm.files import SPARE_BYTES
from edgellm.units import show_size
from edgellm_gguf.device_build.command import Command
from edgellm_gguf.pinned import pinned

PACKAGE = "llama-cpp-python"
_GGML = "/vendor/llama.cpp/ggml/"
_TOOLS = ("cmake", "ninja")
# What pip fetches, with hashes.
REQUIREMENT = Path(__file__).parents[1] / "llama_cpp_python.txt"
_TOOL_WHEELS, _CUDA_WHEELS = (Path(__file__).with_name(name) for name in ("tools.txt", "cuda.txt"))


def ggml(folder: Path, command: Command) -> Path:
    """The folder of ggml's sources, below `folder`; fetched where it is not there yet.

    Raises:
        SourceUnreachable: pip cannot fetch them. IntegrityError: the index has another file. OSError.
    """
    pin = pinned()
    target = folder / f"{PACKAGE}-{pin.llama_cpp_python}-{pin.commit}"
    if not target.is_dir():
        with tempfile.TemporaryDirectory(dir=folder, prefix="fetching-") as scratch:
            download = ["download", "--no-deps", "--no-binary", PACKAGE, "--dest", scratch, "-r", str(REQUIREMENT)]
            _pip(command, download, f"{PACKAGE}=={pin.llama_cpp_python}", Path(scratch))
            _unpack(next(Path(scratch).glob("*.tar.gz")), Path(scratch) / "unpacked")
            (Path(scratch) / "unpacked").rename(target)
    return next(target.glob("*")) / _GGML.strip("/")


def tools(folder: Path, command: Command) -> str:
    """A search path with cmake and ninja: the system's own, and in front of it those that pip fetched.

    Raises:
        SourceUnreachable: pip cannot fetch them. IntegrityError: the index has other files.
    """
    path = os.environ.get("PATH", "")
    absent = [name for name in _TOOLS if shutil.which(name) is None]
    if not absent:
        return path
    target = folder / "tools"
    if not all(_program(target, name) for name in absent):
        install = ["install", "--quiet", "--target", str(target), "-r", str(_TOOL_WHEELS)]
        _pip(command, install, " and ".join(_TOOLS), folder)
    programs = [_program(target, name) for name in absent]
    return os.pathsep.join([*(str(program.parent) for program in programs if program), path])


def cuda(target: Path, command: Command) -> None:
    """Put the package index's compiler of CUDA into a folder.

    Raises:
        SourceUnreachable: pip cannot fetch it. IntegrityError: the index has other files.
    """
    target.mkdir(parents=True, exist_ok=True)
    install = ["install", "--quiet", "--upgrade", "--target", str(target), "-r", str(_CUDA_WHEELS)]
    _pip(command, install, "CUDA 13", target)


def _program(target: Path, name: str) -> Path | None:
    """In a folder that pip installed into: the wheel's own program, or a script that needs its package beside."""
    return next(
        (path for path in (target / name / "data" / "bin" / name, target / "bin" / name) if path.exists()), None
    )


def _pip(command: Command, arguments: Sequence[str], what: str, scratch: Path) -> None:
    """
    Raises:
        SourceUnreachable, IntegrityError, OSError.
    """
    if settings.current().offline:
        raise SourceUnreachable(f"{what} must be fetched, and EDGELLM_OFFLINE is set", hint="unset it for this once")
    # No size is promised; the hashes come too late for the disk.
    most = max(1, shutil.disk_usage(scratch).free - SPARE_BYTES)
    said = command.run(
        pip.command(arguments, most_file_bytes=most), {"PIP_REQUIRE_VIRTUALENV": "false", "TMPDIR": str(scratch)}
    )
    if said.status == pip.FILE_LIMIT_STATUS:
        raise IntegrityError(
            f"the package index sends more than {show_size(most)}, which is what the disk has room for, as {what}",
            hint="free space, and check with `pip config list` which index is asked",
        )
    if pip.is_out_of_memory("\n".join(said.lines)):
        raise SourceUnreachable(f"{what} cannot be fetched: {pip.OUT_OF_MEMORY}", hint=pip.OUT_OF_MEMORY_HINT)
    if any("DO NOT MATCH THE HASHES" in line for line in said.lines):
        raise IntegrityError(
            f"the package index has another {what} than the one that this release of EdgeLLM was made for",
            hint="ask the package index for the original again: `pip config list` says which one is asked",
        )
    if said.status:
        raise SourceUnreachable(
            f"{what} could not be fetched from the package index: {said.cause()}",
            hint="check the network and `pip config list`",
        )


def _unpack(archive: Path, folder: Path) -> None:
    """ggml's sources only."""
    with tarfile.open(archive) as members:
        members.extractall(folder, [member for member in members if _GGML in member.name], filter="data")
