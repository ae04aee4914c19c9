"""How near an address is. A redirect must not lead nearer: to what a server outside could not reach itself."""

from __future__ import annotations

import ipaddress
import socket
from enum import IntEnum

_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # IPv4 addresses as a translator is asked for them


class Nearness(IntEnum):
    PUBLIC = 0
    PRIVATE = 1  # networks of one's own, and whatever is not routed in public
    HERE = 2  # this machine and its link, where clouds give out a machine's credentials


def numeric(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An address as a connected socket has it; an IPv4 address that is written as one of IPv6 is what it is.

    Raises:
        ValueError: it is none.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else ip.ipv4_mapped or ip
    return ip


def of_address(address: str) -> Nearness:
    """Of a numeric one."""
    ip = numeric(address)
    if ip.is_loopback or ip.is_unspecified or ip.is_link_local:
        return Nearness.HERE
    return Nearness.PUBLIC if ip.is_global else Nearness.PRIVATE


def of_host(host: str) -> Nearness:
    """Of what a name means here, for hosts that a proxy is asked for; what only the proxy can look up is its own."""
    try:
        places = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return Nearness.PUBLIC
    return max(of_address(str(place[4][0])) for place in places)
