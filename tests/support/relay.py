"""A way to a server that a test breaks, as a server that is killed, and mends, as one that was started again."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading

_RESET_AT_ONCE = struct.pack("ii", 1, 0)


class _Connections:
    """Those that are broken together."""

    def __init__(self) -> None:
        self.ends: list[socket.socket] = []
        self.broken = threading.Event()


class Relay:
    """Hands bytes on between its own port and the server's."""

    def __init__(self, url: str) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        self._server = (host, int(port))
        self._port = 0
        self._under_way = _Connections()
        self.open()
        self.url = f"http://127.0.0.1:{self._port}"

    def open(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self._port))
        self._port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def cut(self) -> None:
        """Break what is under way: all of it at once, or a request would still be answered on another connection.

        What begins meanwhile is whole: a client asks again as soon as the first of its connections is gone.
        """
        cut, self._under_way = self._under_way, _Connections()
        cut.broken.set()
        for end in cut.ends:
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_ONCE)
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def close(self) -> None:
        """Nobody answers at its port any more, until it is opened again."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(self._server)
                under_way = self._under_way
                under_way.ends += [near, far]
                for source, target in ((near, far), (far, near)):
                    threading.Thread(target=_pump, args=(source, target, under_way.broken), daemon=True).start()


def _pump(source: socket.socket, target: socket.socket, broken: threading.Event) -> None:
    with contextlib.suppress(OSError):
        while (data := source.recv(65536)) and not broken.is_set():
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
