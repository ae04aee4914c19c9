"""LoRA adapters over HTTP against llama.cpp's own `llama-server` with the same files, in pairs of rounds.

    python benchmarks/adapters.py --llama-server PATH [--pairs 20] [--adapters 4] [--rank 16] [--tokens 64]
        [--ways together]

Both servers hold the same model and the same random adapters, and rounds alternate between them. A round is one
request with each adapter: one after the other ("in turn"), or all sent at once ("together"); and as a control, as many
without an adapter ("base"). Before them, the first answers of both are compared, token for token, and the seconds that
`EdgeLLM.add_adapter` takes are told, as a median of ten.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from serve import LEANEST, Answer, Server, default_model, free_port, prompt_of, serving

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from support.loras import random_lora

LOADS = 10
WAYS = ("base", "in turn", "together")
SIZE = 0.02  # spread of the random factors: answers change, and stay text


def commands(options: argparse.Namespace, model: str, loras: Sequence[Path], ports: Sequence[int]) -> list[list[str]]:
    threads, n = str(options.threads), len(loras)
    ours = [sys.executable, "-m", "edgellm", "serve", model, "--port", str(ports[0]), "--threads", threads]
    ours += ["--ctx", str(options.ctx), "--slots", str(n)]
    theirs = [options.llama_server, "-m", model, "--port", str(ports[1]), "-t", threads, "-tb", threads]
    theirs += ["-c", str(options.ctx * n), "-np", str(n), "--lora-init-without-apply", *LEANEST]
    for lora in loras:
        ours += ["--adapter", str(lora)]
        theirs += ["--lora", str(lora)]
    return [ours, theirs]


def asked(server: Server, number: int, n_adapters: int) -> dict[str, Any]:
    """What chooses an adapter, in the server's own words; -1 = none."""
    if server.name == "llama-server":
        return {"lora": [{"id": one, "scale": float(one == number)} for one in range(n_adapters)]}
    return {"adapters": [{"name": f"lora-{number}"}] if number >= 0 else []}


async def ask(server: Server, prompt: str, n_tokens: int, chosen: dict[str, Any]) -> Answer:
    """A streamed completion; see `serve.ask`."""
    fields = {"prompt": prompt, "stream": True, "max_tokens": n_tokens, "ignore_eos": True, "temperature": 0}
    body = json.dumps({"model": "default", **fields, **chosen}).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    answer = Answer(time.perf_counter(), [])
    writer.write(head.encode() + body)
    said = b""
    async for line in reader:
        said += line
        if line.startswith(b"data: {") and b'"text":' in line:
            answer.tokens.append(time.perf_counter())
    writer.close()
    if not answer.tokens:
        raise SystemExit(f"{server.name} refused: {said.decode(errors='replace')[:500]}")
    return answer


async def round_s(server: Server, options: argparse.Namespace, seed: int, way: str) -> float:
    """Seconds of one request with each adapter, or of as many without."""
    n = options.adapters
    chosen = [asked(server, -1 if way == "base" else one, n) for one in range(n)]
    requests = [
        ask(server, prompt_of(30, 100 * seed + one), options.tokens, adapters) for one, adapters in enumerate(chosen)
    ]
    started = time.perf_counter()
    if way == "together":
        await asyncio.gather(*requests)
    else:
        for request in requests:
            await request
    return time.perf_counter() - started


def greedy(server: Server, number: int, n_adapters: int) -> str:
    """The first 16 tokens after a fixed prompt."""
    fields = {"model": "default", "prompt": "Once upon a time", "max_tokens": 16, "temperature": 0}
    body = json.dumps({**fields, **asked(server, number, n_adapters)}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.port}/v1/completions", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=300) as answer:
        return str(json.load(answer)["choices"][0]["text"])


def compare(servers: Sequence[Server], options: argparse.Namespace) -> None:
    for number in range(-1, options.adapters):
        texts = [greedy(server, number, options.adapters) for server in servers]
        name = f"lora-{number}" if number >= 0 else "base"
        print(f"{name:<8} {'equal' if texts[0] == texts[1] else 'differ'}  {texts[0]!r}")
        if texts[0] != texts[1]:
            print(f"{'':<8} {servers[1].name}: {texts[1]!r}")


def measure(servers: Sequence[Server], options: argparse.Namespace) -> None:
    n_tokens = options.adapters * options.tokens
    for way in options.ways:
        for server in servers:
            asyncio.run(round_s(server, options, 0, way))
        pairs = []
        for number in range(1, options.pairs + 1):
            order = servers if number % 2 else list(reversed(servers))
            pairs.append({one.name: asyncio.run(round_s(one, options, number, way)) for one in order})
        ours, theirs = ([pair[server.name] for pair in pairs] for server in servers)
        ratios = sorted(b / a for a, b in zip(ours, theirs, strict=True))
        quarter = len(ratios) // 4
        print(
            f"{way:<10}{n_tokens / statistics.median(ours):8.1f}"
            f"{n_tokens / statistics.median(theirs):14.1f} tok/s   ratio {statistics.median(ratios):.3f}"
            f"   middle half {ratios[quarter]:.3f} to {ratios[-1 - quarter]:.3f}"
        )


def hot_loads(model: str, lora: Path, threads: int) -> list[float]:
    """Seconds that each load took, with a model that answers nothing meanwhile."""
    from edgellm.sdk.client import EdgeLLM

    taken = []
    with EdgeLLM.load(model, threads=threads, ctx=512) as llm:
        for number in range(LOADS):
            started = time.perf_counter()
            llm.add_adapter(lora, f"hot-{number}")
            taken.append(time.perf_counter() - started)
            llm.remove_adapter(f"hot-{number}")
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-server", default=os.environ.get("LLAMA_SERVER"), help="path of a built llama-server")
    parser.add_argument("--model", help="a GGUF file (default: SmolLM2-135M)")
    counts = (("pairs", 20), ("adapters", 4), ("rank", 16), ("tokens", 64), ("ctx", 512))
    for name, default in (*counts, ("threads", os.cpu_count() or 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    options = parser.parse_args()
    model = options.model or default_model()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as running:
        loras = [
            random_lora(Path(folder) / f"lora-{number}.gguf", model, rank=options.rank, seed=number, size=SIZE)
            for number in range(options.adapters)
        ]
        n_bytes = loras[0].stat().st_size
        print(f"{Path(model).name}, {options.adapters} adapters of rank {options.rank}, {n_bytes / 1e6:.1f} MB each, "
              f"{options.threads} threads, {options.tokens} tokens an answer, {options.pairs} pairs")  # fmt: skip
        taken = hot_loads(model, loras[0], options.threads)
        print(f"hot load: median {1000 * statistics.median(taken):.0f} ms, {1000 * min(taken):.0f} to "
              f"{1000 * max(taken):.0f}")  # fmt: skip
        if not options.llama_server:
            print("name a llama-server with --llama-server PATH or LLAMA_SERVER for the rest")
            return
        ports = [free_port(), free_port()]
        names = ("EdgeLLM", "llama-server")
        servers = [
            running.enter_context(serving(name, command, port, dict(os.environ)))
            for name, command, port in zip(names, commands(options, model, loras, ports), ports, strict=True)
        ]
        compare(servers, options)
        print(f"{'':<10}{servers[0].name:>8}{servers[1].name:>14}")
        measure(servers, options)


if __name__ == "__main__":
    main()
