"""What EdgeLLM's runtime costs per token: the same model stepped by a bare loop, by the runtime, and through a worker.

    python benchmarks/runtime.py [--model FILE] [--tokens 200] [--rounds 5]

"bare" is `llama_decode` and `argmax` in a loop: the least that Python can do. "loop" adds scheduling, sampling,
detokenizing and encoding for the wire; "worker" adds the process border and the SDK's events. All greedy, one slot,
one after another in each round; differences are taken round by round.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import queue
import statistics
import time

from edgellm.contract.engine import Engine, SlotInput
from edgellm.contract.manager import plugins
from edgellm.runtime import wire
from edgellm.runtime.loop import Loop
from edgellm.sdk.client import EdgeLLM
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan, Settings
from edgellm.types.request import GenerationRequest
from edgellm.types.sampling import Sampling

PROMPT = "Once upon a time there was a small machine that wanted to speak."


def bare(engine: Engine, n_tokens: int) -> float:
    """Seconds per token of the least loop over the C API, on the engine's own context."""
    import llama_cpp
    import numpy as np

    prompt = engine.tokenizer.encode(PROMPT, add_special=True, parse_special=False)
    engine.truncate(0, 0)
    engine.step([SlotInput(0, 0, tuple(prompt), 1)])
    ctx = engine._ctx  # type: ignore[attr-defined]
    n_vocab = engine.info.vocab_size
    token = (ctypes.c_int32 * 1)(prompt[-1])
    started = time.perf_counter()
    for _ in range(n_tokens):
        llama_cpp.llama_decode(ctx, llama_cpp.llama_batch_get_one(token, 1))
        row = llama_cpp.llama_get_logits_ith(ctx, -1)
        token[0] = int(np.ctypeslib.as_array(row, shape=(n_vocab,)).argmax())
    elapsed = time.perf_counter() - started
    llama_cpp.llama_memory_seq_rm(llama_cpp.llama_get_memory(ctx), 0, -1, -1)
    return elapsed / n_tokens


def request_of(n_tokens: int) -> GenerationRequest:
    return GenerationRequest(PROMPT, Sampling(temperature=0), max_tokens=n_tokens + 1, ignore_eos=True)


def loop(engine: Engine, n_tokens: int) -> float:
    """Seconds per token of the runtime's loop in this thread."""
    inbox: queue.SimpleQueue[wire.Down] = queue.SimpleQueue()
    moments: list[float] = []

    def emit(messages: list[wire.Up]) -> None:
        wire.encode(messages)
        moments.append(time.perf_counter())

    inbox.put(wire.Submit(1, request_of(n_tokens)))
    inbox.put(wire.Stop(drain=True))
    engine.truncate(0, 0)
    Loop(engine, inbox, emit).run()
    return (moments[-1] - moments[0]) / n_tokens


def worker(llm: EdgeLLM, n_tokens: int) -> float:
    """Seconds per token as an app sees them."""
    moments = [time.perf_counter() for _ in llm.generate(request_of(n_tokens))]
    return (moments[-1] - moments[0]) / n_tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a GGUF file (default: SmolLM2-135M-Instruct Q4_1)")
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    if options.model is None:
        from serve import default_model

        options.model = default_model()
    run = Settings(n_ctx=1024, n_threads=options.threads, n_threads_batch=options.threads)
    plan = LaunchPlan("gguf", Artifact("gguf", (options.model,), "model"), run)
    engine = plugins().backend("gguf").open(plan)
    with EdgeLLM(plan) as llm:
        worker(llm, 16), bare(engine, 16)
        n = options.tokens
        rounds = [(bare(engine, n), loop(engine, n), worker(llm, n)) for _ in range(options.rounds)]
    engine.close()
    print(f"{'':<10}{'us/token':>10}{'over bare':>12}")
    for index, name in enumerate(("bare", "loop", "worker")):
        median = statistics.median(r[index] for r in rounds)
        over = statistics.median(r[index] - r[0] for r in rounds)
        print(f"{name:<10}{median * 1e6:>10.0f}{over * 1e6:>12.0f}")


if __name__ == "__main__":
    main()
