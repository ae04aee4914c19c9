"""How fast this machine reads its memory, measured up to three times; the best is remembered.

The loop is numpy's bitwise or over int64, chosen by measuring on a 2-processor Sapphire Rapids virtual machine (numpy
2.4, best of 0.25 s, one / two threads, GB/s). On 8 MiB, which is cache: or 31 / 36, max 32 / 40, dot (BLAS) 32 / 40. On
256 MiB with 2 MiB pages: or 20 / 38, sum 20 / 38, dot 19 / 38, max 16 / 34, so memory bounds the first three. Sums of
narrower types stay below them even in cache. With 4 KiB pages: or 12 / 25, a third less, which is why the basis names
the page size. 64 MiB still lies partly in cache there. A copy would count writes.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import mmap
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgellm import settings
from edgellm.files import read_json_record, write_atomic
from edgellm.types.machine import Machine
from edgellm.units import GIB, MIB, counted

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Numbers = npt.NDArray[np.int64]

BUFFER_BYTES = 256 * MIB
SECONDS = 0.25  # of reading; filling the buffer comes on top
MIN_BUFFER_BYTES = 16 * MIB
_HUGE = 2 * MIB
_PART = 32 * MIB  # of a buffer: sizes that differ by less are one
_CACHE_SCHEMA = 1
# Other programs can only lower the measured bandwidth: 13 and 38 GB/s were seen on one machine within an hour. Of three
# measurements at different times, one is likely to be quiet.
OCCASIONS = 3
# Threads that wait for a processor for more than this share of the time compete with other programs: alone they wait 0
# to 2 %, beside a build on both processors 40 to 70 %. Such a number is used where there is no better one, and marked.
BUSY_SHARE = 0.15
# Beside other programs each thread reads so much at a time, which fits into its turn on a processor, and the best
# twentieth counts. On 2 processors of an EPYC with 8 to 11 processes for them (2026-11-27), GB/s over the whole buffer,
# and in such pieces: 34 and 33; 32 and 30; 17 and 32; 2.2 and 29; 2.1 and 29; 1.9 and 28.
PIECE = 4 * MIB
BEST_PIECES = 1 / 20


@dataclass(frozen=True, slots=True)
class MemoryBandwidth:
    gb_s: float  # 1e9 bytes per second
    basis: str  # for people
    occasions: int = 1  # quiet measurements of which this is the best
    contended: bool = False  # other programs ran beside it


def remembered(machine: Machine, notes: list[str]) -> MemoryBandwidth | None:
    """The best of what was measured on this machine before, for the same threads and pages; None = nothing usable.

    How much memory is free changes by the minute, and with it the buffer: what was read over a larger one counts, too.
    """
    parts = range(_parts(machine), BUFFER_BYTES // _PART + 1)
    readings = [reading for n in parts if (reading := _read(machine, n, notes)) is not None]
    return max(readings, key=lambda reading: (not reading.contended, reading.gb_s), default=None)


def _read(machine: Machine, n_parts: int, notes: list[str]) -> MemoryBandwidth | None:
    path = _cache_file(machine, n_parts)
    try:
        stored = read_json_record(path, dict[str, Any], 64 * 1024)
        occasions = int(stored["occasions"])
        contended = bool(stored.get("contended", occasions == 0))  # older files have no such key
        bandwidth = MemoryBandwidth(float(stored["gb_s"]), str(stored["basis"])[:200], occasions, contended)
        if stored["schema"] == _CACHE_SCHEMA and stored["key"] == _key(machine, n_parts) and 0 < bandwidth.gb_s < 1e5:
            return bandwidth
        raise ValueError("it describes another machine")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        reason = f"it lacks {error}"[:160] if isinstance(error, KeyError) else str(error)[:160]
        notes.append(f"stored memory bandwidth is not usable ({path.name}: {reason}): ignored")
        return None


def of(machine: Machine, notes: list[str], *, refine: bool = False) -> MemoryBandwidth | None:
    """Remembered, else measured now (under a second) and stored; None, with a note, where it cannot be measured.

    What was measured beside other programs is measured again each time, until one measurement was quiet; with `refine`,
    until three were.
    """
    stored = remembered(machine, notes)
    if stored is not None and stored.occasions >= (OCCASIONS if refine else 1):
        return stored
    size = buffer_bytes(machine)
    if size < MIN_BUFFER_BYTES and stored is not None:
        return stored
    if size < MIN_BUFFER_BYTES:
        needed = MIN_BUFFER_BYTES // MIB
        notes.append(f"memory bandwidth not measured: {size // MIB} MiB may be used for it, {needed} MiB are needed")
        return None
    try:
        measurement = measure(machine.compute_threads, size, SECONDS)
    except (MemoryError, OSError) as error:
        notes.append(f"memory bandwidth not measured: {error}")
        return stored
    if stored is not None:
        better = max(stored, measurement, key=lambda bandwidth: bandwidth.gb_s)
        occasions, contended = stored.occasions + measurement.occasions, stored.contended and measurement.contended
        measurement = replace(better, occasions=occasions, contended=contended)
    _remember(machine, measurement, notes)
    return measurement


def buffer_bytes(machine: Machine) -> int:
    """256 MiB, but no more than an eighth of what is available; whole huge pages."""
    room = machine.memory_budget_bytes
    return min(BUFFER_BYTES, room // 8) // _HUGE * _HUGE


def measure(threads: int, size: int, seconds: float) -> MemoryBandwidth:
    """Best of the passes that fit into `seconds` (at least 3), each thread reading its own part of `size` bytes.

    The best, because other programs can only take bandwidth away. Beside them it is read in small pieces, too.

    Raises:
        OSError, MemoryError: the buffer could not be allocated.
    """
    import numpy as np

    with _buffer(size) as buffer:
        numbers: Numbers = np.frombuffer(buffer, dtype=np.int64)
        parts = np.array_split(numbers, threads)
        _together(parts, lambda part: part.fill(1))
        pages = _page_size_of(numbers.ctypes.data, size)
        passes = _passes(itertools.repeat(parts), seconds)
        bytes_s = size / min(one.elapsed_s for one in passes)
        waited, runnable = sum(one.waited for one in passes), sum(one.ran + one.waited for one in passes)
        if busy := waited > BUSY_SHARE * runnable:
            bytes_s = max(bytes_s, _in_pieces(numbers, threads, seconds))
        del numbers, parts, passes
    beside = ", beside other programs" if busy else ""
    basis = f"measured: {counted(threads, 'thread')}, {pages} pages, read over {size // MIB} MiB{beside}"
    return MemoryBandwidth(round(bytes_s / 1e9, 2), basis, occasions=0 if busy else 1, contended=busy)


def _passes(reads: Iterator[Sequence[Numbers]], seconds: float) -> list[_Pass]:
    """One after another, as many as fit into `seconds`, but at least 3."""
    import numpy as np

    passes: list[_Pass] = []
    end = time.perf_counter() + seconds
    while len(passes) < 3 or time.perf_counter() < end:
        passes.append(_together(next(reads), np.bitwise_or.reduce))
    return passes


def _in_pieces(numbers: Numbers, threads: int, seconds: float) -> float:
    """Bytes per second of the best pieces, one after another from the whole buffer, so that none lies in a cache."""
    import numpy as np

    piece = min(PIECE * threads, numbers.nbytes)
    n_pieces = numbers.nbytes // piece
    pieces = [np.array_split(part, threads) for part in np.split(numbers[: n_pieces * piece // 8], n_pieces)]
    times = sorted(one.elapsed_s for one in _passes(itertools.cycle(pieces), seconds))
    return piece / times[int(len(times) * BEST_PIECES)]


@contextmanager
def _buffer(size: int) -> Iterator[mmap.mmap]:
    # Private: a shared anonymous mapping is a file to the kernel, and gets no transparent huge pages.
    private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
    buffer = mmap.mmap(-1, size, **private)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        # A kernel without transparent huge pages refuses; what was obtained is read back from smaps.
        with suppress(OSError):
            buffer.madvise(mmap.MADV_HUGEPAGE)
    try:
        yield buffer
    finally:
        # Where an exception still holds a view of it, it is unmapped when that goes.
        with suppress(BufferError):
            buffer.close()


@dataclass(frozen=True, slots=True)
class _Pass:
    """Seconds from the first thread's start to the end of the last; nanoseconds of all threads on and before a CPU."""

    elapsed_s: float
    ran: int
    waited: int


