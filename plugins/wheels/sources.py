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
    """What is fetched and changed, below a folder that keeps it."""

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
        folder = self.work / "-".join(filter(None, (self.native.packed.replace("==", "-"), self.build)))
        if folder.exists():
            return folder
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
        for patch in self.patches:
            apply(patch, source / LLAMA_CPP)
        source.rename(folder)
        scratch.rmdir()
        return folder


def apply(patch: Path, folder: Path) -> None:
    """As `git apply` does, which changes nothing where a part does not fit; no repository above has a say.

    Raises:
        Refused: it does not fit.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment["GIT_CEILING_DIRECTORIES"] = str(folder.parent)
    done = subprocess.run(
        ["git", "apply", str(patch.resolve())], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Refused(
            f"{patch} does not fit: {done.stderr.strip()}\n"
            "make it in llama.cpp's own folder, of the commit in edgellm_gguf/pinned.json"
        )
