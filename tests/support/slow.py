"""`@pytest.mark.slow(seconds)`: tests that the default run leaves out, and the list of them.

    pytest                          without them
    pytest -m slow                  only them; `make test-all` leaves out those of them that are marked by_hand
    pytest tests/x.py::test_one     a test that is named runs, slow or not
    pytest -m slow --collect-only   lists them with their seconds (`make slow`)

`seconds` is about what the test takes, all its parameters together, on two cores beside one other file of tests. The
list is read from the marks, so none can be missing; a mark without seconds is refused.
"""

from __future__ import annotations

from collections import Counter

import pytest


def _seconds(item: pytest.Item) -> float | None:
    """What the item's mark says, None where it has none.

    Raises:
        pytest.UsageError: a mark that says nothing, or no number.
    """
    mark = item.get_closest_marker("slow")
    if mark is None:
        return None
    if mark.kwargs or len(mark.args) != 1 or not isinstance(mark.args[0], int | float):
        raise pytest.UsageError(f"{item.nodeid}: write @pytest.mark.slow(SECONDS), as measured")
    return float(mark.args[0])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    slow = [item for item in items if _seconds(item) is not None]
    if not slow or config.option.markexpr or any("::" in argument for argument in config.args):
        return
    config.hook.pytest_deselected(items=slow)
    items[:] = [item for item in items if item not in set(slow)]


def pytest_report_header(config: pytest.Config) -> str | None:
    return None if config.option.markexpr else "slow tests are left out: `make test-all` runs them"


def pytest_collection_finish(session: pytest.Session) -> None:
    """With `-m slow --collect-only`: the list, the slowest first."""
    if not (session.config.option.collectonly and session.config.option.markexpr):
        return
    timed = ((item.nodeid.partition("[")[0], _seconds(item)) for item in session.items)
    cases = Counter((name, seconds) for name, seconds in timed if seconds is not None)
    for (name, seconds), count in sorted(cases.items(), key=lambda case: -case[0][1]):
        print(f"{seconds:6.0f} s  {name}" + (f" ({count} cases)" if count > 1 else ""))
    print(f"{sum(seconds for _, seconds in cases):6.0f} s  {len(cases)} tests, as measured")
