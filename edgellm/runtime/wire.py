"""What parent and worker say to each other: length-prefixed msgpack frames over the worker's stdin and stdout.

Frames hold one message down, and all messages of one step up, so that a step costs one system call and one wake-up
whatever the number of requests in it. Nothing here is pickled: a frame can only make the types below.
"""

from __future__ import annotations

import struct
from typing import IO

import msgspec

from edgellm import errors
from edgellm.contract.backend import EngineInfo
from edgellm.types.event import Timings, Usage, Vectors
from edgellm.types.plan import LaunchPlan
from edgellm.types.request import EmbeddingRequest, GenerationRequest, Request, RerankRequest

_LENGTH = struct.Struct("<I")
MAX_FRAME_BYTES = 256 * 1024**2
MAX_REQUEST_BYTES = 64 * 1024**2  # no context holds so much text


class BadFrame(Exception):
    """What came over the pipe is no frame: a bug, or something else writes into the pipe."""


class Launch(msgspec.Struct, tag=True, frozen=True):
    """Parent: load this. First frame, once."""

    plan: LaunchPlan


class Submit(msgspec.Struct, tag=True, frozen=True):
    """Parent: run this request under this id (unique for the life of the worker)."""

    id: int
    request: GenerationRequest


class Embed(msgspec.Struct, tag=True, frozen=True):
    """Parent: as `Submit`, of texts that become vectors."""

    id: int
    request: EmbeddingRequest


class Rerank(msgspec.Struct, tag=True, frozen=True):
    """Parent: as `Submit`, of texts that get scores."""

    id: int
    request: RerankRequest


class Cancel(msgspec.Struct, tag=True, frozen=True):
    """Parent: nobody listens to this request any more."""

    id: int


class Stop(msgspec.Struct, tag=True, frozen=True):
    """Parent: leave; with `drain` after the requests at hand are done."""

    drain: bool


class Ready(msgspec.Struct, tag=True, frozen=True):
    """Worker: the model is loaded."""

    info: EngineInfo
    load_s: float


class Text(msgspec.Struct, tag=True, frozen=True):
    """Worker: new text of a request, made of `n_tokens` tokens."""

    id: int
    text: str
    n_tokens: int


class Finished(msgspec.Struct, tag=True, frozen=True):
    """Worker: the last word on a request that went well."""

    id: int
    reason: str
    usage: Usage
    timings: Timings
    width: float = 1.0  # requests in its steps, on average
    n_decoded: int = 0  # steps after the one that brought the first token; an end token takes one too


class Computed(msgspec.Struct, tag=True, frozen=True):
    """Worker: the one word on a request for vectors or scores that went well."""

    id: int
    vectors: Vectors


class Failed(msgspec.Struct, tag=True, frozen=True):
    """Worker: the last word on a request, or on loading (id 0), that went wrong."""

    id: int
    code: str
    message: str
    hint: str = ""
    numbers: dict[str, int] = {}
    texts: dict[str, str] = {}

    @classmethod
    def of(cls, request_id: int, error: BaseException) -> Failed:
        if not isinstance(error, errors.EdgeLLMError):
            return cls(request_id, "backend_error", f"{type(error).__name__}: {error}")
        numbers = {name: value for name, value in vars(error).items() if isinstance(value, int)}
        own = ("message", "hint")
        texts = {name: value for name, value in vars(error).items() if isinstance(value, str) and name not in own}
        return cls(request_id, error.code, error.message, error.hint, numbers, texts)

    def error(self) -> errors.EdgeLLMError:
        """The exception this message stands for, its attributes included."""
        error = errors.by_code(self.code)(self.message, hint=self.hint)
        for name, value in {**self.numbers, **self.texts}.items():
            setattr(error, name, value)
        return error


Asked = Submit | Embed | Rerank
Down = Launch | Asked | Cancel | Stop
Up = Ready | Text | Finished | Computed | Failed

_encoder = msgspec.msgpack.Encoder()
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
    """An unbuffered stream may give less than asked for."""
    parts: list[bytes] = []
    while length > 0:
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
    except (msgspec.MsgspecError, ValueError) as error:
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


def asked(request_id: int, request: Request) -> Asked:
    """The message that asks for it."""
    match request:
        case EmbeddingRequest():
            return Embed(request_id, request)
        case RerankRequest():
            return Rerank(request_id, request)
        case _:
            return Submit(request_id, request)


def check(request: Request) -> None:
    """Read the request as the worker will: what it cannot read would cost everybody's answers there.

    Raises:
        UsageError: a value of the wrong type, text with lone surrogates, or too much text.
    """
    try:
        frame = _encoder.encode(asked(0, request))
        if len(frame) <= MAX_REQUEST_BYTES:
            _down.decode(frame)
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError) as error:
        hint = f"see `edgellm.types.request.{type(request).__name__}`; decode text with errors='replace'"
        raise errors.UsageError(f"the request cannot be sent: {error}", hint=hint) from None
    if len(frame) > MAX_REQUEST_BYTES:
        raise errors.UsageError(
            f"the request has {len(frame)} bytes, {MAX_REQUEST_BYTES} are allowed", hint="send less text"
        )
