"""One measurement of regret.py in a process of its own, as a worker would be: quality, memory or rate, as JSON."""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

DEPTH = 1024  # tokens cached while decoding
TOKENS = 1024  # of the text; the last half is judged
PROMPT_THREADS = 2
THREADS = 1  # with more, whatever else runs on the machine is measured too
RATE_SAMPLES, RATE_TOKENS = 3, 16


def text() -> str:
    """English prose that no quantization was fitted to: the language reference that Python carries for `help()`."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in ("naming", "exceptions", "execmodel", "assignment", "binary", "with"))


def child(job: dict[str, Any]) -> None:
    """One measurement in a process of its own, as a worker would be."""
    from edgellm_gguf.engine import LlamaEngine

    from edgellm.types.model import Artifact
    from edgellm.types.plan import LaunchPlan, Settings

    # Of a rate the prompt is no part: it may be read faster.
    batch_threads = PROMPT_THREADS if job["what"] == "rate" else THREADS
    run = Settings(job["ctx"], 1, THREADS, batch_threads, job["kv_type"])
    engine = LlamaEngine(LaunchPlan("gguf", Artifact("gguf", (job["path"],), job["model"]), run))
    tokens = engine.tokenizer.encode(text(), add_special=True, parse_special=False)
    found = {"quality": _quality, "memory": _memory, "rate": _rate}[job["what"]](engine, tokens, job)
    print(json.dumps(found))


def _feed(engine: Any, tokens: list[int], n: int, rows: int = 0, at: int = 0) -> list[Any]:
    """Feed tokens[at : at + n] in steps of as many as it gives logits for."""
    from edgellm.contract.engine import SlotInput

    size, found = 32 if rows else 512, []
    for start in range(at, at + n, size):
        part = tuple(tokens[start : min(start + size, at + n)])
        got = engine.step([SlotInput(0, start, part, len(part) if rows else 1)])
        found.append(got[0].copy())
    return found


def _quality(engine: Any, tokens: list[int], job: dict[str, Any]) -> float:
    """Mean KL divergence to the F16 file with an F16 cache, nats per token."""
    import numpy as np

    n = TOKENS
    reference = Path(job["reference"])
    _feed(engine, tokens, n // 2)
    total, count = 0.0, 0
    blocks = np.load(reference, mmap_mode="r") if reference.exists() else None
    kept = []
    for start in range(n // 2, n, 32):
        logits = _feed(engine, tokens, 32, rows=1, at=start)[0].astype(np.float32)
        logits -= logits.max(axis=1, keepdims=True)
        log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        if blocks is None:
            kept.append(log_p)
            continue
        base = blocks[start - n // 2 : start - n // 2 + 32]
        total += float((np.exp(base) * (base - log_p)).sum())
        count += len(base)
    if blocks is None:
        np.save(reference, np.concatenate(kept))
        return 0.0
    return total / count


def _memory(engine: Any, tokens: list[int], job: dict[str, Any]) -> int:
    """Resident bytes after a prompt, without the pages of the file that the system may drop at no cost."""
    _feed(engine, tokens, 600)
    peak = _status("VmHWM")
    _page_out(job["path"])
    # What is really read comes back: a prompt and a few tokens.
    engine.truncate(0, 0)
    _feed(engine, tokens, 32)
    for at in range(32, 36):
        _feed(engine, tokens, 1, at=at)
    return {"needed": _status("VmRSS"), "peak": peak}  # type: ignore[return-value]


def _page_out(path: str) -> None:
    import ctypes

    pageout = 21  # MADV_PAGEOUT, mman-common.h
    libc = ctypes.CDLL(None, use_errno=True)
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith(path):
            start, end = (int(part, 16) for part in line.split()[0].split("-"))
            if libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), pageout):
                raise OSError(ctypes.get_errno(), "madvise")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def _rate(engine: Any, tokens: list[int], job: dict[str, Any]) -> float:
    """Median decode rate of a few short runs, tokens per second of processor time: with one thread, this computes."""
    _feed(engine, tokens, DEPTH)
    samples = []
    for _ in range(RATE_SAMPLES):
        engine.truncate(0, DEPTH)
        started = time.thread_time()
        for at in range(DEPTH, DEPTH + RATE_TOKENS):
            _feed(engine, tokens, 1, at=at)
        samples.append(RATE_TOKENS / (time.thread_time() - started))
    return statistics.median(samples)


if __name__ == "__main__":
    child(json.loads(sys.argv[1]))
