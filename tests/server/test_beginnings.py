"""Requests begin one in a round of the event loop, and clients take turns."""

from __future__ import annotations

import asyncio
import contextlib

from edgellm.server.beginnings import Beginnings


async def begun(clients: str, *, ended: str = "") -> list[str]:
    """Who began in which round, as "0a": a request of each letter is there at once. Those in `ended` do not wait."""
    beginnings, told, n_round = Beginnings(), list[str](), 0

    async def one(client: str) -> None:
        await beginnings.turn(client)
        told.append(f"{n_round}{client}")

    tasks = [asyncio.create_task(one(client)) for client in clients]
    await asyncio.sleep(0)
    for client, task in zip(clients, tasks, strict=True):
        if client in ended:
            task.cancel()
    while not all(task.done() for task in tasks):
        n_round += 1
        await asyncio.sleep(0)
    for task in tasks:
        with contextlib.suppress(asyncio.CancelledError):
            await task
    return told


async def test_one_begins_in_each_round() -> None:
    rounds = [told[0] for told in await begun("aaaaaa")]
    assert len(rounds) == len(set(rounds)) == 6


async def test_clients_take_turns() -> None:
    assert "".join(told[1] for told in await begun("aaaaaabc")) == "aabcaaaa"


async def test_a_request_that_ended_while_it_waited_takes_no_turn() -> None:
    assert "".join(told[1] for told in await begun("abbcc", ended="b")) == "acc"


async def test_where_nobody_waits_a_request_begins_at_once() -> None:
    beginnings = Beginnings()
    for _ in range(3):
        await asyncio.wait_for(beginnings.turn("a"), 60)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        began = beginnings.turn("a")
        with contextlib.suppress(StopIteration):
            began.send(None)
            raise AssertionError("it waited")
        await asyncio.sleep(0)
