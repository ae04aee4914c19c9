"""One loop of tuning, for tuning.py: ours, or a bare one over peft. Prints processor seconds of a step, and memory."""

from __future__ import annotations

import ctypes
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from edgellm_tune.footprint import footprint
from edgellm_tune.trainer import TorchTrainer
from resident import highest_without_libraries, status

from edgellm.contract.tuner import Batch
from edgellm.formats.gguf.reader import read_model
from edgellm.types.tuning import TuneSettings, TuneSize

RATE = 2e-4


def main() -> None:
    case: dict[str, Any] = json.loads(sys.argv[1])
    is_peft, n_steps = case.pop("peft", False), case.pop("steps", 2)
    path, n_rows, length, share = (case.pop(name) for name in ("path", "rows", "length", "supervised"))
    model, batch = read_model(path), _batch(n_rows, length, share)
    if is_peft:
        case["quantized"] = True  # this one is only asked for its factors
    settings = TuneSettings(batch=n_rows, length=length, **case)
    trainer = TorchTrainer(model, settings)
    step: Callable[[], object] = lambda: trainer.step([batch], RATE)  # noqa: E731
    if is_peft:
        step = _peft(path, trainer, batch)
        trainer.close()
    seconds = []
    for _ in range(n_steps):
        started = time.process_time()
        step()
        seconds.append(time.process_time() - started)
    each = batch.supervised.sum(axis=1)
    size = TuneSize(n_rows, n_rows * length, int(each.sum()), int(each.max()), length)
    result = {
        "step_s": min(seconds),
        "step_bytes": _bytes_of(step),
        "peak": highest_without_libraries(),
        "predicted": footprint(model, settings, size).needed_bytes,
    }
    print(json.dumps(result))


def _batch(n_rows: int, length: int, share: float) -> Batch:
    """Each row is one document."""
    rng = np.random.default_rng(0)
    positions = np.tile(np.arange(length, dtype=np.int32), (n_rows, 1))
    supervised = (positions > 0) & (rng.random((n_rows, length)) < share)
    tokens = rng.integers(0, 40_000, (n_rows, length)).astype(np.int32)
    return Batch(tokens, supervised, positions, np.ones_like(positions))


def _peft(path: str, trainer: TorchTrainer, batch: Batch) -> Callable[[], object]:
    from support.hf_twin import Twin  # PYTHONPATH=tests

    torch.set_num_threads(trainer.settings.n_threads)
    model = Twin(path, torch.float32, as_published=True).adapted(trainer)
    optimizer = torch.optim.AdamW([tensor for tensor in model.parameters() if tensor.requires_grad], lr=RATE)
    ids = torch.from_numpy(batch.tokens.astype(np.int64))
    labels = torch.where(torch.from_numpy(batch.supervised), ids, -100)

    def step() -> None:
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _bytes_of(step: Callable[[], object]) -> int:
    """Most resident bytes of a step beyond those before it: activations, logits, gradients.

    Weights, factors and moments are there before it, and so is all that a first step loads.
    """
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the highest is what there is now
    before = status()["VmRSS"]
    step()
    return status()["VmHWM"] - before


if __name__ == "__main__":
    main()
