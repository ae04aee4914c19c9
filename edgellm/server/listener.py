"""The listening socket, and a uvicorn server that drains at the first signal and stops at the second."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from edgellm.contract.data_limit import end_own_limit
from edgellm.errors import UsageError
from edgellm.server import send_buffer
from edgellm.server.connection import Connection
from edgellm.server.crowd import BACKLOG, MOST_CONNECTIONS, Crowd, Deadlines, most_connections, open_descriptors
from edgellm.server.trimming import map_large_blocks

ALL_ADDRESSES = ("0.0.0.0", "::")
# uvloop takes one new connection in each round of its loop, for each listening socket that it has. With one, a new
# client would wait for a round of all others for each of those that came before it.
ACCEPTED_AT_ONCE = 16
LOOP_DESCRIPTORS = 8  # that the event loop opens, about
NEAR = 100  # ports around one that is taken, of which a free one is named
LAST_WORDS_S = 1.0  # to end the answers that are cut off, and again to write that they were

Address = tuple[str | int | bytes, ...]  # host, port, and what an address of IPv6 has beside


def bind(host: str, port: int) -> socket.socket:
    """A bound socket; port 0 takes a free port.

    Raises:
        UsageError: the port is in use or not allowed, or the host is not an address of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise UsageError(f"--host {host} is not an address: {error}", hint="use 127.0.0.1", param="host") from None
    try:
        return _listening(socket.socket(family, kind, protocol), address)
    except OSError as error:
        raise _cannot_bind(family, host, address, error) from None


def _listening(listener: socket.socket, address: Address) -> socket.socket:
    """Raises OSError, with the socket closed."""
    send_buffer.limit(listener)
    if sys.platform != "win32":
        # A server that was just stopped leaves connections behind; on Windows the flag would share a live port.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        # Some systems notice another listener on the port only now.
        listener.listen(1)
    except OSError:
        listener.close()
        raise
    return listener


def _cannot_bind(family: socket.AddressFamily, host: str, address: Address, error: OSError) -> UsageError:
    port = int(address[1])
    if error.errno == errno.EADDRINUSE:
        free = _free_near(family, address)
        other = f"--port {free} (0 = any free one)" if free else "--port 0 takes any free one"
        return UsageError(
            f"port {port} is taken by {holder(port) or 'another program'}",
            hint=f"stop it, or choose another: {other}",
            param="port",
        )
    reason = error.strerror or str(error)
    return UsageError(f"cannot listen on {host} port {port}: {reason}", hint="choose another --host or --port")


def _free_near(family: socket.AddressFamily, address: Address) -> int | None:
    """The next port above that nobody has, or below where there is none."""
    port = int(address[1])
    near: list[int] = [*range(port + 1, port + NEAR), *range(port - 1, port - NEAR, -1)]
    for other in near:
        if 0 < other < 2**16:
            with suppress(OSError), _listening(socket.socket(family), (address[0], other, *address[2:])):
                return other
    return None


def holder(port: int) -> str:
    """Who listens on it: `name (process 812)`; "" where this system or user is not told."""
    import psutil

    with suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            listens = connection.status == psutil.CONN_LISTEN and connection.laddr
            if listens and listens.port == port and connection.pid:
                return f"{psutil.Process(connection.pid).name()} (process {connection.pid})"
    return ""


def is_of_this_user(port: int) -> bool:
    """Whether all who listen on it are of this user or root; False where nobody does, or this user is not told."""
    import psutil

    try:
        rows = psutil.net_connections("tcp")
        pids = {row.pid for row in rows if row.status == psutil.CONN_LISTEN and row.laddr and row.laddr.port == port}
        names = {psutil.Process(pid).username() if pid else "" for pid in pids}
        return bool(names) and names <= {"root", psutil.Process().username()}
    except (psutil.Error, OSError):
        return False


