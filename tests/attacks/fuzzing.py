"""Drives a reader with libFuzzer (atheris), guided by which lines and comparisons of the reader an input reaches.

`make fuzz` installs atheris, which has wheels for Linux on x86-64. What the run learned stays in `build/fuzz/`, so the
next one starts there; an input that breaks something is written beside it. A run fails on anything but a typed error,
on a read of over 2 s, and on an allocation of over 64 MiB.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import struct
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterable
from pathlib import Path

try:
    import atheris
except ImportError:
    sys.exit("atheris is needed: `make fuzz` installs it where there are wheels (Linux on x86-64)")

SECONDS, PEAK_BYTES = 2.0, 64 * 1024**2
MAX_INPUT_BYTES = 20_000
NUMBERS = [0, 1, 2, 3, 7, 8, 9, 31, 32, 63, 64, 255, 256, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 1]
FOLDER = Path(__file__).parent.parent.parent / "build" / "fuzz"


def instrumented(*packages: str) -> contextlib.AbstractContextManager[None]:
    """Import the code under test inside this block."""
    return atheris.instrument_imports(include=list(packages))


class Target:
    """Runs one input and says what the worst one took, as it grows: libFuzzer lets nothing run at its end."""

    def __init__(self, read: Callable[[bytes], object]) -> None:
        self.read = read
        self.slowest, self.peak = 0.001, 1024

    def __call__(self, data: bytes) -> None:
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        # Of this process: one that is stopped for a while is not slow.
        start = time.process_time()
        self.read(data)
        seconds = time.process_time() - start
        peak = tracemalloc.get_traced_memory()[1] - before
        if seconds > 1.5 * self.slowest or peak > 1.5 * self.peak:
            self.slowest, self.peak = max(self.slowest, seconds), max(self.peak, peak)
            print(f"slowest {self.slowest:.3f} s, largest peak {self.peak / 2**20:.2f} MiB", flush=True)
        assert seconds < SECONDS, f"a read took {seconds:.1f} s"
        assert peak < PEAK_BYTES, f"{peak / 2**20:.0f} MiB were allocated"


class Mutator:
    """Half of the inputs are libFuzzer's; the others get numbers at the edges of integers and pieces of other seeds."""

    def __init__(self, seeds: list[bytes]) -> None:
        self.seeds = seeds

    def __call__(self, data: bytes, max_size: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if rng.random() < 0.5:
            return bytes(atheris.Mutate(data, max_size))
        changed = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            self._change(rng, changed)
        return bytes(changed[:max_size])

    def _change(self, rng: random.Random, data: bytearray) -> None:
        at, kind = rng.randrange(len(data) + 1), rng.randrange(4)
        if kind == 0:
            code = rng.choice(["<I", "<Q", ">I", ">Q"])
            size = struct.calcsize(code)
            data[at : at + size] = struct.pack(code, rng.choice(NUMBERS) % 2 ** (8 * size))
        elif kind == 1:
            del data[at : at + rng.randint(1, 40)]
        elif kind == 2:
            other = rng.choice(self.seeds)
            begin = rng.randrange(len(other) + 1)
            data[at:at] = other[begin : begin + rng.randint(1, 200)]
        else:
            del data[at:]


def run(name: str, read: Callable[[bytes], object], seeds: Iterable[bytes]) -> None:
    """Mutates the seeds until the time is up, then exits; `read` raises where something is broken."""
    parser = argparse.ArgumentParser(description="Mutates inputs until the time is up.")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers; 0 = another one each time")
    chosen = parser.parse_args()
    corpus = FOLDER / name
    corpus.mkdir(parents=True, exist_ok=True)
    known = list(seeds)
    for no, data in enumerate(known):
        (corpus / f"seed-{no:03d}").write_bytes(data)
    tracemalloc.start()
    flags = {
        "max_total_time": chosen.seconds, "seed": chosen.seed, "max_len": MAX_INPUT_BYTES, "len_control": 0,
        "timeout": 60, "rss_limit_mb": 1024, "artifact_prefix": f"{FOLDER}/{name}-", "print_final_stats": 1,
    }  # fmt: skip
    arguments = [sys.argv[0], *(f"-{flag}={value}" for flag, value in flags.items()), str(corpus)]
    atheris.Setup(arguments, Target(read), custom_mutator=Mutator(known))
    atheris.Fuzz()
