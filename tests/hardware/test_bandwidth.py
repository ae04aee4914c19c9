"""Measured for real, on a small buffer."""

from __future__ import annotations

import itertools
import json
import mmap
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgellm.hardware import bandwidth
from edgellm.types.machine import Cpu, Limits, Machine, Memory
from edgellm.units import GIB, MIB

MACHINE = Machine("test", "Test", Cpu("x86_64", "Some CPU", cores=2, threads=2), Memory(8 * GIB, 4 * GIB))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bandwidth, "SECONDS", 0.01)
    monkeypatch.setattr(bandwidth, "BUFFER_BYTES", 16 * MIB)


def cache_file(home: Path) -> Path:
    (file,) = (home / "cache").iterdir()
    return file


@pytest.mark.parametrize(
    "threads", [pytest.param(1, marks=pytest.mark.slow(1)), 2, pytest.param(3, marks=pytest.mark.slow(1))]
)
def test_measures_on_the_threads_that_are_asked_for(threads: int) -> None:
    measurement = bandwidth.measure(threads, 16 * MIB, seconds=0.01)

    assert 0.1 < measurement.gb_s < 10_000
    assert measurement.basis.startswith(f"measured: {threads} thread")
    assert measurement.basis.removesuffix(", beside other programs").endswith("pages, read over 16 MiB")


def test_page_size_is_what_was_obtained_and_not_what_was_asked_for() -> None:
    """Shared anonymous memory is shmem, where the kernel gives no huge pages by default."""
    shmem = Path("/sys/kernel/mm/transparent_hugepage/shmem_enabled")
    if not shmem.exists() or "[never]" not in shmem.read_text():
        pytest.skip("shared memory may get huge pages here")
    with mmap.mmap(-1, 8 * MIB) as shared:
        numbers = np.frombuffer(shared, dtype=np.int64)
        numbers.fill(1)
        pages = bandwidth._page_size_of(numbers.ctypes.data, 8 * MIB)
        del numbers

    assert pages == f"{mmap.PAGESIZE // 1024} KiB"


def test_huge_pages_are_obtained_where_the_kernel_gives_them() -> None:
    if bandwidth._page_policy() not in ("always", "madvise"):
        pytest.skip("this kernel gives no transparent huge pages")

    # Not at each try where other programs have torn the memory to pieces.
    assert any("2 MiB pages" in bandwidth.measure(1, 32 * MIB, seconds=0.01).basis for _ in range(20))


