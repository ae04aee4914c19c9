"""What the system holds of a connection's answers until the client takes them.

Left to itself, Linux lets it grow to 4 MB a connection, which counts for no process, and keeps it for minutes after the
connection was closed.
"""

from __future__ import annotations

import socket
import struct
import sys

SEND_BUFFER_BYTES = 64 * 1024  # as it is asked for; Linux takes twice as much, for its own records
_TAKEN_WITHIN_MS = 60_000  # what nobody takes for so long is dropped, also behind a connection that was closed
_SIOCOUTQ = 0x5411  # asm-generic/ioctls.h, as TIOCOUTQ


def limit(listener: socket.socket) -> None:
    """For all connections of a listening socket."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    if sys.platform == "linux":
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _TAKEN_WITHIN_MS)


def is_untaken(connection: socket.socket) -> bool:
    """Whether its client has not taken all of it. False where the system does not tell (it is Linux that does)."""
    if sys.platform != "linux":
        return False
    import fcntl

    n_bytes = struct.unpack("i", fcntl.ioctl(connection.fileno(), _SIOCOUTQ, bytes(4)))[0]
    return bool(n_bytes)


def drop_when_closed(connection: socket.socket) -> None:
    """Closing it, from now on, does not leave what is held to be sent."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
