"""Listening: the socket, and a uvicorn server that drains on the first signal and leaves on the second."""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from edgellm.errors import UsageError


def bind(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet; port 0 takes a free one.

    Raises:
        UsageError: the port is taken, not allowed, or the host is not this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise UsageError(f"--host {host} is no address: {error}", hint="use 127.0.0.1", param="host") from None
    listener = socket.socket(family, kind, protocol)
    if sys.platform != "win32":
        # A server that was just stopped leaves connections behind; on Windows the flag would share a live port.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        # Until here another listener on the port goes unnoticed on some systems.
        listener.listen(1)
    except OSError as error:
        listener.close()
        raise _cannot_bind(host, port, error) from None
    return listener


def _cannot_bind(host: str, port: int, error: OSError) -> UsageError:
    if error.errno == errno.EADDRINUSE:
        return UsageError(
            f"port {port} is taken by another program",
            hint=f"stop it, or choose another: --port {port + 1 if port < 65535 else port - 1} (0 = any free one)",
            param="port",
        )
    reason = error.strerror or str(error)
    return UsageError(f"cannot listen on {host} port {port}: {reason}", hint="choose another --host or --port")


def url(listener: socket.socket) -> str:
    """The address to open in a browser on this machine."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Listener(uvicorn.Server):
    """Runs an app until a signal arrives or `stop()` is called; answers at hand are finished first.

    Attributes:
        forced: a second signal cut the answers off.
    """

    def __init__(
        self, app: FastAPI, *, started: Callable[[], None], draining: Callable[[int], None], access_log: bool = False
    ) -> None:
        """`started` is called once it listens, `draining` with the number of open connections."""
        # h11 bounds the size of headers, which httptools does not, for 10 us more per streamed token and 120 us per
        # request. Loop "auto" takes uvloop where it is installed.
        super().__init__(
            uvicorn.Config(
                app, http="h11", log_config=None, access_log=access_log, server_header=False, lifespan="off", ws="none"
            )
        )
        self._tell_started = started
        self._tell_draining = draining
        self.forced = False

    def stop(self) -> None:
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._tell_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self.server_state.tasks:
            self._tell_draining(len(self.server_state.tasks))
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """First signal: no new connections, finish what runs. Second: cut off."""
        if not self.should_exit:
            self.should_exit = True
            return
        self.forced = True
        for connection in list(self.server_state.connections):
            # The app sees a client that went away, and cancels its request.
            connection.transport.abort()
