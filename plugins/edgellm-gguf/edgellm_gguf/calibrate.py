"""How fast this processor computes with this build of llama.cpp: rates by weight type, attention, and what is left.

Each type's matrix is larger than the last-level cache, in the buffer that a loaded model would have it in, so that a
token's time includes reading it. Other programs can only take speed away, and for seconds at a time: the types are gone
through several times, and each keeps its best round. In a worker only; `LlamaEngine` runs the model that shows what
products and attention do not explain.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import llama_cpp
import numpy as np

from edgellm.backend import CALIBRATED_HEAD, CALIBRATED_ROW, Calibration, SlotInput
from edgellm.formats.ggml_types import BY_NAME
from edgellm.formats.gguf_writer import GgufWriter, TensorInfo, Value
from edgellm.model import Artifact
from edgellm.plan import LaunchPlan, Settings
from edgellm_gguf import kernels
from edgellm_gguf.engine import LlamaEngine
from edgellm_gguf.kernels import Cpu, Heads, Pages

TYPES = (
    "Q3_K", "Q4_K", "Q6_K", "Q5_K", "Q8_0", "Q4_0", "Q5_0", "Q5_1", "Q4_1", "IQ4_XS", "IQ4_NL", "Q2_K", "F16", "BF16",
    "F32", "MXFP4", "NVFP4", "IQ3_S", "IQ3_XXS", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S", "TQ2_0", "TQ1_0",
    "Q1_0", "Q2_0",
)  # fmt: skip
ROW, SHORT_ROW = CALIBRATED_ROW, 512  # weights in a row: what each row costs shows in the difference
BATCH = 512
PROMPT = (1024, 2048)  # weights in a row and rows of the matrix that a prompt is multiplied with
# Several times the last-level cache: twice was read at 29 GB/s where a model of 1.3 GB is read at 23.
CACHES, LEAST_BYTES, MOST_BYTES = 4, 64 << 20, 256 << 20
PROBE_BYTES, CACHED_BYTES = 8 << 20, 1 << 19
# Bytes per second; a slower type waits for arithmetic, so that less of it tells as much. Q5_1 at 8e9 does not: from the
# cache it is multiplied half as fast again.
MEMORY_BOUND = 5e9
ROUNDS = 3
BUDGET_S = 6.0  # of all rounds; one with each number of threads is always made, others end with it
# Of a type that is multiplied more slowly, token by token, there is no kernel for many tokens: fewer tell the same.
NO_KERNEL, FEW = 4e9, 64  # weights per second; tokens of a prompt then
PASSES_S = 0.08  # of passes over one matrix, where something slows them down
HEADS = Heads(4, 1, CALIBRATED_HEAD)
CACHED = 8192  # tokens: 4 MiB of F16 keys and values
# A head costs time beside its products: 20, 30 and 51 ns a token with an F16 cache for 64, 128 and 256 numbers on an
# EPYC with AVX-512, and 88 for 96, which is no multiple of the 64 that a loop takes there.
OTHER_HEADS, OTHER_CACHED = (64, 96, 256), 2048
# Keys and values of many heads lie apart from one token to the next, and the processor does not foresee the way: with 8
# heads of 128 numbers an F16 key and value came 60 ns (512 tokens) to 100 ns (1,024) late, with one head 5. From the
# last level's cache it is half of that, so there is more than fits.
APART = (Heads(2, 2, 128), Heads(4, 4, 128), Heads(8, 8, 64), Heads(8, 8, 128), Heads(8, 8, 256))
APART_CACHED, APART_BYTES = 1024, 32 << 20
PROMPT_HEADS, ATTENTION_BATCH = Heads(16, 8, CALIBRATED_HEAD), 256  # tokens of a prompt
ATTENTION_EVERY = 14  # types: it is cheap, and a bad moment of the machine must not be all that is known of it
KV_TYPES = ("f16", "q8_0", "q4_0")


def calibrate(threads: tuple[int, ...]) -> Calibration:
    """Rates for each number of threads, in about ten seconds."""
    llama_cpp.llama_backend_init()
    wanted = min(MOST_BYTES, max(LEAST_BYTES, CACHES * _sysconf("SC_LEVEL3_CACHE_SIZE")))
    free = _sysconf("SC_AVPHYS_PAGES") * _sysconf("SC_PAGE_SIZE")
    cpu, pages = Cpu(), Pages(max(PROBE_BYTES, min(wanted, free // 8) if free else LEAST_BYTES))
    found = _Rates()
    end, spent = time.perf_counter() + BUDGET_S, 0.0
    try:
        for done in range(ROUNDS):
            start = time.perf_counter()
            if done and start + spent > end:
                break
            for count in sorted(threads):
                _round(cpu, pages, count, found, end if done else float("inf"))
            spent = time.perf_counter() - start
    finally:
        cpu.close()
    rates = Calibration(
        found.best("decode"), found.best("prefill"), row_s=found.per_row(), scatter=found.scatter(),
        attention=found.best("attention"), attention_prefill=found.best("attention_prefill"),
        attention_by_head={
            (kind, size, count): rate
            for size in OTHER_HEADS
            for (kind, count), rate in found.best(f"attention {size}").items()
        },
        attention_apart_s=found.apart(),
    )  # fmt: skip
    rest = {count: _overhead(count, rates) for count in threads if (SMALL_TYPE, count) in rates.prefill}
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
    """What the rounds found: 1e9 per second, by what was measured and (type, threads)."""

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
        found: dict[tuple[str, int, int, int], float] = {}
        for heads in APART:
            size = heads.head_dim
            together = self.best("attention" if size == CALIBRATED_HEAD else f"attention {size}")
            for key, rate in self.best(f"apart {heads}").items():
                late = max(0.0, 1 / rate - 2 * size / together[key]) / 1e9
                found[key[0], size, heads.n_head_kv, key[1]] = _short(late)
        return found

    def scatter(self) -> float:
        """How far the median is from the best, as a share, of what was measured more than once; 0 = nothing was."""
        every = [rates for by_key in self._all.values() for rates in by_key.values() if len(rates) > 1]
        apart = [1 - statistics.median(rates) / max(rates) for rates in every]
        return round(statistics.median(apart), 3) if apart else 0.0


def _round(cpu: Cpu, pages: Pages, threads: int, found: _Rates, end: float) -> None:
    """Everything once with so many threads; what is not begun before `end` is left out."""
    cpu.use(threads)
    for at, name in enumerate(TYPES):
        if time.perf_counter() > end:
            break
        if at % ATTENTION_EVERY == 0:
            for size, cached in ((HEADS.head_dim, CACHED), *((size, OTHER_CACHED) for size in OTHER_HEADS)):
                _attention(cpu, threads, found, replace(HEADS, head_dim=size), (1, cached))
        if at == 0:
            _attention(cpu, threads, found, PROMPT_HEADS, (ATTENTION_BATCH, ATTENTION_BATCH))
            for heads in APART:
                _apart(cpu, threads, found, heads)
        rate = _one_token(cpu, pages, (name, threads), found)
        prompt = kernels.product(cpu, name, PROMPT, BATCH if rate > NO_KERNEL else FEW, pages)
        found.add("prefill", (name, threads), prompt.work, min(cpu.seconds(prompt.graph) for _ in range(2)))
        prompt.free()


def _attention(cpu: Cpu, threads: int, found: _Rates, heads: Heads, size: tuple[int, int]) -> None:
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
        found.add(what, (kv_type, threads), work, _seconds(cpu, graph, threads, 3))
        tensors.free()


def _apart(cpu: Cpu, threads: int, found: _Rates, heads: Heads) -> None:
    """One query head to each key: how many of them a second, where the keys of other heads lie between."""
    for kv_type in KV_TYPES:
        layer = 2 * BY_NAME[kv_type.upper()].size_bytes(heads.head_dim) * heads.n_head_kv * APART_CACHED
        layers = max(1, APART_BYTES // layer)
        tensors, graph = kernels.attention(heads, kv_type, 1, APART_CACHED, layers)
        work = heads.n_head * APART_CACHED * layers
        found.add(f"apart {heads}", (kv_type, threads), work, min(cpu.seconds(graph) for _ in range(2)))
        tensors.free()


def _one_token(cpu: Cpu, pages: Pages, key: tuple[str, int], found: _Rates) -> float:
    """Weights read from memory; and in rows of two lengths from the cache, which shows what a row costs.

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
        found.add(what, key, token.work, _seconds(cpu, token.graph, threads, 5))
        token.free()
    return rate


