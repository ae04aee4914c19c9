"""Control groups that a test makes for itself. Where none can be made, it is skipped as one of the group "cgroup"."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from edgellm.hardware.linux import cgroup
from edgellm.hardware.linux.sysfs import SysRoot


@pytest.fixture
def make_group() -> Iterator[Callable[..., Path]]:
    """Makes a group of a controller beside this process's own and writes its files; all are removed at the end."""
    groups: list[Path] = []

    def make(controller: str, **files: str) -> Path:
        group = cgroup.find(SysRoot(), controller)
        if group is None or not group.levels:
            pytest.skip(f"cgroup: no {controller} controller is mounted here")
        folder = Path(group.levels[-1]) / f"edgellm-test-{os.getpid()}-{len(groups)}"
        try:
            folder.mkdir()
            groups.append(folder)
            for name, value in files.items():
                version, _, name = name.partition("__")
                if version == f"v{group.version}":
                    (folder / name.replace("__", ".", 1)).write_text(value)
        except OSError as error:
            pytest.skip(f"cgroup: {folder.parent} cannot be written ({error.strerror})")
        return folder

    yield make
    for folder in reversed(groups):
        with suppress(FileNotFoundError):
            folder.rmdir()
