"""Slow tests are left out by default, run where they are asked for, and are listed with their seconds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SUITE = """
import pytest

@pytest.mark.slow(41)
@pytest.mark.parametrize("n", [1, 2])
def test_long(n):
    pass

@pytest.mark.slow(7.5)
def test_longer_than_most():
    pass

def test_short():
    pass
"""
INI = "[pytest]\nmarkers = slow: takes long\npythonpath = {here}\n"


def run(folder: Path, *arguments: str, suite: str = SUITE) -> str:
    (folder / "pytest.ini").write_text(INI.format(here=Path(__file__).parent))
    (folder / "conftest.py").write_text('pytest_plugins = ["support.slow"]\n')
    (folder / "test_suite.py").write_text(suite)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder, check=False)
    return done.stdout


@pytest.mark.parametrize(
    ("arguments", "ended"),
    [
        ((), "1 passed, 3 deselected"),
        (("test_suite.py",), "1 passed, 3 deselected"),
        (("-m", "slow"), "3 passed, 1 deselected"),
        (("test_suite.py::test_long",), "2 passed"),
        (("-m", "slow or not slow"), "4 passed"),
    ],
)
def test_which_tests_run(tmp_path: Path, arguments: tuple[str, ...], ended: str) -> None:
    assert run(tmp_path, *arguments).splitlines()[-1].startswith(ended)


def test_the_list_has_the_slowest_first(tmp_path: Path) -> None:
    told = run(tmp_path, "-m", "slow", "--collect-only", "-q")

    assert [line.strip() for line in told.splitlines() if " s  " in line] == [
        "41 s  test_suite.py::test_long (2 cases)",
        "8 s  test_suite.py::test_longer_than_most",
        "48 s  2 tests, as measured",
    ]


@pytest.mark.parametrize("mark", ["slow", "slow()", "slow('long')"])
def test_a_mark_says_how_many_seconds(tmp_path: Path, mark: str) -> None:
    told = run(tmp_path, suite=SUITE.replace("slow(7.5)", mark))

    assert "test_suite.py::test_longer_than_most: write @pytest.mark.slow(SECONDS), as measured" in told
