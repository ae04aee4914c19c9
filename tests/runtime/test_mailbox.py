"""What is put for a worker arrives in order, and what nobody waits for any more does not arrive."""

from __future__ import annotations

import itertools
import queue
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from support.waiting import PATIENCE_S

from edgellm.runtime import mailbox as mailbox_module
from edgellm.runtime import wire
from edgellm.runtime.mailbox import Mailbox
from edgellm.types.adapter import AdapterFile, DropAdapter, LoadAdapter
from edgellm.types.request import GenerationRequest

TraceFunction = Callable[[FrameType, str, Any], Any]


def submit(number: int) -> wire.Submit:
    return wire.Submit(number, GenerationRequest(f"prompt {number}"))


def filled(*messages: wire.Down) -> Mailbox[wire.Down]:
    mailbox: Mailbox[wire.Down] = Mailbox()
    for message in messages:
        mailbox.put(message)
    return mailbox


def all_of(mailbox: Mailbox[wire.Down]) -> list[wire.Down]:
    messages = []
    while True:
        try:
            messages.append(mailbox.get(block=False))
        except queue.Empty:
            return messages


def test_messages_come_in_order() -> None:
    stop = wire.Stop(drain=True)
    assert all_of(filled(submit(1), wire.Cancel(7), submit(2), stop)) == [submit(1), wire.Cancel(7), submit(2), stop]


def test_a_cancel_takes_its_request_out() -> None:
    assert all_of(filled(submit(1), submit(2), submit(3), wire.Cancel(2))) == [submit(1), submit(3)]


@pytest.mark.parametrize("change", [LoadAdapter(AdapterFile("mail", "mail.gguf")), DropAdapter("mail")])
def test_a_change_of_the_adapters_is_not_cancelled(change: LoadAdapter | DropAdapter) -> None:
    """Whoever asked for it and left was told that it comes later."""
    message = wire.Submit(2, change)
    assert all_of(filled(submit(1), message, submit(3), wire.Cancel(2))) == [submit(1), message, submit(3)]


def test_a_cancel_follows_a_request_that_was_taken() -> None:
    mailbox = filled(submit(1))
    assert mailbox.get() == submit(1)
    mailbox.put(wire.Cancel(1))
    assert all_of(mailbox) == [wire.Cancel(1)]


def test_an_empty_one_says_so_at_once_or_after_a_time() -> None:
    for arguments in ({"block": False}, {"timeout": 0.01}):
        with pytest.raises(queue.Empty):
            filled().get(**arguments)


def test_nothing_is_left_after_clear() -> None:
    mailbox = filled(submit(1), wire.Cancel(5))
    mailbox.clear()
    assert all_of(mailbox) == []


def test_a_thread_that_waits_gets_nothing_more_once_it_ended() -> None:
    """Neither when it is woken, nor of what came in the same moment: the next worker gets that."""
    mailbox, ended = filled(), threading.Event()
    taken: list[wire.Down | None] = []
    thread = threading.Thread(target=lambda: taken.append(mailbox.get_unless(ended.is_set)))
    thread.start()
    ended.set()
    mailbox.put(submit(1))
    thread.join(PATIENCE_S)
    assert taken == [None]
    assert all_of(mailbox) == [submit(1)]


def test_one_that_ended_as_it_looked_takes_nothing() -> None:
    mailbox = filled(submit(1))
    answers = iter([False, True])

    assert mailbox.get_unless(lambda: next(answers)) is None
    assert all_of(mailbox) == [submit(1)]


@pytest.mark.parametrize("take", [Mailbox.get, lambda mailbox: mailbox.get_unless(lambda: False)])
def test_a_collector_may_cancel_in_the_middle_of_taking(take: Callable[[Mailbox[wire.Down]], wire.Down]) -> None:
    """Python runs it between any two lines."""
    lines_run = 0

    def at_each_line(frame: FrameType, event: str, _: object) -> TraceFunction | None:
        nonlocal lines_run
        if frame.f_code.co_filename != mailbox_module.__file__ or interrupted:
            return None
        if event == "line":
            lines_run += 1
            if lines_run == line:
                interrupted.append(threading.Thread(target=mailbox.put, args=(stop,)))
                mailbox.put(wire.Cancel(1))
                interrupted[0].start()
        return at_each_line

    stop = wire.Stop(drain=False)
    for line in itertools.count(1):
        lines_run = 0
        interrupted: list[threading.Thread] = []  # the one that puts what to take instead
        mailbox = filled(submit(1))
        before = sys.gettrace()
        sys.settrace(at_each_line)
        try:
            first = take(mailbox)
        finally:
            sys.settrace(before)
        if not interrupted:
            assert first == submit(1)
            assert line > 3
            return
        interrupted[0].join(PATIENCE_S)
        left = all_of(mailbox)
        assert (first, left) in ((stop, []), (submit(1), [wire.Cancel(1), stop]))
