"""What a token costs beside its products and attention: small models, run by the engine itself. In a worker only."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgellm.contract.engine import SlotInput
from edgellm.formats.gguf.ggml_types import BY_NAME
from edgellm.formats.gguf.writer import GgufWriter, TensorInfo, Value
from edgellm.types.calibration import CALIBRATED_ROW, Calibration
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan, Settings
from edgellm_gguf import kernels
from edgellm_gguf.engine import LlamaEngine
from edgellm_gguf.kernels import Heads

BATCH = 512  # tokens of a prompt


@dataclass(frozen=True, slots=True)
class Small:
    """A llama without a vocabulary. The type of its weights is limited by arithmetic, not by memory."""

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


def overhead(threads: int, rates: Calibration) -> tuple[float, float, float]:
    """Seconds beyond products and attention: per layer of a token, per activation of it, and of a prompt's token.

    Two models of different width tell the first two apart.
    """
    (tiny, _), (bigger, prompt) = _rest(TINY, threads, rates), _rest(BIGGER, threads, rates)
    slope = max(0.0, (bigger - tiny) / (BIGGER.activations - TINY.activations))
    layer = max(0.0, tiny - slope * TINY.activations)
    return short(layer), short(slope), short(max(0.0, prompt) / BIGGER.activations)


def short(seconds: float) -> float:
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
    rows = model.rows - model.weights / CALIBRATED_ROW
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
