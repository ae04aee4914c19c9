"""An answer that gives its slot to another client goes on as if it had kept it."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec import structs
from support.marked_engine import MarkedEngine
from support.mixes import Answer, Planned, play, random_request
from support.schemas import random_schema
from support.toy_engine import ToyEngine

from edgellm.builtin.echo import EchoEngine
from edgellm.contract.engine import Engine
from edgellm.runtime import loop, slot_share
from edgellm.runtime.request_state import RequestState
from edgellm.runtime.scheduler import Scheduler
from edgellm.types.adapter import AdapterFile, LoadAdapter
from edgellm.types.grammar import Grammar
from edgellm.types.markup import JsonCalls, Markup, Reading, ReasoningMarkup
from edgellm.types.message import Tool
from edgellm.types.plan import Settings
from edgellm.types.request import Continuation, GenerationRequest
from edgellm.types.sampling import Sampling

PROMPTS = ("Once upon a time", "é🙂", "x", "Once upon a time there was a small model. " * 2)
STOPS = ("a", "ab", "é", "🙂", "ba ab", "abc.")
THINKS = Markup(ReasoningMarkup("<think>", "</think>"), JsonCalls("<tool_call>", "</tool_call>"))
READING = Reading(THINKS, tools=(Tool("look"),))
GREEDY = Sampling(temperature=0)
SEEDED = Sampling(temperature=1.0, seed=3)


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Answers that were paused; each is as soon as it has two tokens more."""
    monkeypatch.setattr(slot_share, "QUANTUM", 2)
    monkeypatch.setattr(slot_share, "EXCESS_PART", 1)
    monkeypatch.setattr(slot_share, "AWAY_PART", 1)
    found: list[int] = []
    pause = Scheduler.pause

    def watched(self: Scheduler, request: object, now: float = 0.0) -> None:
        found.append(request.id)  # type: ignore[attr-defined]
        pause(self, request, now)  # type: ignore[arg-type]

    monkeypatch.setattr(Scheduler, "pause", watched)
    return found


def facts(said: Answer) -> list[tuple[object, ...]]:
    return [
        (one.error, one.parts, one.reason, one.logprobs, one.tokens,
         one.usage and (one.usage.prompt_tokens, one.usage.completion_tokens))
        for one in said.choices
    ]  # fmt: skip


def check(requests: list[GenerationRequest], make: Callable[[], Engine]) -> None:
    """Each of three clients' answers is what it is alone."""
    mix = [
        Planned(structs.replace(request, client="abc"[number % 3]), arrives=number)
        for number, request in enumerate(requests)
    ]
    for planned, said in zip(mix, play(make(), mix), strict=True):
        (alone,) = play(make(), [Planned(planned.request)])
        assert facts(said) == facts(alone)


@pytest.mark.parametrize("n_slots", [1, 2])
@pytest.mark.parametrize("rewind", [None, 0])
def test_greedy_and_seeded_with_stop_strings_and_penalties(n_slots: int, rewind: int | None, pauses: list[int]) -> None:
    rng = random.Random(n_slots)
    for _ in range(5):
        requests = [random_request(rng, PROMPTS, longest=24, stops=STOPS) for _ in range(5)]
        check(requests, lambda: ToyEngine(n_slots=n_slots, rewind=rewind))
    assert len(pauses) > 10


@pytest.mark.parametrize(
    "kind",
    [
        {"n": 3},
        {"top_logprobs": 2},
        {"echo": True, "top_logprobs": 2},
        {"echo": True, "n": 2},
        {"reuse": False},
        {"progress": True},
    ],
    ids=str,
)
def test_every_kind_of_request(kind: dict[str, int], pauses: list[int]) -> None:
    one = GenerationRequest(PROMPTS[3], SEEDED, max_tokens=20, ignore_eos=True)
    check([structs.replace(one, **kind) for _ in range(3)], lambda: ToyEngine(n_slots=2))
    assert pauses


def echo() -> Engine:
    return EchoEngine(Settings(n_ctx=512, n_slots=1, n_batch=8))


