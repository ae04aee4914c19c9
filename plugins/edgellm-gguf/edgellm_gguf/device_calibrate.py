"""How fast a GPU runs small random models, one for each family of types, whole on it. In a worker only."""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from edgellm.contract.engine import SlotInput
from edgellm.formats.gguf.ggml_types import BY_NAME
from edgellm.types.device_trial import DeviceTrial
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan, Settings
from edgellm_gguf import small_model
from edgellm_gguf.engine import LlamaEngine
from edgellm_gguf.kernels import Heads
from edgellm_gguf.small_model import VOCAB, Small

TYPES = ("Q4_0", "Q8_0", "Q4_K", "Q6_K", "F16")
# Each is tried where the one before is done too soon: its launches were measured, and the caches of the device.
SIZES = (
    Small(2, 512, 1536, Heads(8, 4, 64)),
    Small(4, 1024, 3072, Heads(16, 8, 64)),
    Small(8, 2048, 8192, Heads(32, 8, 64)),
)
TOO_SOON_S = 0.003  # for a token
LARGE_BYTES = 256 * 1024**2  # of the largest: more than any cache
SLOW_S = 0.02  # a device that takes so long for a token is measured with short prompts, and few tokens
PROMPT, SHORT_PROMPT, STEPS, FEW_STEPS = 512, 64, 48, 8


def calibrate(device: str) -> tuple[DeviceTrial, ...]:
    return tuple(_trial(device, kind) for kind in TYPES)


def _trial(device: str, kind: str) -> DeviceTrial:
    for size in SIZES:
        per_layer = BY_NAME[kind].size_bytes(size.weights)
        large = size is SIZES[-1]
        model = replace(size, layers=max(2, round(LARGE_BYTES / per_layer))) if large else size
        trial = _run(device, kind, model)
        if 1 / trial.decode_tok_s > TOO_SOON_S:
            break
    return trial


def _run(device: str, kind: str, model: Small) -> DeviceTrial:
    with tempfile.TemporaryDirectory(prefix="edgellm-calibrate-") as folder:
        path = Path(folder) / "small.gguf"
        small_model.write(path, model, kind)
        run = Settings(PROMPT + STEPS + 8, gpu_layers=-1, devices=(device,), n_batch=PROMPT)
        engine = LlamaEngine(LaunchPlan("gguf", Artifact("gguf", (str(path),), "small"), run))
        try:
            token_s = _steps(engine, 3)  # shaders are compiled
            n_steps, n_prompt = (FEW_STEPS, SHORT_PROMPT) if token_s > SLOW_S else (STEPS, PROMPT)
            token_s, prompt_s = _steps(engine, n_steps), _prompt(engine, n_prompt)
        finally:
            engine.close()
        size, heads = path.stat().st_size, model.heads
    return DeviceTrial(
        kind, size, model.layers, model.width, model.ffn, heads.n_head, heads.n_head_kv, heads.head_dim, VOCAB,
        decode_tok_s=1 / token_s, depth=n_steps // 2, prefill_tok_s=n_prompt / prompt_s, tokens=n_prompt,
    )  # fmt: skip


def _steps(engine: LlamaEngine, count: int) -> float:
    """Median seconds of a token."""
    engine.truncate(0, 0)
    seconds = []
    for past in range(count):
        start = time.perf_counter()
        engine.step([SlotInput(0, past, (1,), 1)])
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def _prompt(engine: LlamaEngine, count: int) -> float:
    """Seconds of a prompt, after one that is not counted."""
    tokens = tuple(i % VOCAB for i in range(count))
    for _ in range(2):
        engine.truncate(0, 0)
        start = time.perf_counter()
        engine.step([SlotInput(0, 0, tokens, 1)])
        seconds = time.perf_counter() - start
    return seconds