def _scheduled() -> tuple[int, int]:
    """(on a processor, waiting for one) of this thread so far, in ns (Documentation/scheduler/sched-stats.rst)."""
    try:
        ran, waited, *_ = map(int, Path("/proc/thread-self/schedstat").read_text().split())
    except (OSError, ValueError):
        return 0, 0
    return ran, waited


def _together(parts: Sequence[Numbers], work: Callable[[Numbers], object]) -> _Pass:
    """Run `work` on every part at once. numpy frees the GIL."""
    barrier = threading.Barrier(len(parts))
    times: list[tuple[float, float, int, int]] = []

    def run(part: Numbers) -> None:
        barrier.wait()
        ran, waited = _scheduled()
        # On its own clock: the thread that started it may get no processor until it is done.
        start = time.perf_counter()
        work(part)
        end = time.perf_counter()
        ran_after, waited_after = _scheduled()
        times.append((start, end, ran_after - ran, waited_after - waited))

    workers = [threading.Thread(target=run, args=(part,), daemon=True) for part in parts]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    starts, ends, ran, waited = zip(*times, strict=True)
    return _Pass(max(ends) - min(starts), sum(ran), sum(waited))


def _page_size_of(address: int, size: int) -> str:
    """`"2 MiB"` where nine tenths of the buffer or more lie on huge pages by /proc/self/smaps, else the small size."""
    small = f"{mmap.PAGESIZE // 1024} KiB"
    try:
        text = Path("/proc/self/smaps").read_text()
    except OSError:
        return small
    inside = False
    for line in text.splitlines():
        if span := re.match(r"([\da-f]+)-([\da-f]+) ", line):
            inside = int(span[1], 16) <= address < int(span[2], 16)
        elif inside and (huge := re.match(r"AnonHugePages:\s+(\d+) kB", line)):
            return "2 MiB" if int(huge[1]) * 1024 >= 0.9 * size else small
    return small


