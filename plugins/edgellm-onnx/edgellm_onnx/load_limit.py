"""What a graph may take of its worker until the first text is computed: kilobytes can ask for terabytes, or never end.

onnxruntime computes what hangs on constants alone while it opens a session, and nothing interrupts it.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path

LEAST_BYTES, THREAD_BYTES = 2 * 1024**3, 16 * 1024**2  # a tokenizer at its bounds takes one; a thread's stack
TIMES_PREDICTED = 8  # float16 becomes float32, is copied into another order, and arenas round up to powers of two
MOST_BYTES = 2**60  # what a limit can be, with room to multiply
LEAST_S, BYTES_S = 600.0, 10e6  # of processor time, of each thread: a board on a slow card reads 10 MB/s


@contextlib.contextmanager
def limited_load(n_bytes: int, n_threads: int) -> Iterator[None]:
    """On Linux an allocation beyond fails, and SIGXCPU ends the process that computes longer. Afterwards as before.

    Args:
        n_bytes: that the model is predicted to take.
    """
    if sys.platform != "linux":
        yield
        return
    import resource

    n_bytes = min(n_bytes, MOST_BYTES)
    most_s = n_threads * (LEAST_S + n_bytes / BYTES_S)
    limits = {
        resource.RLIMIT_DATA: _data_bytes() + LEAST_BYTES + n_threads * THREAD_BYTES + TIMES_PREDICTED * n_bytes,
        resource.RLIMIT_CPU: math.ceil(time.process_time() + most_s),
    }
    before = {kind: resource.getrlimit(kind) for kind in limits}
    for kind, (soft, hard) in before.items():
        if soft == resource.RLIM_INFINITY or soft > limits[kind]:
            resource.setrlimit(kind, (limits[kind], hard))
    try:
        yield
    finally:
        for kind, pair in before.items():
            resource.setrlimit(kind, pair)


def _data_bytes() -> int:
    """What the kernel counts against RLIMIT_DATA: private memory that can be written, touched or not."""
    with Path("/proc/self/status").open() as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData:"))
