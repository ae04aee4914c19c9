"""Slow tests are left out by default, run where they are asked for, and are listed with their seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

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


def run(pytester: pytest.Pytester, *arguments: str, suite: str = SUITE) -> list[str]:
    """The lines that pytest prints."""
    pytester.makeini(INI.format(here=Path(__file__).parent))
    pytester.makeconftest('pytest_plugins = ["support.slow"]\n')
    pytester.makepyfile(test_suite=suite)
    ended = pytester.runpytest_inprocess("-q", "-p", "no:cacheprovider", "-p", "no:asyncio", *arguments)
    return [*ended.errlines, *ended.outlines]


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
def test_which_tests_run(pytester: pytest.Pytester, arguments: tuple[str, ...], ended: str) -> None:
    assert run(pytester, *arguments)[-1].startswith(ended)


@pytest.mark.parametrize("chosen", ["slow", "slow and not by_hand", "slow or not slow"])
def test_the_list_has_the_slowest_first(pytester: pytest.Pytester, chosen: str) -> None:
    listed = run(pytester, "-m", chosen, "--collect-only", "-q")

    assert [line.strip() for line in listed if " s  " in line] == [
        "41 s  test_suite.py::test_long (2 cases)",
        "8 s  test_suite.py::test_longer_than_most",
        "48 s  2 tests, as measured",
    ]


@pytest.mark.parametrize("mark", ["slow", "slow()", "slow('long')"])
def test_a_mark_says_how_many_seconds(pytester: pytest.Pytester, mark: str) -> None:
    lines = run(pytester, suite=SUITE.replace("slow(7.5)", mark))

    expected = "test_suite.py::test_longer_than_most: write @pytest.mark.slow(SECONDS), as measured"
    assert any(expected in line for line in lines)
