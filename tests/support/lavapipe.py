"""Mesa's Vulkan device in software, lavapipe, and the Vulkan backend that was built for the tests.

    make vulkan     builds it, where Vulkan's headers and the shader compiler are: minutes, once

It lies in a home of its own, so that the user's library stays as it is.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from edgellm import settings

HOME = Path(__file__).parents[2] / "build" / "vulkan"
_DRIVERS = (Path("/usr/share/vulkan/icd.d"), Path("/etc/vulkan/icd.d"), Path("/usr/local/share/vulkan/icd.d"))
# ggml leaves out devices in software unless they are named.
VARIABLES = ("GGML_VK_VISIBLE_DEVICES", "VK_DRIVER_FILES", "VK_ICD_FILENAMES")
_BUFFER = re.compile(r"(\w+) +(model|KV|RS|compute|output) buffer size = +([\d.]+) MiB")


def driver() -> Path | None:
    """The file that names lavapipe to Vulkan's loader."""
    return next((file for folder in _DRIVERS for file in sorted(folder.glob("lvp_icd*.json"))), None)


def backend() -> Path | None:
    """Folder of the Vulkan backend that was built for the tests."""
    from edgellm_gguf.pinned import pinned

    folder = HOME / "data" / "gpu" / pinned().commit / "vulkan"
    return folder if (folder / "libggml-vulkan.so").exists() else None


def enable(patch: pytest.MonkeyPatch) -> None:
    """This test's home gets the backend, and sees lavapipe as its only GPU.

    Skips, as group "vulkan", where one of them is missing.
    """
    file, built = driver(), backend()
    if file is None:
        pytest.skip("vulkan: no lavapipe (apt-get install mesa-vulkan-drivers)")
    if built is None:
        pytest.skip("vulkan: no Vulkan backend was built for the tests (make vulkan)")
    folder = settings.current().data_dir / "gpu" / built.parent.name
    folder.mkdir(parents=True)
    (folder / "vulkan").symlink_to(built)
    for name in VARIABLES:
        patch.delenv(name, raising=False)
    patch.setenv("VK_DRIVER_FILES", str(file))
    patch.setenv("GGML_VK_VISIBLE_DEVICES", "0")
    # Compiled shaders are kept there, whatever the test's home is: they take half a minute.
    patch.setenv("MESA_SHADER_CACHE_DIR", os.environ.get("MESA_SHADER_CACHE_DIR", str(HOME / "shaders")))


@pytest.fixture
def lavapipe(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enable(monkeypatch)


def reserved_mib(buffers: str) -> dict[str, dict[str, float]]:
    """Of `EngineInfo.details["buffers"]`: device -> kind of buffer -> MiB, of which llama.cpp logs two decimals."""
    sizes: dict[str, dict[str, float]] = {}
    for device, kind, mib in _BUFFER.findall(buffers):
        own = sizes.setdefault(device, {})
        own[kind] = own.get(kind, 0.0) + float(mib)
    return sizes
