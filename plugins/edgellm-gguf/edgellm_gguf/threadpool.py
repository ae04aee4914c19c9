"""Compute threads that live longer than a step. Without them ggml starts new threads for every token, which takes 8 %
of a token's time with SmolLM2-135M on two cores (docs/adr/008)."""

from __future__ import annotations

from typing import Any

from edgellm_gguf.ggml import library, new_threadpool

NEEDED = (
    "llama_attach_threadpool", "ggml_threadpool_params_init", "ggml_threadpool_new", "ggml_threadpool_free",
)  # fmt: skip


class ThreadPool:
    """`n_threads` threads for one context's decoding and prefill, with ggml's defaults otherwise.

    Between steps they poll for a moment (a third of a second at ggml's default level), then sleep. A library without
    these functions, or one built with OpenMP, works as it did before.
    """

    def __init__(self, ctx: Any, n_threads: int) -> None:
        self._pool: int | None = None
        if n_threads < 2 or not all(hasattr(library, name) for name in NEEDED):
            return
        self._pool = new_threadpool(n_threads)
        if self._pool is not None:
            library.llama_attach_threadpool(ctx, self._pool, self._pool)

    def close(self) -> None:
        """End the threads. The context must be gone before. Twice is fine."""
        if self._pool is not None:
            library.ggml_threadpool_free(self._pool)
            self._pool = None
