"""The SDK from many threads and coroutines at once: no answer lost, mixed, or left running when nobody listens."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec import structs
from support.refusals import refuses
from support.waiting import PATIENCE_S, wait_until
from support.words import said

from edgellm.errors import BadTemplate, Closed, ContextOverflow, TimedOut, UnknownModel, UsageError
from edgellm.runtime.session import AsyncSink, QueueSink
from edgellm.sdk.client import EdgeLLM
from edgellm.sdk.deadline import Deadline
from edgellm.types.event import Completion, Delta, Done
from edgellm.types.grammar import Grammar
from edgellm.types.message import Message, NamedTool, Tool
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan, Settings
from edgellm.types.request import GenerationRequest
from edgellm.types.sampling import Sampling

LONG = "a long answer " * 130
both = pytest.mark.parametrize("isolate", [True, False], ids=["process", "thread"])
Open = Callable[..., EdgeLLM]


@pytest.fixture
def open_llm() -> Iterator[Open]:
    """In a thread, unless a test asks for a process: `both` are those whose answers come another way there."""
    opened: list[EdgeLLM] = []

    def open_one(model: str = "echo", **kind: object) -> EdgeLLM:
        opened.append(EdgeLLM.load(model, **{"isolate": False} | kind))  # type: ignore[arg-type]
        return opened[-1]

    yield open_one
    for llm in opened:
        llm.close()


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """20 ms a step, so that an answer can be left in the middle: LONG takes half a minute."""
    monkeypatch.setenv("EDGELLM_ECHO_STEP_S", "0.02")


@pytest.fixture
def very_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """So slow that an answer can be left in the middle: LONG takes 327 s, longer than any test may run."""
    monkeypatch.setenv("EDGELLM_ECHO_STEP_S", "0.18")


@pytest.fixture
def real(smollm2: str) -> Iterator[EdgeLLM]:
    settings = Settings(n_ctx=256, n_slots=4, n_batch=128)
    with EdgeLLM(LaunchPlan("gguf", Artifact("gguf", (smollm2,), "smollm2"), settings)) as llm:
        yield llm


def answered_in_all_slots(llm: EdgeLLM, n_slots: int) -> None:
    """All slots are free: as many answers as there are slots come before LONG could end."""
    with ThreadPoolExecutor(n_slots) as pool:
        assert list(pool.map(lambda n: llm.chat(f"{n}", temperature=0).text, range(n_slots))) == [
            str(n) for n in range(n_slots)
        ]


@pytest.mark.parametrize(
    ("isolate", "n_requests"),
    [
        pytest.param(True, 10, id="process"),
        pytest.param(True, 100, id="process-for-long", marks=pytest.mark.slow(6)),
        pytest.param(False, 100, id="thread-for-long", marks=pytest.mark.slow(2)),
    ],
)
def test_32_threads_ask_at_once(open_llm: Open, isolate: bool, n_requests: int) -> None:
    """Each answer is the thread's own, streamed or whole."""
    llm = open_llm(slots=8, ctx=256, isolate=isolate)

    def ask(thread: int) -> int:
        right = 0
        for n in range(n_requests):
            text = f"thread {thread} request {n} é🙂"
            if n % 2:
                said = llm.chat(text, temperature=0).text
            else:
                said = "".join(e.text for e in llm.stream(text, temperature=0) if isinstance(e, Delta))
            right += said == text
        return right

    with ThreadPoolExecutor(32) as pool:
        assert list(pool.map(ask, range(32))) == [n_requests] * 32


WORDS = ("one", "two", "red", "sky", "tea")


@pytest.mark.model
@pytest.mark.timeout(1200)
@pytest.mark.slow(6)
def test_threads_on_a_real_model_get_the_answers_of_one_thread(real: EdgeLLM) -> None:
    """Short greedy and seeded answers; the same asked one after the other and all at once."""
    asked = [(f"Say {word}", {"temperature": n % 2, "seed": n}) for n, word in enumerate(WORDS)]

    def ask(number: int) -> str:
        prompt, how = asked[number % len(asked)]
        return real.chat(prompt, max_tokens=4, **how).text  # type: ignore[arg-type]

    alone = [ask(number) for number in range(len(asked))]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(ask, range(40)))
    if "AMX" in real.info.details["buffers"]:
        assert together == alone * 8
    assert all(together)


