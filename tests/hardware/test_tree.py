from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgellm.hardware.linux.sysfs import SysRoot, parse_cpu_list, parse_cpu_mask, parse_size


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        ("0-3,8", {0, 1, 2, 3, 8}),
        ("5", {5}),
        ("0 2", {0, 2}),
        ("", set()),
        (None, None),
        ("3-1", None),
        ("0-99999999", None),
        ("all", None),
        ("-1", None),
    ],
)
def test_cpu_lists(text: str | None, cpus: set[int] | None) -> None:
    assert parse_cpu_list(text) == cpus


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        ("00000000,0000000f", {0, 1, 2, 3}),
        ("80000001", {0, 31}),
        ("0", set()),
        ("", None),
        ("xyz", None),
        ("f" * 9999, None),
    ],
)
def test_cpu_masks(text: str, cpus: set[int] | None) -> None:
    assert parse_cpu_mask(text) == cpus


@pytest.mark.parametrize(
    ("text", "size"),
    [("32K", 32768), ("2M", 2097152), ("64", 64), ("1 KB", 1024), ("huge", None), (None, None), ("-1K", None)],
)
def test_sizes(text: str | None, size: int | None) -> None:
    assert parse_size(text) == size


def test_what_is_missing_or_empty_is_none(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    tree = SysRoot(tmp_path)

    assert (tree.text("/nothing"), tree.line("/empty"), tree.integer("/empty")) == (None, None, None)
    assert tree.names("/empty") == tree.names("/nothing") == []
    assert not tree.exists("/nothing")


@pytest.mark.parametrize("link", ["/etc", "../../../../../../../../etc", "loop"])
def test_links_do_not_lead_out_of_a_recorded_tree(tmp_path: Path, link: str) -> None:
    root = tmp_path / "machine"
    root.mkdir()
    (root / "loop").symlink_to(link)
    tree = SysRoot(root)

    assert tree.text("/loop/passwd") is None
    assert tree.text("/../../../../../../etc/passwd") is None
    assert tree.names("/loop") == []


def test_links_inside_a_recorded_tree_are_followed(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("7\n")
    (tmp_path / "link").symlink_to("real")

    assert SysRoot(tmp_path).integer("/link") == 7


def test_a_pipe_in_a_recorded_tree_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    assert SysRoot(tmp_path).text("/pipe") is None
