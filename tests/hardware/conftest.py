"""Machines to probe: hand-written ones of tests/data/hardware, and recorded ones where they are."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from support import gpu_machine

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data" / "hardware"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing is read from or left in the user's own folders."""
    monkeypatch.setenv("EDGELLM_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def machine_at(tmp_path: Path) -> Callable[..., Path]:
    """Unpacks a `.tree` file, with files added or replaced, and gives the folder."""

    def unpack(name: str | None = None, **files: str) -> Path:
        root = tmp_path / (name or "bare")
        root.mkdir()
        text = (DATA / f"{name}.tree").read_text("utf-8") if name else ""
        files = {key.replace("__", "/"): value for key, value in files.items()}
        return gpu_machine.unpack(gpu_machine.parse_tree(text) | files, root)

    return unpack


def recorded_folder() -> Path:
    return Path(os.environ.get("EDGELLM_TEST_MACHINES") or ROOT.parent / "shared" / "data" / "machines")


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Unpacks a recorded machine: a tree of `linux/`, or the one file of `cpuinfo/`."""
    folder = recorded_folder()
    if not folder.is_dir():
        pytest.skip(f"machines: {os.path.relpath(folder, ROOT)} is not here; EDGELLM_TEST_MACHINES names the folder")
    unpacked: dict[str, Path] = {}

    def unpack(name: str) -> Path:
        if name not in unpacked:
            target = tmp_path_factory.mktemp("machine")
            archive = folder / "linux" / f"{name}.tar.bz2"
            if archive.exists():
                with tarfile.open(archive) as tar:
                    tar.extractall(target, filter="data")
                (target,) = target.iterdir()
            else:
                (target / "proc").mkdir()
                (target / "proc" / "cpuinfo").write_bytes((folder / "cpuinfo" / f"{name}.log").read_bytes())
            unpacked[name] = target
        return unpacked[name]

    return unpack
