"""`edgellm calibrate` as a person meets it, with a backend whose measuring does what a test wants."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support import fake_plugins

METER = fake_plugins.LIGHT_BACKEND + """
import os, signal
from edgellm.history import occasions
from edgellm.types.calibration import Calibration

if beside := float(os.environ.get("METER_BESIDE", "0")):
    # Ten seconds of two processors, all of them busy; a first thread that is always ready to run.
    own = 20 * (1 - beside)
    after = occasions.Counters(20.0, 20.0, own, own / 2, 10 - own / 2)
    occasions.counters = iter([occasions.Counters(0.0, 0.0, 0.0, 0.0, 0.0), after]).__next__

class Meter(Light):
    does = ""
    def build(self): return os.environ.get("METER_BUILD", "meter 1")
    def calibrate(self, settings):
        what = self.does or os.environ.get("METER_DOES", "")
        if what == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "refuses":
            raise BackendUnavailable("no kernels for this processor")
        if what == "raises":
            raise ValueError("boom")
        if what == "gives none":
            return None
        if what.startswith("exits"):
            os._exit(int(what.removeprefix("exits ")))
        if what == "gives half":
            return Calibration({("Q4_K", 1): 40.0})
        if what.startswith("is at "):
            rates = {("Q4_K", n): float(what.removeprefix("is at ")) * n for n in {1, settings.n_threads}}
            return Calibration(rates, rates)
        threads = {1, settings.n_threads}
        share = 0.3 if what == "waits" else 1.0
        kinds = {"Q4_K": 40.0, "Q5_K": 36.0, "Q6_K": 30.0, "IQ2_XS": 15.0}
        return Calibration(
            {(kind, n): rate * n * (share if n > 1 else 1) for kind, rate in kinds.items() for n in threads},
            {(kind, n): 4 * rate * n for kind, rate in kinds.items() for n in threads},
            attention={("f16", n): 10.0 * n for n in threads}, layer_s={n: 1e-5 for n in threads}, scatter=0.02,
        )

@hookimpl
def register_backends(register):
    register(Meter())
