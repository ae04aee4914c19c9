"""What hangs fails with the calls that it hangs in; what comes back in time is as if it had run in place."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import ClassVar

import pytest
from support.waiting import PATIENCE_S

from edgellm.testing.limit import Hangs, limited, within


@pytest.fixture
def never() -> Iterator[threading.Event]:
    """Set when the test is over, so that nothing is left behind."""
    event = threading.Event()
    yield event
    event.set()


@limited
class Contract:
    limit_s: ClassVar[float] = PATIENCE_S
    hung_in: ClassVar[str] = ""

    def test_passes(self, number: int) -> None:
        assert number == 7

    def test_skips(self) -> None:
        pytest.skip("does not apply")

    def test_waits(self, event: threading.Event) -> None:
        event.wait()


def test_what_comes_back_is_handed_on() -> None:
    assert within(PATIENCE_S, "one", lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        within(PATIENCE_S, "another", lambda: 1 / 0)


def test_a_test_passes_fails_and_skips_as_without_a_limit() -> None:
    Contract().test_passes(number=7)
    with pytest.raises(AssertionError):
        Contract().test_passes(8)
    with pytest.raises(pytest.skip.Exception):
        Contract().test_skips()
    assert Contract.hung_in == ""


def test_a_test_that_hangs_fails_with_its_calls_and_is_remembered(never: threading.Event) -> None:
    class Impatient(Contract):
        limit_s = 0.05

    with pytest.raises(Hangs) as hung:
        Impatient().test_waits(event=never)

    assert "test_waits has not come back after 0.05 s" in str(hung.value)
    assert "event.wait()" in str(hung.value)
    assert (Impatient.hung_in, Contract.hung_in) == ("test_waits", "")
