"""A child that answers one question after another."""

from __future__ import annotations

import errno
import subprocess
import sys
import tempfile

import pytest
from support.waiting import PATIENCE_S, wait_until

from edgellm.contract.helper import Helper

ONCE = [sys.executable, "-c", "print(input()[::-1])"]


def nothing() -> None:
    """Nobody waits for its end."""


@pytest.mark.parametrize("what", ["file", "process"])
def test_what_the_system_does_not_give_is_told(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where too many files are open. Nothing is left open by it, which would be a warning."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    place, name = (tempfile, "TemporaryFile") if what == "file" else (subprocess, "Popen")
    monkeypatch.setattr(place, name, refuse)
    with pytest.raises(OSError) as caught:
        Helper(ONCE, nothing)
    assert caught.value.errno == errno.EMFILE


def test_one_that_left_is_not_waited_for() -> None:
    with Helper(ONCE, nothing) as helper:
        assert helper.answer(b"abc", PATIENCE_S) == b"cba"
        wait_until(lambda: helper.has_ended)
        assert helper.answer(b"abc", 2.0) == b""
        assert helper.answer(b"abc", 2.0) == b""
    assert (helper.end.returncode, helper.end.timed_out) == (0, False)
