"""What ran is kept: bounded, whole, from several processes, and without trusting what lies in the file."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import filelock
import msgspec
import pytest
from support.refusals import refuses

from edgellm.history import run_log
from edgellm.history.run_log import Numbers, Quality, Run
from edgellm.types.basis import OwnRuns
from edgellm.types.gpu_place import GpuPlace
from edgellm.types.machine import Cpu, Machine, Memory

MACHINE = Machine("m", "A machine", Cpu("x86_64", "A CPU", 4, 8, ("avx2",)), Memory(16 * 1024**3))


def run(number: int = 0, *, basis: str = "prior", whole_batch: bool = True, **changed: object) -> Run:
    base = Run(
        id=f"id{number}", time="2026-01-01T00:00:00+00:00", backend="gguf", model="m", quant="Q4_K_M", build="b1",
        basis=basis, threads=4, ctx=4096, slots=1, kv_type="f16", requests=1, whole_batch=whole_batch,
        predicted=Numbers(decode=10.0, prefill=100.0, resident_bytes=1000),
        measured=Numbers(decode=8.0, prefill=120.0, resident_bytes=1100),
    )  # fmt: skip
    return msgspec.structs.replace(base, **changed)


def check(number: int = 0, veto: str = "", quant: str = "Q4_K_M") -> Quality:
    return Quality(
        id=f"check{number}", time="2026-01-01T00:00:00+00:00", backend="gguf", model="m", quant=quant, sha256="",
        text_sha256="", tokens=100, perplexity=9.0, veto=veto,
    )  # fmt: skip


def test_what_is_recorded_is_read_back() -> None:
    rows = (run(1), check(), run(2))
    for row in rows:
        run_log.record(MACHINE, row)
    log = run_log.read(MACHINE)
    assert log.rows == rows
    assert (log.skipped, log.problem, log.runs, log.checks) == (0, "", (rows[0], rows[2]), (rows[1],))


def test_nothing_is_known_of_a_new_machine() -> None:
    assert run_log.read(MACHINE).rows == ()
    assert run_log.vetoes(MACHINE) == {}


def test_another_machine_has_a_history_of_its_own() -> None:
    run_log.record(MACHINE, run())
    other = replace(MACHINE, cpu=replace(MACHINE.cpu, isa=("avx2", "avx512f")))
    assert run_log.read(other).rows == ()
    renamed = replace(MACHINE, id="x", name="Renamed", memory=replace(MACHINE.memory, available_bytes=5))
    assert len(run_log.read(renamed).rows) == 1


def test_the_last_word_on_a_load_counts() -> None:
    run_log.record(MACHINE, run(1))
    run_log.record(MACHINE, run(2))
    run_log.record(MACHINE, run(1, requests=7))
    assert [(row.id, row.requests) for row in run_log.read(MACHINE).runs] == [("id2", 1), ("id1", 7)]


@pytest.mark.parametrize(
    "line",
    [
        b"{", b"null", b"[]", b'{"kind": "run"}', b'{"kind": "another"}', b"\xff\xfe", b"[" * 100_000,
        msgspec.json.encode(run()).replace(b'"decode":8.0', b'"decode":NaN'),
        msgspec.json.encode(run()).replace(b'"threads":4', b'"threads":"4"'),
        msgspec.json.encode(run()).replace(b'"decode":8.0', b'"decode":1e-300'),
        msgspec.json.encode(run()).replace(b'"decode":10.0', b'"decode":1e300'),
        msgspec.json.encode(run()).replace(b'"decode":8.0', b'"decode":-8.0'),
        msgspec.json.encode(run()).replace(b'"prefill":120.0', b'"prefill":1e-300'),
        msgspec.json.encode(run()).replace(b'"resident_bytes":1100', b'"resident_bytes":1' + b"0" * 400),
        msgspec.json.encode(run()).replace(b'"resident_bytes":1000', b'"resident_bytes":-1'),
        msgspec.json.encode(run()).replace(b'"threads":4', b'"threads":1' + b"0" * 400),
        msgspec.json.encode(run(waited=0.1)).replace(b'"waited":0.1', b'"waited":1e300'),
        msgspec.json.encode(check()).replace(b'"mean_kl":null', b'"mean_kl":1e300'),
    ],
)  # fmt: skip
def test_a_broken_line_is_skipped_and_counted(line: bytes) -> None:
    run_log.record(MACHINE, run(1))
    with open(run_log.path_of(MACHINE), "ab") as file:
        file.write(line + b"\n")
    run_log.record(MACHINE, run(2))
    log = run_log.read(MACHINE)
    assert [row.id for row in log.runs] == ["id1", "id2"]
    assert log.skipped == 1


def test_half_a_line_of_a_killed_writer_costs_itself_only() -> None:
    run_log.record(MACHINE, run(1))
    with open(run_log.path_of(MACHINE), "ab") as file:
        file.write(msgspec.json.encode(run(3))[:100])
    run_log.record(MACHINE, run(2))
    log = run_log.read(MACHINE)
    assert ([row.id for row in log.runs], log.skipped) == (["id1", "id2"], 1)


def test_a_file_that_cannot_be_read_is_a_problem_in_words() -> None:
    run_log.path_of(MACHINE).mkdir(parents=True)
    log = run_log.read(MACHINE)
    assert log.rows == ()
    assert "cannot be read" in log.problem


def test_the_file_stays_bounded_and_keeps_the_newest_and_the_vetoes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_log, "MAX_BYTES", 20_000)
    run_log.record(MACHINE, check(veto="its answers are noise"))
    for number in range(300):
        run_log.record(MACHINE, run(number))
        assert run_log.path_of(MACHINE).stat().st_size <= 20_000
    log = run_log.read(MACHINE)
    assert log.runs[-1].id == "id299"
    assert len(log.runs) > 5
    assert run_log.vetoes(MACHINE) == {("gguf", "m", "Q4_K_M"): "its answers are noise"}


WRITER = """
import sys
sys.path[:0] = {folders!r}
import test_history as t
for number in range({first}, {first} + 40):
    t.run_log.record(t.MACHINE, t.run(number))
