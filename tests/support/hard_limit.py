"""What outlives its time limit, in native code or where the limit's error is swallowed, tells where it is and is ended.

pytest-timeout raises in the test: one that cannot see that would hold the whole run. pytest-xdist names the test whose
worker ended, and goes on with another.
"""

from __future__ import annotations

import faulthandler
import os
from collections.abc import Generator

import pytest

PATIENCE_S = 60.0  # for what a test whose time is over still closes
_stderr = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_stderr] = os.dup(2)  # not yet captured


def pytest_unconfigure(config: pytest.Config) -> None:
    os.close(config.stash[_stderr])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    limit = item.get_closest_marker("timeout")
    seconds = float(limit.args[0] if limit else item.config.getoption("timeout") or item.config.getini("timeout"))
    faulthandler.dump_traceback_later(seconds + PATIENCE_S, file=item.config.stash[_stderr], exit=True)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()
