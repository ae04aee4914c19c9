"""How fast this processor computes with this build of llama.cpp: rates by weight type, attention, and what is left.

The matrix of each type is larger than the last-level cache, so that a token's time includes reading it from memory. It
lies in the kind of buffer that a loaded model would use. Other programs can only make a measurement slower, for seconds
at a time. So all types are measured in several rounds, at least one, and the best round of each counts. `overhead.py`
measures what products and attention do not explain. In a worker only.
"""

from __future__ import annotations

import os
import statistics
import time
from dataclasses import replace

from edgellm.formats.gguf.ggml_types import BY_NAME
from edgellm.types.calibration import CALIBRATED_HEAD, CALIBRATED_ROW, Calibration
from edgellm_gguf import ggml, kernels, small_model
from edgellm_gguf.kernels import Cpu, Heads, Pages
from edgellm_gguf.overhead import BATCH, overhead, short

TYPES = (
    "Q3_K", "Q4_K", "Q6_K", "Q5_K", "Q8_0", "Q4_0", "Q5_0", "Q5_1", "Q4_1", "IQ4_XS", "IQ4_NL", "Q2_K", "F16", "BF16",
    "F32", "MXFP4", "NVFP4", "IQ3_S", "IQ3_XXS", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S", "TQ2_0", "TQ1_0",
    "Q1_0", "Q2_0",
)  # fmt: skip
ROW, SHORT_ROW = CALIBRATED_ROW, 512  # weights in a row: what each row costs shows in the difference
PROMPT = (1024, 2048)  # weights in a row and rows of the matrix that a prompt is multiplied with
# The matrix is several times as large as the last-level cache. One twice as large was read at 29 GB/s, on a machine
# that reads a model of 1.3 GB at 23 GB/s.
CACHES, LEAST_BYTES, MOST_BYTES = 4, 64 << 20, 256 << 20
PROBE_BYTES, CACHED_BYTES = 8 << 20, 1 << 19
# Bytes per second. A slower type is limited by arithmetic, so a smaller matrix tells as much. Q5_1 at 8e9 is limited by
# memory: from the cache it is half as fast again.
MEMORY_BOUND = 5e9
ROUNDS = 3
BUDGET_S = 6.0  # of all rounds; one with each number of threads is always made, others end with it
# A type that is slower than this with single tokens has no kernel for many of them, so fewer tokens tell the same.
NO_KERNEL, FEW = 4e9, 64  # weights per second; tokens of a prompt then
PASSES_S = 0.08  # of passes over one matrix, where something slows them down
HEADS = Heads(4, 1, CALIBRATED_HEAD)
CACHED = 8192  # tokens: 4 MiB of F16 keys and values
# A head costs time beside its products: 20, 30 and 51 ns a token with an F16 cache for 64, 128 and 256 numbers on an
# EPYC with AVX-512, and 88 for 96, which is no multiple of the 64 that a loop takes there.
OTHER_HEADS, OTHER_CACHED = (64, 96, 256), 2048
# With many heads, the keys and values of one head are far apart from token to token, and the processor does not
# prefetch them. With 8 heads of 128 numbers an F16 key and value arrived 60 ns (512 tokens) to 100 ns (1,024) late,
# with one head 5. From the last-level cache the delay is half of that, so the cache that is measured is larger than it.
APART = (Heads(2, 2, 128), Heads(4, 4, 128), Heads(8, 8, 64), Heads(8, 8, 128), Heads(8, 8, 256))
APART_CACHED, APART_BYTES = 1024, 32 << 20
PROMPT_HEADS, ATTENTION_BATCH = Heads(16, 8, CALIBRATED_HEAD), 256  # tokens of a prompt
ATTENTION_EVERY = 14  # types: it is quick, and one disturbed moment must not be its only measurement
KV_TYPES = ("f16", "q8_0", "q4_0")


