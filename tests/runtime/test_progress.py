"""How much of a prompt has been read is told after each part of it, where somebody wants to know."""

from __future__ import annotations

import queue

import pytest
from msgspec import structs
from support.toy_engine import ToyEngine, answer

from edgellm.runtime import wire
from edgellm.runtime.loop import Loop
from edgellm.types.event import Delta, Done, Prefill
from edgellm.types.request import GenerationRequest
from edgellm.types.sampling import Sampling

PROMPT = "Once upon a time there was a small model. " * 2  # 84 bytes, and BOS
ASK = GenerationRequest(PROMPT, Sampling(temperature=0), max_tokens=5, ignore_eos=True, progress=True)


def events(engine: ToyEngine, *requests: GenerationRequest) -> dict[int, list[object]]:
    """By request; each comes when the one before it has ended."""
    inbox: queue.SimpleQueue[wire.Down] = queue.SimpleQueue()
    heard: dict[int, list[object]] = {}

    def hear(messages: list[wire.Up]) -> None:
        for message in messages:
            assert isinstance(message, wire.Reply)
            heard.setdefault(message.id, []).append(message.event)
            if isinstance(message.event, Done) and not message.event.n_open:
                following = message.id + 1
                more = following <= len(requests)
                inbox.put(wire.Submit(following, requests[following - 1]) if more else wire.Stop(drain=True))

    inbox.put(wire.Submit(1, requests[0]))
    Loop(engine, inbox, hear).run()
    return heard


def told(heard: list[object]) -> list[tuple[int, int, int]]:
    """Total, cached and processed, of what came before the answer."""
    first = next(at for at, event in enumerate(heard) if isinstance(event, Delta | Done))
    prefills = [event for event in heard if isinstance(event, Prefill)]
    assert heard[:first] == prefills
    seconds = [prefill.seconds for prefill in prefills]
    assert seconds == sorted(seconds)
    assert not seconds or seconds[0] >= 0
    return [(prefill.total, prefill.cached, prefill.processed) for prefill in prefills]


def test_each_part_is_told_and_then_what_the_cache_held() -> None:
    longer = structs.replace(ASK, prompt=PROMPT + "And then it rained. " * 2)
    first, second = events(ToyEngine(n_slots=1, n_batch=32), ASK, longer).values()
    assert told(first) == [(85, 0, 0), (85, 0, 32), (85, 0, 64), (85, 0, 85)]
    assert told(second) == [(125, 85, 85), (125, 85, 117), (125, 85, 125)]


def test_what_another_client_had_read_is_told_as_read_now() -> None:
    """From nothing to all in as many parts, so that no number says what was there."""
    theirs, ours = structs.replace(ASK, client="a"), structs.replace(ASK, prompt=PROMPT + "x" * 40, client="b")
    _, second = events(ToyEngine(n_slots=1, n_batch=32), theirs, ours).values()
    assert told(second) == [(125, 0, 0), (125, 0, 100), (125, 0, 125)]


def test_the_first_is_told_before_anything_is_computed() -> None:
    """A prompt takes long: who waits sees at once how long it is."""
    sent: list[wire.Up] = []
    n_sent: list[int] = []  # before each step
    inbox: queue.SimpleQueue[wire.Down] = queue.SimpleQueue()
    inbox.put(wire.Submit(1, ASK))
    inbox.put(wire.Stop(drain=True))
    Loop(ToyEngine(before_step=lambda *_: n_sent.append(len(sent))), inbox, sent.extend).run()
    assert n_sent[:3] == [1, 2, 3]


def test_who_does_not_ask_is_told_nothing() -> None:
    (heard,) = events(ToyEngine(), structs.replace(ASK, progress=False)).values()
    assert told(heard) == []


@pytest.mark.parametrize("n_slots", [1, 3])
def test_choices_share_what_is_told(n_slots: int) -> None:
    (heard,) = events(ToyEngine(n_slots=n_slots), structs.replace(ASK, n=3)).values()
    assert told(heard) == [(85, 0, 0), (85, 0, 32), (85, 0, 64), (85, 0, 85)]


def test_it_changes_no_answer() -> None:
    (heard,) = events(ToyEngine(), ASK).values()
    assert "".join(event.text for event in heard if isinstance(event, Delta)) == answer(ASK)[0]


@pytest.mark.parametrize("n", [1, 3])
def test_a_prompt_is_computed_again_where_nothing_may_be_reused(n: int) -> None:
    again = structs.replace(ASK, reuse=False, n=n)
    _, second = events(ToyEngine(n_batch=128), ASK, again).values()
    assert told(second) == [(85, 0, 0), (85, 0, 85)]
    (end,) = [event for event in second if isinstance(event, Done) and event.choice == 0]
    assert end.usage.cached_tokens == 0


def test_what_is_read_again_is_not_told_again() -> None:
    """It gave its slot to another client while it was read."""
    inbox: queue.SimpleQueue[wire.Down] = queue.SimpleQueue()
    sent: list[wire.Up] = []
    asked = iter([structs.replace(ASK, prompt="x", progress=False, client="b")])

    def arrives(*_: object) -> None:
        for one in asked:
            inbox.put(wire.Submit(2, one))
            inbox.put(wire.Stop(drain=True))

    inbox.put(wire.Submit(1, structs.replace(ASK, client="a")))
    engine = ToyEngine(n_slots=1, n_batch=32, before_step=arrives)
    Loop(engine, inbox, sent.extend).run()
    assert [entry.n_past for step in engine.steps for entry in step][:3] == [0, 1, 2]
    events = [one.event for one in sent if isinstance(one, wire.Reply) and one.id == 1]
    assert told(events) == [(85, 0, 0), (85, 0, 32), (85, 0, 33), (85, 0, 65), (85, 0, 85)]
