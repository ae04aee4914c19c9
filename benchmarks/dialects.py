"""What each dialect of HTTP costs: processor time of a request, and of each chunk of a stream, beside chat completions.

    python benchmarks/dialects.py [--rounds 40]

The app answers in this process, without a socket, and the model's events are there at once: what is left is reading the
body, making the request, and writing the answer. Each request is one conversation in the dialect's own form (the twins
of tests/support/twins.py). Dialects take turns, some requests each; the medians of differences from chat completions
are shown.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from support.twins import Twin

from edgellm.sdk.client import EdgeLLM
from edgellm.server.app import create_app
from edgellm.types.event import Delta, Done, Event, Prefill, Timings, Usage
from edgellm.types.request import GenerationRequest

N_CHUNKS = 1000
IN_A_ROW = 9  # requests of one dialect, as a client sends them: the first finds another's code in the caches
SHORT, LONG = 2, 11  # twins: a question alone, and a conversation with tools, thoughts and calls
DIALECTS: dict[str, tuple[str, Callable[[Twin], dict[str, Any]]]] = {
    "chat completions": ("/v1/chat/completions", Twin.chat),
    "responses": ("/v1/responses", Twin.responses),
    "messages": ("/v1/messages", Twin.anthropic),
    "ollama": ("/api/chat", Twin.ollama),
}


@dataclass
class Model:
    """In place of what computes: `n_chunks` deltas, each by itself."""

    n_chunks: int = 1

    async def events(self, request: GenerationRequest, **_: Any) -> AsyncGenerator[list[Event], None]:
        if request.progress:
            yield [Prefill(9, 0, 9, 0.0)]
        for _number in range(self.n_chunks):
            yield [Delta(" word")]
        yield [Done("stop", Usage(9, self.n_chunks), Timings(0.0, 0.0, 0.0))]


async def cost(app: Any, path: str, body: bytes) -> float:
    """Seconds of processor time that one request takes."""
    sent: list[Any] = []
    received = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if not received.is_set():
            received.set()
            return {"type": "http.request", "body": body, "more_body": False}
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")]
    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "http_version": "1.1",
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "scheme": "http",
    }
    started = time.process_time()
    await app(scope, receive, send)
    elapsed = time.process_time() - started
    assert sent[0]["status"] == 200, sent
    return elapsed


def bodies(twin: Twin, *, stream: bool) -> dict[str, tuple[str, bytes]]:
    return {
        name: (path, json.dumps({**written(twin), "stream": stream}).encode())
        for name, (path, written) in DIALECTS.items()
    }


async def differences(app: Any, sent: dict[str, tuple[str, bytes]], rounds: int) -> tuple[float, dict[str, float]]:
    """Seconds of chat completions, and how many more the others take."""
    for path, body in sent.values():
        await cost(app, path, body)
    costs: dict[str, list[float]] = {name: [] for name in sent}
    for _ in range(rounds):
        for name, (path, body) in sent.items():
            costs[name].append(statistics.median([await cost(app, path, body) for _ in range(IN_A_ROW)]))
    chat = costs.pop("chat completions")
    more = {name: statistics.median(a - b for a, b in zip(own, chat, strict=True)) for name, own in costs.items()}
    return statistics.median(chat), more


async def measure(rounds: int) -> None:
    with EdgeLLM.load("echo", isolate=False) as llm:
        model = Model()
        llm.aevents = model.events  # type: ignore[assignment, method-assign]
        app = create_app(llm)
        for what, number in (("a question", SHORT), ("a conversation with tools", LONG)):
            chat, more = await differences(app, bodies(Twin.generated(number), stream=False), rounds)
            told = ", ".join(f"{name} {1e6 * seconds:+.0f}" for name, seconds in more.items())
            print(f"request, {what}: chat {1e6 * chat:.0f} us; {told}")
        model.n_chunks = N_CHUNKS
        chat, more = await differences(app, bodies(Twin.generated(SHORT), stream=True), max(5, rounds // 4))
        told = ", ".join(f"{name} {1e6 * seconds / N_CHUNKS:+.2f}" for name, seconds in more.items())
        print(f"chunk of a stream of {N_CHUNKS}: chat {1e6 * chat / N_CHUNKS:.2f} us; {told}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    asyncio.run(measure(parser.parse_args().rounds))


if __name__ == "__main__":
    main()
