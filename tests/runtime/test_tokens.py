"""Tokens of texts and texts of tokens: the same that prompts have, and beside the answers at hand."""

from __future__ import annotations

import queue
from collections.abc import Sequence

import pytest
from support.refusals import check_refusal, refuses
from support.toy_engine import BOS, EOS, PIECES, VOCAB, ToyEngine

from edgellm.builtin.echo import EchoEngine
from edgellm.contract.engine import Engine, Logits, SlotInput
from edgellm.errors import UsageError
from edgellm.runtime import wire
from edgellm.runtime.loop import Loop
from edgellm.runtime.prompt_reader import LONG_TEXT, Begun, PromptReader
from edgellm.types.event import Done, Pieces, Tokens
from edgellm.types.plan import Settings
from edgellm.types.request import (
    LEAST_TO_READ,
    MAX_IDS,
    MAX_TOKEN_BYTES,
    DetokenizeRequest,
    GenerationRequest,
    Request,
    TokenizeRequest,
)
from edgellm.types.sampling import Sampling


def replies(engine: Engine, *requests: Request) -> dict[int, object]:
    """The last event of each, by the request's number."""
    inbox: queue.SimpleQueue[wire.Down] = queue.SimpleQueue()
    heard: list[wire.Up] = []
    for number, request in enumerate(requests):
        inbox.put(wire.Submit(number, request))
    inbox.put(wire.Stop(drain=True))
    Loop(engine, inbox, heard.extend).run()
    return {reply.id: reply.event for reply in heard if isinstance(reply, wire.Reply)}


@pytest.mark.parametrize("cuts", [(), (3, 9)])
@pytest.mark.parametrize("add_bos", [True, False])
@pytest.mark.parametrize("parse_special", [True, False])
@pytest.mark.parametrize("text", ["Hi <|im_end|> é", "a" * (LONG_TEXT + 1)])
def test_they_are_those_of_a_prompt(text: str, parse_special: bool, add_bos: bool, cuts: tuple[int, ...]) -> None:
    engine = EchoEngine(Settings(n_ctx=3 * LONG_TEXT))
    generation = GenerationRequest(text, cuts=cuts, parse_special=parse_special, add_bos=add_bos)
    begun = PromptReader(engine.tokenizer, engine.info).read(generation)
    assert isinstance(begun, Begun)
    assert replies(engine, TokenizeRequest.of_prompt(text, generation)) == {0: Tokens(tuple(begun.prompt))}


class CountedEngine(ToyEngine):
    n_steps = 0

    def step(self, batch: Sequence[SlotInput]) -> Sequence[Logits]:
        self.n_steps += 1
        return super().step(batch)


@pytest.mark.parametrize(
    "request_", [TokenizeRequest("a" * LONG_TEXT), DetokenizeRequest((2,) * MAX_IDS)], ids=["text", "tokens"]
)
def test_answers_go_on_between_those_that_take_all_the_time_there_is(request_: Request) -> None:
    """Else whoever sends them fast enough would hold up all answers."""
    engine, inbox, after = CountedEngine(), queue.SimpleQueue[wire.Down](), list[int]()
    inbox.put(wire.Submit(0, GenerationRequest("Hi", Sampling(temperature=0), max_tokens=8, ignore_eos=True)))
    for number in range(1, 5):
        inbox.put(wire.Submit(number, request_))
    inbox.put(wire.Stop(drain=True))

    def send(said: list[wire.Up]) -> None:
        after.extend(engine.n_steps for reply in said if isinstance(reply, wire.Reply) and reply.id)

    Loop(engine, inbox, send).run()
    assert len(after) == len({*after}) == 4


def test_long_texts_are_read_beside_the_answers_at_hand() -> None:
    """In the thread that reads long prompts, and all before a drained loop ends."""
    answer = GenerationRequest("Hi", Sampling(temperature=0), max_tokens=3)
    long = TokenizeRequest("a" * (LONG_TEXT + 1))
    said = replies(ToyEngine(), answer, long, DetokenizeRequest((2, 3)))
    assert isinstance(said[0], Done)
    assert isinstance(said[1], Tokens)
    assert len(said[1].ids) == LONG_TEXT + 1
    assert said[2] == Pieces((b"a", b"b"))


def test_control_tokens_are_written_as_templates_do() -> None:
    said = replies(ToyEngine(), DetokenizeRequest((BOS, 10, 11, EOS)))
    assert said == {0: Pieces((b"<bos>", PIECES[10], PIECES[11], b"<eos>"))}


def test_a_token_that_there_is_not() -> None:
    failed = replies(ToyEngine(), DetokenizeRequest((2, VOCAB)))[0]
    assert isinstance(failed, wire.Failed)
    check_refusal(failed.error(), UsageError, param="ids")


@pytest.mark.parametrize("token", [-1, 2**31, 2**70])
def test_a_number_that_is_no_token(token: int) -> None:
    with refuses(UsageError, param="ids"):
        DetokenizeRequest((2, token))


def test_more_than_is_read_at_a_time_is_refused() -> None:
    most = LEAST_TO_READ * MAX_TOKEN_BYTES
    failed = replies(ToyEngine(), TokenizeRequest("a" * (most + 1)))[0]
    assert isinstance(failed, wire.Failed)
    check_refusal(failed.error(), UsageError, param="text")
    with refuses(UsageError, param="ids"):
        DetokenizeRequest((1,) * (MAX_IDS + 1))


def test_one_that_is_cancelled_or_closed_in_time_has_no_tokens() -> None:
    inbox: queue.SimpleQueue[wire.Down] = queue.SimpleQueue()
    heard: list[wire.Up] = []
    long = TokenizeRequest("a" * (LONG_TEXT + 1))
    for message in (wire.Submit(1, long), wire.Cancel(1), wire.Submit(2, long), wire.Stop(drain=False)):
        inbox.put(message)
    Loop(ToyEngine(), inbox, heard.extend).run()
    assert [(reply.id, type(reply.event)) for reply in heard if isinstance(reply, wire.Reply)] == [(2, wire.Failed)]


@pytest.mark.parametrize("flag", [True, False])
def test_a_prompt_is_counted_as_it_would_be_read(flag: bool) -> None:
    generation = GenerationRequest("b", cuts=(1,), parse_special=flag, add_bos=not flag)
    assert TokenizeRequest.of_prompt("a", generation) == TokenizeRequest("a", (1,), flag, not flag)
