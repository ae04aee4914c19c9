"""A file is whole under its name or absent, whoever else writes at the same time."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from edgellm.files import atomic_writer, rename_new, write_atomic


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("sync", [False, True])
def test_a_file_is_replaced_as_a_whole(tmp_path: Path, sync: bool) -> None:
    path = tmp_path / "a.json"
    for data in (b"first, the longer one", b"second"):
        write_atomic(path, data, sync=sync)
        assert path.read_bytes() == data
    assert names(tmp_path) == ["a.json"]


def test_it_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    umask = os.umask(0o027)
    try:
        write_atomic(tmp_path / "a", b"")
        assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640
    finally:
        os.umask(umask)


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def write_and_fail() -> None:
        with atomic_writer(path) as file:
            file.write(b"new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_and_fail()
    assert path.read_bytes() == b"old"
    with pytest.raises(FileNotFoundError):
        write_atomic(tmp_path / "no folder" / "a", b"new")
    assert names(tmp_path) == ["a"]


def test_a_file_that_came_up_meanwhile_stays(tmp_path: Path) -> None:
    path = tmp_path / "a"

    def write_while_another_does() -> None:
        with atomic_writer(path, replace=False) as file:
            file.write(b"ours")
            path.write_bytes(b"another's")

    with pytest.raises(FileExistsError):
        write_while_another_does()
    assert path.read_bytes() == b"another's"
    assert names(tmp_path) == ["a"]


def test_without_links_a_file_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    (tmp_path / "part").write_bytes(b"ours")
    rename_new(tmp_path / "part", tmp_path / "a")
    assert names(tmp_path) == ["a"]


def test_writers_at_the_same_time_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "a"
    contents = [bytes([no]) * 50_000 for no in range(8)]
    threads = [threading.Thread(target=write_atomic, args=(path, data)) for data in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in contents
    assert names(tmp_path) == ["a"]
