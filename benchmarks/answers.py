"""Right answers to easy questions, by how tokens are drawn: the bare distribution, and what EdgeLLM does unasked.

    python benchmarks/answers.py [--llama-server PATH] [--seeds 30] [--slots 8] [--json FILE]

Twelve questions times the seeds, with nothing set but the seed, through HTTP, the SDK and the terminal; the same over
HTTP with the bare distribution asked for, and of llama.cpp's `llama-server` with the values that EdgeLLM uses. Answers
are paired by question and seed. The interval is a bootstrap over the seeds of each question.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import select
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from serve import LEANEST, default_model, free_port, serving

from edgellm import explain
from edgellm.sdk.client import EdgeLLM

# What a model of 135 million parameters can be expected to know. Written down before the first run; a change of a
# question or of what counts makes earlier figures void. Case does not matter.
QUESTIONS = (
    ("What is the capital of France?", r"\bParis\b"),
    ("What is the capital of Italy?", r"\bRome\b"),
    ("What is the capital of Japan?", r"\bTokyo\b"),
    ("How many days are in a week?", r"\b(seven|7)\b"),
    ("How many months are in a year?", r"\b(twelve|12)\b"),
    ("What is two plus two?", r"\b(four|4)\b"),
    ("What color is the sky on a clear day?", r"\bblue\b"),
    ("What is the opposite of hot?", r"\bcold\b"),
    ("Which planet do we live on?", r"\bEarth\b"),
    ("What is the common name of H2O?", r"\bwater\b"),
    ("Who wrote Romeo and Juliet?", r"\bShakespeare\b"),
    ("What is the largest ocean on Earth?", r"\bPacific\b"),
)
SEEDS = 30
MAX_TOKENS = 32  # of an answer; what comes later does not count
CTX = 512
THREADS = "1"  # counts do not depend on them, and on a machine that others use two threads mostly wait for each other
BARE_WAY, HTTP_WAY = "bare distribution", "unasked, HTTP"
PEER_WAY = "llama-server, same values"
BARE = {"temperature": 1, "top_k": 0, "top_p": 1, "min_p": 0}
RESAMPLES = 10_000
PATIENCE_S = 600.0
PROMPT = ">>> "

Answers = dict[tuple[int, int], str]  # by question and seed
Counts = npt.NDArray[np.bool_]  # (questions, seeds)


def over_http(port: int, options: argparse.Namespace, **fields: Any) -> Answers:
    """As many requests at once as there are slots."""

    def ask(question: str, seed: int) -> str:
        messages = [{"role": "user", "content": question}]
        body = {"messages": messages, "max_tokens": MAX_TOKENS, "seed": seed, **fields}
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/chat/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return str(json.load(answer)["choices"][0]["message"]["content"])

    return each(ask, options)


def each(ask: Callable[[str, int], str], options: argparse.Namespace) -> Answers:
    keys = [(number, seed) for number in range(len(QUESTIONS)) for seed in range(options.seeds)]
    with ThreadPoolExecutor(options.slots) as pool:
        texts = pool.map(lambda key: ask(QUESTIONS[key[0]][0], key[1]), keys)
        return dict(zip(keys, texts, strict=True))


def in_terminals(model: str, options: argparse.Namespace) -> Answers:
    """A conversation for each seed, which is forgotten after each question; two at a time, on one thread each."""
    with ThreadPoolExecutor(2) as pool:
        said = pool.map(lambda seed: in_terminal(model, seed), range(options.seeds))
        return {(number, seed): text for seed, texts in enumerate(said) for number, text in enumerate(texts)}


def in_terminal(model: str, seed: int) -> list[str]:
    command = [
        "run",
        model,
        "--seed",
        str(seed),
        "--max-tokens",
        str(MAX_TOKENS),
        "--ctx",
        str(CTX),
        "--threads",
        THREADS,
    ]
    with terminal(command) as say:
        say("", PROMPT)
        texts = []
        for question, _ in QUESTIONS:
            # The terminal shows what is typed: the first line.
            texts.append(say(f"{question}\n", f"\n{PROMPT}").partition("\n")[2])
            say("/reset\n", f"\n{PROMPT}")
        return texts


@contextmanager
def terminal(arguments: list[str]) -> Iterator[Callable[[str, str], str]]:
    """`edgellm` on a wide terminal: type a text, and get what is shown until `mark`."""
    import pty
    import termios

    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 1000))
    process = subprocess.Popen(
        [sys.executable, "-m", "edgellm", *arguments],
        stdin=slave, stdout=slave, stderr=slave, start_new_session=True, env={**os.environ, "TERM": "dumb"},
    )  # fmt: skip
    os.close(slave)

    def say(text: str, mark: str) -> str:
        os.write(master, text.encode())
        shown = b""
        deadline = time.monotonic() + PATIENCE_S
        while not shown.replace(b"\r", b"").decode(errors="replace").endswith(mark):
            if time.monotonic() > deadline or process.poll() is not None:
                raise SystemExit(f"edgellm {' '.join(arguments)} shows {shown.decode(errors='replace')}")
            if select.select([master], [], [], 1.0)[0]:
                shown += os.read(master, 65536)
        return shown.replace(b"\r", b"").decode(errors="replace")[: -len(mark)]

    try:
        yield say
    finally:
        process.kill()
        process.wait()
        os.close(master)


def right(answers: Answers, options: argparse.Namespace) -> Counts:
    counts = np.zeros((len(QUESTIONS), options.seeds), bool)
    for (number, seed), text in answers.items():
        counts[number, seed] = re.search(QUESTIONS[number][1], text, re.IGNORECASE) is not None
    return counts


def interval(counts: Counts, against: Counts) -> tuple[float, float, float]:
    """The difference of the shares of right answers, and the 95 % interval of a bootstrap over seeds, by question."""
    gains = counts.astype(np.float64) - against
    random = np.random.default_rng(0)
    drawn = random.integers(gains.shape[1], size=(RESAMPLES, *gains.shape))
    means = np.take_along_axis(gains[None], drawn, axis=2).mean(axis=(1, 2))
    low, high = np.percentile(means, [2.5, 97.5])
    return float(gains.mean()), float(low), float(high)


def ways(model: str, options: argparse.Namespace) -> Iterator[tuple[str, Answers]]:
    """The answers, one way after the other."""
    port = free_port()
    settings = ["--ctx", str(CTX), "--slots", str(options.slots), "--threads", THREADS]
    command = [sys.executable, "-m", "edgellm", "serve", model, "--port", str(port), *settings]
    with serving("EdgeLLM", command, port, dict(os.environ)):
        yield BARE_WAY, over_http(port, options, **BARE)
        yield HTTP_WAY, over_http(port, options)
    with EdgeLLM.load(model, ctx=CTX, slots=options.slots, threads=int(THREADS)) as llm:
        values = llm.plan.sampling.values.said
        print(explain.sentence(llm.plan.sampling), flush=True)
        yield "unasked, SDK", each(lambda q, seed: llm.chat(q, seed=seed, max_tokens=MAX_TOKENS).text, options)
    if options.llama_server:
        port = free_port()
        command = [options.llama_server, "-m", model, "--port", str(port), "-c", str(CTX * options.slots)]
        command += ["-np", str(options.slots), "-t", THREADS, "-tb", THREADS, *LEANEST]
        with serving("llama-server", command, port, dict(os.environ)):
            yield PEER_WAY, over_http(port, options, **values)
    yield "unasked, terminal", in_terminals(model, options)


def table(counts: dict[str, Counts]) -> list[str]:
    bare = counts[BARE_WAY]
    lines = [f"{'tokens drawn by':<28}{'right':>12}{'share':>9}   gain over the bare distribution (95 % interval)"]
    for way, of in counts.items():
        gain, low, high = interval(of, bare)
        shown = "" if of is bare else f"   {gain:+.3f} ({low:+.3f} to {high:+.3f})"
        lines.append(f"{way:<28}{of.sum():>5} of {of.size:<4}{of.mean():>8.1%}{shown}")
    if (peer := counts.get(PEER_WAY)) is not None:
        for way, of in counts.items():
            if way.startswith("unasked"):
                gain, low, high = interval(of, peer)
                lines.append(f"{way} less llama-server: {gain:+.3f} ({low:+.3f} to {high:+.3f})")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-server", default=os.environ.get("LLAMA_SERVER"), help="path of a built llama-server")
    parser.add_argument("--model", help="a GGUF file (default: SmolLM2-135M)")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--json", help="write every answer to this file")
    options = parser.parse_args()
    model = options.model or default_model()
    answers: dict[str, Answers] = {}
    for way, texts in ways(model, options):
        answers[way] = texts
        print(f"{way}: {right(texts, options).sum()} of {len(texts)}", file=sys.stderr, flush=True)
        if options.json:
            rows = {way: [[*key, text] for key, text in texts.items()] for way, texts in answers.items()}
            Path(options.json).write_text(json.dumps(rows, indent=1))
    print(f"{Path(model).name}: {len(QUESTIONS)} questions x {options.seeds} seeds")
    print("\n".join(table({way: right(texts, options) for way, texts in answers.items()})))


if __name__ == "__main__":
    main()