def _seconds(cpu: Cpu, graph: int, threads: int, passes: int) -> float:
    """The median of some passes after a first one; of several threads the quickest quarter.

    They wait for each other while another program has a processor.
    """
    cpu.seconds(graph)
    times: list[float] = []
    end = time.perf_counter() + PASSES_S
    while len(times) < 2 or (len(times) < passes * min(threads, 2) and time.perf_counter() < end):
        times.append(cpu.seconds(graph))
    return statistics.median(times) if threads == 1 else sorted(times)[len(times) // 4]


def _size(name: str, row: int, n_bytes: int) -> tuple[int, int]:
    return row, n_bytes // BY_NAME[name].size_bytes(row) // 64 * 64


@dataclass(frozen=True, slots=True)
class Small:
    """A llama without a vocabulary. Its weights are of a type that waits for arithmetic, not for memory."""

    layers: int
    width: int
    ffn: int
    heads: Heads

    @property
    def weights(self) -> int:
        """Of a layer."""
        h = self.heads
        return self.width * h.head_dim * 2 * (h.n_head + h.n_head_kv) + 3 * self.width * self.ffn

    @property
    def rows(self) -> int:
        """Of all matrices of a layer."""
        h = self.heads
        return h.head_dim * (h.n_head + 2 * h.n_head_kv) + 2 * self.width + 2 * self.ffn

    @property
    def activations(self) -> int:
        """As `edgellm.estimate.speed.activations` counts them."""
        return 6 * self.width + 3 * self.ffn + 3 * self.heads.head_dim * (self.heads.n_head + 2 * self.heads.n_head_kv)


TINY, BIGGER = Small(16, 256, 512, Heads(4, 2, 64)), Small(4, 1024, 3072, Heads(16, 8, 64))
SMALL_TYPE = "Q3_K"
VOCAB = 256
STEPS = 48


def _overhead(threads: int, rates: Calibration) -> tuple[float, float, float]:
    """Seconds beyond products and attention: per layer of a token, per activation of it, and of a prompt's token.

    Two models of different width tell the first two apart.
    """
    (tiny, _), (bigger, prompt) = _rest(TINY, threads, rates), _rest(BIGGER, threads, rates)
    slope = max(0.0, (bigger - tiny) / (BIGGER.activations - TINY.activations))
    layer = max(0.0, tiny - slope * TINY.activations)
    return _short(layer), _short(slope), _short(max(0.0, prompt) / BIGGER.activations)


def _short(seconds: float) -> float:
    return float(f"{seconds:.3g}")


def _rest(model: Small, threads: int, rates: Calibration) -> tuple[float, float]:
    """Seconds per layer that products and attention do not explain: of a token alone, and of one in a prompt."""
    with tempfile.TemporaryDirectory(prefix="edgellm-calibrate-") as folder:
        path = Path(folder) / "small.gguf"
        _write(path, model)
        settings = Settings(BATCH + STEPS + 8, n_threads=threads, n_threads_batch=threads)
        engine = LlamaEngine(LaunchPlan("gguf", Artifact("gguf", (str(path),), "small"), settings))
        try:
            prompt, step = _run(engine, time.thread_time if threads == 1 else time.perf_counter)
        finally:
            engine.close()
    key, cache, per_token = (SMALL_TYPE, threads), ("f16", threads), 2 * model.heads.n_head * model.heads.head_dim
    rows = model.rows - model.weights / ROW
    alone = step / model.layers - model.weights / (rates.decode[key] * 1e9) - rows * rates.row_s[key]
    # Of a prompt only the last token's output is asked for: the others skip the last feed-forward block.
    skipped = 3 * model.width * model.ffn / model.layers
    together = prompt / BATCH / model.layers - (model.weights - skipped) / (rates.prefill[key] * 1e9)
    alone -= per_token * (STEPS / 2) / (rates.attention_by_head["f16", model.heads.head_dim, threads] * 1e9)
    together -= per_token * (BATCH / 2) / (rates.attention_prefill[cache] * 1e9)
    return alone, together


def _run(engine: LlamaEngine, clock: Callable[[], float]) -> tuple[float, float]:
    """Best seconds of a prompt of BATCH tokens, and of a step with few tokens cached."""
    prompts, steps = [], []
    prompt = tuple(i % VOCAB for i in range(BATCH))
    for _ in range(2):
        engine.truncate(0, 0)
        start = clock()
        engine.step([SlotInput(0, 0, prompt, 1)])
        prompts.append(clock() - start)
    engine.truncate(0, 0)
    for past in range(STEPS):
        start = clock()
        engine.step([SlotInput(0, past, (1,), 1)])
        steps.append(clock() - start)
    return min(prompts), statistics.quantiles(steps, n=4)[0]


def _write(path: Path, model: Small) -> None:
    width, ffn, heads = model.width, model.ffn, model.heads
    q, kv = heads.n_head * heads.head_dim, heads.n_head_kv * heads.head_dim
    shapes = {"token_embd": (width, VOCAB), "output_norm": (width,)}
    layer = {
        "attn_norm": (width,), "ffn_norm": (width,), "attn_q": (width, q), "attn_k": (width, kv), "attn_v": (width, kv),
        "attn_output": (q, width), "ffn_gate": (width, ffn), "ffn_up": (width, ffn), "ffn_down": (ffn, width),
    }  # fmt: skip
    shapes |= {f"blk.{i}.{name}": dims for i in range(model.layers) for name, dims in layer.items()}
    kind, f32 = BY_NAME[SMALL_TYPE], BY_NAME["F32"]
    tensors = [TensorInfo(f"{name}.weight", dims, kind if len(dims) > 1 else f32) for name, dims in shapes.items()]
    metadata: dict[str, Value] = {
        "general.architecture": "llama",
        "llama.context_length": 2048,
        "llama.block_count": model.layers,
        "llama.embedding_length": width,
        "llama.feed_forward_length": ffn,
        "llama.attention.head_count": heads.n_head,
        "llama.attention.head_count_kv": heads.n_head_kv,
        "llama.attention.layer_norm_rms_epsilon": 1e-6,
        "llama.vocab_size": VOCAB,
        "tokenizer.ggml.model": "no_vocab",
    }
    data = kernels.sample(SMALL_TYPE, width)
    with GgufWriter(path, metadata, tensors) as writer:
        for tensor in tensors:
            vector = np.ones(tensor.dims, np.float32).view(np.uint8)
            content = vector if len(tensor.dims) == 1 else np.resize(data, tensor.n_bytes)
            writer.write(tensor.name, content.tobytes())
