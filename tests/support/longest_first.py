"""The files that take longest begin first where several run at a time, so that none of them is left over at the end.

pytest-xdist would begin with the files of most tests, which are not the longest: a test of the page takes as long as
some hundred others. `--no-loadscope-reorder` leaves the order to us.
"""

from __future__ import annotations

from collections import defaultdict

import pytest

# Seconds of a test that has the fixture, about, beside one other file of tests; of several the longest. Most others
# take some milliseconds.
SECONDS = {
    "browser": 3.0, "command": 2.0, "failed": 0.5, "index": 0.5, "job": 0.5, "known_machine": 0.2, "one_home": 1.0,
    "open_llm": 0.2, "open_session": 0.4, "page": 2.0, "planner": 1.0, "serve": 0.4, "smollm2": 1.0, "toy": 2.0,
}  # fmt: skip
OTHERS_S = 0.05


def seconds_of(item: pytest.Item) -> float:
    return max((SECONDS.get(name, OTHERS_S) for name in getattr(item, "fixturenames", ())), default=OTHERS_S)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What is not run in a worker of pytest-xdist keeps its order."""
    if not hasattr(config, "workerinput"):
        return
    tests: dict[str, float] = {}
    for item in items:
        slow = item.get_closest_marker("slow")  # the seconds of all cases of a test
        tests[item.nodeid.partition("[")[0] if slow else item.nodeid] = slow.args[0] if slow else seconds_of(item)
    seconds: defaultdict[str, float] = defaultdict(float)
    for name, taken in tests.items():
        seconds[name.partition("::")[0]] += taken
    items.sort(key=lambda item: -seconds[item.nodeid.partition("::")[0]])