async def test_64_coroutines_stream_at_once(open_llm: Open) -> None:
    llm = open_llm(slots=8)

    async def ask(n: int) -> str:
        return "".join([e.text async for e in llm.astream(f"coroutine {n}", temperature=0) if isinstance(e, Delta)])

    assert await asyncio.gather(*map(ask, range(64))) == [f"coroutine {n}" for n in range(64)]
    assert (await llm.achat("whole", temperature=0)).text == "whole"


@pytest.mark.usefixtures("very_slow")
@both
async def test_cancelling_a_task_frees_its_slot(open_llm: Open, isolate: bool) -> None:
    llm = open_llm(slots=2, isolate=isolate)
    begun = asyncio.Event()

    async def ask() -> None:
        async for _ in llm.astream(LONG, temperature=0):
            begun.set()

    tasks = [asyncio.create_task(ask()) for _ in range(2)]
    await begun.wait()
    for task in tasks:
        task.cancel()
    assert all(isinstance(end, asyncio.CancelledError) for end in await asyncio.gather(*tasks, return_exceptions=True))
    await asyncio.to_thread(answered_in_all_slots, llm, 2)


@pytest.mark.usefixtures("very_slow")
async def test_leaving_an_async_loop_frees_the_slot_at_once(open_llm: Open) -> None:
    llm = open_llm(slots=1)
    events = llm.astream(LONG, temperature=0)
    await anext(events)
    await events.aclose()
    assert len(llm._session._dispatcher) == 0  # type: ignore[attr-defined]
    await asyncio.to_thread(answered_in_all_slots, llm, 1)


@pytest.mark.usefixtures("very_slow")
@both
@pytest.mark.parametrize("how", ["close", *(pytest.param(how, marks=pytest.mark.slow(2)) for how in ("drop", "break"))])
def test_leaving_a_stream_frees_its_slot(open_llm: Open, isolate: bool, how: str) -> None:
    llm = open_llm(slots=1, isolate=isolate)
    events = llm.stream(LONG, temperature=0)
    assert isinstance(next(events), Delta)
    if how == "close":
        events.close()
    elif how == "break":
        for _ in events:
            break
    del events
    gc.collect()
    answered_in_all_slots(llm, 1)