"""  # fmt: skip


@pytest.fixture
def edgellm(tmp_path: Path, knowing: Callable[[Path], Path]):
    home = knowing(tmp_path / "plugin")
    fake_plugins.install(home, "meter", METER)

    def run(*arguments: str, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        return fake_plugins.run_edgellm(home, "meter", tmp_path, *arguments, code=code, **environment)

    return run


def test_rates_are_measured_kept_and_shown_by_quants(edgellm) -> None:
    assert "not measured: run `edgellm calibrate`" in edgellm("quants").stdout
    done = edgellm("calibrate", "--json")
    calibration = json.loads(done.stdout)["calibrations"][0]

    assert (calibration["backend"], calibration["build"], calibration["scatter"]) == ("gguf", "meter 1", 0.02)
    assert {"type": "Q4_K", "threads": 1, "decode_gw_s": 40.0, "prefill_gw_s": 160.0} in calibration["rates"]
    quants = {row["name"]: row for row in json.loads(edgellm("quants", "--json").stdout)["quants"]}
    threads = quants["Q4_K_M"]["measured"]["threads"]
    assert quants["Q4_K_M"]["measured"]["decode_gw_s"] == 40.0 * threads
    assert quants["Q4_K_M"]["measured"]["tok_s"]["8B"]["decode"] > 0
    assert quants["Q8_0"]["measured"] is None
    # The zip effect: fewer bits, fewer tokens.
    small, usual = (quants[name]["measured"]["tok_s"]["1B"]["decode"] for name in ("IQ2_XS", "Q4_K_M"))
    assert small < usual
    output = edgellm("quants").stdout
    assert "measured  1e9 weights per second while decoding" in output
    assert "meter 1" in output
    assert "a model of 1B: " in edgellm("quants", "Q4_K_M").stdout


def test_a_person_sees_a_table(edgellm) -> None:
    output = edgellm("calibrate", "--threads", "3").stdout

    assert "3 threads" in output
    assert "1 thread" in output
    assert "Q4_K" in output
    assert "120.0 /" in output


def test_what_was_measured_beside_other_programs_is_kept_and_does_not_count(edgellm) -> None:
    beside = {"METER_BESIDE": "0.63", "METER_DOES": "waits"}
    done = edgellm("calibrate", "--threads", "2", "--json", **beside)
    calibration = json.loads(done.stdout)["calibrations"][0]
    why = "does not count: other programs took 63% of the processors' time, measuring waited for them 63% of its own "

    assert f"Kept, but {why}and 2 threads reached 60% of what one does. Run it again when" in done.stderr
    assert {name: calibration[name] for name in ("counts", "taken", "waited", "not_kept_threads")} == {
        "counts": False, "taken": 0.63, "waited": 0.63, "not_kept_threads": [2],
    }  # fmt: skip
    assert {row["threads"] for row in calibration["rates"]} == {1}
    quants = json.loads(edgellm("quants", "--json").stdout)
    assert [row["measured"] for row in quants["quants"] if row["measured"] is not None] == []
    assert [row["reason_facts"]["of_one"] for row in quants["set_aside"]] == [0.6]
    shown = edgellm("quants").stdout
    assert why in shown
    assert "measured does not count, see below" in [" ".join(line.split()) for line in shown.splitlines()]


def test_rates_that_count_stay_beside_other_programs_and_replace_those_that_do_not(edgellm) -> None:
    def rates() -> set[float]:
        quants = json.loads(edgellm("quants", "--json").stdout)["quants"]
        return {row["measured"]["decode_gw_s"] for row in quants if row["name"] == "Q4_K_M" and row["measured"]}

    edgellm("calibrate", "--threads", "2", METER_BESIDE="0.63", METER_DOES="waits")
    assert rates() == set()
    done = edgellm("calibrate", "--threads", "2", METER_BESIDE="0.02")
    assert "Selection counts with these rates from now on" in done.stdout
    quiet = rates()
    assert quiet
    done = edgellm("calibrate", "--threads", "2", METER_BESIDE="0.63", METER_DOES="waits")
    assert "The earlier rates stay" in done.stderr
    assert "Selection counts" not in done.stdout
    assert rates() == quiet
    done = edgellm("calibrate", "--threads", "3", METER_BESIDE="0.63")
    assert "Kept, but does not count" in done.stderr
    assert "Not kept" not in done.stderr, "there was nothing of three threads before"


def test_what_counts_is_said_once_for_all_backends(tmp_path: Path, knowing: Callable[[Path], Path]) -> None:
    home = knowing(tmp_path / "plugin")
    second = "    register(Meter())\n    second = Meter()\n    second.name = 'second'\n    register(second)\n"
    fake_plugins.install(home, "meter", METER.replace("    register(Meter())\n", second))
    done = fake_plugins.run_edgellm(home, "meter", tmp_path, "calibrate", "--threads", "2", METER_BESIDE="0.02")

    assert "second: meter 1" in done.stdout
    assert done.stdout.count("Selection counts") == 1
    assert "Selection counts with these rates from now on" in done.stdout.splitlines()[-1]


def test_threads_that_are_slower_than_one_on_a_quiet_machine_are_left_out(edgellm) -> None:
    done = edgellm("calibrate", "--threads", "2", METER_BESIDE="0.02", METER_DOES="waits")

    assert "2 threads are left out: they reached 60% of what one does." in done.stderr
    output = edgellm("quants").stdout
    assert "gguf with 1 thread" in output
    assert any(line.startswith("Q4_K_M") and "40.0" in line for line in output.splitlines()), "rates of one thread"


def test_another_build_starts_without(edgellm) -> None:
    edgellm("calibrate")

    assert "not measured" in edgellm("quants", METER_BUILD="meter 2").stdout


def test_a_measuring_that_dies_says_of_what_and_leaves_what_was_stored(edgellm) -> None:
    edgellm("calibrate")
    done = edgellm("calibrate", code=7, METER_DOES="dies")

    assert "died of SIGKILL; what was stored stays" in done.stderr
    assert "not measured" not in edgellm("quants").stdout


def test_a_backend_that_cannot_says_why(edgellm) -> None:
    assert "no kernels for this processor" in edgellm("calibrate", code=6, METER_DOES="refuses").stderr
    assert "does not measure itself" in edgellm("calibrate", "--backend", "echo", code=6).stderr


@pytest.mark.parametrize(
    ("does", "told"),
    [
        ("raises", "backend gguf: calibrate() failed: ValueError: boom"),
        ("gives none", "backend gguf: calibrate() gives None, a Calibration is expected"),
        ("exits 3", "gguf cannot be measured: its process ended with status 3, and said nothing"),
        ("exits 0", "gguf cannot be measured: its process ended with status 0, and said nothing"),
        ("exits 6", "gguf cannot be measured: its process ended with status 6, and said nothing"),
        ("gives half", "calibrate() gives a Calibration in which prefill has no rates with 1 thread, as decode has"),
        *(
            (f"is at {rate}", f"a Calibration in which decode['Q4_K', 1] is {shown}, {expected} is expected")
            for rate, shown, expected in (
                ("nan", "nan", "more than 0"), ("0", "0.0", "more than 0"), ("-1", "-1.0", "more than 0"),
                ("inf", "inf", "1e-06 to 1e+06"), ("1e308", "1e+308", "1e-06 to 1e+06"),
            )
        ),
    ],
)  # fmt: skip
def test_a_backend_that_breaks_its_contract_is_told_with_its_plugin(edgellm, does: str, told: str) -> None:
    done = edgellm("calibrate", "--threads", "2", METER_DOES=does, code=6)
    words = " ".join(done.stderr.split())

    assert told in words
    assert "this is for the author of plugin meter (edgellm-meter 1.0)" in words
    assert "Traceback" not in words
    assert done.stdout == ""
    assert "not measured: run `edgellm calibrate`" in edgellm("quants").stdout, "nothing of it is kept"


OTHERS = (
    METER.replace(
        "    def build",
        """    reasons = ()
    def check(self, machine): return list(self.reasons)
    def build""",
    )
    + """
    for name, does in (("unbuilt", "raises"), ("nil", "is at 0"), ("whole", "measures")):
        other = Meter()
        other.name, other.does, other.reasons = name, does, ["no library"] if name == "unbuilt" else []
        register(other)
