"""Clients take turns, however many requests each sends."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from support.live_server import Live, Servers
from support.refusals import refuses
from support.waiting import PATIENCE_S, wait_until

from edgellm.errors import TooManyRequests
from edgellm.server import served_model, turns
from edgellm.server.request_log import RequestRecord
from edgellm.server.served_model import ServedModel
from edgellm.server.turns import OwnTurn, Turns
from edgellm.types.grammar import Grammar
from edgellm.types.request import GenerationRequest


class Queue:
    """Requests that wait for turns, in the order in which they got theirs."""

    def __init__(self, places: int = 1, *, keeps_room: bool = False) -> None:
        self.turns = Turns(places, keeps_room=keeps_room)
        self.served: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.ends: dict[str, asyncio.Event] = {}
        self.turn: dict[str, OwnTurn] = {}  # of those that were served

    async def ask(self, *names: str) -> None:
        """`names`: client and number, as "a1", and the answers that it asks for where it is not one, as "a1x4"; singles
        have a capital, as "A1"."""
        for name in names:
            self.begin(name)
            await settle()

    def begin(self, name: str) -> None:
        self.ends[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._hold(name))

    async def _hold(self, name: str) -> None:
        client, n_answers = name[0].lower(), int(name.partition("x")[2] or 1)
        async with self.turns.turn(client, n_answers, single=name[0].isupper()) as self.turn[name]:
            self.served.append(name)
            await self.ends[name].wait()

    async def end(self, name: str) -> None:
        self.ends[name].set()
        await settle()

    async def end_all(self) -> None:
        while any(not task.done() for task in self.tasks.values()):
            for name in list(self.served):
                await self.end(name)


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_one_of_each_client_in_turn() -> None:
    queue = Queue()
    await queue.ask("a1", "a2", "a3", "a4", "b1", "b2", "c1")
    await queue.end_all()

    assert queue.served == ["a1", "a2", "b1", "c1", "a3", "b2", "a4"]


async def test_singles_that_wait_for_another_hold_no_place() -> None:
    queue = Queue(places=2)
    await queue.ask("A1", "B1", "C1", "B2", "d1")
    assert queue.served == ["A1", "d1"]

    await queue.end("d1")
    assert queue.turns._free == 1
    await queue.end("A1")
    assert queue.served[2:] == ["B1"]
    queue.turn["B1"].is_read()
    await settle()
    assert queue.served[3:] == ["C1"]
    await queue.end_all()
    assert queue.served[4:] == ["B2"]
    assert (queue.turns._free, queue.turns._has_single, queue.turns._held) == (2, False, {})


async def test_a_single_keeps_its_turn_and_is_passed_by_where_another_has_its() -> None:
    queue = Queue()
    await queue.ask("A1", "B1", "b2", "c1", "A2")
    await queue.end("A1")
    assert queue.served == ["A1", "B1"]
    await queue.end("B1")
    await queue.end("c1")

    assert queue.served[2:] == ["c1", "A2"]
    await queue.end_all()
    assert queue.served[4:] == ["b2"]


async def test_a_single_that_leaves_lets_the_next_have_its_turn() -> None:
    queue = Queue(places=2)
    await queue.ask("A1", "B1", "C1")
    queue.tasks["B1"].cancel()
    queue.tasks["A1"].cancel()
    await settle()

    assert queue.served == ["A1", "C1"]
    queue.ends["C1"].set()
    await settle()
    assert (queue.turns._free, queue.turns._has_single, queue.turns.n_waiting) == (2, False, 0)


async def test_a_client_leaves_places_to_others() -> None:
    queue = Queue(places=8, keeps_room=True)
    await queue.ask(*(f"a{i}" for i in range(6)), *(f"b{i}" for i in range(4)), "c0", "c1", "d0", "e0")
    assert queue.served == ["a0", "a1", "a2", "a3", "b0", "b1", "c0", "d0"]

    await queue.end("a0")
    assert queue.served[8:] == ["e0"]
    await queue.end_all()
    assert len(queue.served) == 14


async def test_several_answers_are_one_place_and_count_as_their_clients() -> None:
    """However long the prompts of two clients are read, and further ones of theirs wait for slots, others have room."""
    queue = Queue(places=8, keeps_room=True)
    await queue.ask("a1x4", "b1x4", "a2x4", "b2x4", "a3x4", "b3", "c1x4", "d1")
    assert queue.served == ["a1x4", "b1x4", "a2x4", "b2x4", "c1x4", "d1"]

    for name in ("a1x4", "b1x4"):
        queue.turn[name].begins()
    await settle()
    assert queue.served[6:] == []
    await queue.end("b1x4")
    await queue.end("c1x4")
    assert queue.served[6:] == ["b3"]
    await queue.end_all()
    assert (queue.turns._free, queue.turns._held) == (8, {})


async def test_as_many_at_once_as_there_are_places() -> None:
    queue = Queue(places=2)
    await queue.ask("a1", "a2", "a3")
    assert queue.served == ["a1", "a2"]

    await queue.end("a2")
    assert queue.served == ["a1", "a2", "a3"]
    await queue.end("a1")
    await queue.end("a3")
    await queue.ask("a4", "a5", "a6")
    assert queue.served[3:] == ["a4", "a5"]


async def test_who_gives_up_is_passed_over() -> None:
    queue = Queue()
    await queue.ask("a1", "b1", "c1", "b2")
    queue.tasks["b1"].cancel()
    await queue.end("a1")
    await queue.end_all()

    assert queue.served == ["a1", "b2", "c1"]


async def test_who_gives_up_as_its_turn_comes_passes_it_on() -> None:
    queue = Queue()
    first = queue.turns.turn("a")
    await first.__aenter__()
    await queue.ask("b1", "c1")
    await first.__aexit__(None, None, None)
    queue.tasks["b1"].cancel()
    await settle()

    assert queue.served == ["c1"]
    await queue.end("c1")
    await queue.ask("d1")
    assert queue.served == ["c1", "d1"]


async def test_too_many_are_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "MAX_WAITING", 2)
    queue = Queue()
    await queue.ask("a1", "a2", "a3")
    with refuses(TooManyRequests):
        async with queue.turns.turn("a"):
            pass

    queue.tasks["a3"].cancel()
    await settle()
    await queue.ask("a4")
    await queue.end_all()
    assert queue.served == ["a1", "a2", "a4"]


async def test_where_one_client_fills_the_room_it_makes_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "MAX_WAITING", 3)
    queue = Queue()
    await queue.ask("a1", "a2", "a3", "a4", "b1")
    with refuses(TooManyRequests):
        await queue.tasks["a4"]

    await queue.ask("b2")
    with pytest.raises(TooManyRequests):  # now each of them has as many as the other would
        await queue.tasks["b2"]
    await queue.end_all()
    assert queue.served == ["a1", "a2", "b1", "a3"]


async def test_who_gave_way_and_gives_up_passes_nothing_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "MAX_WAITING", 2)
    queue = Queue()
    await queue.ask("a1", "a2", "a3")
    queue.begin("b1")
    await asyncio.sleep(0)  # it took the place of a3, which does not know yet
    queue.tasks["a3"].cancel()
    await settle()
    assert queue.served == ["a1"]
    await queue.end_all()
    assert queue.served == ["a1", "a2", "b1"]


@pytest.mark.parametrize(
    ("path", "body", "claims_addresses"),
    [
        ("/v1/completions", {"prompt": "hello"}, False),
        pytest.param("/v1/completions", {"prompt": "hello"}, True, marks=pytest.mark.slow(2)),
        ("/v1/embeddings", {"input": "hello"}, False),
    ],
)
def test_another_address_waits_for_few_requests_of_one_that_sends_many(
    serve: Servers, monkeypatch: pytest.MonkeyPatch, path: str, body: dict[str, str], claims_addresses: bool
) -> None:
    """Whatever addresses the one claims to have."""
    asked: list[str] = []
    served: list[str] = []

    class Watched(Turns):
        @asynccontextmanager
        async def turn(self, client: str, n_answers: int = 1, *, single: bool = False) -> AsyncIterator[OwnTurn]:
            asked.append(client)
            async with super().turn(client, n_answers, single=single) as turn:
                served.append(client)
                yield turn

    monkeypatch.setattr(served_model, "Turns", Watched)
    live = serve()

    def ask(source: str, number: int) -> None:
        transport = httpx.HTTPTransport(local_address=source)
        headers = {"x-forwarded-for": f"10.0.0.{number}"} if claims_addresses else {}
        with httpx.Client(base_url=live.url, timeout=PATIENCE_S, transport=transport, headers=headers) as http:
            http.post(path, json=body)

    live.hold()
    sources = ["127.0.0.1"] * 30 + ["127.0.0.2"]
    asking = [threading.Thread(target=ask, args=(source, number)) for number, source in enumerate(sources)]
    try:
        for n_asked, thread in enumerate(asking, start=1):
            thread.start()
            wait_until(lambda n_asked=n_asked: len(asked) == n_asked)
    finally:
        live.release()
    for thread in asking:
        thread.join()

    assert served.index("127.0.0.2") < 20


class Asked(threading.Thread):
    """A request from an address, in a thread of its own. `ended`: those that have their answers, in order."""

    def __init__(self, live: Live, ended: list[Asked], source: str, **body: Any) -> None:
        super().__init__()
        self.live, self.ended, self.source, self.body = live, ended, source, body
        self.text, self.n_tokens = "", 0

    def run(self) -> None:
        transport = httpx.HTTPTransport(local_address=self.source)
        with httpx.Client(base_url=self.live.url, timeout=PATIENCE_S, transport=transport) as http:
            said = http.post("/v1/completions", json=self.body).json()
        self.text, self.n_tokens = said["choices"][0]["text"], said["usage"]["completion_tokens"]
        self.ended.append(self)


@pytest.fixture
def handed_over(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Clients whose requests the model got, in order."""
    clients: list[str] = []

    class Watched(Turns):
        @asynccontextmanager
        async def turn(self, client: str, n_answers: int = 1, *, single: bool = False) -> AsyncIterator[OwnTurn]:
            async with super().turn(client, n_answers, single=single) as turn:
                clients.append(client)
                yield turn

    monkeypatch.setattr(served_model, "Turns", Watched)
    return clients


