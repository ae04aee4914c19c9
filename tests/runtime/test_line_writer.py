"""Who says a line never waits for who reads it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from support.full_pipe import full_pipe

from edgellm.runtime.line_writer import LineWriter


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Its reading end, and its writing end into which nothing more fits."""
    reading, writing = full_pipe()
    yield reading, writing
    os.close(reading)


def test_what_nobody_reads_is_counted_and_told_in_its_place(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    lines = LineWriter(writing, most=3)
    for i in range(10):
        lines.put(f"line {i}")

    text = b""
    while b"missing" not in text:
        text += os.read(reading, 65536)
    lines.put("after")
    while b"after" not in text:
        text += os.read(reading, 65536)
    *kept, missing, after = text.decode().lstrip("x").splitlines()

    assert len(kept) in (3, 4)  # one may have been in the write
    assert kept == [f"line {i}" for i in range(len(kept))]
    assert (missing, after) == (lines.tells_lost(10 - len(kept)), "after")


def test_the_end_waits_for_a_stuck_reader_once(pipe: tuple[int, int]) -> None:
    _, writing = pipe
    lines = LineWriter(writing)
    lines.put("never read")

    assert not lines.flush(0.01)
    assert not lines.flush(float("1e6"))


def test_what_is_flushed_is_written() -> None:
    reading, writing = os.pipe()
    lines = LineWriter(writing)
    for i in range(100):
        lines.put(f"line {i}")

    assert lines.flush()
    assert os.read(reading, 65536).decode().splitlines() == [f"line {i}" for i in range(100)]


def test_a_reader_that_leaves_is_told_of_once() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    lines = LineWriter(writing)
    told: list[OSError] = []
    lines.tells_gone = told.append
    lines.put("first")
    lines.put("second")

    assert lines.flush()
    assert len(told) == 1


def test_a_disk_that_is_full_loses_lines_and_no_reader() -> None:
    with open("/dev/full", "wb") as full, open("/dev/null", "wb") as empty:
        lines = LineWriter(full.fileno())
        told: list[int] = []
        lines.tells_lost = lambda n: told.append(n) or ""  # type: ignore[func-returns-value]
        for _ in range(5):
            lines.put("lost")
            assert lines.flush()
        os.dup2(empty.fileno(), full.fileno())
        lines.put("written")
        assert lines.flush()

    assert told[-1] == 5
