"""Files of tests that take longest begin first where several run at a time; where one runs, they keep their order."""

from __future__ import annotations

import pytest
from support.longest_first import pytest_collection_modifyitems

pytest_plugins = ["pytester"]

MANY = "import pytest\n@pytest.mark.parametrize('n', range(9))\ndef test_many(n):\n    pass\n"
LONG = """
import pytest

@pytest.fixture
def page():
    pass

def test_of_the_page(page):
    pass

def test_other():
    pass
"""
# Two seconds for both cases.
SLOW = "import pytest\n@pytest.mark.slow(2)\n@pytest.mark.parametrize('n', range(2))\ndef test_slow(n):\n    pass\n"


@pytest.mark.parametrize(
    ("in_worker", "order"), [(True, ["test_b"] * 2 + ["test_c"] * 2 + ["test_a"] * 9), (False, None)]
)
def test_order(pytester: pytest.Pytester, in_worker: bool, order: list[str] | None) -> None:
    pytester.makeini("[pytest]\nmarkers = slow: takes long\n")
    pytester.makepyfile(test_a=MANY, test_b=LONG, test_c=SLOW)
    items, _ = pytester.inline_genitems("-p", "no:cacheprovider", "-p", "no:asyncio")
    before, config = [item.path.stem for item in items], items[0].config
    if in_worker:
        config.workerinput = {}  # type: ignore[attr-defined]
    pytest_collection_modifyitems(config, items)

    assert [item.path.stem for item in items] == (order or before)
