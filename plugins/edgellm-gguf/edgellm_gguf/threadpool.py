"""Compute threads that live longer than a step. Without them ggml starts new threads for every token, which takes 8 %
of a token's time with SmolLM2-135M on two cores (docs/adr/008)."""

from __future__ import annotations

from typing import Any

from edgellm_gguf.ggml import library, new_threadpool


class ThreadPool:
    """`n_threads` threads for one context's decoding and prefill, with ggml's defaults otherwise.

    Between steps they poll for a moment (a third of a second at ggml's default level), then sleep. A library that was
    built with OpenMP ignores them.
    """

    def __init__(self, ctx: Any, n_threads: int) -> None:
        self._pool: int | None = None
        if n_threads < 2:
            return
        self._pool = new_threadpool(n_threads)
        if self._pool is not None:
            library.llama_attach_threadpool(ctx, self._pool, self._pool)

    def close(self) -> None:
        """End the threads. The context must be gone before. Twice is fine."""
        if self._pool is not None:
            library.ggml_threadpool_free(self._pool)
            self._pool = None
