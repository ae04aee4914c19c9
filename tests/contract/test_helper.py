"""A child that answers one question after another."""

from __future__ import annotations

import sys

from support.waiting import PATIENCE_S, wait_until

from edgellm.contract.helper import Helper

ONCE = [sys.executable, "-c", "print(input()[::-1])"]


def nothing() -> None:
    """Nobody waits for its end."""


def test_one_that_left_is_not_waited_for() -> None:
    with Helper(ONCE, nothing) as helper:
        assert helper.answer(b"abc", PATIENCE_S) == b"cba"
        wait_until(lambda: helper.has_ended)
        assert helper.answer(b"abc", 2.0) == b""
        assert helper.answer(b"abc", 2.0) == b""
    assert (helper.end.returncode, helper.end.timed_out) == (0, False)
