"""HTTP/1.1 as h11 reads it, within bounds: what headers may be, how small chunks, how much is read in one go."""

from __future__ import annotations

import re

import h11
from uvicorn.protocols.http.flow_control import FlowControl

from edgellm.server.intake import MAX_BODY_BYTES

MAX_HEAD_BYTES = 16 * 1024
MAX_HEAD_LINES = 200
# A chunk, or a read, costs the event loop as much as some kilobytes. Of a request so many pieces are read as soon as
# others had their turn, and further ones as well while they have SMALL_BYTES on average.
FREE_PIECES = 64
SMALL_BYTES = 512
# Programs that write JSON piece by piece send a few hundred chunks.
FREE_CHUNKS = 1000
CHUNK_BYTES = 64  # that further ones have to have on average
EVENTS = 16  # of one connection before others have their turn: under a millisecond
_ABSOLUTE = re.compile(rb"(?i:http)://([^/?]+)(.*)")
_HEAD_END = re.compile(rb"\n\r?\n")


class Framing(h11.Connection):
    """The server's side of a connection.

    Attributes:
        interrupted: there is more to read, in the next turn.
        malformed: what the client sent that is not to be read on; nothing comes after it.
    """

    def __init__(self) -> None:
        super().__init__(h11.SERVER, MAX_HEAD_BYTES)
        self.interrupted = False
        self.malformed: h11.RemoteProtocolError | None = None
        self._events = 0  # of this turn
        self._begin_request()

    def _begin_request(self) -> None:
        # Of this request: bytes on the wire, bytes of the body, chunks, and what was read in one go or is an event.
        self._sent = self._body = self._chunks = self._pieces = 0

    def start_next_cycle(self) -> None:
        super().start_next_cycle()
        self._begin_request()

    @property
    def in_small_pieces(self) -> bool:
        """The request comes in so many that it has to be read slowly."""
        return self._pieces > FREE_PIECES + self._body // SMALL_BYTES

    @property
    def is_ahead(self) -> bool:
        """The client has sent more than the request that is being answered."""
        return self.their_state not in (h11.IDLE, h11.SEND_BODY) and bool(self.unread_bytes)

    @property
    def unread_bytes(self) -> int:
        """What has come and was not looked at."""
        return len(self._receive_buffer)  # `trailing_data` is a copy

    @property
    def body_bytes(self) -> int:
        """Of the body of this request, what was read so far."""
        return self._body

    def begin_turn(self) -> None:
        self.interrupted = False
        self._events = 0

    def receive_data(self, data: bytes) -> None:
        super().receive_data(data)
        self._sent += len(data)
        self._pieces += 1

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        if self.malformed is not None:
            return h11.NEED_DATA
        if self._events == EVENTS:
            self.interrupted = True
            return h11.NEED_DATA
        self._events += 1
        try:
            if self.their_state is h11.IDLE:
                self._check_head()
            event = super().next_event()
            self._count(event)
            if isinstance(event, h11.Request):
                event = _in_origin_form(event)
        except h11.RemoteProtocolError as error:
            self.malformed = error
            return h11.NEED_DATA
        return event

    def _check_head(self) -> None:
        """Before h11 reads it: each line costs time, and what ends with LF alone or is folded is read
        in another way by others.
        """
        head = self.trailing_data[0]
        end = _HEAD_END.search(head)
        head = head[: end.end()] if end else head
        n_lines = head.count(b"\n")
        if len(head) > MAX_HEAD_BYTES or n_lines > MAX_HEAD_LINES:
            limits = f"{MAX_HEAD_BYTES} bytes and {MAX_HEAD_LINES} lines are allowed"
            raise h11.RemoteProtocolError(f"the headers are too long: {limits}", 431)
        if n_lines != head.count(b"\r\n"):
            raise h11.RemoteProtocolError("a line of the headers ends with LF alone")
        if b"\n " in head or b"\n\t" in head:
            raise h11.RemoteProtocolError("a header goes on in a second line")

    def _count(self, event: object) -> None:
        if isinstance(event, h11.Data):
            self._pieces += 1
            self._body += len(event.data)
            self._chunks += event.chunk_start
            if self._chunks > FREE_CHUNKS + self._body // CHUNK_BYTES:
                average = self._body // self._chunks
                raise h11.RemoteProtocolError(f"the body comes in chunks of {average} bytes; send larger ones")
            if self._sent - self._body > MAX_BODY_BYTES:
                raise h11.RemoteProtocolError("what frames the chunks of the body is larger than a body may be")


def _in_origin_form(request: h11.Request) -> h11.Request:
    """A target that is a whole address, as proxies are sent it: its host counts, not the header's (RFC 9112, 3.2.2)."""
    match = _ABSOLUTE.fullmatch(request.target)
    if match is None:
        return request
    headers = [(b"host", match[1]), *((name, value) for name, value in request.headers if name != b"host")]
    target = match[2] if match[2].startswith(b"/") else b"/" + match[2]
    return h11.Request(method=request.method, headers=headers, target=target, http_version=request.http_version)


class ReadFlow(FlowControl):
    """uvicorn's, which can be held: nothing more is read until what was read has been looked at."""

    _held = False

    def resume_reading(self) -> None:
        if self._held:
            self.read_paused = False
        else:
            super().resume_reading()

    def hold(self) -> None:
        if not self._held:
            self._held = True
            self._transport.pause_reading()

    def release(self) -> None:
        if self._held:
            self._held = False
            if not self.read_paused:
                self._transport.resume_reading()
