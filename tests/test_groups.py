"""A run that leaves a group out says so, and fails in CI."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

SUITE = """
import pytest

@pytest.mark.browser
def test_page():
    pytest.skip("no chromium: apt-get install chromium")

@pytest.mark.browser
def test_what_a_page_is_built_with():
    pytest.skip("machines: no screen is recorded")

def test_tree():
    pytest.skip("machines: no recorded trees here")

@pytest.mark.browser
def test_what_it_does_not_claim():
    pytest.skip("does not apply: this page has no form")

def test_plain():
    pytest.skip("not on this platform")

def test_runs():
    pass
"""
INI = "[pytest]\nmarkers = browser: needs Chromium\npythonpath = {here}\n"


MODULE = "import pytest\npytest.skip('qemu: no emulator here', allow_module_level=True)\n"
OF_NO_GROUP = MODULE.replace("qemu: no emulator", "nothing")


@pytest.mark.parametrize(("ci", "status", "processes"), [("", 0, "0"), ("true", 1, "0"), ("true", 1, "2")])
def test_a_group_that_did_not_run_is_named_and_fails_in_ci(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, ci: str, status: int, processes: str
) -> None:
    pytester.makeini(INI.format(here=Path(__file__).parent))
    pytester.makeconftest('pytest_plugins = ["support.groups"]\n')
    pytester.makepyfile(test_suite=SUITE, test_module=MODULE, test_other=OF_NO_GROUP)
    monkeypatch.setenv("CI", ci)

    ended = pytester.runpytest_inprocess("-q", "-p", "no:cacheprovider", "-p", "no:asyncio", "-n", processes)

    printed = ended.stdout.str()
    assert ended.ret == status
    assert "NOT RUN: browser (1 test): no chromium: apt-get install chromium" in printed
    assert "NOT RUN: machines (1 test): no recorded trees here" in printed
    assert "NOT RUN: machines (1 test): no screen is recorded" in printed
    assert "NOT RUN: qemu (1 test): no emulator here" in printed
    for ordinary in ("not on this platform", "this page has no form"):
        assert ordinary not in printed.partition("did not run")[2]
    assert ("CI runs every group: browser, qemu missing" in printed) == bool(ci)
    assert "1 passed, 7 skipped" in ended.outlines[-1]