QUESTIONS: list[dict[str, object]] = [
    {"messages": "plain text é🙂"},
    {"messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "the last one"}]},
    {"messages": [Message("user", "cut here please")], "stop": ["here"]},
    {"messages": "0123456789", "max_tokens": 4},
    {"messages": "seeded", "temperature": 5.0, "seed": 3, "max_tokens": 20},
    {"messages": "biased", "logit_bias": ((65, 100.0),), "max_tokens": 3, "temperature": 0},
]


@pytest.mark.parametrize(
    "question",
    [
        *QUESTIONS[1:3],
        *(pytest.param(question, marks=pytest.mark.slow(1)) for question in (QUESTIONS[0], *QUESTIONS[3:])),
    ],
    ids=lambda question: str(question["messages"])[:20],
)
def test_a_thread_answers_as_a_process_does(open_llm: Open, question: dict[str, object]) -> None:
    found: list[Completion] = []
    for isolate in (True, False):
        asked = {"temperature": 0, **question}
        found.append(open_llm(isolate=isolate).chat(**asked))  # type: ignore[arg-type]
    one, other = (structs.replace(completion, timings=found[0].timings) for completion in found)
    assert one == other
    assert one.text


@pytest.mark.model
@pytest.mark.timeout(900)
def test_a_thread_answers_as_a_process_does_on_a_real_model(smollm2: str) -> None:
    settings = Settings(n_ctx=256)
    plan = LaunchPlan("gguf", Artifact("gguf", (smollm2,), "smollm2"), settings)
    texts = []
    for isolate in (True, False):
        with EdgeLLM(plan, isolate=isolate) as llm:
            texts.append([llm.chat("Name a colour.", max_tokens=8, seed=n).text for n in (1, 2, 1)])
    assert texts[0] == texts[1]
    assert texts[0][0] == texts[0][2], "a seed gives the same text again"


def test_events_come_in_order(open_llm: Open) -> None:
    events = list(open_llm().stream("hello", temperature=0))
    assert all(isinstance(event, Delta) for event in events[:-1])
    done = events[-1]
    assert isinstance(done, Done)
    assert (done.finish_reason, done.usage.completion_tokens) == ("stop", 5)
    assert sum(event.n_tokens for event in events if isinstance(event, Delta)) == 5
    assert done.timings.prefill_s >= 0


@both
def test_errors_are_typed(open_llm: Open, isolate: bool) -> None:
    llm = open_llm(ctx=256, isolate=isolate)
    with pytest.raises(ContextOverflow) as overflow:
        llm.chat("x" * 1000)
    assert (overflow.value.n_prompt, overflow.value.n_ctx) == (1001, 256)
    for wrong in (
        {"messages": []},
        {"messages": ""},
        {"messages": " \n"},
        {"messages": [{"role": "user"}]},
        {"messages": [{"content": "hello"}]},
        {"messages": [{"role": "user", "content": None}]},
        {"messages": [{"role": "user", "content": 5}]},
        {"messages": 5},
        {"messages": None},
        {"messages": "hello", "temprature": 1},
        {"messages": "hello", "temperature": -1},
        {"messages": "hello", "temperature": "hot"},
        {"messages": "hello", "top_k": 1.5},
        {"messages": "hello", "seed": "one"},
        {"messages": "hello", "logit_bias": {"five": 1.0}},
        {"messages": "hello", "max_tokens": 0},
        {"messages": "hello", "max_tokens": "many"},
        {"messages": "hello", "stop": [""]},
        {"messages": "hello", "stop": [5]},
        {"messages": "\ud800"},
        {"messages": [{"role": "user", "content": "hello", "contnet": "hello"}]},
        {"messages": "hello", "stream": True},
        {"messages": "hello", "response_format": {"type": "json_object"}},
    ):
        with pytest.raises(UsageError):
            llm.chat(**wrong)  # type: ignore[arg-type]
    with pytest.raises(UnknownModel):
        EdgeLLM.load("no-such-model-at-all", isolate=isolate)
    assert llm.chat("still here", temperature=0).text == "still here"


@pytest.mark.usefixtures("very_slow")
@both
def test_an_answer_that_is_late_is_ended_and_its_slot_is_free(open_llm: Open, isolate: bool) -> None:
    llm = open_llm(slots=1, isolate=isolate)
    with refuses(TimedOut, timeout=0.3):
        llm.chat(LONG, temperature=0, timeout=0.3)
    with refuses(TimedOut, timeout=0.25):
        list(llm.stream(LONG, temperature=0, timeout=0.25))
    answered_in_all_slots(llm, 1)


@pytest.mark.usefixtures("very_slow")
@both
async def test_an_answer_that_is_late_is_ended_for_coroutines_too(open_llm: Open, isolate: bool) -> None:
    llm = open_llm(slots=1, isolate=isolate)
    with refuses(TimedOut, timeout=0.3):
        await llm.achat(LONG, temperature=0, timeout=0.3)
    await asyncio.to_thread(answered_in_all_slots, llm, 1)


@pytest.mark.usefixtures("very_slow")
@pytest.mark.parametrize("slots", [1, 3])
async def test_an_answer_that_never_began_is_told_of_slots(open_llm: Open, slots: int) -> None:
    llm = open_llm(slots=slots, isolate=False)
    others = [llm.stream(LONG, temperature=0) for _ in range(slots)]
    for stream in others:
        next(iter(stream))
    with refuses(TimedOut, timeout=0.1) as caught:
        llm.chat("Hello", timeout=0.1)
    assert f"slots={slots + 1}" in caught.value.hint
    with refuses(TimedOut, timeout=0.15) as caught:
        await llm.achat("Hello", timeout=0.15)
    assert f"slots={slots + 1}" in caught.value.hint
    for stream in others:
        stream.close()


async def test_what_came_in_time_can_be_taken_later() -> None:
    """The time is the model's, not that of the loop that reads its answer."""
    sink, later = QueueSink(), AsyncSink()
    sink.put(Delta("in time"))
    later.queue.put_nowait(Delta("in time"))
    deadline = Deadline(0.001)
    wait_until(lambda: deadline._left == 0)

    assert deadline.next_of(sink) == Delta("in time")
    assert await deadline.keep(later.get_all()) == [Delta("in time")]
    with refuses(TimedOut, timeout=0.001):
        deadline.next_of(sink)
    with refuses(TimedOut, timeout=0.001):
        await deadline.keep(later.get_all())


@pytest.mark.parametrize("timeout", [None, 3600.0])
async def test_a_fork_waits_for_nothing_and_begins_nothing(
    timeout: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A function of the app's that a model calls, for example."""
    begun: list[str] = []

    async def begin() -> None:
        begun.append("it")

    sink = QueueSink()
    sink.put(Delta("from before the fork"))
    deadline = Deadline(timeout)
    monkeypatch.setattr(os, "getpid", lambda: 0)

    with refuses(UsageError, varies=r"process \d+"):
        deadline.next_of(sink)
    with pytest.raises(UsageError):
        deadline.check()
    with pytest.raises(UsageError):
        await deadline.keep(begin())
    assert not begun


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), "soon"])
async def test_a_timeout_is_a_number_of_seconds(open_llm: Open, timeout: Any) -> None:
    llm = open_llm(isolate=False)
    for ask in (llm.chat, llm.embed):
        with refuses(UsageError, param="timeout"):
            ask("hello", timeout=timeout)
    with refuses(UsageError, param="timeout"):
        await llm.achat("hello", timeout=timeout)


