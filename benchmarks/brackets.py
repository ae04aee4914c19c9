"""Samples between two probes of the machine, taken while a guard keeps others away from it."""

from __future__ import annotations

import shlex
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import roofs

Probe = Callable[[], float]
SETTLE_S = 0.5  # threads of ggml's pool poll for a third of a second after their last step


@dataclass(frozen=True, slots=True)
class Sample:
    """A rate (per second), and what the machine could do just before and just after (GB/s or GMAC/s)."""

    rate: float
    before: float
    after: float

    @property
    def roof(self) -> float:
        return (self.before + self.after) / 2


def bandwidth(threads: int) -> Probe:
    """GB/s of reading 1 GiB in 2 MiB pages."""
    return lambda: roofs.read(threads).gb_s


def int8_peak(threads: int) -> Probe:
    """GMAC/s of byte products in registers."""
    return lambda: roofs.int8(threads).gmac_s


def bracketed(probe: Probe, measures: Sequence[Callable[[], float]]) -> list[Sample]:
    """One sample of each, in this order; the probe after one is the probe before the next."""
    found, before = [], probe()
    for measure in measures:
        rate = measure()
        time.sleep(SETTLE_S)
        after = probe()
        found.append(Sample(rate, before, after))
        before = after
    return found


@contextmanager
def alone(guard: str) -> Iterator[None]:
    """While `guard` runs a command that ends with this block: `flock FILE`, or what else keeps others away.

    Raises:
        SystemExit: the guard did not start its command, or ended it before the block was done.
    """
    if not guard:
        yield
        return
    command = [*shlex.split(guard), "sh", "-c", "echo ready; cat"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin
    assert process.stdout
    if not process.stdout.readline():
        raise SystemExit(f"the guard ended with status {process.wait()}: {shlex.join(command)}")
    try:
        yield
    finally:
        process.stdin.close()
        status = process.wait()
    if status:
        raise SystemExit(f"the guard ended with status {status} before its samples were taken")


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Median and, of several, the extremes."""
    text = f"{statistics.median(values):.{digits}f}"
    return text if len(values) < 2 else f"{text} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def shares(samples: Sequence[Sample], unit: float) -> list[float]:
    """Percent of the roof that each sample's rate comes to; `unit` is what one of the rate costs of it."""
    return [100 * sample.rate * unit / sample.roof for sample in samples]