@pytest.mark.usefixtures("quick")
def test_measured_once_or_on_three_occasions_then_the_best_is_remembered(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = iter([20.0, 30.0, 25.0])
    monkeypatch.setattr(bandwidth, "measure", lambda *_: bandwidth.MemoryBandwidth(next(rates), "measured"))
    notes: list[str] = []

    assert [bandwidth.of(MACHINE, notes).gb_s for _ in range(2)] == [20.0, 20.0]
    assert [bandwidth.of(MACHINE, notes, refine=True).gb_s for _ in range(4)] == [30.0, 30.0, 30.0, 30.0]
    assert bandwidth.remembered(MACHINE, notes) == bandwidth.MemoryBandwidth(30.0, "measured", occasions=3)
    assert notes == []
    assert json.loads(cache_file(home).read_text())["key"]["cpu"] == "Some CPU"


@pytest.mark.parametrize(("waited", "occasions"), [(0, 1), (140, 1), (300, 0)])
def test_a_measurement_beside_other_programs_says_so(
    monkeypatch: pytest.MonkeyPatch, waited: int, occasions: int
) -> None:
    clock = iter(range(10_000))
    monkeypatch.setattr(bandwidth, "_scheduled", lambda: ((n := next(clock)) * 1000, n * waited))

    measurement = bandwidth.measure(1, 16 * MIB, seconds=0.01)

    assert measurement.occasions == occasions
    assert measurement.basis.endswith(", beside other programs") == measurement.contended == (occasions == 0)


@pytest.mark.parametrize(("waited", "gb_s"), [(900, 28.0), (100, 2.0)], ids=["beside others", "alone"])
def test_beside_other_programs_the_best_pieces_count(monkeypatch: pytest.MonkeyPatch, waited: int, gb_s: float) -> None:
    """A pass over everything outlasts a turn on the processor, and so does every second piece here."""
    n_pieces = itertools.count()

    def together(parts: Sequence[bandwidth.Numbers], _: object) -> bandwidth._Pass:
        n_bytes = sum(part.nbytes for part in parts)
        in_a_turn = n_bytes < 32 * MIB and next(n_pieces) % 2
        return bandwidth._Pass(n_bytes / (28e9 if in_a_turn else 2e9), 1000 - waited, waited)

    monkeypatch.setattr(bandwidth, "_together", together)

    measurement = bandwidth.measure(2, 32 * MIB, seconds=0.01)

    assert (measurement.gb_s, measurement.contended) == (gb_s, waited == 900)


@pytest.mark.usefixtures("quick")
def test_the_best_was_beside_other_programs_only_where_none_was_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    measurements = iter([(30.0, 0, True), (29.0, 1, False)])
    monkeypatch.setattr(
        bandwidth, "measure", lambda *_: bandwidth.MemoryBandwidth((n := next(measurements))[0], "measured", *n[1:])
    )

    assert [(best.gb_s, best.contended) for best in (bandwidth.of(MACHINE, []) for _ in range(2))] == [
        (30.0, True),
        (30.0, False),
    ]


@pytest.mark.skipif(not Path("/proc/thread-self/schedstat").exists(), reason="this kernel does not tell")
def test_the_scheduler_tells_a_thread_what_it_waited() -> None:
    before = bandwidth._scheduled()
    sum(range(2_000_000))

    assert bandwidth._scheduled()[0] - before[0] > 1_000_000


@pytest.mark.usefixtures("quick")
def test_what_was_measured_beside_other_programs_is_no_occasion(monkeypatch: pytest.MonkeyPatch) -> None:
    measurements = iter([(12.0, 0), (11.0, 0), (30.0, 1), (29.0, 1), (13.0, 0), (31.0, 1), (99.0, 1)])
    monkeypatch.setattr(
        bandwidth, "measure", lambda *_: bandwidth.MemoryBandwidth((n := next(measurements))[0], "measured", n[1])
    )

    assert [bandwidth.of(MACHINE, []).gb_s for _ in range(4)] == [12.0, 12.0, 30.0, 30.0], "until one was quiet"
    refined = [bandwidth.of(MACHINE, [], refine=True).gb_s for _ in range(4)]
    assert refined == [30.0, 30.0, 31.0, 31.0], "until three were"
    assert bandwidth.remembered(MACHINE, []) == bandwidth.MemoryBandwidth(31.0, "measured", occasions=3)


def test_the_best_reading_stays_where_less_memory_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = iter([12.0, 3.0, 5.0])
    measured = lambda *_: bandwidth.MemoryBandwidth(next(speeds), "measured", 0, contended=True)  # noqa: E731
    monkeypatch.setattr(bandwidth, "measure", measured)
    tight = replace(MACHINE, memory=Memory(8 * GIB, GIB))

    assert bandwidth.buffer_bytes(tight) < bandwidth.buffer_bytes(MACHINE)
    assert [bandwidth.of(machine, []).gb_s for machine in (MACHINE, tight, MACHINE)] == [12.0, 12.0, 12.0]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "other",
    [
        replace(MACHINE, cpu=replace(MACHINE.cpu, model="Another")),
        replace(MACHINE, limits=Limits(cpus=1.0)),
        replace(MACHINE, memory=Memory(16 * GIB, 4 * GIB)),
    ],
    ids=["model", "threads", "memory"],
)
def test_another_machine_is_measured_again(other: Machine) -> None:
    bandwidth.of(MACHINE, [])

    assert bandwidth.remembered(other, []) is None


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b"[]", b'{"schema": 1}', b'{"schema":1,"key":{},"gb_s":1,"basis":"x"}', b"[" * 9000],
)
def test_a_corrupt_memory_is_noted_and_measured_again(home: Path, content: bytes) -> None:
    bandwidth.of(MACHINE, [])
    cache_file(home).write_bytes(content)
    notes: list[str] = []
    measurement = bandwidth.of(MACHINE, notes)

    assert measurement is not None
    assert len(notes) == 1
    assert "stored memory bandwidth is not usable" in notes[0]
    assert not re.search(r"(Value|Key)Error", notes[0]), "a class of Python's is no reason"
    assert bandwidth.remembered(MACHINE, []) == measurement


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("value", ["-1", "0", "1e9", "NaN", "Infinity", '"fast"', "null"])
def test_a_stored_number_out_of_range_is_not_believed(home: Path, value: str) -> None:
    bandwidth.of(MACHINE, [])
    stored = json.loads(cache_file(home).read_text())
    cache_file(home).write_text(json.dumps(stored | {"gb_s": "VALUE"}).replace('"VALUE"', value))

    assert bandwidth.remembered(MACHINE, []) is None


@pytest.mark.usefixtures("quick")
def test_a_cache_that_cannot_be_written_is_noted(home: Path) -> None:
    home.mkdir()
    (home / "cache").touch()  # a file where the folder should be
    notes: list[str] = []

    assert bandwidth.of(MACHINE, notes) is not None
    assert any("measured again each time" in note for note in notes)


def test_takes_no_more_than_an_eighth_of_what_may_be_used() -> None:
    small = replace(MACHINE, memory=Memory(700 * MIB, 400 * MIB))

    assert bandwidth.buffer_bytes(MACHINE) == 256 * MIB
    assert bandwidth.buffer_bytes(small) == 28 * MIB  # (400 - 175) / 8, whole huge pages


def test_too_little_memory_is_a_reason() -> None:
    notes: list[str] = []

    assert bandwidth.of(replace(MACHINE, memory=Memory(128 * MIB, 64 * MIB)), notes) is None
    assert notes == ["memory bandwidth not measured: 4 MiB may be used for it, 16 MiB are needed"]
