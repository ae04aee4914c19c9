"""OpenAI's own Python client, unmodified, against a real server."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import openai
import pytest
from support.live_server import Live, Servers
from support.refusals import refuses

HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture
def client(live: Live) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


def test_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="echo", messages=HELLO)

    assert answer.choices[0].message.content == "hello"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.prompt_tokens_details.cached_tokens >= 0
    # The answer goes back as it came.
    more = [*HELLO, answer.choices[0].message, {"role": "user", "content": "again"}]
    assert client.chat.completions.create(model="echo", messages=more).choices[0].message.content == "again"
    dumped = [*HELLO, answer.choices[0].message.model_dump(), {"role": "user", "content": "again"}]
    assert client.chat.completions.create(model="echo", messages=dumped).choices[0].message.content == "again"


def test_chat_stream(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="echo", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)

    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "hello"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].usage.completion_tokens == 5
    assert chunks[-2].choices[0].finish_reason == "stop"


def test_the_client_s_own_stream_helper(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model="echo", messages=HELLO) as stream:
        kinds = [event.type for event in stream]
        assert stream.get_final_completion().choices[0].message.content == "hello"
    assert "content.delta" in kinds


def test_completions(client: openai.OpenAI) -> None:
    assert client.completions.create(model="echo", prompt="hello").choices[0].text == "hello"
    parts = client.completions.create(model="echo", prompt="hello", stream=True)
    assert "".join(part.choices[0].text for part in parts) == "hello"


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["echo"]
    assert client.models.retrieve("echo").id == "echo"


def test_our_extensions_go_through_extra_body(client: openai.OpenAI) -> None:
    extra = {"top_k": 5, "min_p": 0.05, "typical_p": 0.9, "repetition_penalty": 1.0, "penalty_last_n": 8}
    answer = client.chat.completions.create(model="echo", messages=HELLO, temperature=0, extra_body=extra)
    assert answer.choices[0].message.content == "hello"


@pytest.mark.parametrize(
    ("fields", "kind", "param"),
    [
        ({"n": 0}, openai.BadRequestError, "n"),
        ({"modalities": ["audio"]}, openai.BadRequestError, "modalities"),
        ({"temperature": -1}, openai.BadRequestError, "temperature"),
        ({"model": "gpt-4o"}, openai.NotFoundError, "model"),
    ],
)
def test_errors_are_the_client_s_classes(client: openai.OpenAI, fields, kind, param) -> None:
    with pytest.raises(kind) as caught:
        client.chat.completions.create(**{"model": "echo", "messages": HELLO, **fields})
    assert caught.value.param == param
    assert caught.value.code


def test_a_wrong_key(serve: Servers) -> None:
    live = serve(api_key="right")
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="wrong", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError):
            client.models.list()
        assert client.with_options(api_key="right").models.list().data[0].id == "echo"


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs POSIX signals")
def test_while_loading_the_client_waits_and_tries_again(serve: Servers) -> None:
    live = serve(load_s=1.0, wait=False)
    live.hold()
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="unused", max_retries=0) as client:
        with refuses(openai.InternalServerError, code="model_loading", status_code=503):
            client.chat.completions.create(model="echo", messages=HELLO)
        live.release()
        patient = client.with_options(max_retries=60)  # one a second
        assert patient.chat.completions.create(model="echo", messages=HELLO).choices[0].message.content == "hello"


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs POSIX signals")
def test_a_crash_in_mid_stream_is_raised(serve: Servers) -> None:
    live = serve(step_s=0.02)
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="unused", max_retries=0) as client:
        stream = client.chat.completions.create(
            model="echo", messages=[{"role": "user", "content": "x" * 2000}], stream=True
        )
        next(stream)
        threading.Timer(0.1, lambda: os.kill(live.llm._session.pid, signal.SIGSEGV)).start()
        with refuses(openai.APIError, code="worker_crashed"):
            list(stream)
        assert client.chat.completions.create(model="echo", messages=HELLO).choices[0].message.content == "hello"


async def test_the_async_client(live: Live) -> None:
    async with openai.AsyncOpenAI(base_url=f"{live.url}/v1", api_key="unused", max_retries=0) as client:
        answer = await client.chat.completions.create(model="echo", messages=HELLO)
        assert answer.choices[0].message.content == "hello"
        stream = await client.chat.completions.create(model="echo", messages=HELLO, stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        assert text == "hello"
        with pytest.raises(openai.BadRequestError):
            await client.chat.completions.create(model="echo", messages=HELLO, n=0)
