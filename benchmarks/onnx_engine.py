"""The ONNX engine against onnxruntime-genai on the same folder, what our loop costs, and what a context costs.

    python benchmarks/onnx_engine.py FOLDER [--peer PYTHON] [--threads 1 2] [--prompt 256] [--answer 64] [--rounds 5]

PYTHON has onnxruntime-genai; without it only our own rates are measured. Both sides are loaded at the same time and
take turns: a prompt is computed, then tokens are decoded greedily one by one. Told are medians over rounds.

Overhead is a step with the run itself left out: checks, what is bound anew, and the views that are handed out. Growth
is the anonymous memory that a whole context of single tokens adds once the cache has been touched.

Exit status 1: a median below 0.97 of the peer's, an overhead of 150 us or more, or growth beyond 1 MiB.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from edgellm_onnx.binding import Binding
from edgellm_onnx.plugin import OnnxBackend

from edgellm.contract.engine import Engine, SlotInput
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan, Settings

CHILD = Path(__file__).with_name("onnx_genai.py")
LEAST, MOST_US, MOST_GROWTH = 0.97, 150.0, 1 << 20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--peer", help="a Python with onnxruntime-genai")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--prompt", type=int, default=256)
    parser.add_argument("--answer", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--context", type=int, default=1024, help="of the overhead and growth (default: %(default)s)")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="of our engine (repeat)")
    parser.add_argument("--only", choices=["rates", "overhead", "growth"], help="one of the three")
    arguments = parser.parse_args()
    sound = True
    for threads in arguments.threads if arguments.only in (None, "rates") else ():
        sound &= compare(arguments, threads)
    if arguments.only in (None, "overhead"):
        sound &= overhead(arguments)
    if arguments.only in (None, "growth"):
        sound &= growth(arguments)
    return not sound


def opened(arguments: argparse.Namespace, n_ctx: int, threads: int = 1, n_slots: int = 1) -> Engine:
    options = tuple((name, value) for name, _, value in (text.partition("=") for text in arguments.option))
    settings = Settings(n_ctx, n_slots, n_threads=threads, n_threads_batch=threads, options=options)
    return OnnxBackend().open(LaunchPlan("onnx", Artifact("onnx", (str(arguments.folder),), "bench"), settings))


def compare(arguments: argparse.Namespace, threads: int) -> bool:
    """Rates of both, by turns; each loads the model anew for each round, as where it comes to lie is worth 10 %."""
    n_ctx = arguments.prompt + arguments.answer + 8
    tokens = np.random.default_rng(0).integers(5, 250, arguments.prompt).tolist()
    peer = None
    if arguments.peer:
        command = [arguments.peer, str(CHILD), str(arguments.folder), str(threads), str(n_ctx)]
        peer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    rows: dict[str, list[tuple[float, float]]] = {"ours": [], "genai": []}
    for index in range(arguments.rounds + 1):
        found: dict[str, tuple[float, float]] = {}
        # Who comes first changes: a machine's clock and its neighbours drift within a round too.
        for name in ("ours", "genai") if index % 2 else ("genai", "ours"):
            if name == "ours":
                engine = opened(arguments, n_ctx, threads)
                found[name] = _round(engine, tokens, arguments.answer)
                engine.close()
                del engine
            elif peer is not None and peer.stdin is not None and peer.stdout is not None:
                peer.stdin.write(json.dumps({"tokens": tokens, "answer": arguments.answer}) + "\n")
                peer.stdin.flush()
                prefill, decode = json.loads(peer.stdout.readline())
                found[name] = (prefill, decode)
        if index:  # the first round brings the weights in
            for name, pair in found.items():
                rows[name].append(pair)
    if peer is not None and peer.stdin is not None:
        peer.stdin.close()
        peer.wait()
    medians = {
        name: [statistics.median(part) for part in zip(*found, strict=True)] for name, found in rows.items() if found
    }
    for name, (prefill, decode) in medians.items():
        rates = f"prefill {arguments.prompt / prefill:8.1f} tok/s, decode {1 / decode:7.1f} tok/s"
        print(f"{threads} threads, {name:5}: {rates}")
    if len(medians) < 2:
        return True
    ratios = [peers / ours for ours, peers in zip(medians["ours"], medians["genai"], strict=True)]
    print(f"{threads} threads, ours by genai: prefill {ratios[0]:.3f}, decode {ratios[1]:.3f}")
    return min(ratios) >= LEAST


def _round(engine: Engine, tokens: list[int], answer: int) -> tuple[float, float]:
    """Seconds of the prompt, and of a token after it, once a short one has brought the weights in."""
    engine.step([SlotInput(0, 0, tuple(tokens[:16]), 1)])
    engine.truncate(0, 0)
    started = time.perf_counter()
    rows = engine.step([SlotInput(0, 0, tuple(tokens), 1)])[0]
    prefill = time.perf_counter() - started
    started = time.perf_counter()
    for at in range(len(tokens), len(tokens) + answer):
        rows = engine.step([SlotInput(0, at, (int(rows[0].argmax()),), 1)])[0]
    return prefill, (time.perf_counter() - started) / answer


def overhead(arguments: argparse.Namespace) -> bool:
    """Microseconds that a step of 1 and of 4 slots takes beside the run."""
    sound = True
    for slots in (1, 4):
        engine = opened(arguments, arguments.context, n_slots=slots)
        run = Binding.run
        Binding.run = lambda _: None  # type: ignore[method-assign]
        try:
            times = []
            for at in range(arguments.context):
                batch = [SlotInput(slot, at, (7,), 1) for slot in range(slots)]
                started = time.perf_counter()
                engine.step(batch)
                times.append(time.perf_counter() - started)
        finally:
            Binding.run = run  # type: ignore[method-assign]
        found = 1e6 * statistics.median(times)
        print(f"overhead of a step, {slots} slots: {found:.1f} us ({found / slots:.1f} a token)")
        sound &= found / slots < MOST_US
        engine.close()
    return sound


def growth(arguments: argparse.Namespace) -> bool:
    """Bytes of memory that a context full of single tokens adds."""
    n_ctx = arguments.context
    engine = opened(arguments, n_ctx)
    for start in range(0, n_ctx, 256):
        engine.step([SlotInput(0, start, (7,) * 256, 1)])
    engine.truncate(0, 0)
    marks = {}
    for at in range(n_ctx):
        engine.step([SlotInput(0, at, (7,), 1)])
        if at + 1 in (64, 256, 512, n_ctx):
            marks[at + 1] = _anonymous()
    engine.close()
    told = ", ".join(f"{count}: {(held - marks[64]) / 1024:+.0f} KiB" for count, held in marks.items())
    print(f"memory after tokens, over that after 64: {told}")
    return marks[n_ctx] - marks[64] <= MOST_GROWTH


def _anonymous() -> int:
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return 1024 * int(found.group(1)) if found else 0


if __name__ == "__main__":
    sys.exit(main())
