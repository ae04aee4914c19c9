"""What a graph may take of its worker's memory until the first text is computed: kilobytes can ask for terabytes.

onnxruntime computes what hangs on constants alone while it opens a session. Afterwards the worker's own limit holds.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

from edgellm.contract.data_limit import limited_data

LEAST_BYTES, THREAD_BYTES = 2 * 1024**3, 16 * 1024**2  # a tokenizer at its bounds takes one; a thread's stack
TIMES_PREDICTED = 8  # float16 becomes float32, is copied into another order, and arenas round up to powers of two


def limited_load(n_bytes: int, n_threads: int) -> AbstractContextManager[None]:
    """An allocation beyond fails, on Linux. `n_bytes`: that the model is predicted to take."""
    return limited_data(LEAST_BYTES + n_threads * THREAD_BYTES + TIMES_PREDICTED * n_bytes)