def _parts(machine: Machine) -> int:
    """Of the buffer for which there is room now."""
    return buffer_bytes(machine) // _PART


def _key(machine: Machine, n_parts: int) -> dict[str, object]:
    return {
        "cpu": machine.cpu.model,
        "cores": machine.cpu.cores,
        "threads": machine.compute_threads,
        # Firmware takes a little more or less of it at each boot.
        "memory_gib": round(machine.memory.total_bytes / GIB, 1),
        "buffer": n_parts,
        "pages": _page_policy(),
    }


def _page_policy() -> str:
    """`"madvise"`, `"always"`, `"never"`, or "" where the kernel has no transparent huge pages."""
    try:
        match = re.search(r"\[(\w+)\]", Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text())
    except OSError:
        return ""
    return match[1] if match else ""


def _cache_file(machine: Machine, n_parts: int) -> Path:
    key = json.dumps(_key(machine, n_parts), sort_keys=True).encode()
    return settings.current().cache_dir / f"bandwidth-{hashlib.sha256(key).hexdigest()[:16]}.json"


def _remember(machine: Machine, bandwidth: MemoryBandwidth, notes: list[str]) -> None:
    """Replaced atomically: a reader sees the old file or the new one."""
    n_parts = _parts(machine)
    path = _cache_file(machine, n_parts)
    body = {"schema": _CACHE_SCHEMA, "key": _key(machine, n_parts), **asdict(bandwidth)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(body, indent=1).encode())
    except OSError as error:
        why = f"{path.parent} cannot be written: {error.strerror}"
        notes.append(f"memory bandwidth is measured again each time ({why})")
