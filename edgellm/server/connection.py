"""uvicorn's HTTP/1.1 in turns, with deadlines: for what a client sends, and for taking what it asked for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from edgellm.contract.data_limit import lifted
from edgellm.server import clients, errors, request_log, send_buffer
from edgellm.server.crowd import Crowd
from edgellm.server.error_form import OPENAI
from edgellm.server.errors import HttpError
from edgellm.server.framing import Framing, ReadFlow
from edgellm.server.intake import MAX_BODY_BYTES
from edgellm.server.pace import has_hung_up

HUNG_UP_AFTER_S = 1.0  # at the latest, of a client that has sent ahead


class Connection(H11Protocol):
    """One connection. What is late gets 408, if it can still be answered, and the connection is closed."""

    server_state: Crowd
    conn: Framing
    flow: ReadFlow

    def __init__(
        self,
        config: Config,
        server_state: Crowd,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.conn = Framing()
        self.address = self.counts_as = ""
        self._deadlines = server_state.deadlines
        self._awaited = ""  # what the client has to send now: "headers", "body", "" = nothing
        self._sending: asyncio.TimerHandle | None = None
        self._taking: asyncio.TimerHandle | None = None
        self._goes_on = False  # reading, when it is its turn
        self._ahead: asyncio.TimerHandle | None = None  # while no more is read, as the client has sent ahead

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        with lifted():
            self._enter(transport)

    def _enter(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self.flow = ReadFlow(transport)
        transport.set_write_buffer_limits(high=0)  # what a client does not take has a deadline, however little it is
        own = self.server[0] if self.server else ""
        self.address = self.client[0] if self.client else ""
        self.counts_as = clients.one_of(self.address, own)
        if self.server_state.enter(self):
            self._await("headers")
        else:
            self._refuse(_too_many())

    def connection_lost(self, exc: Exception | None) -> None:
        self._await("")
        self._stop_taking()
        self._keep_up()
        self.server_state.leave(self)
        super().connection_lost(exc)
        self._forget_unread()

    def _forget_unread(self) -> None:
        """What is left of a connection may be there until Python collects its garbage; nobody reads this any more."""
        self.conn = Framing()
        self.conn.send_failed()
        if self.cycle is not None:
            self.cycle.conn = self.conn
            self.cycle.body = bytearray()

    def data_received(self, data: bytes) -> None:
        self.server_state.receives(len(data))
        with self._ended_without_memory():
            super().data_received(data)
            self._look(began=True)

    @contextlib.contextmanager
    def _ended_without_memory(self) -> Iterator[None]:
        """What was not read to its end cannot be read on."""
        try:
            yield
            return
        except MemoryError:
            pass
        with lifted():
            self._refuse_unread(errors.out_of_memory())

    def handle_events(self) -> None:
        """A part of what has come; the rest when others had their turn."""
        if self._goes_on:
            return
        if self._reads_slowly:
            self._read_later()
        else:
            self._read_turn()

    @property
    def _reads_slowly(self) -> bool:
        """What comes in small pieces, and the rest of a body whose request is answered: it is dropped. (A client that
        sends before it reads would not see its answer if the connection were closed at once.)
        """
        return self.conn.in_small_pieces or self._drops_body

    @property
    def _drops_body(self) -> bool:
        is_answered = self.cycle is not None and self.cycle.response_complete
        return is_answered and self.conn.their_state is h11.SEND_BODY

    def _read_turn(self) -> None:
        self.conn.begin_turn()
        super().handle_events()
        if self.transport.is_closing():
            return
        if self.conn.malformed is not None:
            error = self.conn.malformed
            self._refuse_unread(HttpError(error.error_status_hint, str(error)[:200], code="malformed"))
        elif self.conn.interrupted:
            self._read_later()
            self.server_state.keeps(self, self.conn.unread_bytes)
        elif self.conn.is_ahead:
            self._wait_ahead()
            self.server_state.keeps(self, self.conn.unread_bytes)
        else:
            self._keep_up()
            self.flow.release()

    def _wait_ahead(self) -> None:
        """Read no more until what has come is answered. Nor is the connection's end read then: it is looked for."""
        self.flow.hold()
        if self._ahead is None:
            self._ahead = self.loop.call_later(HUNG_UP_AFTER_S, self._still_ahead)

    def _still_ahead(self) -> None:
        self._ahead = None
        if self.transport.is_closing():
            return
        if has_hung_up(self.transport.get_extra_info("socket").fileno()):
            self.transport.close()
        else:
            self._wait_ahead()

    def _keep_up(self) -> None:
        if self._ahead is not None:
            self._ahead.cancel()
            self._ahead = None
        self.server_state.keeps(self, 0)

    def _read_later(self) -> None:
        self._goes_on = True
        self.flow.hold()
        if self._reads_slowly:
            self.server_state.pace.take_slow_turn(self)
        else:
            self.server_state.pace.take_turn(self)

    def read_on(self) -> None:
        """It is this connection's turn."""
        self._goes_on = False
        if self.transport.is_closing():
            return
        if self._reads_slowly and has_hung_up(self.transport.get_extra_info("socket").fileno()):
            self.transport.abort()  # whoever closes one side is taken for gone in any case
            return
        with self._ended_without_memory():
            self._read_turn()
            self._look(began=bool(self.conn.unread_bytes))

    def shutdown(self) -> None:
        """The server ends. Nobody waits for the rest of a body."""
        if self._awaited == "body" and not self.transport.is_closing():
            stopping = HttpError(503, "the server is stopping", code="closed", hint="send the request again later")
            self._refuse_unread(stopping)
        else:
            super().shutdown()

    @property
    def held_bytes(self) -> int:
        return 0 if self._drops_body else self.conn.body_bytes

    def _should_upgrade(self) -> bool:
        return False

    def on_response_complete(self) -> None:
        super().on_response_complete()
        # Of a request that was sent before the response ended, a part may be there.
        self._look(began=bool(self.conn.unread_bytes))

    def pause_writing(self) -> None:
        super().pause_writing()
        self._taking = self.loop.call_later(self._deadlines.take_s, self._drop)
        self.server_state.waits(self)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_taking()
        self.server_state.goes_on(self)

    @property
    def untaken_bytes(self) -> int:
        return self.transport.get_write_buffer_size() + send_buffer.SEND_BUFFER_BYTES

    def give_way(self) -> None:
        """End at once, for the sake of another."""
        if self.conn.our_state is h11.SEND_RESPONSE:  # it waits for an answer that has not begun
            self._refuse(_too_many())
        else:
            self._drop()

    def timeout_keep_alive_handler(self) -> None:
        """No further request came. Where the last answer is still on its way, it gets the time that others get."""
        if self.transport.is_closing():
            return
        if not send_buffer.is_untaken(self.transport.get_extra_info("socket")):
            super().timeout_keep_alive_handler()
        elif self._taking is None:
            self._taking = self.loop.call_later(self._deadlines.take_s, self._drop)

    def _drop(self) -> None:
        """End at once, and what the client has not taken with it."""
        send_buffer.drop_when_closed(self.transport.get_extra_info("socket"))
        self.cut_off()

    def cut_off(self) -> None:
        """End at once. To the app it looks as if the client had gone, so it cancels the request."""
        self._note(*request_log.CUT_OFF)
        self.transport.abort()

    def _note(self, status: int, code: str) -> bool:
        """Why this connection is closed, for the request that is being answered. Whether there is one."""
        if self.cycle is None or self.cycle.response_complete:
            return False
        request_log.cut_off(self.cycle.scope["state"], status, code)
        return True

    def crowded_out(self) -> None:
        """Too many others come in small pieces."""
        if self.transport.is_closing():
            return
        crowded = "too many requests come in small pieces"
        self._refuse_unread(HttpError(503, crowded, code="overloaded", hint="send larger pieces, or try again later"))

    def _look(self, *, began: bool) -> None:
        """What the client has to send now. `began`: of its next request, if none is there, it has sent something."""
        if self.transport.is_closing():
            return
        missing = {h11.IDLE: "headers", h11.SEND_BODY: "body"}.get(self.conn.their_state, "")
        self._await(missing if began or missing == "body" else "")
        if missing or self.cycle is None or self.cycle.response_complete:
            self.server_state.awaits(self)
        else:
            self.server_state.asks(self)

    def _await(self, what: str) -> None:
        """From now on the client has to send `what`."""
        if what == self._awaited:
            return
        self._awaited = what
        if self._sending is not None:
            self._sending.cancel()
            self._sending = None
        if what:
            self._sending = self.loop.call_later(self._patience_s(what), self._too_late)

    def _patience_s(self, what: str) -> float:
        if what == "headers":
            return self._deadlines.headers_s
        lengths = [value for name, value in self.headers if name == b"content-length"]
        # A longer one, or one that comes in chunks, is refused when it exceeds this.
        size = min(MAX_BODY_BYTES, int(lengths[0])) if lengths else MAX_BODY_BYTES
        return self._deadlines.body_s + size / self._deadlines.body_bytes

    def _too_late(self) -> None:
        if self._awaited == "headers" and not self.conn.unread_bytes:
            self.transport.close()  # nothing was asked
            return
        late = f"the {self._awaited} did not come in time"
        self._refuse(HttpError(408, late, code="request_timeout", hint="send the request again"))

    def _refuse_unread(self, refused: HttpError) -> None:
        if not self._refuse(refused):
            request_log.log_unread(self.address, refused.status, refused.code)

    def _refuse(self, error: HttpError) -> bool:
        """Answer, where no answer has begun, and close. To the app it looks as if the client had gone. Returns
        whether a request was being answered: then its line says why."""
        is_noted = self._note(error.status, error.code)
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = OPENAI.encode(error, "")
            headers = [
                *errors.headers_of(error.status),
                (b"content-length", str(len(body)).encode()),
                (b"connection", b"close"),
            ]
            response = h11.Response(status_code=error.status, headers=headers, reason=STATUS_PHRASES[error.status])
            for event in (response, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
        return is_noted

    def _stop_taking(self) -> None:
        if self._taking is not None:
            self._taking.cancel()
            self._taking = None


def _too_many() -> HttpError:
    too_many = "there are too many connections, or too much is sent ahead on them"
    return HttpError(503, too_many, code="overloaded", hint="try again later")