def answer_together(live: Live, handed_over: list[str], requests: list[Asked]) -> None:
    """The model has all of them, one after the other, before it computes anything."""
    live.hold()
    n_before = len(handed_over)
    try:
        for n_asked, request in enumerate(requests, start=1):
            request.start()
            wait_until(lambda n_asked=n_asked: len(handed_over) == n_before + n_asked)
    finally:
        live.release()
    for request in requests:
        request.join()


def test_a_short_prompt_of_another_address_passes_long_ones(serve: Servers, handed_over: list[str]) -> None:
    """And the model has it although as many requests as it has slots came before."""
    live, ended = serve(slots=2, step_s=0.01), list[Asked]()
    long = [Asked(live, ended, "127.0.0.2", prompt=[first + 65] * 3900, max_tokens=1) for first in range(2)]
    short = Asked(live, ended, "127.0.0.3", prompt=[64] * 20, max_tokens=1)
    answer_together(live, handed_over, [*long, short])
    assert ended == [short, *long]


def test_an_endless_answer_gives_the_only_slot_to_another_address(serve: Servers, handed_over: list[str]) -> None:
    """And goes on to its end, as if it had kept it."""
    live, ended = serve(), list[Asked]()
    endless = Asked(live, ended, "127.0.0.2", prompt="a cat " * 9, max_tokens=1500, ignore_eos=True)
    other = Asked(live, ended, "127.0.0.3", prompt="a dog", max_tokens=4)
    answer_together(live, handed_over, [endless, other])
    assert ended == [other, endless]
    alone = Asked(live, ended, "127.0.0.2", **endless.body)
    alone.run()
    assert (endless.text, endless.n_tokens) == (alone.text, 1500)


