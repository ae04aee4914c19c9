"""Logits of a tuned model by the tuner and by llama.cpp, on the same tokens, and how far apart they are."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgellm.contract.engine import SPARE_LOGITS, SlotInput
from edgellm.contract.manager import plugins
from edgellm.contract.quantizer import Quantization
from edgellm.runtime import quantize_worker
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan, Settings

Documents = Sequence[Sequence[int]]
Logits = npt.NDArray[np.float32]  # (tokens of all documents, vocabulary)


def artifact(path: str | Path) -> Artifact:
    return Artifact("gguf", (str(path),), "m")


def requantized(source: str | Path, target: Path, quant: str) -> Path:
    """By llama.cpp's own quantizer. F32: the values that the blocks stand for."""
    job = Quantization(artifact(source), str(target), quant, allow_requantize=True)
    quantize_worker.quantize("gguf", job, lambda *_: None)
    return target


def served(path: str | Path, documents: Documents, target: Path, adapter: Path | None = None) -> Logits:
    """By the engine that serves, in a process of its own: torch's threads and llama.cpp's do not meet."""
    question = [str(path), [list(map(int, ids)) for ids in documents], str(target), str(adapter or "")]
    command = [sys.executable, "-m", "support.exactness"]
    subprocess.run(command, input=json.dumps(question), check=True, text=True, cwd=Path(__file__).parents[1])
    return np.load(target, mmap_mode="r")


def _serve(path: str, documents: Documents, target: str, adapter: str) -> None:
    settings = Settings(n_ctx=max(map(len, documents)) + 1)
    engine = plugins().backend("gguf").open(LaunchPlan("gguf", artifact(path), settings))
    used = (("tuned", 1.0),) if adapter else ()
    if adapter:
        engine.load_adapter("tuned", adapter)
    rows = np.lib.format.open_memmap(target, "w+", np.float32, (sum(map(len, documents)), engine.info.vocab_size))
    at, each = 0, 1 + SPARE_LOGITS
    for ids in documents:
        engine.truncate(0, 0)
        for start in range(0, len(ids), each):
            part = tuple(ids[start : start + each])
            (logits,) = engine.step([SlotInput(0, start, part, len(part), used)])
            rows[at : at + len(part)] = logits
            at += len(part)
    rows.flush()
    engine.close()


def tuned(trainer, documents: Documents, target: Path, *, adapted: bool = True) -> Logits:
    """By a trainer. Without `adapted`: as if nothing had been learned."""
    import torch
    from edgellm_tune.decoder import Tokens
    from edgellm_tune.loss import logits_of
    from edgellm_tune.pieces import Norm

    model, nothing = trainer.model, torch.empty(0, dtype=torch.int64)
    rows = np.lib.format.open_memmap(target, "w+", np.float32, (sum(map(len, documents)), model.config.vocab))
    scales = [linear.adapter.scale for linear in model.linears]
    for linear, scale in zip(model.linears, scales, strict=True):
        linear.adapter.scale = scale if adapted else 0.0
    at = 0
    with torch.no_grad():
        for ids in documents:
            count = len(ids)
            tokens = Tokens(torch.tensor(list(ids)), torch.arange(count), ((0, count),), nothing, nothing)
            x = Norm.apply(model._hidden(tokens), model.vectors["output_norm.weight"], model.config.eps)
            rows[at : at + count] = logits_of(x, model.head).numpy()
            at += count
    for linear, scale in zip(model.linears, scales, strict=True):
        linear.adapter.scale = scale
    rows.flush()
    return rows


@dataclass(frozen=True)
class Distance:
    kl: float  # mean over tokens, in nats
    same_top: float  # share of tokens


def distance(wanted: Logits, got: Logits) -> Distance:
    kl, same = 0.0, 0
    for expected, logits in _pieces(wanted, got):
        p, q = _log_probs(expected), _log_probs(logits)
        kl += float((np.exp(p) * (p - q)).sum())
        same += int((p.argmax(1) == q.argmax(1)).sum())
    return Distance(kl / len(wanted), same / len(wanted))


def cosine_of_changes(before: Logits, after: Logits, base: Logits, adapted: Logits) -> float:
    """Between what changes from `before` to `after` and from `base` to `adapted`, over all tokens and their logits.

    A shift of all logits of a token changes no probability: each token's mean is taken out.
    """
    sums = np.zeros(3)
    for one, two, three, four in _pieces(before, after, base, adapted):
        left, right = two.astype(np.float64) - one, four.astype(np.float64) - three
        left -= left.mean(1, keepdims=True)
        right -= right.mean(1, keepdims=True)
        sums += (left * right).sum(), (left * left).sum(), (right * right).sum()
    return float(sums[0] / np.sqrt(sums[1] * sums[2]))


def _pieces(*logits: Logits):
    for start in range(0, len(logits[0]), 16):
        yield tuple(np.asarray(rows[start : start + 16]) for rows in logits)


def _log_probs(logits: Logits) -> npt.NDArray[np.float64]:
    exact = logits.astype(np.float64)
    exact -= exact.max(1, keepdims=True)
    return exact - np.log(np.exp(exact).sum(1, keepdims=True))


if __name__ == "__main__":
    _serve(*json.load(sys.stdin))
