"""Clusters of several nodes on this machine, by `ray.cluster_utils.Cluster`. Without Ray, nothing here is collected."""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from support.ray_cluster import Boxes

# Of the package itself: this folder alone would pass for one, as it is called so.
collect_ignore_glob = [] if importlib.util.find_spec("ray.serve") else ["test_*.py"]

KEY = "0123456789abcdef"
STEP_S = "0.02"  # of the echo model, so that its answers take a while


@pytest.fixture(scope="session")
def cluster_home(tmp_path_factory: pytest.TempPathFactory, measured_files: dict[str, bytes]) -> Path:
    """EDGELLM_HOME of all nodes, which knows this machine."""
    home = tmp_path_factory.mktemp("cluster-home")
    for name, content in measured_files.items():
        file = home / "cache" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return home


@pytest.fixture(scope="session")
def cluster(cluster_home: Path) -> Iterator[Boxes]:
    """One for all modules: it takes as long to start as some tests together. Its head holds no replica."""
    from edgellm_ray.node import PROFILE_VARIABLE
    from support.ray_cluster import PROFILES, Boxes

    folder = tempfile.mkdtemp(prefix="ray-test-", dir="/tmp")  # short: sockets lie below it
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("RAY_", "EDGELLM_"))]:
            patch.delenv(name)
        patch.setenv("EDGELLM_HOME", str(cluster_home))
        made = Boxes(folder, cluster_home, KEY)
        try:
            for name, profile in PROFILES.items():
                made.add(name, EDGELLM_ECHO_STEP_S=STEP_S, **{PROFILE_VARIABLE: profile})
            yield made
        finally:
            made.close()
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def boxes(cluster: Boxes) -> Boxes:
    """The cluster with its three boxes, whatever the module before left of them."""
    from support.ray_cluster import PROFILES

    cluster.restore(PROFILES)
    return cluster