@pytest.mark.parametrize("timeout", [1e12, float("inf"), 10**400])
async def test_a_timeout_without_end_is_none(timeout: float) -> None:
    sink, later = QueueSink(), AsyncSink()
    sink.put(Delta("here"))
    later.queue.put_nowait(Delta("here"))
    deadline = Deadline(timeout)
    assert deadline.next_of(sink) == Delta("here")
    assert await deadline.keep(later.get_all()) == [Delta("here")]


@both
def test_a_closed_model_says_so_whatever_is_asked(open_llm: Open, isolate: bool) -> None:
    llm = open_llm(isolate=isolate)
    llm.close()
    with refuses(Closed) as caught, llm:
        pass
    calls = (lambda: asyncio.run(llm.__aenter__()), lambda: llm.chat("Hi"), lambda: llm.tokenize("Hi"))
    for call in (*calls, lambda: llm.embed("Hi"), lambda: next(llm.stream("Hi"))):
        with pytest.raises(Closed) as again:
            call()
        assert (str(again.value), again.value.hint) == (str(caught.value), caught.value.hint)


def test_a_verification_is_shown_as_what_it_has(open_llm: Open) -> None:
    assert repr(open_llm(isolate=False).verification) == "<Verification of echo: run=None, drifts=()>"


@both
def test_a_frozen_app_is_not_started_again(monkeypatch: pytest.MonkeyPatch, isolate: bool) -> None:
    def start(*_: Any, **__: Any) -> None:
        raise AssertionError("a process is started")

    monkeypatch.delenv("EDGELLM_PYTHON", raising=False)
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(sys, "executable", "/opt/app/app")
    monkeypatch.setattr(subprocess, "Popen", start)
    for load in (lambda: EdgeLLM.load("echo", isolate=isolate), lambda: EdgeLLM.auto(isolate=isolate)):
        with refuses(UsageError):
            load()


def test_a_single_stop_string_may_be_a_string(open_llm: Open) -> None:
    assert open_llm().chat("one, two", temperature=0, stop=" two").text == "one,"


@pytest.mark.model
@pytest.mark.timeout(900)
def test_a_base_model_continues_text_and_says_that_it_cannot_chat(gemma3: str) -> None:
    plan = LaunchPlan("gguf", Artifact("gguf", (gemma3,), "gemma-3-270m"), Settings(n_ctx=256))
    with EdgeLLM(plan) as llm:
        with refuses(BadTemplate):
            llm.chat("hello")
        request = GenerationRequest("The capital of France is", Sampling(temperature=0), max_tokens=3)
        assert "".join(event.text for event in llm.generate(request) if isinstance(event, Delta)).strip()


@both
async def test_context_managers_close(isolate: bool) -> None:
    with EdgeLLM.load("echo", isolate=isolate) as llm:
        assert llm.state == "ready"
    assert llm.state == "closed"
    with pytest.raises(Closed):
        llm.chat("hello")
    llm.close()
    async with EdgeLLM.load("echo", isolate=isolate) as other:
        assert (await other.achat("hello", temperature=0)).text == "hello"
    assert other.state == "closed"


