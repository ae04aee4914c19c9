"""Names, at the end of a run, each group of tests that did not run and why. In CI such a run fails.

A skipped test belongs to the group that its reason opens with ("machines: ../shared/data/machines is not here"), or to
the one whose marker it carries (`@pytest.mark.browser`). Every other skip is an ordinary skip, and so is one whose
reason opens with "does not apply": a conformance test that asks for what this backend does not claim to do.
"""

from __future__ import annotations

import os
from collections import defaultdict

import pytest

GROUPS = (
    "bitnet",
    "browser",
    "cgroup",
    "compiler",
    "corpus",
    "elsewhere",
    "machines",
    "model",
    "parquet",
    "qemu",
    "torch",
    "typing",
    "vulkan",
    "wheels",
)
# CI has what these need, or installs it: there, a group that did not run is a failure.
NOT_APPLICABLE = "does not apply"
REQUIRED_IN_CI = frozenset(
    {"bitnet", "browser", "cgroup", "compiler", "corpus", "model", "qemu", "torch", "typing", "vulkan", "wheels"}
)


class NotRun:
    """Collects the skips of one run."""

    def __init__(self) -> None:
        self.reasons: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))

    def note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if not report.skipped or hasattr(report, "wasxfail") or not isinstance(report.longrepr, tuple):
            return
        reason = str(report.longrepr[2]).removeprefix("Skipped: ")
        opened, _, rest = reason.partition(": ")
        if opened == NOT_APPLICABLE:
            return
        # A folder's name is among the keywords, too: tests/bitnet asks for a compiler under the compiler's name.
        keywords = getattr(report, "keywords", ())  # a module that skips itself has none
        named = opened if opened in GROUPS else next((group for group in GROUPS if group in keywords), "")
        if named:
            self.reasons[named][rest if opened == named else reason] += 1

    pytest_runtest_logreport = note
    pytest_collectreport = note

    def failing(self) -> list[str]:
        """Groups that CI may not go without, empty outside CI."""
        in_ci = os.environ.get("CI", "").lower() in ("1", "true")
        return sorted(REQUIRED_IN_CI & self.reasons.keys()) if in_ci else []

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.failing() and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self.reasons:
            return
        terminalreporter.write_sep("=", "groups that did not run", yellow=True, bold=True)
        for group in sorted(self.reasons):
            for reason, count in self.reasons[group].items():
                tests = f"{count} test" + "s" * (count > 1)
                terminalreporter.write_line(f"NOT RUN: {group} ({tests}): {reason}", yellow=True, bold=True)
        if self.failing():
            terminalreporter.write_line(
                f"CI runs every group: {', '.join(self.failing())} missing", red=True, bold=True
            )


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(NotRun(), "groups-not-run")
