"""A run that leaves a group out says so, and fails in CI."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

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


def run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / "pytest.ini").write_text(INI.format(here=Path(__file__).parent))
    (folder / "conftest.py").write_text('pytest_plugins = ["support.groups"]\n')
    (folder / "test_suite.py").write_text(SUITE)
    (folder / "test_module.py").write_text(MODULE)
    env = {key: value for key, value in os.environ.items() if key != "CI"} | environment
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments, str(folder)]
    return subprocess.run(command, env=env, capture_output=True, text=True, cwd=folder, check=False)


@pytest.mark.parametrize("processes", ["0", "2"])
@pytest.mark.parametrize(("ci", "status"), [("", 0), ("true", 1)])
def test_a_group_that_did_not_run_is_named_and_fails_in_ci(
    tmp_path: Path, ci: str, status: int, processes: str
) -> None:
    done = run(tmp_path, "-n", processes, CI=ci)

    assert done.returncode == status, done.stdout
    assert "NOT RUN: browser (1 test): no chromium: apt-get install chromium" in done.stdout
    assert "NOT RUN: machines (1 test): no recorded trees here" in done.stdout
    assert "NOT RUN: machines (1 test): no screen is recorded" in done.stdout
    assert "NOT RUN: qemu (1 test): no emulator here" in done.stdout
    for ordinary in ("not on this platform", "this page has no form"):
        assert ordinary not in done.stdout.partition("did not run")[2]
    assert ("CI runs every group: browser, qemu missing" in done.stdout) == bool(ci)
    assert "1 passed, 6 skipped" in done.stdout.splitlines()[-1]
