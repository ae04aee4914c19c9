"""Calibrations on disk: what two writers, a broken file and another build do to them."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgellm.history import calibrations
from edgellm.types.calibration import Calibration
from edgellm.types.machine import Cpu, Machine, Memory

HERE = Machine("m", "m", Cpu("x86_64", "EPYC", 2, 2, ("avx2", "fma")), Memory(1 << 34))


def rates(threads: int, rate: float = 40.0, build: str = "b1") -> Calibration:
    return Calibration(
        {("Q4_K", threads): rate, ("Q6_K", threads): 30.0}, {("Q4_K", threads): 120.0, ("Q6_K", threads): 200.0},
        attention={("f16", threads): 10.0}, attention_by_head={("f16", 64, threads): 7.0},
        attention_apart_s={("f16", 64, 8, threads): 5e-8, ("q8_0", 64, 8, threads): 0.0},
        attention_prefill={("f16", threads): 30.0}, row_s={("Q4_K", threads): 0.0},
        layer_s={threads: 1e-5}, element_s={threads: 1e-9}, element_prefill_s={threads: 0.0},
        scatter=0.03, build=build, date="2026-11-24",
    )  # fmt: skip


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGELLM_HOME", str(tmp_path))
    return tmp_path


def stored(home: Path) -> Path:
    return next((home / "cache" / "calibration").glob("*.json"))


def test_what_is_saved_is_loaded() -> None:
    assert calibrations.load(HERE, "gguf", "b1") is None
    calibrations.save(HERE, "gguf", rates(2))

    assert calibrations.load(HERE, "gguf", "b1") == rates(2)


def test_another_build_processor_or_backend_has_none() -> None:
    calibrations.save(HERE, "gguf", rates(2))
    other = dataclasses.replace(HERE, cpu=dataclasses.replace(HERE.cpu, isa=("avx2",)))

    assert calibrations.load(HERE, "gguf", "b2") is None
    assert calibrations.load(HERE, "bitnet", "b1") is None
    assert calibrations.load(other, "gguf", "b1") is None


def test_numbers_of_threads_come_together_and_new_rates_replace_old_ones() -> None:
    calibrations.save(HERE, "gguf", rates(1, 40.0))
    calibrations.save(HERE, "gguf", rates(2, 80.0))
    merged = calibrations.save(HERE, "gguf", rates(1, 45.0))

    assert merged == calibrations.load(HERE, "gguf", "b1")
    assert (merged.decode["Q4_K", 1], merged.decode["Q4_K", 2]) == (45.0, 80.0)
    assert merged.layer_s == {1: 1e-5, 2: 1e-5}


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"{",
        b"[" * 100_000,
        b"\xff" * 100,
        b"x" * (calibrations.MAX_BYTES + 1),
        b'{"schema": 1}',
        pytest.param(lambda text: text.replace("40.0", "NaN"), id="nan"),
        pytest.param(lambda text: text.replace("40.0", "-40.0"), id="negative"),
        pytest.param(lambda text: text.replace("40.0", "0.0"), id="zero"),
        pytest.param(lambda text: text.replace("40.0", '"fast"'), id="text"),
        pytest.param(lambda text: text.replace('"EPYC"', '"Xeon"'), id="another processor"),
        pytest.param(lambda text: text.replace('"schema":1', '"schema":99'), id="another version"),
        pytest.param(lambda text: text.replace('"64":{"2":7.0}', '"0":{"2":7.0}'), id="a head of no numbers"),
        pytest.param(lambda text: text.replace("40.0", "1e-320"), id="a rate that divides to infinity"),
        pytest.param(lambda text: text.replace("40.0", "1e7"), id="a rate of no machine"),
        pytest.param(lambda text: text.replace("5e-8", "1e-320"), id="seconds that divide to infinity"),
        pytest.param(lambda text: text.replace("0.00001", "-0.00001"), id="negative seconds"),
        pytest.param(lambda text: text.replace('{"2":0.00001}', '{"0":0.00001}'), id="no thread"),
        pytest.param(lambda text: text.replace('"64":{"2"', '"64":{"1' + "0" * 400 + '"'), id="threads of no machine"),
        pytest.param(lambda text: text.replace('"scatter":0.03', '"scatter":1e308'), id="scatter"),
        pytest.param(lambda text: text.replace('"scatter":0.03', '"scatter":-1e308'), id="negative scatter"),
        pytest.param(
            lambda text: text.replace('{"2":120.0}', '{"1":120.0}').replace('{"2":200.0}', '{"1":200.0}'),
            id="prompts with other threads",
        ),
        pytest.param(lambda text: text[: len(text) // 2], id="half"),
    ],
)
def test_a_broken_file_counts_as_none_is_said_and_gives_way(home: Path, broken) -> None:
    calibrations.save(HERE, "gguf", rates(2))
    path = stored(home)
    path.write_bytes(broken if isinstance(broken, bytes) else broken(path.read_text()).encode())
    notes: list[str] = []

    assert calibrations.load(HERE, "gguf", "b1", notes) is None
    assert "run `edgellm calibrate`" in notes[0]
    assert path.name in notes[0]
    calibrations.save(HERE, "gguf", rates(2))
    assert calibrations.load(HERE, "gguf", "b1") == rates(2)


WRITER = """
import sys
sys.path.insert(0, sys.argv[2])
from test_calibration import HERE, rates
from edgellm.history import calibrations
calibrations.save(HERE, "gguf", rates(int(sys.argv[1])))
"""


def test_writers_at_the_same_time_lose_nothing() -> None:
    folder = str(Path(__file__).parent)
    running = [subprocess.Popen([sys.executable, "-c", WRITER, str(n), folder]) for n in range(1, 7)]

    assert [process.wait(timeout=60) for process in running] == [0] * 6
    calibration = calibrations.load(HERE, "gguf", "b1")
    assert calibration is not None
    assert {threads for _, threads in calibration.decode} == set(range(1, 7))


def test_a_writer_that_dies_leaves_what_was_there(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calibrations.save(HERE, "gguf", rates(1))

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dies)
        with pytest.raises(KeyboardInterrupt):
            calibrations.save(HERE, "gguf", rates(2))

    assert calibrations.load(HERE, "gguf", "b1") == rates(1)
    assert sorted(path.suffix for path in stored(home).parent.iterdir()) in ([".json"], [".json", ".lock"])


def test_the_file_says_what_it_is_of(home: Path) -> None:
    calibrations.save(HERE, "gguf", rates(2))
    content = json.loads(stored(home).read_text())

    assert content["schema"] == calibrations.SCHEMA
    assert content["key"] == {"backend": "gguf", "build": "b1", "cpu": "EPYC", "arch": "x86_64", "isa": "avx2 fma"}
    assert content["date"] == "2026-11-24"
