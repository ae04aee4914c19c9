"""A conversation that is too long for the context: refused, or, where that is asked for, without its oldest turns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from support.refusals import refuses

from edgellm.errors import ContextOverflow
from edgellm.sdk.client import EdgeLLM
from edgellm.types.message import Message

N_CTX = 512
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}<assistant>"


@pytest.fixture(scope="module")
def llm() -> Iterator[EdgeLLM]:
    """Echo with a template that writes all messages."""
    with EdgeLLM.load("echo", ctx=N_CTX, isolate=False) as llm:
        llm._session._info = replace(llm.info, chat_template=TEMPLATE)
        yield llm


def talk(n: int, said: str = "é" * 20) -> list[Message]:
    turns = [Message(role, f"{number} {said}") for number in range(n) for role in ("user", "assistant")]
    return [Message("system", "Be brief."), *turns, Message("user", "And now?")]


def test_what_fits_is_left_alone(llm: EdgeLLM) -> None:
    assert llm.request(talk(2), truncate=True) == llm.request(talk(2))


@pytest.mark.parametrize("max_tokens", [None, 10, 200, 9999])
def test_as_much_stays_as_the_answer_leaves_room_for(llm: EdgeLLM, max_tokens: int | None) -> None:
    """Against the longest end of the conversation that fits, counted turn by turn."""
    free = {None: N_CTX // 8, 10: 10, 200: 200, 9999: N_CTX // 2}[max_tokens]
    system, *rest = talk(30)
    request = llm.request([system, *rest], truncate=True, max_tokens=max_tokens)
    fitting = [n for n in range(0, 60, 2) if llm.count_tokens([system, *rest[n:]]) <= N_CTX - free]
    n_dropped = min(fitting)
    assert n_dropped > 0
    assert request.prompt == llm.request([system, *rest[n_dropped:]]).prompt
    assert request.notes == (f"messages_dropped: {n_dropped}",)
    assert llm.count_tokens(request) <= N_CTX - free


def test_more_bytes_than_any_context_holds_are_dropped_too(llm: EdgeLLM) -> None:
    messages = [Message("user", "a" * 200 * N_CTX), Message("assistant", "b"), Message("user", "And now?")]
    assert llm.request(messages, truncate=True).notes == ("messages_dropped: 2",)
    with refuses(ContextOverflow):
        llm.request(messages)


def test_a_last_message_that_is_too_long_is_refused(llm: EdgeLLM) -> None:
    with refuses(ContextOverflow):
        llm.request("a" * 200 * N_CTX, truncate=True)
    request = llm.request([*talk(3), Message("assistant", "b"), Message("user", "c" * N_CTX)], truncate=True)
    assert request.notes == ("messages_dropped: 8",)
    with refuses(ContextOverflow):
        list(llm.generate(request))


def test_an_answer_comes(llm: EdgeLLM) -> None:
    request = llm.request(talk(30), truncate=True, max_tokens=20)
    *_, done = llm.generate(request)
    assert done.usage.prompt_tokens == llm.count_tokens(request)


async def test_a_chat_drops_what_does_not_fit(llm: EdgeLLM) -> None:
    notes = llm.request(talk(30), truncate=True, max_tokens=20).notes
    assert notes
    assert llm.chat(talk(30), truncate=True, max_tokens=20).notes == notes
    assert (await llm.achat(talk(30), truncate=True, max_tokens=20)).notes == notes


def test_what_a_template_adds_counts() -> None:
    """More than can be counted at a time, of messages that are short enough."""
    many = "{% for m in messages %}{% for _ in range(400) %}{{ m.content }}{% endfor %}{% endfor %}"
    with EdgeLLM.load("echo", ctx=N_CTX, isolate=False) as llm:
        llm._session._info = replace(llm.info, chat_template=many)
        messages = [Message("user", "a" * 5000), Message("assistant", "b"), Message("user", "c")]
        assert llm.request(messages, truncate=True).notes == ("messages_dropped: 2",)
