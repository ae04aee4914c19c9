"""What the server's own process may take beyond its start, so that no body makes it take the machine's memory.

Work beside the event loop that makes too much is ended by MemoryError. The kernel's limit is further off: there any
allocation fails, of whoever comes first, and msgspec ends the process. docs/adr/088 has the numbers.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from edgellm.contract.data_limit import limit_own_data, taken_bytes
from edgellm.server.trimming import trim_memory

T = TypeVar("T")
# What the bounds of bodies (64 MiB, and 16 KiB of each of 4,096 connections), of what is sent ahead (32 MiB), of
# answers that are not sent yet (64 MiB) or that nobody takes (64 MiB), and of stored responses (64 MiB) add up to, and
# a tenth as much for what is made of them.
LEAST_BYTES = 384 * 1024**2
MOST_BYTES = 1024**3
# From what ends work to what the kernel refuses. Decoding a body is one call, which nothing ends; and as much again may
# be reserved and free, in parts: that counts for the kernel.
MARGIN_BYTES = 128 * 1024**2
RESERVED_TIMES = 2
# Threads that may still start: asyncio's are one for each processor and four, the others watch the worker.
OTHER_THREADS = 8
STACK_BYTES = 8 * 1024**2  # where the shell sets no limit
LOOK_EVERY_S = 0.02  # while there is work
COLLECT_EVERY_S = 5.0  # at most: it stops all threads for some 0.1 s
TOLD = 2  # looks
TELL_EVERY = 10  # looks: what is told may be caught, and telling it at once again would meet what cleans up


def limit_server(asked_bytes: int | None) -> None:
    """From now on, of this process and not of those that it starts. Nothing on other systems than Linux.

    Args:
        asked_bytes: so much more than there is now; 0 = as much as there is, None = as the machine has it.
    """
    if sys.platform != "linux" or asked_bytes == 0:
        return
    more_bytes = allowance(machine_bytes()) if asked_bytes is None else asked_bytes
    work.end_beyond(taken_bytes() + more_bytes)
    limit_own_data(RESERVED_TIMES * more_bytes + MARGIN_BYTES + stacks_bytes())


def allowance(machine: int) -> int:
    """Of a machine, or a container, with so many bytes: half, within what is enough anywhere."""
    return min(MOST_BYTES, max(LEAST_BYTES, machine // 2))


def machine_bytes() -> int:
    """RAM, or what the container may have of it."""
    import psutil

    from edgellm.hardware.linux import cgroup
    from edgellm.hardware.linux.sysfs import SysRoot

    limit = cgroup.memory_limit(SysRoot(), [])
    total: int = psutil.virtual_memory().total
    return total if limit is None else min(total, limit.limit_bytes)


def stacks_bytes() -> int:
    """Of all threads that may still start: the kernel counts them whole, touched or not."""
    import resource

    stack, _ = resource.getrlimit(resource.RLIMIT_STACK)
    one = STACK_BYTES if stack == resource.RLIM_INFINITY else stack
    return (min(32, (os.cpu_count() or 1) + 4) + OTHER_THREADS) * one


@dataclass
class Work:
    """What threads of this process do for requests."""

    most_bytes: int = 0  # of RAM and swap; 0 = no limit
    _looks: dict[int, int] = field(default_factory=dict)  # by thread: how often there was too much while it worked
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _begins: threading.Event = field(default_factory=threading.Event)
    _collected: float = -COLLECT_EVERY_S  # when

    def end_beyond(self, most_bytes: int) -> None:
        """From now on work is ended while this process has more."""
        self.most_bytes = most_bytes
        threading.Thread(target=self._watch, name="edgellm-memory", daemon=True).start()

    def do(self, call: Callable[[], T]) -> T:
        """What `call` returns, in this thread.

        Raises:
            MemoryError: it made too much, or others did while it worked.
        """
        if not self.most_bytes:
            return call()
        thread = threading.get_ident()
        try:
            with self._lock:
                self._looks[thread] = 0
            self._begins.set()
            return call()
        finally:
            try:
                self._end(thread)
            except MemoryError:  # at its first step
                self._end(thread)

    def _end(self, thread: int) -> None:
        """From here on nothing is raised in it any more.

        What was told is raised, and not taken back: until then Python 3.11 and 3.12 look for it at each call of every
        thread, and never come past the call of a function that is traced.
        """
        with self._lock:
            n_looks = self._looks.pop(thread, TOLD)
        if n_looks >= TOLD:
            with contextlib.suppress(MemoryError):
                _raise_in(thread, MemoryError)  # in the place of what was told
                while True:
                    pass

    def _watch(self) -> None:
        while self._begins.wait():
            time.sleep(LOOK_EVERY_S)
            if taken_bytes() > self.most_bytes:
                self._tidy()
            with self._lock:
                if not self._looks:
                    self._begins.clear()
                elif taken_bytes() > self.most_bytes:
                    self._end_some()

    def _tidy(self) -> None:
        """What is free, or garbage, is no reason to end any."""
        trim_memory()
        if taken_bytes() > self.most_bytes and time.monotonic() - self._collected >= COLLECT_EVERY_S:
            gc.collect()  # connections that ended leave cycles, which a server that is idle then seldom collects
            self._collected = time.monotonic()
            trim_memory()

    def _end_some(self) -> None:
        """Those that work since the last look, too: what is done at once is no danger."""
        for thread, n_looks in self._looks.items():
            self._looks[thread] = n_looks + 1
            if n_looks % TELL_EVERY == TOLD - 1:
                _raise_in(thread, MemoryError)


def _raise_in(thread: int, error: type[BaseException]) -> None:
    """At its next step in Python."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(error))


work = Work()
