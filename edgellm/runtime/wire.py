"""Messages between parent and worker: length-prefixed msgpack frames over the worker's stdin and stdout.

Frames hold one message down, and all messages of one step up, so that a step costs one system call and one wake-up
whatever the number of requests in it. Nothing here is pickled: a frame can only make the types below.
"""

from __future__ import annotations

import struct
from typing import IO

import msgspec

from edgellm import errors
from edgellm.contract.data_limit import lifted
from edgellm.contract.engine import EngineInfo
from edgellm.contract.failed import Failed as Failed  # noqa: PLC0414 - a message of this module, too
from edgellm.types.adapter import AdapterFile
from edgellm.types.checks import of_plain_type
from edgellm.types.event import Adapters, Delta, Done, GrammarRead, Pieces, Prefill, Tokens, Vectors
from edgellm.types.plan import LaunchPlan
from edgellm.types.request import Request

_LENGTH = struct.Struct("<I")
MAX_FRAME_BYTES = 256 * 1024**2


class BadFrame(Exception):
    """Bytes from the pipe that are no frame: a bug, or something else writes into the pipe."""


class Launch(msgspec.Struct, tag=True, frozen=True):
    """Parent: load this. First frame, once."""

    plan: LaunchPlan
    in_flags: bool = False  # errors name options as the command line does (`errors.option`)
    again: bool = False  # it served before, with the plan's adapters: one that is gone does not keep it from serving


class Submit(msgspec.Struct, tag=True, frozen=True):
    """Parent: run this request under this id (unique for the life of the worker)."""

    id: int
    request: Request


class Cancel(msgspec.Struct, tag=True, frozen=True):
    """Parent: stop this request, nobody listens to it."""

    id: int


class Stop(msgspec.Struct, tag=True, frozen=True):
    """Parent: exit; with `drain`, after the open requests are done."""

    drain: bool


class Ready(msgspec.Struct, tag=True, frozen=True):
    """Worker: the model is loaded."""

    info: EngineInfo
    load_s: float
    adapters: tuple[AdapterFile, ...] = ()  # that are there


class Steps(msgspec.Struct, frozen=True):
    """How a request went through the engine, for the metrics."""

    width: float = 1.0  # requests in its steps, on average
    n_decoded: int = 0  # steps after the one that brought the first token; an end token takes one too


class Reply(msgspec.Struct, tag=True, frozen=True):
    """Worker: an event of the request with this id. `Delta`, `GrammarRead` and `Prefill` are followed by others."""

    id: int
    event: Delta | GrammarRead | Prefill | Done | Vectors | Tokens | Pieces | Adapters | Failed
    steps: Steps | None = None  # with `Done`


class Aside(Reply, tag=True, frozen=True):
    """Worker: one that was given beside the steps of the engine, so no sign that these go on."""


Down = Launch | Submit | Cancel | Stop
Up = Ready | Failed | Reply | Aside

_encoder = msgspec.msgpack.Encoder(enc_hook=of_plain_type)
_down = msgspec.msgpack.Decoder(Down)
_up = msgspec.msgpack.Decoder(list[Up])


def encode(message: Down | list[Up]) -> bytes:
    """A whole frame."""
    body = _encoder.encode(message)
    return _LENGTH.pack(len(body)) + body


def read_frame(stream: IO[bytes]) -> bytes | None:
    """The next frame's body, None where the other side is gone (also in the middle of a frame).

    Raises:
        BadFrame: a length beyond MAX_FRAME_BYTES.
    """
    head = _read_exactly(stream, _LENGTH.size)
    if head is None:
        return None
    (length,) = _LENGTH.unpack(head)
    if length > MAX_FRAME_BYTES:
        raise BadFrame(f"a length of {length} bytes")
    return _read_exactly(stream, length)


def _read_exactly(stream: IO[bytes], length: int) -> bytes | None:
    """An unbuffered stream may return fewer bytes than requested."""
    parts: list[bytes] = []
    while length > 0:
        try:
            part = stream.read(length)
        except MemoryError:  # before anything was read; the rest of a message would be taken for the next one
            with lifted():
                part = stream.read(length)
        if not part:
            return None
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


def decode_down(body: bytes) -> Down:
    """
    Raises:
        BadFrame: no message of the parent.
    """
    try:
        message: Down = _down.decode(body)
    except (msgspec.MsgspecError, ValueError, errors.UsageError) as error:
        raise BadFrame(str(error)) from error
    return message


def decode_up(body: bytes) -> list[Up]:
    """
    Raises:
        BadFrame: no messages of the worker.
    """
    try:
        return _up.decode(body)
    except (msgspec.MsgspecError, ValueError) as error:
        raise BadFrame(str(error)) from error