"""


def test_two_processes_write_at_once() -> None:
    folders = [str(folder) for folder in Path(__file__).parents[:2]]
    scripts = [WRITER.format(folders=folders, first=first) for first in (0, 1000)]
    writers = [subprocess.Popen([sys.executable, "-c", script]) for script in scripts]
    assert [writer.wait() for writer in writers] == [0, 0]
    log = run_log.read(MACHINE)
    assert sorted(row.id for row in log.runs) == sorted(f"id{n}" for n in (*range(40), *range(1000, 1040)))
    assert log.skipped == 0


def test_who_cannot_have_the_lock_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_log, "LOCK_TIMEOUT_S", 0.05)
    run_log.record(MACHINE, run(1))
    with (
        filelock.FileLock(run_log.path_of(MACHINE).with_suffix(".lock")),
        refuses(filelock.Timeout, varies=r"\w+(?=\.lock)"),
    ):
        run_log.record(MACHINE, run(2))
    assert [row.id for row in run_log.read(MACHINE).runs] == ["id1"]


def test_a_passing_check_lifts_a_veto() -> None:
    run_log.record(MACHINE, check(1, "worse than asked"))
    run_log.record(MACHINE, check(2, "broken", quant="Q2_K"))
    assert run_log.vetoes(MACHINE)["gguf", "m", "Q4_K_M"] == "worse than asked"
    run_log.record(MACHINE, check(3))
    assert run_log.vetoes(MACHINE) == {("gguf", "m", "Q2_K"): "broken"}


def test_corrections_come_from_the_runs() -> None:
    run_log.record(MACHINE, run())
    correction = run_log.corrections(MACHINE).of("gguf", "m", "Q4_K_M")
    assert 0.8 <= correction.decode < 0.85
    assert 1.15 < correction.prefill <= 1.2
    assert 1.05 < correction.resident <= 1.1


def test_another_calibration_or_build_makes_old_runs_worthless() -> None:
    run_log.record(MACHINE, run(basis="prior"))
    assert run_log.corrections(MACHINE, {"gguf": "prior"}).rows
    assert not run_log.corrections(MACHINE, {"gguf": "calibrated today"}).rows
    assert not run_log.corrections(MACHINE, {}).rows


def test_less_memory_counts_only_where_a_batch_was_full() -> None:
    less = Numbers(resident_bytes=800)
    assert run_log.ratio(run(measured=less, whole_batch=False)).resident is None
    assert run_log.ratio(run(measured=less)).resident == 0.8
    assert run_log.ratio(run(whole_batch=False)).resident == 1.1


@pytest.mark.parametrize("value", [None, 0.0, -1.0])
def test_a_rate_that_is_none_gives_no_ratio(value: float | None) -> None:
    assert run_log.ratio(run(measured=Numbers(decode=value))).decode is None
    assert run_log.ratio(run(predicted=Numbers(decode=value))).decode is None


def test_rates_beside_other_programs_are_not_learned_from_but_memory_is() -> None:
    busy = run_log.ratio(run(waited=0.5))
    assert (busy.decode, busy.prefill, busy.resident) == (None, None, 1.1)
    assert run_log.quotients(run(waited=0.5))["decode"] == 0.8
    assert run_log.ratio(run(waited=0.097)).decode is None
    assert run_log.ratio(run(waited=0.085)).decode == 0.8
    assert run_log.ratio(run(waited=None)).decode == 0.8


def test_a_run_beside_a_busy_gpu_teaches_no_rates() -> None:
    assert run_log.ratio(run(gpu_busy=0.6)).decode is None
    assert run_log.ratio(run(gpu_busy=0.1)).decode == 0.8
    assert run_log.ratio(run(gpu_busy=None)).decode == 0.8


def test_a_run_whose_worker_died_teaches_nothing() -> None:
    died = run_log.ratio(run(restarts=1))
    assert (died.decode, died.prefill, died.resident) == (None, None, None)


def test_memory_that_requests_held_is_not_the_models() -> None:
    """Prompts of 10 MB, each kept until it was refused."""
    predicted = Numbers(resident_bytes=1000, allocated_bytes=800)
    asked = run(predicted=predicted, measured=Numbers(resident_bytes=3000, allocated_bytes=800))
    larger = run(predicted=predicted, measured=Numbers(resident_bytes=3000, allocated_bytes=2700))
    unknown = run(predicted=predicted, measured=Numbers(resident_bytes=3000))
    assert [run_log.ratio(one).resident for one in (asked, larger, unknown)] == [None, 3.0, 3.0]


def test_layers_on_a_gpu_tell_nothing_of_the_processor() -> None:
    place = GpuPlace(("cuda A",), "part")
    run_log.record(MACHINE, run(gpu_layers=5, place=place))
    learned = run_log.corrections(MACHINE)
    assert not learned.rows
    assert learned.on(place).of("gguf", "m", "Q4_K_M").held == (5, 0)
    assert learned.count == 1


def test_a_line_of_before_places_were_recorded_is_read_and_teaches_nothing() -> None:
    """It has layers on a GPU, and no prediction."""
    run_log.record(MACHINE, run(gpu_layers=5, predicted=Numbers()))
    path = run_log.path_of(MACHINE)
    old = path.read_text().replace(',"experts_away":0,"place":null', "")
    assert old != path.read_text()
    path.write_text(old)
    log = run_log.read(MACHINE)
    assert (len(log.runs), log.skipped, log.runs[0].place) == (1, 0, None)
    assert run_log.of_runs(log.runs).count == 0


def test_where_gpus_compute_everything_neither_threads_nor_the_processors_calibration_count() -> None:
    whole, part = GpuPlace(("cuda A",), "whole"), GpuPlace(("cuda A",), "part")
    rows = (
        run(1, gpu_layers=-1, place=whole, threads=1, basis="prior"),
        run(2, gpu_layers=5, place=part, basis="prior"),
    )
    bases = {"gguf": "calibrated", "gguf on GPUs": "prior"}
    learned = run_log.of_runs(rows, bases, threads=4)
    assert list(learned.places) == [whole]
    slow = run(3, gpu_layers=-1, place=whole, threads=4, basis="prior", measured=Numbers(decode=5.0))
    (row,) = run_log.of_runs((*rows, slow), bases, threads=4).on(whole).rows.values()
    assert row.basis == OwnRuns(2, "m", "Q4_K_M", "f16")


def test_runs_with_other_threads_count_only_where_none_has_these() -> None:
    slow = Numbers(decode=5.0)
    rows = (run(1, threads=4), run(2, threads=1, measured=slow), run(3, model="n", threads=1, measured=slow))
    mixed, four = run_log.of_runs(rows), run_log.of_runs(rows, threads=4)
    assert mixed.of("gguf", "m", "Q4_K_M").decode < four.of("gguf", "m", "Q4_K_M").decode
    assert four.of("gguf", "m", "Q4_K_M").basis == OwnRuns(1, "m", "Q4_K_M", "f16")
    assert four.of("gguf", "n", "Q4_K_M").basis == OwnRuns(1, "n", "Q4_K_M", "f16")
