"""One engine in a process of its own, which answers a line of JSON with a line: {"call": NAME, ...} -> {"result": ...}.

    python benchmarks/ternary_child.py edgellm|llama.cpp '{"source": "FILE", "threads": 2, ...}'

Rates are tokens per second, of random token numbers. A call that fails ends the process.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

WARM_UP = 16


def peak_bytes() -> int:
    """Most resident memory of this process so far."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


class NoText:
    """Stands where a tokenizer would: these files have token numbers only."""

    eos_ids: frozenset[int] = frozenset()


class Edgellm:
    """This project's engine. `source` is a file, or the name of a shape whose weights are then random."""

    def __init__(
        self, source: str, threads: int, *, n_ctx: int = 1024, slots: int = 1, kv_type: str = "f16", head: str = "",
        keep: bool = False, threads_batch: int = 0,
    ) -> None:  # fmt: skip
        from edgellm_bitnet.engine import BitnetEngine
        from edgellm_bitnet.options import Options
        from edgellm_bitnet.weights import GgufWeights
        from ternary_models import SHAPES
        from ternary_weights import RandomWeights

        from edgellm.types.plan import Settings

        self.options = Options(head=head, keep_packed=keep)
        self.settings = Settings(n_ctx, slots, threads, threads_batch or threads, kv_type)
        self.shape_weights = RandomWeights(source) if source in SHAPES else None
        started, worked = time.perf_counter(), time.process_time()
        weights = self.shape_weights or GgufWeights(source)
        self.engine = BitnetEngine(weights, NoText(), self.settings, self.options)  # type: ignore[arg-type]
        self.load_s, self.load_cpu_s = time.perf_counter() - started, time.process_time() - worked
        self.rng = np.random.default_rng(0)
        self.held = [0] * slots
        for slot in range(slots):  # memory of the cache is given when it is first written
            self.hold(slot, WARM_UP)

    def about(self) -> dict[str, Any]:
        """What was loaded, the bytes that a token reads, the peak of memory and what was foretold of it."""
        from edgellm_bitnet.footprint import TOKEN_BYTES, footprint

        slabs = self.engine._loaded.layout.slabs
        found = dict(self.engine.info.details) | {
            "load_s": self.load_s,
            "load_cpu_s": self.load_cpu_s,
            "token_bytes": sum(slab.end - slab.data for key, slab in slabs.items() if key != "embed"),
            "peak_bytes": peak_bytes(),
        }
        if self.shape_weights is not None:
            arch, source = self.shape_weights.architecture, self.shape_weights.source_bytes
            foretold = footprint(arch, self.shape_weights.tensors, self.settings, self.options)  # type: ignore[arg-type]
            found["peak_bytes"] = peak_bytes() - source
            found["footprint_bytes"] = foretold.resident_bytes - TOKEN_BYTES * arch.vocab  # there is no tokenizer
        return found

    def step(self, slots: list[int], n: int, want: int) -> None:
        from edgellm.contract.engine import SlotInput

        tokens = self.rng.integers(0, self.engine.info.vocab_size, (len(slots), n)).tolist()
        self.engine.step([SlotInput(s, self.held[s], tuple(t), want) for s, t in zip(slots, tokens, strict=True)])
        for slot in slots:
            self.held[slot] += n

    def hold(self, slot: int, n: int) -> None:
        """Have exactly n tokens cached."""
        self.held[slot] = self.engine.truncate(slot, n)
        while self.held[slot] < n:
            self.step([slot], min(512, n - self.held[slot]), 0)

    def prefill(self, n: int) -> float:
        self.hold(0, 0)
        started = time.perf_counter()
        self.step([0], n, 1)
        return n / (time.perf_counter() - started)

    def decode(self, n: int, slots: int = 1, past: int = 0, first: int = 0) -> float:
        """n steps of `slots` slots, beginning with number `first`, that hold `past` tokens each."""
        chosen = list(range(first, first + slots))
        for slot in chosen:
            self.hold(slot, past)
        started = time.perf_counter()
        for _ in range(n):
            self.step(chosen, 1, 1)
        return n * slots / (time.perf_counter() - started)

    def product(self, tokens: int) -> float:
        """GMAC/s of the ternary products of all layers, by themselves."""
        from edgellm_bitnet import native

        loaded, lib, seconds, done = self.engine._loaded, native.library(), 0.0, 0
        for key, slab in loaded.layout.slabs.items():
            if key.split(".")[-1] not in ("qkv", "output", "gate_up", "down"):
                continue
            matrix = loaded.arena.matrix(slab)
            x = self.rng.standard_normal((tokens, slab.cols), np.float32)
            y = np.ones((tokens, slab.rows), np.float32)
            seconds += lib.bn_matmul(
                self.engine._isa, ctypes.byref(matrix), x.ctypes.data, tokens, 0, y.ctypes.data,
                self.settings.n_threads, 1,
            )  # fmt: skip
            done += tokens * slab.cols * slab.rows
        return done / seconds / 1e9

    def logits(self, n: int, path: str) -> None:
        """Write the logits after each of the last 32 of n tokens, the same tokens in every process."""
        from edgellm.contract.engine import SlotInput

        self.engine.truncate(0, 0)
        tokens = np.random.default_rng(7).integers(0, self.engine.info.vocab_size, n).tolist()
        (rows,) = self.engine.step([SlotInput(0, 0, tuple(tokens), 32)])
        np.save(path, rows)
        self.held[0] = n


class LlamaCpp:
    """llama.cpp through the package's low-level interface, with a thread pool as edgellm-gguf attaches."""

    def __init__(self, source: str, threads: int, n_ctx: int = 1024) -> None:
        import llama_cpp
        from edgellm_gguf import ggml
        from edgellm_gguf.log import Log
        from edgellm_gguf.threadpool import ThreadPool

        self.log = Log()
        self.log.start()
        self.lib = llama_cpp
        ggml.start()
        self.model = llama_cpp.llama_model_load_from_file(source.encode(), llama_cpp.llama_model_default_params())
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = n_ctx, 512, 512
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_AUTO
        self.ctx = llama_cpp.llama_init_from_model(self.model, params)
        self.pool = ThreadPool(self.ctx, threads)
        self.vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.rng = np.random.default_rng(0)
        self.prefill(WARM_UP)

    def about(self) -> dict[str, Any]:
        return {"peak_bytes": peak_bytes(), "version": self.lib.__version__}

    def step(self, n: int) -> None:
        tokens = (ctypes.c_int32 * n)(*self.rng.integers(0, self.vocab, n).tolist())
        if self.lib.llama_decode(self.ctx, self.lib.llama_batch_get_one(tokens, n)):
            raise SystemExit("llama_decode failed")
        self.lib.llama_get_logits_ith(self.ctx, -1)

    def prefill(self, n: int) -> float:
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.ctx), True)
        started = time.perf_counter()
        self.step(n)
        return n / (time.perf_counter() - started)

    def decode(self, n: int) -> float:
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.ctx), True)
        started = time.perf_counter()
        for _ in range(n):
            self.step(1)
        return n / (time.perf_counter() - started)


def main() -> None:
    engine = {"edgellm": Edgellm, "llama.cpp": LlamaCpp}[sys.argv[1]](**json.loads(sys.argv[2]))
    print(json.dumps({"result": engine.about()}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps({"result": getattr(engine, request.pop("call"))(**request)}), flush=True)


if __name__ == "__main__":
    main()
