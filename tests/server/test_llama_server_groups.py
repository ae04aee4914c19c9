"""What `make llama-server-tests` counts: each of llama.cpp's tests is in one group, or left out with a reason."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from llama_server.groups import COUNTED, Groups
from llama_server.launcher import command, parser

GROUPS = Groups.read()


def test_the_nearest_row_says_where_a_test_belongs() -> None:
    groups = Groups({"a.py": "portable", "a.py::test_x": "native", "a.py::test_x[two": "two"}, {})

    assert groups.of("a.py::test_y") == "portable"
    assert groups.of("a.py::test_x") == "native"
    assert groups.of("a.py::test_x[two-1]") == "two"
    assert groups.of("a.py::test_xy[two-1]") == "portable"


@pytest.mark.parametrize("name", GROUPS.differences)
def test_only_what_counts_has_a_difference(name: str) -> None:
    assert GROUPS.of(name) in COUNTED


def test_every_file_of_llama_cpp_is_named(llama_cpp: Path) -> None:
    files = (llama_cpp / "tools" / "server" / "tests" / "unit").glob("test_*.py")
    assert {file.name for file in files} <= {row.partition("::")[0] for row in GROUPS.rows}


def test_flags_are_mapped(tmp_path: Path) -> None:
    flags = f"--model {tmp_path}/m.gguf --port 9 --ctx-size 2048 --parallel 2 --temp 0.5 --seed 3 --reasoning off"

    told = command(parser().parse_args([*flags.split(), "--jinja", "--no-slots", "--n-predict", "9"]))
    assert told[:2] == ["serve", f"{tmp_path}/m.gguf"]
    asked = dict(itertools.pairwise(told))
    assert (asked["--ctx"], asked["--slots"], asked["--temperature"], asked["--seed"]) == ("1024", "2", "0.5", "3")
    assert "--no-think" in told


def test_unknown_flags_are_refused() -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["--model", "m.gguf", "--lora", "x"])