@both
def test_a_model_that_cannot_be_loaded_leaves_nothing(tmp_path, isolate: bool) -> None:
    before = threading.active_count()
    path = tmp_path / "bad.gguf"
    path.write_bytes(b"GGUF" + bytes(60))
    plan = LaunchPlan("gguf", Artifact("gguf", (str(path),), "bad"), Settings(n_ctx=256))
    kinds = []
    for _ in range(2):
        llm = EdgeLLM(plan, isolate=isolate)
        with pytest.raises(Exception) as caught:
            _ = llm.info
        kinds.append(caught.type.__name__)
        sink = QueueSink()
        with pytest.raises(caught.type):
            llm._session.submit(GenerationRequest("x"), sink)
        assert llm.state == "failed"
        llm.close()
    assert kinds == ["BadArtifact", "BadArtifact"]
    wait_until(lambda: threading.active_count() <= before)  # the last ones may still be leaving


@both
@pytest.mark.usefixtures("slow")
def test_closing_under_load_ends_everything(isolate: bool) -> None:
    """Threads that ask while the model is closed get an answer or a typed error, none waits for ever."""
    llm = EdgeLLM.load("echo", slots=2, isolate=isolate)
    started = threading.Barrier(9)
    answered: list[str] = []

    def ask(n: int) -> str:
        started.wait()
        try:
            while True:
                answered.append(llm.chat(f"number {n}", temperature=0).text)
        except Closed:
            return "closed"

    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask, n) for n in range(8)]
        started.wait()
        wait_until(lambda: answered)
        llm.close()
        assert [future.result(PATIENCE_S) for future in asked] == ["closed"] * 8


def test_explain_gives_the_reasons(open_llm: Open) -> None:
    llm = open_llm(threads=1)
    assert llm.explain().splitlines() == said(llm.plan)
    assert "Threads: 1, as asked." in llm.explain()


@pytest.mark.model
@pytest.mark.timeout(900)
@pytest.mark.slow(2)
def test_auto_offline_picks_what_is_stored(smollm2: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from test_launch import SMOLLM2, put_in_store

    put_in_store(smollm2)
    with EdgeLLM.auto(offline=True, ctx=512) as llm:
        assert llm.plan.artifact.model_id == SMOLLM2
        assert llm.decision is not None
        assert llm.chat("Hi", max_tokens=2).text
        assert SMOLLM2 in llm.explain() or "SmolLM2" in llm.explain()


CHAT = """
import sys
from edgellm.types.grammar import Grammar
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan, Settings
from edgellm.sdk.client import EdgeLLM
plan = LaunchPlan(sys.argv[1], Artifact(sys.argv[1], tuple(sys.argv[2:]), "model"), Settings(n_ctx=256))
with EdgeLLM(plan) as llm:
    assert llm.chat("hello", max_tokens=2).text
print(sorted({"llama_cpp", "onnxruntime", "torch", "numpy"} & set(sys.modules)))
"""


@pytest.mark.parametrize(
    "backend", [pytest.param("echo", marks=pytest.mark.slow(1)), pytest.param("gguf", marks=pytest.mark.model)]
)
def test_the_parent_imports_no_backend_library(backend: str, request: pytest.FixtureRequest) -> None:
    paths = [request.getfixturevalue("smollm2")] if backend == "gguf" else []
    done = subprocess.run([sys.executable, "-c", CHAT, backend, *paths], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}


@both
def test_every_way_to_ask_keeps_to_the_grammar(open_llm: Open, isolate: bool) -> None:
    llm, grammar = open_llm(isolate=isolate), Grammar("choice", '["yes", "no"]')

    async def later() -> list[str]:
        answer = await llm.achat("Hello", grammar=grammar)
        events = [event async for event in llm.astream("Hello", grammar=grammar)]
        return [answer.text, "".join(event.text for event in events if isinstance(event, Delta))]

    streamed = "".join(event.text for event in llm.stream("Hello", grammar=grammar) if isinstance(event, Delta))
    texts = [llm.chat("Hello", grammar=grammar).text, streamed, *asyncio.run(later())]
    assert set(texts) <= {"yes", "no"}
    answer = llm.chat("Hello", grammar=Grammar.of_schema(SCHEMA), temperature=0.9, seed=4)
    assert list(json.loads(answer.text)) == ["n"]


def test_logprobs_of_every_token(open_llm: Open) -> None:
    llm = open_llm()
    answer = llm.chat("Grüße", top_logprobs=1)
    streamed = [
        token for event in llm.stream("Grüße", top_logprobs=1) if isinstance(event, Delta) for token in event.logprobs
    ]

    assert b"".join(token.chosen.piece for token in answer.logprobs).decode() == "Grüße"
    assert [token.chosen for token in answer.logprobs] == [token.top[0] for token in answer.logprobs]
    assert tuple(streamed) == answer.logprobs
    assert llm.chat("Grüße").logprobs == ()


@both
def test_an_answer_that_is_closed_in_the_middle_is_an_error(open_llm: Open, very_slow: None, isolate: bool) -> None:
    llm = open_llm(isolate=isolate)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(llm.chat, LONG)
        wait_until(lambda: not llm._session.idle)
        llm.close()
        with refuses(Closed):
            answer.result(PATIENCE_S)


async def test_an_answer_is_plain_data_for_a_web_framework(open_llm: Open) -> None:
    answer = msgspec.to_builtins(await open_llm().achat("hello"))
    assert (answer["text"], answer["finish_reason"]) == ("hello", "stop")
    assert json.loads(json.dumps(answer))["usage"]["completion_tokens"] == 5


def test_the_parts_of_a_text_are_one_message(open_llm: Open) -> None:
    parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    assert open_llm().chat([{"role": "user", "content": parts}]).text == "hello"
    with refuses(UsageError, param="messages"):
        open_llm().chat([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}])
    with refuses(UsageError, param="messages"):
        open_llm().chat([{"role": "user", "content": [{"type": "text"}]}])


