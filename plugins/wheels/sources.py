"""llama-cpp-python's sources with llama.cpp's, as pinned, and with fixes that no release has yet."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from native import Native

LLAMA_CPP = Path("vendor") / "llama.cpp"


class Refused(Exception):
    """No wheel is made: it is not what its tag says, or larger than it may be, or a fix does not fit the sources."""


@dataclass(frozen=True, slots=True)
class Sources:
    """What is fetched and changed, below a folder that keeps it.

    Fixes are applied where the sources lie, and taken back where others are asked for: what was compiled of all other
    files stays good.
    """

    native: Native
    work: Path
    patches: Sequence[Path] = ()

    @property
    def build(self) -> str:
        """Build number of the wheels, of their fixes' number and hash; "" = as released.

        Of wheels of one version, pip takes that with the highest number, so one more fix counts more.
        """
        whole = b"".join(patch.read_bytes() for patch in self.patches)
        return f"{len(self.patches)}_{hashlib.sha256(whole).hexdigest()[:12]}" if self.patches else ""

    def folder(self, pip: Sequence[str], environment: Mapping[str, str]) -> Path:
        """Where they lie; fetched where they do not, and held to the pinned hash.

        Raises:
            Refused: a fix does not fit.
        """
        folder = self.work / self.native.packed.replace("==", "-")
        if not folder.exists():
            self._fetch(folder, pip, environment)
        fix(folder / LLAMA_CPP, self.patches)
        return folder

    def _fetch(self, folder: Path, pip: Sequence[str], environment: Mapping[str, str]) -> None:
        scratch = self.work / "sources.part"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        name, _, release = self.native.wheel.partition("==")
        command = [*pip, "download", "--no-deps", "--no-build-isolation", "--no-binary", name, "--dest", str(scratch)]
        pinned = self.native.folder / self.native.requirement
        subprocess.run([*command, "--requirement", str(pinned)], check=True, env=environment)
        (archive,) = scratch.glob("*.tar.gz")
        with tarfile.open(archive) as packed:
            packed.extractall(scratch, filter="data")
        archive.unlink()
        (source,) = scratch.iterdir()
        version = source / "llama_cpp" / "__init__.py"
        own = self.native.packed.partition("==")[2]
        version.write_text(version.read_text("utf-8").replace(f'"{release}"', f'"{own}"'), "utf-8")
        source.rename(folder)
        scratch.rmdir()


def fix(folder: Path, patches: Sequence[Path]) -> None:
    """Have the sources in the folder these fixes, and no others.

    Raises:
        Refused: one does not fit, or an earlier change of them was cut off.
    """
    applied = folder / ".fixes"
    applied.mkdir(exist_ok=True)
    changing = applied / "changing"
    if changing.exists():
        raise Refused(f"{folder} was left in the middle of a change: remove {folder.parents[1]}")
    there = sorted(applied.glob("*.patch"))
    if [patch.read_bytes() for patch in there] == [patch.read_bytes() for patch in patches]:
        return
    changing.touch()
    try:
        for patch in reversed(there):
            apply(patch, folder, "--reverse")
            patch.unlink()
        for number, patch in enumerate(patches):
            apply(patch, folder)
            shutil.copyfile(patch, applied / f"{number:03}.patch")
    except Refused:  # the one that does not fit changed nothing, and the others are noted
        changing.unlink()
        raise
    changing.unlink()


def apply(patch: Path, folder: Path, *options: str) -> None:
    """As `git apply` does, which changes nothing where a part does not fit; no repository above has a say.

    Raises:
        Refused: it does not fit.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment["GIT_CEILING_DIRECTORIES"] = str(folder.parent)
    done = subprocess.run(
        ["git", "apply", *options, str(patch.resolve())],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise Refused(
            f"{patch} does not fit: {done.stderr.strip()}\n"
            "make it in llama.cpp's own folder, of the commit in edgellm_gguf/pinned.json"
        )
