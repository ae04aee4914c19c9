"""The folder of Ray's sockets, which whoever can write there has the cluster by."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from edgellm_ray import raylet


@pytest.fixture(autouse=True)
def short_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def test_the_folder_of_sockets_is_ours_alone_and_stays() -> None:
    own = raylet.folder()

    assert stat.S_IMODE(own.parent.stat().st_mode) == 0o700
    assert raylet.folder() == own


def test_two_homes_have_two_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own = raylet.folder()
    monkeypatch.setenv("EDGELLM_HOME", str(tmp_path / "other"))

    assert raylet.folder() != own


@pytest.mark.parametrize("how", ["gone", "open", "link"])
def test_one_that_another_user_may_have_made_is_not_taken(how: str, tmp_path: Path) -> None:
    own = raylet.folder().parent
    if how == "open":
        own.chmod(0o777)
    else:
        own.rmdir()
    if how == "link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        own.symlink_to(tmp_path / "elsewhere")

    assert raylet.folder().parent != own