@pytest.mark.parametrize(
    "options",
    [
        {"ctx": "x"},
        {"ctx": [1]},
        {"max_memory": "x"},
        {"options": {"foo"}},
        {"threads": 0},
        {"quant": 3},
        {"min_tps": "5"},
        {"threads": 1.5},
        {"max_memory": 2.5},
    ],
)
def test_an_option_of_another_type_is_refused_by_its_name(options: dict[str, Any]) -> None:
    (name,) = options
    with refuses(UsageError, varies=r"(?<=allowed: 1 to )\d+(?=, the)", param=name):
        EdgeLLM.load("echo", **options)


def test_a_context_is_written_as_on_the_command_line() -> None:
    with EdgeLLM.load("echo", ctx="1k", isolate=False) as llm:
        assert llm.info.n_ctx == 1024


def test_what_no_request_is_is_refused(open_llm: Open) -> None:
    for request in ("Once upon a time", None, [1, 2]):
        with refuses(UsageError, param="request"):
            next(open_llm().generate(request))  # type: ignore[arg-type]


def test_a_model_is_loaded_by_a_name_or_chosen() -> None:
    with refuses(UsageError, param="plan"):
        EdgeLLM()


def test_no_model_of_that_name() -> None:
    with refuses(UnknownModel, param="model"):
        EdgeLLM.load("no-such-model")


@pytest.mark.parametrize("model", [None, ""])
def test_no_name_is_not_a_wish_for_any_model(model: Any) -> None:
    with refuses(UsageError, param="model"):
        EdgeLLM.load(model)


def test_an_answer_that_is_cut_ends_with_a_whole_character(open_llm: Open) -> None:
    answer = open_llm().chat("🎈🎈", max_tokens=6)
    assert (answer.text, answer.finish_reason, answer.usage.completion_tokens) == ("🎈", "length", 6)


class Name(str):
    """As numpy, pandas and templates give texts."""


@both
def test_texts_of_a_class_of_their_own_are_texts(open_llm: Open, isolate: bool) -> None:
    llm = open_llm(isolate=isolate)
    assert llm.chat(Name("Hello"), stop=[Name("zzz")]).text == "Hello"
    assert llm.embed([Name("Hello"), np.str_("you")]).shape[0] == 2
    assert llm.embed(np.array(["a", "b"])).shape[0] == 2  # type: ignore[arg-type]
    assert llm.state == "ready"


