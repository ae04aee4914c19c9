"""What a calibration had beside it, from recorded counters, and which rates count then."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from edgellm.contract.manager import plugins
from edgellm.history import calibrations, calibrator, fingerprint, occasions
from edgellm.history.occasions import Counters
from edgellm.types.calibration import Calibration, Occasion
from edgellm.types.machine import Cpu, Machine, Memory

HERE = Machine("m", "m", Cpu("x86_64", "EPYC", 2, 2, ("avx2",)), Memory(1 << 34))
QUIET, BUSY = Occasion("2026-11-27", 0.02, 0.01), Occasion("2026-11-28", 0.63, 0.53)
# Of measuring llama.cpp's kernels on 2 virtual processors of a Xeon beside eight other programs (2026-11-28).
BEFORE, AFTER = Counters(100.0, 200.0, 0.4, 0.4, 0.1), Counters(161.2, 261.2, 22.9, 17.0, 18.9)


def rates(*counts: int, rate: float = 40.0, when: Occasion | None = None, day: str = "") -> Calibration:
    return Calibration(
        {("Q4_K", n): rate * n for n in counts}, {("Q4_K", n): 3 * rate * n for n in counts},
        attention_apart_s={("f16", 64, 8, n): 1e-7 for n in counts}, layer_s=dict.fromkeys(counts, 1e-05),
        build="b1", date=when.date if when else day, occasions=dict.fromkeys(counts, when) if when else {},
    )  # fmt: skip


def test_what_other_programs_took_is_what_was_busy_and_not_our_own() -> None:
    beside = occasions.between(BEFORE, AFTER)

    assert beside == Occasion(taken=round((61.2 - 22.5) / 61.2, 3), waited=round(18.8 / (18.8 + 16.6), 3))
    assert occasions.contended(beside)


def test_a_system_that_counts_no_waiting_tells_what_was_taken() -> None:
    without = [dataclasses.replace(one, ran_s=None, waited_s=None) for one in (BEFORE, AFTER)]

    assert occasions.between(*without) == Occasion(taken=0.632)


def test_of_a_moment_and_of_counters_that_stand_still_nothing_is_known() -> None:
    assert occasions.between(BEFORE, dataclasses.replace(AFTER, all_s=200.5)) == Occasion()
    assert occasions.between(BEFORE, BEFORE) == Occasion()


def test_counters_of_this_machine_go_forward() -> None:
    before = occasions.counters()
    sum(range(100_000))
    after = occasions.counters()

    assert after.own_s > before.own_s
    assert 0 <= before.busy_s <= before.all_s <= after.all_s


@pytest.mark.parametrize(
    ("when", "is_contended"),
    [
        (None, False),  # kept by an older version
        (Occasion(), False),
        (Occasion(of_one=0.4), True),  # all that tells where nothing is counted
        (Occasion(taken=0.02, waited=0.085), False),
        (Occasion(taken=0.02, waited=0.097), True),
        (Occasion(taken=0.5, waited=0.0), True),
        (Occasion(taken=0.02, waited=0.01, of_one=0.4), False),  # it is the processor that is so
    ],
)
def test_beside_other_programs(when: Occasion | None, is_contended: bool) -> None:
    assert occasions.contended(when) is is_contended


def test_rates_count_where_those_that_threads_go_by_were_quiet() -> None:
    assert occasions.quiet(rates(1, 2, when=QUIET), 2) == rates(1, 2, when=QUIET)
    assert occasions.quiet(rates(1, 2, day="2026-11-20"), 2) == rates(1, 2, day="2026-11-20")
    assert occasions.quiet(rates(1, 2, when=BUSY), 2) is None
    mixed = occasions.merged(rates(1, when=QUIET), rates(1, 2, when=BUSY))
    # Two threads would count for no faster than one.
    assert occasions.quiet(mixed, 2) is None
    assert occasions.quiet(mixed, 1) == rates(1, when=QUIET)


def test_threads_that_were_left_out_beside_other_programs_leave_no_rates_of_one() -> None:
    slow = calibrator.believable(
        dataclasses.replace(rates(1, 2, when=BUSY), decode={("Q4_K", 1): 40.0, ("Q4_K", 2): 15.0})
    )

    assert (slow.decode, slow.occasions[2].of_one) == ({("Q4_K", 1): 40.0}, 0.375)
    assert slow.layer_s.keys() == {1}
    assert occasions.quiet(slow, 2) is None
    alone = calibrator.believable(
        dataclasses.replace(rates(1, 2, when=QUIET), decode={("Q4_K", 1): 40.0, ("Q4_K", 2): 15.0})
    )
    counts = occasions.quiet(alone, 2)
    assert counts is not None
    assert counts.decode == {("Q4_K", 1): 40.0}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGELLM_HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("before", [rates(1, 2, when=QUIET), rates(1, 2, day="2026-11-20")], ids=["quiet", "older"])
def test_a_calibration_beside_other_programs_takes_no_quiet_ones_place(before: Calibration) -> None:
    calibrations.save(HERE, "gguf", before)
    calibrations.save(HERE, "gguf", rates(1, 2, rate=9.0, when=BUSY))
    assert calibrations.load(HERE, "gguf", "b1") == before

    calibrations.save(HERE, "gguf", rates(1, 4, rate=9.0, when=BUSY))
    kept = calibrations.load(HERE, "gguf", "b1")
    assert kept is not None
    assert (kept.counts, kept.date, kept.occasions[4]) == ({1, 2, 4}, before.date, BUSY)
    assert occasions.quiet(kept, 2) == before


@pytest.mark.parametrize("later", [QUIET, Occasion("2026-11-29", 0.7)], ids=["quiet", "as busy"])
def test_one_beside_other_programs_gives_way_to_a_later_one(later: Occasion) -> None:
    slow = calibrator.believable(
        dataclasses.replace(rates(1, 2, when=BUSY), decode={("Q4_K", 1): 40.0, ("Q4_K", 2): 15.0})
    )
    calibrations.save(HERE, "gguf", slow)
    calibrations.save(HERE, "gguf", rates(1, 2, rate=50.0, when=later))

    assert calibrations.load(HERE, "gguf", "b1") == rates(1, 2, rate=50.0, when=later)


def test_quiet_threads_that_are_slower_than_one_leave_no_earlier_rates() -> None:
    calibrations.save(HERE, "gguf", rates(1, 2, day="2026-11-20"))
    slow = dataclasses.replace(rates(1, 2, when=QUIET), decode={("Q4_K", 1): 40.0, ("Q4_K", 2): 15.0})
    calibrations.save(HERE, "gguf", calibrator.believable(slow))

    kept = calibrations.load(HERE, "gguf", "b1")
    assert kept is not None
    assert {threads for _, threads in kept.decode} == {1}


def test_a_file_of_an_older_version_is_read_and_nothing_is_known_of_it(home: Path) -> None:
    calibrations.save(HERE, "gguf", rates(1, 2, day="2026-11-20"))
    (path,) = (home / "cache" / "calibration").glob("*.json")
    stored = json.loads(path.read_text())
    del stored["occasions"]
    path.write_text(json.dumps(stored))

    assert calibrations.load(HERE, "gguf", "b1") == rates(1, 2, day="2026-11-20")


@pytest.mark.parametrize(
    "broken", ['{"2":{"taken":1.5}}', '{"2":{"waited":-0.1}}', '{"0":{}}', '{"2":{"taken":"much"}}', "[]"]
)
def test_shares_that_are_none_are_not_believed(home: Path, broken: str) -> None:
    calibrations.save(HERE, "gguf", rates(2, when=QUIET))
    (path,) = (home / "cache" / "calibration").glob("*.json")
    whole, own = path.read_text(), '{"2":{"date":"2026-11-27","taken":0.02,"waited":0.01}}'
    assert own in whole
    path.write_text(whole.replace(own, broken))

    assert calibrations.load(HERE, "gguf", "b1") is None


def test_predictions_of_the_same_rates_have_the_same_fingerprint() -> None:
    backend = plugins().backend("echo")
    beside = rates(1, 2, when=Occasion("2026-11-20", 0.05, 0.0))

    assert fingerprint.basis(backend, beside) == fingerprint.basis(backend, rates(1, 2, day="2026-11-20"))