@pytest.mark.parametrize("seed", range(3))
def test_under_grammars(seed: int, pauses: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("llguidance")
    monkeypatch.setattr(loop, "takes_long", lambda *_: False)  # in a thread, one is ready when the other has ended
    rng = random.Random(seed)
    grammars = [Grammar.of_schema(random_schema(rng)) for _ in range(2)]
    check([GenerationRequest("x", SEEDED, max_tokens=60, grammar=grammar) for grammar in grammars], echo)
    assert pauses


def test_thoughts_calls_and_budgets(pauses: list[int]) -> None:
    call = '<tool_call>{"name": "look", "arguments": {"at": "é"}}</tool_call>'
    asked = [
        GenerationRequest("<think>hm</think>Let me see." + call + call, GREEDY, reading=READING, stop=("stop",)),
        GenerationRequest("<think>" + "a🙂" * 9, GREEDY, reading=READING, reasoning_budget=6, max_tokens=30),
        GenerationRequest("hello", GREEDY, reading=Reading(THINKS, opened="<think>"), reasoning_budget=0),
    ]
    check(asked, MarkedEngine)
    assert pauses


def test_with_adapters(tmp_path: Path, pauses: list[int]) -> None:
    path = tmp_path / "one.gguf"
    path.write_text("one")
    load = Planned(LoadAdapter(AdapterFile("one", str(path))))
    one = GenerationRequest("x", SEEDED, max_tokens=20, ignore_eos=True)
    asked = [structs.replace(one, client=client, adapters=used) for client, used in (("a", (("one", 1.0),)), ("b", ()))]
    _, *together = play(ToyEngine(n_slots=1, adapters=True), [load, *map(Planned, asked)])
    for request, said in zip(asked, together, strict=True):
        assert facts(said) == facts(play(ToyEngine(n_slots=1, adapters=True), [load, Planned(request)])[1])
    assert pauses


@pytest.fixture
def given_way(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Requests that gave way while they were read, and what had been read of them."""
    found: list[int] = []
    pause = RequestState.pause

    def watched(self: RequestState, tokens: list[int], now: float) -> None:
        if self.n_left and not self.next_tokens:
            found.append(self.n_prefilled)
        pause(self, tokens, now)

    monkeypatch.setattr(RequestState, "pause", watched)
    return found


@pytest.mark.parametrize("rewind", [None, 0])
@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"n": 3},
        {"n": 2, "reuse": False},
        {"echo": True, "top_logprobs": 2},
        {"echo": True, "n": 2},
        {"progress": True},
        {"echo": True, "max_tokens": 0},
    ],
    ids=str,
)
def test_prompts_that_give_way(kind: dict[str, int], rewind: int | None, given_way: list[int]) -> None:
    """One client's four prompts have all slots but one, another's the last; then short ones come, two at a time."""
    asked = [
        GenerationRequest(f"{number}" + PROMPTS[3] * 2, SEEDED, client=client, **{"max_tokens": 12, **kind})
        for number, client in enumerate("aaab")
    ]
    shorts = [GenerationRequest("x" * number, GREEDY, max_tokens=3, client=f"{number}") for number in range(1, 6)]
    mix = [Planned(one) for one in asked] + [Planned(one, arrives=2 + at // 2 * 6) for at, one in enumerate(shorts)]

    def engine() -> Engine:
        return ToyEngine(n_slots=3, n_ctx=512, n_batch=16, rewind=rewind)

    for planned, said in zip(mix, play(engine(), mix), strict=True):
        (alone,) = play(engine(), [Planned(planned.request)])
        assert facts(said) == facts(alone)
    assert len(given_way) > 1
    assert any(given_way), "of one some was read"


def test_a_prompt_that_gives_way_under_a_grammar_or_behind_what_it_continues(
    given_way: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("llguidance")
    monkeypatch.setattr(loop, "takes_long", lambda *_: False)
    grammar = Grammar.of_schema(random_schema(random.Random(1)))
    long = GenerationRequest("x" * 90, SEEDED, max_tokens=40)
    asked = [
        structs.replace(long, grammar=grammar),
        structs.replace(long, continuation=Continuation(tuple(b"x" * 20))),
    ]
    for one in asked:
        mix = [Planned(structs.replace(one, client="a")), Planned(GenerationRequest("hi", GREEDY, client="b"), 2)]
        said, _ = play(echo(), mix)
        assert facts(said) == facts(play(echo(), mix[:1])[0])
    assert len(given_way) == 2
    assert all(given_way)


def test_who_leaves_after_its_prompt_gave_way_is_forgotten(given_way: list[int]) -> None:
    long = GenerationRequest("x" * 90, SEEDED, max_tokens=4, n=2)
    mix = [
        Planned(structs.replace(long, client="a"), cancelled=6),
        Planned(GenerationRequest("hello", GREEDY, max_tokens=20, client="b"), arrives=2),
        Planned(structs.replace(long, client="c", n=1), arrives=3),
    ]
    assert [said.reason for said in play(echo(), mix)] == ["cancelled", "stop", "length"]
    assert given_way


def test_who_leaves_while_it_is_paused_is_forgotten(pauses: list[int]) -> None:
    one = GenerationRequest("x", SEEDED, max_tokens=60, ignore_eos=True)
    mix = [
        Planned(structs.replace(one, client=client), cancelled=end)
        for client, end in (("a", 9), ("b", 12), ("c", None))
    ]
    assert [said.reason for said in play(ToyEngine(n_slots=1), mix)] == ["cancelled", "cancelled", "length"]
    assert pauses