def test_a_misspelt_option_is_told_with_all_there_are(open_llm: Open) -> None:
    with refuses(UsageError, param="max_token"):
        open_llm().chat("hi", max_token=3)  # type: ignore[call-arg]


def test_a_schema_that_is_not_json_is_refused() -> None:
    with refuses(UsageError):
        Grammar.of_schema({"enum": {1, 2}})


WEATHER = Tool("weather", parameters={"type": "object"})


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"tool_choice": NamedTool("wether"), "tools": [WEATHER]}, "tool_choice"),
        ({"tool_choice": "sometimes", "tools": [WEATHER]}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"reasoning_effort": "hard"}, "reasoning_effort"),
        ({"reasoning_effort": "low", "thinking": False}, "reasoning_effort"),
    ],
)
def test_options_that_disagree_are_refused(open_llm: Open, options: dict[str, Any], param: str) -> None:
    with refuses(UsageError, param=param):
        open_llm(isolate=False).chat("hi", **options)


def test_biases_are_a_dictionary_too_and_a_sampling_is() -> None:
    pairs = ((65, 100.0),)
    assert Sampling.of(logit_bias={65: 100.0}) == Sampling.of(logit_bias={"65": 100.0}) == Sampling(logit_bias=pairs)
    with EdgeLLM.load("echo", isolate=False) as llm:
        request = llm.request("biased", sampling={"temperature": 0, "logit_bias": {65: 100.0}}, max_tokens=3)
        assert request.sampling == Sampling(temperature=0, logit_bias=pairs)


def test_a_key_that_a_message_has_not_is_refused_by_its_name_and_one_without_a_value_is_none() -> None:
    with EdgeLLM.load("echo", isolate=False) as llm:
        with refuses(UsageError, param="messages"):
            llm.chat([{"role": "user", "content": "hello", "contnet": "hello"}])
        answered = {"role": "assistant", "content": "yes", "refusal": None, "annotations": []}
        said = [{"role": "user", "content": "one"}, answered, {"role": "user", "content": "hello"}]
        assert llm.chat(said).text == "hello"


@pytest.mark.parametrize("option", [{"stream": True}, {"response_format": {"type": "json_object"}}, {"model": "x"}])
def test_what_other_clients_take_is_refused_with_what_is_meant(option: dict[str, Any]) -> None:
    (name,) = option
    with EdgeLLM.load("echo", isolate=False) as llm, refuses(UsageError, param=name):
        llm.chat("hello", **option)


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs POSIX signals")
def test_a_stream_that_another_thread_reads_is_not_closed_and_says_so(open_llm: Open) -> None:
    llm = open_llm(isolate=True)
    assert llm.info
    worker: int = llm._session.pid  # type: ignore[attr-defined]
    os.kill(worker, signal.SIGSTOP)  # nothing comes, so the other thread waits
    events = llm.stream("hello", temperature=0)
    reader = threading.Thread(target=lambda: list(events))
    try:
        reader.start()
        wait_until(lambda: events._events.gi_running)  # type: ignore[attr-defined]
        with refuses(UsageError):
            events.close()
    finally:
        os.kill(worker, signal.SIGCONT)
    reader.join(PATIENCE_S)
    events.close()


def test_progress_that_nobody_can_call_is_refused_before_anything_is_fetched() -> None:
    for call in (lambda: EdgeLLM.load("echo", progress=None), lambda: EdgeLLM.auto(progress=None)):  # type: ignore
        with refuses(UsageError, param="progress"):
            call()


@pytest.mark.parametrize("isolate", ["no", 0, None])
def test_isolate_is_yes_or_no(isolate: Any) -> None:
    plan = LaunchPlan("echo", Artifact("echo", (), "echo"), Settings(n_ctx=256, n_slots=1))
    for call in (partial(EdgeLLM, plan), partial(EdgeLLM.load, "no-such-model"), EdgeLLM.auto):
        with refuses(UsageError, param="isolate"):
            call(isolate=isolate)


@pytest.mark.parametrize(("name", "size"), [("max_memory", -1), ("max_memory", 0), ("max_download", -1)])
def test_a_size_that_is_none_is_told(name: str, size: int) -> None:
    with refuses(UsageError, param=name) as caught:
        EdgeLLM.load("echo", **{name: size})  # type: ignore[misc]
    assert f"{name}={size}" in caught.value.message