"""
)


def test_what_cannot_be_measured_is_told_in_a_line_and_stops_no_other(
    tmp_path: Path, knowing: Callable[[Path], Path]
) -> None:
    home = knowing(tmp_path / "plugin")
    fake_plugins.install(home, "meter", OTHERS)

    def edgellm(*arguments: str, code: int, **environment: str) -> subprocess.CompletedProcess[str]:
        quiet = {"METER_BESIDE": "0.02"} | environment
        return fake_plugins.run_edgellm(home, "meter", tmp_path, "calibrate", *arguments, code=code, **quiet)

    done = edgellm("--threads", "2", code=7, METER_DOES="dies")
    assert done.stderr.splitlines() == [
        "Not measured: backend unbuilt cannot run here: no library",
        "Measuring gguf at 1 and 2 threads ...",
        "Error: measuring gguf died of SIGKILL; what was stored stays; try again with more free memory",
        "Measuring nil at 1 and 2 threads ...",
        "Error: backend nil: calibrate() gives a Calibration in which decode['Q4_K', 1] is 0.0, more than 0 is "
        "expected; this is for the author of plugin meter (edgellm-meter 1.0); EDGELLM_PLUGINS can leave it out",
        "Measuring whole at 1 and 2 threads ...",
    ]
    assert done.stdout.startswith("whole: meter 1")
    assert "Selection counts with these rates from now on" in done.stdout
    told = json.loads(edgellm("--json", code=6).stdout)
    assert [row["backend"] for row in told["calibrations"]] == ["gguf", "whole"]
    assert told["unable"] == [{"backend": "unbuilt", "reasons": ["no library"]}]
    assert [(row["backend"], row["code"]) for row in told["failed"]] == [("nil", "backend_error")]
    assert "Error: backend unbuilt cannot run here: no library" in edgellm("--backend", "unbuilt", code=6).stderr


def test_a_plugin_that_cannot_say_whether_it_runs_here_stops_no_other(
    tmp_path: Path, knowing: Callable[[Path], Path]
) -> None:
    home = knowing(tmp_path / "plugin")
    fake_plugins.install(home, "meter", OTHERS.replace('["no library"]', "5"))
    done = fake_plugins.run_edgellm(home, "meter", tmp_path, "calibrate", code=6, METER_BESIDE="0.02")

    assert "backend unbuilt: check() failed: TypeError" in done.stderr
    assert "whole: meter 1" in done.stdout


def test_where_no_backend_can_run_nothing_is_measured(tmp_path: Path, knowing: Callable[[Path], Path]) -> None:
    home = knowing(tmp_path / "plugin")
    none = METER.replace("    def build", "    def check(self, machine): return ['no library']\n    def build")
    fake_plugins.install(home, "meter", none)
    done = fake_plugins.run_edgellm(home, "meter", tmp_path, "calibrate", code=6)

    assert "no library" in done.stderr
    assert "no backend that could be measured can run here" in done.stderr


def test_a_folder_that_cannot_be_written_is_an_error(edgellm, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "cache").write_text("in the way")
    done = edgellm("calibrate", code=5, EDGELLM_HOME=str(tmp_path / "home"))

    assert "cannot be stored" in done.stderr
    assert "Measuring" not in done.stderr, "it is told before anything is measured"


ON_A_GPU = METER.replace(
    "class Meter(Light):",
    """from edgellm.contract.backend import Device, Offload
