"""Who has many addresses is one client, and neighbours and programs of one machine are many."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from uvicorn.config import Config

from edgellm.server import clients
from edgellm.server.connection import Connection
from edgellm.server.crowd import Crowd, Deadlines
from edgellm.server.request_log import RequestRecord

HERE = "2001:db8:1:2::9"  # this machine's end


@pytest.mark.parametrize(
    ("addresses", "own"),
    [
        (("2001:db8:7:7::1", "2001:db8:7:7:ffff::2"), HERE),
        (("2001:db8:7:7::1", "2001:db8:7:7:ffff::2"), ""),
        (("203.0.113.9", "::ffff:203.0.113.9", "64:ff9b::203.0.113.9"), HERE),
    ],
)
def test_one_client(addresses: tuple[str, ...], own: str) -> None:
    assert len({clients.one_of(address, own) for address in addresses}) == 1


@pytest.mark.parametrize(
    ("addresses", "own"),
    [
        (("2001:db8:7:7::1", "2001:db8:7:8::1", "2001:db8:1:2::1"), HERE),
        pytest.param(("2001:db8:1:2::1", "2001:db8:1:2::2"), HERE, id="neighbours"),
        pytest.param(("fe80::1%eth0", "fe80::2%eth0"), "fe80::9%eth0", id="neighbours by their link"),
        pytest.param(("::ffff:203.0.113.9", "::ffff:203.0.113.10"), "::ffff:203.0.113.1", id="IPv4 as IPv6"),
        (("203.0.113.9", "203.0.113.10"), "203.0.113.1"),
        pytest.param(("127.0.0.1", "127.0.0.2", "::1"), "127.0.0.1", id="programs of this machine"),
        pytest.param(("", "/run/socket"), "", id="no addresses"),
    ],
)
def test_as_many_clients_as_addresses(addresses: tuple[str, ...], own: str) -> None:
    assert len({clients.one_of(address, own) for address in addresses}) == len(addresses)


def test_a_request_is_told_by_its_address_and_counts_as_its_network() -> None:
    scope: dict[str, Any] = {"client": ("2001:db8:7:7::1", 1), "server": (HERE, 80), "headers": [], "method": "GET"}
    record = RequestRecord.begin(scope)

    assert (record.client, record.counts_as) == ("2001:db8:7:7::1", "2001:db8:7:7::/64")


class Far(asyncio.Transport):
    """A connection over IPv6, which machines of tests need not have."""

    def __init__(self, address: str) -> None:
        super().__init__({"peername": (address, 1), "sockname": (HERE, 80)})

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass


async def test_connections_of_one_network_give_way_together() -> None:
    crowd = Crowd(9, Deadlines())
    connections = [Connection(Config(app=None), crowd, {}) for _ in range(3)]
    for connection, address in zip(connections, ("2001:db8:7:7::1", "2001:db8:7:7::2", "2001:db8:7:8::1"), strict=True):
        connection.connection_made(Far(address))

    assert connections[0].address == "2001:db8:7:7::1"
    assert connections[0].counts_as == connections[1].counts_as != connections[2].counts_as
    for connection in connections:
        connection._await("")
