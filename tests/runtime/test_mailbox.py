"""What is put for a worker arrives in order, and what nobody waits for any more does not arrive."""

from __future__ import annotations

import queue
import threading

import pytest
from support.waiting import PATIENCE_S

from edgellm.runtime import wire
from edgellm.runtime.mailbox import Mailbox
from edgellm.types.request import GenerationRequest


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
