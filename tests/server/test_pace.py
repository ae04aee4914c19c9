"""Connections read on in turns, and small pieces in a share of the time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import select
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from support.live_server import Servers
from support.waiting import PATIENCE_S, wait_until

from edgellm.server import pace, trimming
from edgellm.server.connection import Connection
from edgellm.server.crowd import Crowd, Deadlines
from edgellm.server.framing import FREE_PIECES
from edgellm.server.pace import MOST_HELD, MOST_SLOW, REST_S, SHARE, Pace
from edgellm.server.trimming import TRIM_BYTES

TINY = b"1\r\n \r\n"
HUNDRED = b"64\r\n" + b" " * 100 + b"\r\n"
CHUNKED = (
    b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)


class Reader:
    """Has something to read for so many turns, and writes them down."""

    def __init__(
        self, address: str, turns: int, told: list[str], take: Callable[[Reader], None], held_bytes: int = 0
    ) -> None:
        self.address = self.counts_as = address
        self.held_bytes = held_bytes
        self.n_turns = turns
        self._told = told
        self._take = take

    def read_on(self) -> None:
        self._told.append(self.address)
        self.n_turns -= 1
        if self.n_turns:
            self._take(self)

    def crowded_out(self) -> None:
        self._told.append(f"{self.address} ends")


def test_of_all_that_go_on_reading_one_does_in_each_round_of_the_loop() -> None:
    told: list[str] = []

    async def run() -> list[int]:
        paced = Pace()
        paced.take_turn(Reader("a", 3, told, paced.take_turn))
        paced.take_turn(Reader("b", 1, told, paced.take_turn))
        counts = []
        for _ in range(6):
            await asyncio.sleep(0)
            counts.append(len(told))
        return counts

    counts = asyncio.run(run())
    assert told == ["a", "b", "a", "a"]
    assert max(after - before for before, after in zip([0, *counts], counts, strict=False)) == 1


async def slow(told: list[str], *readers: tuple[str, int]) -> Pace:
    """All of them, until none has more to read."""
    paced = Pace()
    for address, turns in readers:
        paced.take_slow_turn(Reader(address, turns, told, paced.take_slow_turn))
    while paced._goes:
        await asyncio.sleep(REST_S)
    return paced


async def test_addresses_take_slow_turns_however_many_connections_each_has() -> None:
    told: list[str] = []
    await slow(told, ("a", 1), ("a", 1), ("a", 1), ("b", 2))

    assert told == ["a", "b", "a", "b", "a"]


async def test_where_many_wait_one_of_the_largest_address_ends() -> None:
    told: list[str] = []
    await slow(told, ("b", 1), *[("a", 1)] * (MOST_SLOW + 1), ("c", 1))

    assert told.count("a ends") == 3
    assert sorted(told)[-2:] == ["b", "c"]
    assert len(told) == MOST_SLOW + 3


async def test_of_many_addresses_with_one_each_one_ends() -> None:
    told: list[str] = []
    await slow(told, *((str(number), 1) for number in range(MOST_SLOW + 1)))

    assert sorted(told) == sorted(["0 ends", *map(str, range(1, MOST_SLOW + 1))])


async def test_where_all_hold_too_much_the_one_that_holds_most_ends() -> None:
    told: list[str] = []
    twelfths = [("a", 1), ("a", 5), ("a", 1), ("b", 4), ("c", 2)]
    paced = Pace()
    for address, part in twelfths:
        assert told == []
        paced.take_slow_turn(Reader(address, 1, told, paced.take_slow_turn, MOST_HELD // 12 * part))

    assert told == ["a ends"]
    assert [reader.held_bytes for reader in paced._slow["a"]] == [MOST_HELD // 12] * 2


async def test_a_turn_that_fails_keeps_nobody_from_theirs() -> None:
    class Failing(Reader):
        def read_on(self) -> None:
            raise RuntimeError

    told: list[str] = []
    paced = Pace()
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    paced.take_slow_turn(Failing("a", 1, told, paced.take_slow_turn))
    paced.take_slow_turn(Reader("b", 1, told, paced.take_slow_turn))
    while paced._goes:
        await asyncio.sleep(REST_S)

    assert told == ["b"]


async def test_after_a_turn_the_others_have_most_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    rests: list[float] = []
    takes_s = 2 * REST_S
    loop = asyncio.get_running_loop()
    call_later = loop.call_later

    def planned(delay: float, *arguments: Any, **more: Any) -> asyncio.TimerHandle:
        rests.append(delay)
        return call_later(delay, *arguments, **more)

    class Busy(Reader):
        def read_on(self) -> None:
            end = time.perf_counter() + takes_s
            while time.perf_counter() < end:
                pass
            super().read_on()

    monkeypatch.setattr(loop, "call_later", planned)
    paced = Pace()
    paced.take_slow_turn(Busy("a", 1, [], paced.take_slow_turn))
    wait = asyncio.Event()
    call_later(takes_s / SHARE * 2, wait.set)
    await wait.wait()

    assert rests[0] == REST_S
    assert rests[1] >= takes_s * (1 / SHARE - 1)


def test_of_many_connections_with_tiny_chunks_some_end_and_others_are_answered(
    serve: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "REST_S", PATIENCE_S)  # nobody's slow turn comes
    live = serve(drain_s=0.1)  # of those whose turn never comes
    with contextlib.ExitStack() as stack:
        senders = [stack.enter_context(live.connection()) for _ in range(MOST_SLOW + 4)]
        for sender in senders:
            sender.sendall(CHUNKED + TINY * (FREE_PIECES * 2))
        wait_until(lambda: len(answered(senders)) == 4)
        answers = list(map(received, answered(senders)))
        honest = live.post("/v1/completions", {"prompt": "hello"})

    assert honest.status_code == 200
    for answer in answers:
        assert answer.startswith(b"HTTP/1.1 503")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "overloaded"


@pytest.mark.skipif(not hasattr(select, "POLLRDHUP"), reason="does not apply: only Linux tells")
def test_what_a_client_left_that_went_away_is_not_read(serve: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[Connection] = []
    turn = Connection._read_turn
    # 40 turns would be needed for all of it.
    monkeypatch.setattr(Connection, "_read_turn", lambda self: (turns.append(self), turn(self)))
    monkeypatch.setattr(pace, "REST_S", 0.1)
    live = serve()
    with live.connection() as sender:
        sender.sendall(CHUNKED + HUNDRED * (FREE_PIECES * 10))
    members = live.server.server_state._members
    wait_until(lambda: turns and not members)

    assert len(turns) < 20


def answered(connections: list[socket.socket]) -> list[socket.socket]:
    return select.select(connections, [], [], 0)[0]


def received(connection: socket.socket) -> bytes:
    parts = []
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


async def test_memory_is_trimmed_when_much_was_received(monkeypatch: pytest.MonkeyPatch) -> None:
    trimmed = threading.Event()
    monkeypatch.setattr(trimming, "trim_memory", trimmed.set)
    monkeypatch.setattr(trimming, "TRIM_AFTER_S", 0)
    crowd = Crowd(1, Deadlines())
    crowd.receives(TRIM_BYTES - 1)
    crowd.leave(Member("a"))
    assert crowd._trimming._planned is None
    crowd.receives(1)
    crowd.leave(Member("a"))

    assert await asyncio.to_thread(trimmed.wait, PATIENCE_S)


@dataclass(eq=False)
class Member:
    counts_as: str
    untaken_bytes: int = 0

    def give_way(self) -> None:
        """Nothing to end."""
