"""What a token costs beside its products and attention: small models, run by the engine itself. In a worker only."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from edgellm.contract.engine import SlotInput
from edgellm.types.calibration import CALIBRATED_ROW, Calibration
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan, Settings
from edgellm_gguf import small_model
from edgellm_gguf.engine import LlamaEngine
from edgellm_gguf.kernels import Heads
from edgellm_gguf.small_model import VOCAB, Small

BATCH = 512  # tokens of a prompt


TINY, BIGGER = Small(16, 256, 512, Heads(4, 2, 64)), Small(4, 1024, 3072, Heads(16, 8, 64))
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
        small_model.write(path, model)
        settings = Settings(BATCH + STEPS + 8, n_threads=threads, n_threads_batch=threads)
        engine = LlamaEngine(LaunchPlan("gguf", Artifact("gguf", (str(path),), "small"), settings))
        try:
            prompt, step = _run(engine, time.thread_time if threads == 1 else time.perf_counter)
        finally:
            engine.close()
    key, cache, per_token = (small_model.TYPE, threads), ("f16", threads), 2 * model.heads.n_head * model.heads.head_dim
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