from edgellm.types.device_trial import DeviceTrial

class Meter(Light):
    def offload(self, machine):
        names = enumerate(("RTX 3060", "RTX 3090"))
        return Offload(tuple(Device(f"CUDA{i}", name, 12 << 30, None, False) for i, name in names))
    def calibrate_device(self, device):
        if os.environ.get("METER_DOES") == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        sizes = (4, 2048, 8192, 32, 8, 64, 256)
        rate = float(os.environ.get("METER_RATE", "500"))
        if os.environ.get("METER_DOES") == "gives none":
            return ()
        return tuple(DeviceTrial(kind, 137_000_000, *sizes, rate, 24, 20 * rate, 512) for kind in ("Q4_0", "Q4_K"))""",
)


@pytest.mark.slow(6)
def test_a_gpu_is_measured_and_its_plans_go_by_that(tmp_path: Path) -> None:
    home = tmp_path / "plugin"
    home.mkdir()
    fake_plugins.install(home, "meter", ON_A_GPU)

    def edgellm(*arguments: str, code: int = 0, **environment: str) -> str:
        return fake_plugins.run_edgellm(home, "meter", tmp_path, *arguments, code=code, **environment).stdout

    def on_gpus() -> list:
        history = json.loads(edgellm("doctor", "--json"))["history"]
        assert len(history["runs"]) == 2, "a later measurement takes the place of an earlier one"
        assert history["drift"] == []
        return [(row["place"], row["quant"], row["decode"]) for row in history["corrections"]]

    assert "RTX 3060:" in edgellm("calibrate", "--device", "cuda0", METER_RATE="100")
    first = on_gpus()
    assert [(place["gpus"], place["split"], quant) for place, quant, _ in first] == [
        (["cuda RTX 3060"], "whole", "Q4_0"), (["cuda RTX 3060"], "whole", "Q4_K"),
    ]  # fmt: skip
    runs = json.loads(edgellm("calibrate", "--device", "CUDA0", "--json"))["runs"]
    assert [run["measured"]["decode"] for run in runs] == [500.0, 500.0]
    assert all(run["predicted"]["decode"] > 0 for run in runs)
    again = on_gpus()
    assert again[0][2] > first[0][2]
    edgellm("calibrate", "--device", "CUDA0", code=7, METER_DOES="dies")
    assert on_gpus() == again
    for rate in ("nan", "0", "-1", "1e308"):
        edgellm("calibrate", "--device", "CUDA0", code=6, METER_RATE=rate)
    none = json.loads(edgellm("calibrate", "--device", "CUDA0", "--json", code=6, METER_DOES="gives none"))
    assert (none["runs"], [row["backend"] for row in none["failed"]]) == ([], ["gguf"])
    assert on_gpus() == again
    edgellm("calibrate", "--device", "CUDA7", code=2)
    edgellm("calibrate", "--device", "CUDA0", "--threads", "2", code=2)
    edgellm("calibrate", "--device", "CUDA0", "--backend", "echo", code=6)