def test_several_answers_at_a_time_leave_slots_to_another_address(serve: Servers) -> None:
    """Further requests of two addresses wait, as each has half of the slots."""
    live = serve(slots=4, step_s=0.01)
    body = b'{"prompt": "a cat", "n": 4, "max_tokens": 4000, "ignore_eos": true, "stream": true}'
    head = b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    with contextlib.ExitStack() as open_ones:
        for n_asked in range(4):
            connection = open_ones.enter_context(live.connection(f"127.0.0.{2 + n_asked % 2}"))
            connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            if n_asked < 2:
                assert connection.recv(1)
        wait_until(lambda: len(live.llm._session._dispatcher) == 4)  # further ones wait for their slots

        answered = live.post("/v1/completions", {"prompt": "a dog", "max_tokens": 1})
        assert answered.status_code == 200


def test_another_address_is_not_told_what_was_read_before(serve: Servers) -> None:
    live = serve()

    def cached(source: str, prompt: list[int]) -> int:
        transport = httpx.HTTPTransport(local_address=source)
        with httpx.Client(base_url=live.url, timeout=PATIENCE_S, transport=transport) as http:
            said = http.post("/v1/completions", json={"prompt": prompt, "max_tokens": 1}).json()
        count: int = said["usage"]["prompt_tokens_details"]["cached_tokens"]
        return count

    secret = [64 + n % 26 for n in range(100)]
    assert cached("127.0.0.2", secret) == 0
    assert cached("127.0.0.3", [*secret[:60], 64, 64]) == 0
    assert cached("127.0.0.3", [*secret[:60], 64, 64, 64]) == 62


