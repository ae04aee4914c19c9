"""Fuzzes the GGUF header reader for as long as you like: `python tests/attacks/fuzz_gguf.py --seconds 1800`.

Guided by what it meets: an input that is refused on another path through the code than all before it joins the pool.
Fails on anything but a typed error, on a read of over 2 s, and on a peak of over 64 MiB.
"""

from __future__ import annotations

import argparse
import random
import struct
import sys
import time
import traceback
import tracemalloc
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from attacks.gguf.hostile import CORPUS
from gguf_writer import model

from edgellm.errors import EdgeLLMError
from edgellm.formats import gguf
from edgellm.formats.gguf_header import parse

NUMBERS = [0, 1, 2, 3, 7, 8, 9, 31, 32, 63, 64, 255, 256, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 1]


def mutate(rng: random.Random, pool: list[bytes]) -> bytes:
    data = bytearray(rng.choice(pool))
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(6)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and at < len(data):
            data[at] = rng.randrange(256)
        elif kind == 2:
            code = rng.choice(["<I", "<Q", ">I", ">Q"])
            size = struct.calcsize(code)
            data[at : at + size] = struct.pack(code, rng.choice(NUMBERS) % 2 ** (8 * size))
        elif kind == 3:
            del data[at : at + rng.randint(1, 40)]
        elif kind == 4:
            other = rng.choice(pool)
            begin = rng.randrange(len(other) + 1)
            data[at:at] = other[begin : begin + rng.randint(1, 200)]
        else:
            del data[at:]
    return bytes(data)


def outcome(data: bytes) -> str:
    """What reading came to."""
    try:
        header = parse(data, file_bytes=len(data), where="fuzz")
        gguf.shape(header)
        gguf.quant_name(header)
        gguf.chat_template(header)
        assert all(tensor.offset + tensor.n_bytes <= len(data) for tensor in header.tensors)
    except EdgeLLMError as error:
        return path_of(error)
    return "accepted"


def path_of(error: BaseException) -> str:
    """The lines that the error came through: what tells one refusal from another, whatever names and numbers it has."""
    frames = traceback.extract_tb(error.__traceback__)[1:]
    return " ".join(f"{Path(frame.filename).stem}:{frame.lineno}" for frame in frames)


def run(outcome: Callable[[bytes], str], pool: list[bytes], crash: str) -> None:
    """Mutates the pool until the time is up; the input that breaks something is written to `crash`."""
    parser = argparse.ArgumentParser(description="Mutates inputs until the time is up.")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    rng = random.Random(chosen.seed)
    seen = {outcome(data) for data in pool}
    runs, slowest, end = 0, 0.0, time.monotonic() + chosen.seconds
    tracemalloc.start()
    while time.monotonic() < end:
        data = mutate(rng, pool)
        # Of this process: one that is stopped for a while is not slow.
        start = time.process_time()
        try:
            came_to = outcome(data)
        except BaseException:
            Path(crash).write_bytes(data)
            raise
        slowest = max(slowest, time.process_time() - start)
        runs += 1
        if came_to not in seen and len(data) < 20_000:
            seen.add(came_to)
            pool.append(data)
    peak = tracemalloc.get_traced_memory()[1]
    print(f"{runs} runs, {len(seen)} outcomes, slowest {slowest:.3f} s, peak {peak / 2**20:.1f} MiB")
    assert slowest < 2, "a read took over 2 s"
    assert peak < 64 * 2**20, "over 64 MiB were allocated"


def seeds() -> list[bytes]:
    made = [content() if callable(content) else content for content, _ in CORPUS.values()]
    return [
        model().build(),
        model("gemma3", attention__sliding_window=8).build(),
        *(m for m in made if 0 < len(m) < 9000),
    ]


if __name__ == "__main__":
    run(outcome, seeds(), "fuzz-crash.gguf")
