"""A part that `make setup` leaves out: what it would fetch is found out before anything is fetched.

pip resolves with its own sources and settings and installs nothing (`--dry-run --report`). Packages for GPUs are
gigabytes, so they are installed only where that was asked for.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import tempfile
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from native import Failed

# Distributions that hold code for GPUs.
_GPU = re.compile(
    r"nvidia-|cuda-|triton|pytorch-triton|rocm|amd-|intel-(sycl|cmplr)|onemkl|dpcpp|tcmlib|umf", re.IGNORECASE
)
_PATIENCE_S = 20.0
_UNPACKED = 4  # times what is fetched: torch 2.13 for processors and what it needs, 170 MB, took 720 MB on the disk


@dataclass(frozen=True, slots=True)
class Optional:
    """[tool.edgellm.optional]: the extra that brings what the part needs, and the word that installs it."""

    extra: str
    word: str


@dataclass(frozen=True, slots=True)
class Package:
    """One that pip would install."""

    name: str
    version: str
    url: str
    n_bytes: int | None  # None = its source does not say

    @property
    def is_for_gpus(self) -> bool:
        return _GPU.match(self.name) is not None


def resolve(python: Path, requirement: str) -> list[Package]:
    """What pip would fetch for `requirement`, a folder of this repository with its extras.

    Raises:
        Failed: nothing satisfies it, or no source can be reached.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [str(python), "-m", "pip", "--no-input", "install", "--dry-run", "--quiet", "--report", str(report)]
        done = subprocess.run([*command, "--editable", requirement], capture_output=True, text=True, check=False)
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if "error:" in line.lower()]
            raise Failed(
                (errors or ["pip could not resolve it"])[-1][:300], f"try {' '.join(command[:5])} {requirement}"
            )
        rows = json.loads(report.read_text("utf-8"))["install"]
    return [_package(row) for row in rows if "dir_info" not in row["download_info"]]


def refuse_gpu(packages: Sequence[Package], python: Path, part: Optional) -> None:
    """
    Raises:
        Failed: some are for GPUs.
    """
    for_gpus = [package for package in packages if package.is_for_gpus]
    if not for_gpus:
        return
    raise Failed(
        f"{len(packages)} packages of {size_of(packages)} would be installed, {len(for_gpus)} of them for GPUs, as "
        f"{', '.join(package.name for package in for_gpus[:3])}",
        f"either `{part.word} ARGS=--gpu`, or first a build for processors: {python} -m pip install torch --index-url "
        "INDEX, where pytorch.org names the INDEX of CPU builds, and then `" + part.word + "` again",
    )


def size_of(packages: Sequence[Package]) -> str:
    """In MB, fetched and then; "at least" where some do not tell."""
    total = sum(package.n_bytes or 0 for package in packages)
    unknown = any(package.n_bytes is None for package in packages)
    fetched, there = total / 1e6, total * _UNPACKED / 1e6
    return f"{'at least ' if unknown else ''}{fetched:.0f} MB (about {there:.0f} MB on the disk)"


def _package(row: dict[str, Any]) -> Package:
    url = row["download_info"]["url"]
    return Package(row["metadata"]["name"], row["metadata"]["version"], url, _size(url))


def _size(url: str) -> int | None:
    """Of the file that pip would fetch, asked of where it lies."""
    parts = urlsplit(url)
    with contextlib.suppress(OSError, ValueError):
        if parts.scheme == "file":
            return Path(unquote(parts.path)).stat().st_size
        request = urllib.request.Request(url, method="HEAD")
        with urllib.request.urlopen(request, timeout=_PATIENCE_S) as answer:
            return int(answer.headers["Content-Length"])
    return None
