"""What the system holds for clients that take nothing: how much, and that it ends with the connection."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest
from support.waiting import PATIENCE_S, wait_until

from edgellm.server import listener, send_buffer


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connection that was taken, and its client, which takes little and waits for it."""
    with contextlib.closing(listener.bind("127.0.0.1", 0)) as bound, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(PATIENCE_S)
        client.connect(bound.getsockname())
        taken, _ = bound.accept()
        with taken:
            yield taken, client


def test_it_is_little(pair: tuple[socket.socket, socket.socket]) -> None:
    taken, _ = pair
    taken.setblocking(False)
    n_bytes = 0
    with contextlib.suppress(BlockingIOError):
        while n_bytes < 8 * send_buffer.SEND_BUFFER_BYTES:
            n_bytes += taken.send(bytes(65536))

    assert n_bytes < 8 * send_buffer.SEND_BUFFER_BYTES


def test_it_is_told(pair: tuple[socket.socket, socket.socket]) -> None:
    taken, client = pair
    assert not send_buffer.is_untaken(taken)
    taken.sendall(bytes(30_000))
    assert send_buffer.is_untaken(taken)
    for _ in range(30):
        client.recv(1000, socket.MSG_WAITALL)
    wait_until(lambda: not send_buffer.is_untaken(taken))


def test_it_is_dropped_with_the_connection(pair: tuple[socket.socket, socket.socket]) -> None:
    taken, client = pair
    taken.sendall(bytes(60_000))
    send_buffer.drop_when_closed(taken)
    taken.close()

    def take_all() -> None:
        while client.recv(60_000):
            pass

    with pytest.raises(ConnectionResetError):
        take_all()