def url(listener: socket.socket) -> str:
    """The address to open in a browser on this machine."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def listens_everywhere(listener: socket.socket) -> bool:
    return listener.getsockname()[0] in ALL_ADDRESSES


def _is_not_for_a_terminal(record: logging.LogRecord) -> bool:
    """uvicorn tells log readers which keys to press."""
    return "CTRL+C" not in str(record.msg)


class Listener(uvicorn.Server):
    """Runs an app until a signal arrives or `stop()` is called. Requests in flight have some seconds to be finished.

    Attributes:
        forced: a second signal ended the requests in flight.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        started: Callable[[], None],
        draining: Callable[[int], None],
        overdue: Callable[[], None],
        drain_s: float,
        deadlines: Deadlines = Deadlines(),  # noqa: B008 - frozen
        most: int | None = None,
    ) -> None:
        """
        Args:
            started: called when it listens.
            draining: called with the number of requests in flight when it stops.
            overdue: called, in a thread, `drain_s` seconds later: has to end the requests that are still in flight.
            most: connections at the same time; None = as many as there are descriptors for.
        """
        # h11 limits the size of headers and httptools does not. It costs 10 us more for each streamed token and 120 us
        # more for each request. Loop "auto" uses uvloop where it is installed.
        super().__init__(
            uvicorn.Config(
                app,
                http=Connection,
                log_config=None,
                access_log=False,
                server_header=False,
                # A client that names its own address (X-Forwarded-For) would take the turns of others.
                proxy_headers=False,
                lifespan="off",
                ws="none",
                backlog=BACKLOG,
            )
        )
        logging.getLogger("uvicorn.error").addFilter(_is_not_for_a_terminal)
        self._most = most
        self._crowd = self.server_state = Crowd(most or MOST_CONNECTIONS, deadlines)
        self._on_started = started
        self._on_draining = draining
        self._on_overdue = overdue
        self._drain_s = drain_s
        self.told = False  # by a signal
        self.forced = False

    def stop(self) -> None:
        self.should_exit = True

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Raises UsageError, where the limit of open files leaves none for connections: before the event loop, which
        may break off halfway."""
        if self._most is None:
            more = (ACCEPTED_AT_ONCE - 1) * len(sockets or ()) + LOOP_DESCRIPTORS
            most_connections(open_descriptors() + more + ACCEPTED_AT_ONCE)
        super().run(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        map_large_blocks()
        if sockets is not None and sys.platform != "win32":
            sockets = [*sockets, *(sock.dup() for sock in sockets for _ in range(1, ACCEPTED_AT_ONCE))]
        await super().startup(sockets)
        if self._most is None:  # one round of the event loop accepts some before others give way
            self._crowd.most = most_connections(open_descriptors() + ACCEPTED_AT_ONCE)
        self._on_started()

    async def main_loop(self) -> None:
        ends = False
        while not ends:
            with suppress(MemoryError):  # of one round, which may be the time that a response tells
                await super().main_loop()
                ends = True
            await asyncio.sleep(0)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self.server_state.tasks:
            self._on_draining(len(self.server_state.tasks))
        end_own_limit()  # the end needs threads, and nothing must keep it
        cutting = asyncio.create_task(self._cut())
        try:
            await super().shutdown(sockets)
        finally:
            cutting.cancel()

    async def _cut(self) -> None:
        """End what is not finished in time: first so that clients are told, then so that nothing is left."""
        await asyncio.sleep(self._drain_s)
        await asyncio.wait([asyncio.create_task(asyncio.to_thread(self._on_overdue))], timeout=LAST_WORDS_S)
        await asyncio.sleep(LAST_WORDS_S)
        self._abort()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """At the first signal take no new connections and finish the requests in flight; at the second, end them."""
        if not self.should_exit:
            self.told = self.should_exit = True
            return
        self.forced = True
        self._abort()

    def _abort(self) -> None:
        for connection in list(self.server_state.connections):
            assert isinstance(connection, Connection)
            connection.cut_off()
