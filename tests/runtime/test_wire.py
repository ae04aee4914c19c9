"""What goes into the pipe comes out of it; what is no message is a `BadFrame` and nothing else."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.refusals import refuses

from edgellm import errors
from edgellm.contract.embedder import EmbeddingInfo
from edgellm.contract.engine import EngineInfo
from edgellm.runtime import wire
from edgellm.types.backend_reason import GpuUnused
from edgellm.types.event import Delta, Done, Timings, Tokens, Usage, Vectors
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan, Settings
from edgellm.types.reason import ContextLength
from edgellm.types.request import MAX_REQUEST_BYTES, EmbeddingRequest, GenerationRequest, RerankRequest
from edgellm.types.sampling import Sampling

REASONS = (ContextLength(256, "asked"), GpuUnused("A GPU", 0, "asked"))
PLAN = LaunchPlan(
    "echo",
    Artifact("echo", (), "echo"),
    Settings(n_ctx=256),
    REASONS,
)
REQUEST = GenerationRequest("é🙂\0", Sampling(seed=2**63 - 1, logit_bias=((3, -1.5),)), 7, ("stop",), add_bos=False)
EMBED = EmbeddingRequest(("é🙂\0", (1, 2**30)), dimensions=64)
RERANK = RerankRequest("which?", ("this", "that"))
DOWN = (
    wire.Launch(PLAN),
    wire.Submit(2**40, REQUEST),
    wire.Submit(3, EMBED),
    wire.Submit(4, RERANK),
    wire.Cancel(1),
    wire.Stop(drain=True),
)
INFO = EngineInfo(
    2,
    256,
    64,
    2,
    1000,
    frozenset({0, 7}),
    details={"library": "none"},
    embedding=EmbeddingInfo("mean", True, (64, 128)),
)
UP: list[wire.Up] = [
    wire.Ready(INFO, 1.5),
    wire.Reply(1, Delta("é🙂", 2)),
    wire.Reply(1, Done("stop", Usage(3, 2, 1), Timings(0.1, 0.2, 0.3)), wire.Steps(1.5, 2)),
    wire.Reply(4, Vectors(b"\0\1\2\3" * 6, 2, Usage(3, 0), Timings(0.1, 0.2, 0.0))),
    wire.Reply(2, wire.Failed("cache_full", "no room", "wait", {"needed": 3})),
    wire.Failed("backend_error", "it does not load"),
    wire.Aside(5, Tokens((0, 2**31 - 1))),
]


@pytest.mark.parametrize("message", DOWN, ids=lambda message: type(message).__name__)
def test_messages_down_survive(message: wire.Down) -> None:
    body = wire.read_frame(io.BytesIO(wire.encode(message)))
    assert body is not None
    assert wire.decode_down(body) == message


def test_messages_up_survive_together() -> None:
    body = wire.read_frame(io.BytesIO(wire.encode(UP)))
    assert body is not None
    assert wire.decode_up(body) == UP


class Trickle(io.RawIOBase):
    """A pipe that gives one byte at a time."""

    def __init__(self, data: bytes) -> None:
        self.data = io.BytesIO(data)

    def read(self, size: int = -1) -> bytes:
        return self.data.read(min(size, 1))


def test_frames_arrive_in_pieces_and_in_order() -> None:
    stream = Trickle(wire.encode(DOWN[1]) + wire.encode(DOWN[2]))
    found = [wire.read_frame(stream) for _ in range(3)]  # type: ignore[arg-type]
    assert [wire.decode_down(body) for body in found if body] == [DOWN[1], DOWN[2]]
    assert found[2] is None


def test_a_frame_that_is_cut_off_is_the_end() -> None:
    whole = wire.encode(UP)
    for n in range(len(whole)):
        assert wire.read_frame(io.BytesIO(whole[:n])) is None


def test_a_length_beyond_all_frames_is_refused_before_memory_is_asked_for() -> None:
    with refuses(wire.BadFrame):
        wire.read_frame(io.BytesIO(b"\xff\xff\xff\xff"))


@given(st.binary(max_size=64))
def test_any_bytes_are_messages_or_a_bad_frame(body: bytes) -> None:
    for decode in (wire.decode_up, wire.decode_down):
        with contextlib.suppress(wire.BadFrame):
            decode(body)


def all_errors(cls: type[errors.EdgeLLMError] = errors.EdgeLLMError) -> Iterator[type[errors.EdgeLLMError]]:
    yield cls
    for child in cls.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from all_errors(child)


@pytest.mark.parametrize("cls", list(all_errors()), ids=lambda cls: cls.__name__)
def test_errors_survive_as_what_they_are(cls: type[errors.EdgeLLMError]) -> None:
    found = wire.Failed.of(cls("what failed", hint="what to do")).error()
    assert type(found) is cls
    assert str(found) == "what failed; what to do"


def test_the_numbers_of_an_error_survive() -> None:
    found = wire.Failed.of(errors.ContextOverflow("too long", n_prompt=9, n_ctx=8)).error()
    assert isinstance(found, errors.ContextOverflow)
    assert (found.n_prompt, found.n_ctx) == (9, 8)


def test_the_words_of_an_error_survive() -> None:
    """Which field is wrong, and what killed a worker, reach whoever asked."""
    wrong = wire.Failed.of(errors.UsageError("no", hint="do", param="logit_bias")).error()
    assert isinstance(wrong, errors.UsageError)
    assert (wrong.param, wrong.message, wrong.hint) == ("logit_bias", "no", "do")
    dead = wire.Failed.of(errors.WorkerCrashed("dead", reason="killed by SIGILL")).error()
    assert isinstance(dead, errors.WorkerCrashed)
    assert dead.reason == "killed by SIGILL"
    too_long = wire.Failed.of(errors.ContextOverflow("too long", n_prompt=9)).error()
    assert isinstance(too_long, errors.UsageError)
    assert too_long.param == "prompt"


def test_a_plugins_own_error_becomes_the_nearest_thing() -> None:
    class MineError(errors.BackendError):
        def __init__(self, one: int, two: int) -> None:
            super().__init__(f"{one} and {two}")

    assert type(wire.Failed.of(MineError(1, 2)).error()) is errors.EdgeLLMError
    assert type(wire.Failed.of(KeyError("x")).error()) is errors.BackendError


def test_text_that_cannot_be_sent_is_refused() -> None:
    with refuses(errors.UsageError):
        GenerationRequest("ab\ud800")
    with refuses(errors.UsageError):
        GenerationRequest("ab", stop=("\udfff",))
    with refuses(errors.UsageError):
        GenerationRequest("x" * (MAX_REQUEST_BYTES + 1))
    with refuses(errors.UsageError):
        EmbeddingRequest(((1,) * MAX_REQUEST_BYTES,))


@pytest.mark.parametrize(
    "sampling", [{"top_k": 1.5}, {"seed": 1.0}, {"penalty_last_n": True}, {"logit_bias": ((1.5, 0.0),)}, {"top_k": 0.0}]
)
def test_a_value_of_the_wrong_type_is_refused_here_and_not_in_the_worker(sampling: dict[str, object]) -> None:
    with refuses(errors.UsageError):
        Sampling(**sampling)  # type: ignore[arg-type]