@pytest.mark.parametrize("slots", [1, 3])
async def test_of_requests_with_grammars_the_worker_has_one_at_a_time(serve: Servers, slots: int) -> None:
    """The others hold no place: a request without a grammar gets to the worker beside them, whoever sent them."""
    live = serve(slots=slots)
    served = ServedModel(live.llm)

    async def answered(client: str, grammar: Grammar | None) -> None:
        scope = {"type": "http", "method": "POST", "path": "/", "headers": [], "client": (client, 1)}
        RequestRecord.begin(scope)
        request = Request(scope)
        request.state.adapters = None
        async with aclosing(served.events(request, [GenerationRequest("hello", grammar=grammar)])) as event_lists:
            async for _ in event_lists:
                pass

    live.hold()
    try:
        tasks = [asyncio.create_task(answered(client, Grammar("lark", 'start: "hello"'))) for client in "aab"]
        await settle()
        tasks.append(asyncio.create_task(answered("c", None)))
        await settle()
        assert (served._turns.n_waiting, served._turns._held) == (2, {"a": 1, "c": 1})
    finally:
        live.release()
    await asyncio.gather(*tasks)


async def test_a_grammar_that_was_read_keeps_no_other_waiting(serve: Servers) -> None:
    """However long its answer waits for a slot, or for its prompt to be read."""
    live = serve(slots=1, step_s=0.02)
    served = ServedModel(live.llm)
    endless = GenerationRequest("a cat " * 9, max_tokens=3000, ignore_eos=True)
    word = Grammar("lark", 'start: "hello"')
    asked = {"a": endless, "b": GenerationRequest("one", grammar=word), "c": GenerationRequest("two", grammar=word)}
    begun: list[str] = []

    async def answered(client: str) -> None:
        async with aclosing(served._in_turn(client, asked[client])) as event_lists:
            async for events in event_lists:
                assert events
                begun.append(client)

    tasks = [asyncio.create_task(answered("a"))]
    while not begun:
        await asyncio.sleep(0.01)
    tasks += [asyncio.create_task(answered(client)) for client in "bc"]
    while len(live.llm._session._dispatcher) < 3 and "b" not in begun:
        await asyncio.sleep(0.01)
    is_answered = "b" in begun
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)

    assert not is_answered


def test_a_request_for_several_answers_says_how_many(serve: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    asked_for: list[int] = []

    class Watched(Turns):
        def turn(
            self, client: str, n_answers: int = 1, *, single: bool = False
        ) -> AbstractAsyncContextManager[OwnTurn]:
            asked_for.append(n_answers)
            return super().turn(client, n_answers, single=single)

    monkeypatch.setattr(served_model, "Turns", Watched)
    live = serve(slots=2)

    httpx.post(f"{live.url}/v1/completions", json={"prompt": "hello", "n": 2}, timeout=PATIENCE_S)

    assert asked_for == [2]


LONG = "hello " * 1500
VERY_LONG = "hello " * 25_000
CHAT = [{"role": "user", "content": "hello"}]
LONG_CHAT = [{"role": "user", "content": LONG}]


@pytest.mark.parametrize(
    ("path", "long", "short"),
    [
        ("/tokenize", {"content": LONG, "with_pieces": True}, {"content": "hello", "with_pieces": True}),
        pytest.param("/tokenize", {"content": LONG}, {"content": "hello"}, marks=pytest.mark.slow(1)),
        ("/v1/messages/count_tokens", {"model": "echo", "messages": LONG_CHAT}, {"model": "echo", "messages": CHAT}),
        ("/v1/responses/input_tokens", {"input": LONG}, {"input": "hello"}),
        ("/v1/chat/completions/input_tokens", {"messages": LONG_CHAT}, {"messages": CHAT}),
    ],
)
def test_one_long_text_of_a_client_is_made_tokens_at_a_time(
    serve: Servers, monkeypatch: pytest.MonkeyPatch, path: str, long: dict[str, Any], short: dict[str, Any]
) -> None:
    """What is made of each is many times larger than its body. Short ones wait for none of them."""
    asked: list[int] = []
    begun: list[int] = []
    own_turn = ServedModel.token_turn

    @asynccontextmanager
    async def watched(served: ServedModel, request: Request, length: int) -> AsyncIterator[None]:
        asked.append(length)
        async with own_turn(served, request, length):
            begun.append(length)
            yield

    monkeypatch.setattr(ServedModel, "token_turn", watched)
    live = serve()
    statuses: list[int] = []

    def post(body: dict[str, Any]) -> threading.Thread:
        asking = threading.Thread(target=lambda: statuses.append(live.post(path, body).status_code))
        asking.start()
        return asking

    live.hold()
    try:
        threads = [post(long) for _ in range(5)]
        wait_until(lambda: len(asked) == len(threads))
        assert len(begun) == 1
        if path == "/tokenize":
            threads.append(post({"content": VERY_LONG}))
            wait_until(lambda: len(begun) == 2)
            del begun[1]
        threads += [post(short) for _ in range(2)]
        wait_until(lambda: len(begun) == 3)
        assert begun[1] == begun[2] < begun[0]
    finally:
        live.release()
    for thread in threads:
        thread.join()

    assert statuses == [200] * len(threads)
