"""Compute threads that outlive a step: without them ggml starts its threads anew for every token (8 % of a token of
SmolLM2-135M on two cores, see docs/adr/008).

The binding has no names for these functions (ggml.h, ggml-cpu.h, llama.h), so they are bound here.
"""

from __future__ import annotations

import ctypes
from typing import Any

import llama_cpp.llama_cpp as binding

# libllama's handle finds ggml's functions too: the very copies that libllama calls. (The wheel holds each library three
# times instead of links; opening one by its path could bring a second copy with a state of its own.)
library = binding._lib
NEEDED = (
    "llama_attach_threadpool",
    "ggml_threadpool_params_init",
    "ggml_threadpool_new",
    "ggml_threadpool_free",
)
MAX_THREADS = 512  # GGML_MAX_N_THREADS


class _Params(ctypes.Structure):
    """struct ggml_threadpool_params"""

    _fields_ = (
        ("cpumask", ctypes.c_bool * MAX_THREADS),
        ("n_threads", ctypes.c_int),
        ("prio", ctypes.c_int),
        ("poll", ctypes.c_uint32),
        ("strict_cpu", ctypes.c_bool),
        ("paused", ctypes.c_bool),
    )


class ThreadPool:
    """`n_threads` threads for one context's decoding and prefill, with ggml's defaults otherwise.

    Between steps they poll for a moment (a third of a second at ggml's default level), then sleep. A library without
    these functions, or one built with OpenMP, works as it did before.
    """

    def __init__(self, ctx: Any, n_threads: int) -> None:
        self._pool: int | None = None
        if n_threads < 2 or not all(hasattr(library, name) for name in NEEDED):
            return
        library.ggml_threadpool_params_init.argtypes = (ctypes.c_void_p, ctypes.c_int)
        library.ggml_threadpool_params_init.restype = None
        library.ggml_threadpool_new.argtypes = (ctypes.c_void_p,)
        library.ggml_threadpool_new.restype = ctypes.c_void_p
        params = _Params()
        library.ggml_threadpool_params_init(ctypes.byref(params), n_threads)
        self._pool = library.ggml_threadpool_new(ctypes.byref(params))
        if self._pool is not None:
            pool = ctypes.c_void_p(self._pool)
            library.llama_attach_threadpool(ctypes.c_void_p(ctx), pool, pool)

    def close(self) -> None:
        """End the threads. The context must be gone before. Twice is fine."""
        if self._pool is not None:
            library.ggml_threadpool_free(ctypes.c_void_p(self._pool))
            self._pool = None
