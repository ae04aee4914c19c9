"""Who counts as one client, where clients take turns: addresses that one machine can have many of are one."""

from __future__ import annotations

import functools
import ipaddress

from starlette.types import Scope

from edgellm.store.nearness import numeric

SHARED_BITS = 64  # of an IPv6 address: the network, whose every other address its holder may take


def asks(scope: Scope) -> str:
    """The client of a request; "" where the server does not know."""
    client, server = scope.get("client"), scope.get("server")
    return one_of(str(client[0]) if client else "", str(server[0]) if server else "")


@functools.lru_cache(maxsize=4096)
def one_of(address: str, own: str = "") -> str:
    """The client that `address` belongs to: of IPv6 the network of 64 bits, otherwise the address.

    `own`: this machine's end of the connection. Its own network, where neighbours are many machines, and loopback are
    counted by address: who is on this machine can hold it up without asking it anything.
    """
    try:
        ip = numeric(address)
    except ValueError:  # a socket with a name, or none
        return address
    if not isinstance(ip, ipaddress.IPv6Address):
        return str(ip)
    network = ipaddress.IPv6Network((int(ip) >> SHARED_BITS << SHARED_BITS, SHARED_BITS))
    try:
        is_near = numeric(own) in network
    except ValueError:
        is_near = False
    return str(ip) if is_near else str(network)