def calibrate(threads: tuple[int, ...]) -> Calibration:
    """Rates for each number of threads, in about ten seconds."""
    ggml.start()
    n_bytes = min(MOST_BYTES, max(LEAST_BYTES, CACHES * _sysconf("SC_LEVEL3_CACHE_SIZE")))
    free = _sysconf("SC_AVPHYS_PAGES") * _sysconf("SC_PAGE_SIZE")
    cpu, pages = Cpu(), Pages(max(PROBE_BYTES, min(n_bytes, free // 8) if free else LEAST_BYTES))
    measured = _Rates()
    end, spent = time.perf_counter() + BUDGET_S, 0.0
    try:
        for done in range(ROUNDS):
            start = time.perf_counter()
            if done and start + spent > end:
                break
            for count in sorted(threads):
                _round(cpu, pages, count, measured, end if done else float("inf"))
            spent = time.perf_counter() - start
    finally:
        cpu.close()
    rates = Calibration(
        measured.best("decode"), measured.best("prefill"), row_s=measured.per_row(), scatter=measured.scatter(),
        attention=measured.best("attention"), attention_prefill=measured.best("attention_prefill"),
        attention_by_head={
            (kind, size, count): rate
            for size in OTHER_HEADS
            for (kind, count), rate in measured.best(f"attention {size}").items()
        },
        attention_apart_s=measured.apart(),
    )  # fmt: skip
    rest = {count: overhead(count, rates) for count in threads if (small_model.TYPE, count) in rates.prefill}
    return replace(
        rates,
        layer_s={count: layer for count, (layer, _, _) in rest.items()},
        element_s={count: element for count, (_, element, _) in rest.items()},
        element_prefill_s={count: element for count, (_, _, element) in rest.items()},
    )


def _sysconf(name: str) -> int:
    """0 where the system does not say."""
    try:
        return max(0, os.sysconf(name))
    except (AttributeError, ValueError, OSError):
        return 0


class _Rates:
    """Results of all rounds, in 1e9 per second, by what was measured and (type, threads)."""

    def __init__(self) -> None:
        self._all: dict[str, dict[tuple[str, int], list[float]]] = {}

    def add(self, what: str, key: tuple[str, int], work: float, seconds: float) -> None:
        self._all.setdefault(what, {}).setdefault(key, []).append(work / seconds / 1e9)

    def best(self, what: str) -> dict[tuple[str, int], float]:
        return {key: float(f"{max(rates):.4g}") for key, rates in self._all.get(what, {}).items()}

    def per_row(self) -> dict[tuple[str, int], float]:
        """Seconds that a row takes beyond its weights, from the same weights in short rows and long ones."""
        long, short = self.best("long"), self.best("short")
        apart = 1 / SHORT_ROW - 1 / ROW
        return {key: float(f"{max(0.0, 1 / short[key] - 1 / long[key]) / 1e9 / apart:.3g}") for key in long}

    def apart(self) -> dict[tuple[str, int, int, int], float]:
        """Seconds that a key and its value take beside a head's products, by size and number of heads."""
        delays: dict[tuple[str, int, int, int], float] = {}
        for heads in APART:
            size = heads.head_dim
            together = self.best("attention" if size == CALIBRATED_HEAD else f"attention {size}")
            for key, rate in self.best(f"apart {heads}").items():
                late = max(0.0, 1 / rate - 2 * size / together[key]) / 1e9
                delays[key[0], size, heads.n_head_kv, key[1]] = short(late)
        return delays

    def scatter(self) -> float:
        """How far medians are below the best, as a share; 0 = nothing was measured more than once."""
        every = [rates for by_key in self._all.values() for rates in by_key.values() if len(rates) > 1]
        apart = [1 - statistics.median(rates) / max(rates) for rates in every]
        return round(statistics.median(apart), 3) if apart else 0.0


def _round(cpu: Cpu, pages: Pages, threads: int, rates: _Rates, end: float) -> None:
    """One round with so many threads. Nothing is started after `end`."""
    cpu.use(threads)
    for at, name in enumerate(TYPES):
        if time.perf_counter() > end:
            break
        if at % ATTENTION_EVERY == 0:
            for size, cached in ((HEADS.head_dim, CACHED), *((size, OTHER_CACHED) for size in OTHER_HEADS)):
                _attention(cpu, threads, rates, replace(HEADS, head_dim=size), (1, cached))
        if at == 0:
            _attention(cpu, threads, rates, PROMPT_HEADS, (ATTENTION_BATCH, ATTENTION_BATCH))
            for heads in APART:
                _apart(cpu, threads, rates, heads)
        rate = _one_token(cpu, pages, (name, threads), rates)
        prompt = kernels.product(cpu, name, PROMPT, BATCH if rate > NO_KERNEL else FEW, pages)
        rates.add("prefill", (name, threads), prompt.work, min(cpu.seconds(prompt.graph) for _ in range(2)))
        prompt.free()


def _attention(cpu: Cpu, threads: int, rates: _Rates, heads: Heads, size: tuple[int, int]) -> None:
    """Over caches of each type; `size`: tokens, and how many are cached with them."""
    tokens, cached = size
    what = "attention_prefill" if tokens > 1 else "attention"
    if tokens == 1 and heads != HEADS:
        what = f"attention {heads.head_dim}"
    for kv_type in KV_TYPES:
        tensors, graph = kernels.attention(heads, kv_type, tokens, cached)
        # Every query head meets a key and a value for each token it may see: all, or half of a causal square.
        seen = tokens * cached * (0.5 if tokens == cached else 1)
        work = 2 * heads.n_head * heads.head_dim * seen
        rates.add(what, (kv_type, threads), work, _seconds(cpu, graph, threads, 3))
        tensors.free()


def _apart(cpu: Cpu, threads: int, rates: _Rates, heads: Heads) -> None:
    """One query head to each key: how many of them a second, where the keys of other heads lie between."""
    for kv_type in KV_TYPES:
        layer = 2 * BY_NAME[kv_type.upper()].size_bytes(heads.head_dim) * heads.n_head_kv * APART_CACHED
        layers = max(1, APART_BYTES // layer)
        tensors, graph = kernels.attention(heads, kv_type, 1, APART_CACHED, layers)
        work = heads.n_head * APART_CACHED * layers
        rates.add(f"apart {heads}", (kv_type, threads), work, min(cpu.seconds(graph) for _ in range(2)))
        tensors.free()


def _one_token(cpu: Cpu, pages: Pages, key: tuple[str, int], rates: _Rates) -> float:
    """The rate with weights from memory, and with weights from the cache in rows of two lengths, which shows what a row
    costs.

    Returns weights per second, from the cache.
    """
    name, threads = key
    probe = kernels.product(cpu, name, _size(name, ROW, PROBE_BYTES), 1, pages)
    seconds = min(cpu.seconds(probe.graph) for _ in range(2))
    fast, rate = PROBE_BYTES / seconds > MEMORY_BOUND, probe.work / seconds
    probe.free()
    for what, row, n_bytes in (
        ("decode", ROW, len(pages.bytes) if fast else PROBE_BYTES),
        ("long", ROW, CACHED_BYTES),
        ("short", SHORT_ROW, CACHED_BYTES),
    ):
        token = kernels.product(cpu, name, _size(name, row, n_bytes), 1, pages)
        rates.add(what, key, token.work, _seconds(cpu, token.graph, threads, 5))
        token.free()
    return rate


def _seconds(cpu: Cpu, graph: int, threads: int, passes: int) -> float:
    """The median of some passes after a first one. With several threads the lower quartile: they wait for each other
    while another program has a processor.
    """
    cpu.seconds(graph)
    times: list[float] = []
    end = time.perf_counter() + PASSES_S
    while len(times) < 2 or (len(times) < passes * min(threads, 2) and time.perf_counter() < end):
        times.append(cpu.seconds(graph))
    return statistics.median(times) if threads == 1 else sorted(times)[len(times) // 4]


def _size(name: str, row: int, n_bytes: int) -> tuple[int, int]:
    return row, n_bytes // BY_NAME[name].size_bytes(row) // 64 * 64
