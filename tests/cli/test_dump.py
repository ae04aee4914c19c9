"""The JSON of doctor holds everything, names nobody, and stands for the machine it was made on."""

from __future__ import annotations

import contextlib
import functools
import getpass
import importlib
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from support import gguf_writer
from support.refusals import refuses

from edgellm import settings
from edgellm.app.context import cards, of_machine
from edgellm.cli import doctor, dump
from edgellm.cli.main import cli
from edgellm.cli.report import Report
from edgellm.contract.manager import plugins
from edgellm.errors import UsageError
from edgellm.hardware import profiles
from edgellm.hardware.probe import probe
from edgellm.history import calibrations, fingerprint, run_log
from edgellm.history.run_log import Numbers, Quality, Run
from edgellm.selection.backend_facts import BackendFacts
from edgellm.selection.decide import decide
from edgellm.types.calibration import Calibration, Occasion
from edgellm.types.machine import Accelerator, Cluster, Cpu, Limits, Machine, Memory
from edgellm.types.request import SelectionRequest

MACHINE = Machine(
    "box", "A box", Cpu("x86_64", "A CPU", 4, 8, ("avx2", "fma"), clusters=(Cluster("performance", 4),)),
    Memory(32 * 2**30, 20 * 2**30, 2**30, 40.0, "measured: 4 threads, 2 MiB pages", "measured"),
    accelerators=(Accelerator("cuda", "NVIDIA RTX 4090", 24 * 2**30),), limits=Limits(cpus=2.5, source="cgroup v2 /a"),
)  # fmt: skip
pytestmark = pytest.mark.usefixtures("known_machine", "asked_once")


@pytest.fixture(scope="module")
def asked_once() -> Iterator[None]:
    """The processes that look at the ternary engine and the compiler of CUDA: each `doctor` would start four."""
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in (("edgellm_bitnet.plugin", "ask"), ("edgellm_gguf.device_build.toolchain", "lines")):
            with contextlib.suppress(ImportError):  # its plugin is not installed
                module = importlib.import_module(owner)
                patch.setattr(module, name, functools.cache(getattr(module, name)))
        yield


def report(monkeypatch: pytest.MonkeyPatch, machine: Machine = MACHINE) -> dict:
    monkeypatch.setattr(doctor, "_probe", lambda: machine)
    done = CliRunner().invoke(cli, ["doctor", "--json"], catch_exceptions=False)
    assert done.exit_code == 0
    return json.loads(done.stdout)


def saved(tmp_path: Path, content: dict) -> str:
    path = tmp_path / "doctor.json"
    path.write_text(json.dumps(content))
    return str(path)


def run(number: int, decode: float, *, name: str = "gguf", of: str | None = None) -> Run:
    return Run(
        id=str(number), time="", backend=name, model="m", quant="Q4_K_M", build="", threads=2, ctx=4096, slots=1,
        basis=fingerprint.basis(plugins().backend(name), None) if of is None else of, kv_type="f16", requests=3,
        waited=0.0, whole_batch=True, predicted=Numbers(decode=10.0), measured=Numbers(decode=decode),
    )  # fmt: skip


def texts(content: dict) -> list[str]:
    return [f"{row['text']} | {row['fix']}" for row in content["findings"]]


def test_a_dump_is_the_machine_it_was_made_on(tmp_path: Path, monkeypatch) -> None:
    assert profiles.load(saved(tmp_path, report(monkeypatch))) == MACHINE


def test_so_is_the_dump_of_this_machine(tmp_path: Path, monkeypatch) -> None:
    machine = probe(measure=False)
    loaded = profiles.load(saved(tmp_path, report(monkeypatch, machine)))
    assert replace(loaded, disk=None) == replace(machine, disk=None)


def test_a_decision_on_a_dump_is_the_decision_on_the_machine(tmp_path: Path, monkeypatch) -> None:
    path = saved(tmp_path, report(monkeypatch))
    request = SelectionRequest(offline=False)
    expected = decide(of_machine(MACHINE, cards(here=False)), request)
    done = CliRunner().invoke(cli, ["auto-select", "--profile", path, "--json"], catch_exceptions=False)
    choice = json.loads(done.stdout)["choice"]
    assert expected.choice is not None
    assert (choice["model"], choice["quant"], choice["ctx"]) == (
        expected.choice.model,
        expected.choice.quant,
        expected.choice.ctx,
    )


@pytest.mark.parametrize(
    ("text", "param"),
    [
        pytest.param("", "", id="empty"),
        pytest.param("[]", "", id="a list"),
        pytest.param("3", "", id="a number"),
        pytest.param('{"machine": []}', "", id="a machine that is a list"),
        pytest.param('{"machine": {"id": 3}}', "id", id="a number for an id"),
        pytest.param("[" * 9999, "", id="nested"),
        pytest.param('{"x": 1}', "x", id="an unknown key"),
    ],
)
def test_what_is_no_dump_is_refused(tmp_path: Path, text: str, param: str) -> None:
    path = tmp_path / "doctor.json"
    path.write_text(text)
    with refuses(UsageError, param=param):
        profiles.load(str(path))


def test_it_names_no_person_and_no_secret(monkeypatch, tmp_path: Path) -> None:
    home = tmp_path / "home" / "adalovelace"
    home.mkdir(parents=True)
    monkeypatch.setenv("EDGELLM_HOME", str(home / "edgellm"))
    monkeypatch.setenv("EDGELLM_API_KEY", "sk-1")
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefgh")
    monkeypatch.setenv("HF_ENDPOINT", "https://adalovelace:hf_abcdefgh@hub.example")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    monkeypatch.setattr(getpass, "getuser", lambda: "adalovelace")
    content = report(monkeypatch)
    assert (
        content["settings"]["variables"]["EDGELLM_API_KEY"] == content["settings"]["variables"]["HF_TOKEN"] == "(set)"
    )
    assert content["settings"]["data"] == str(Path("~/edgellm/data"))
    assert content["settings"]["variables"]["HF_ENDPOINT"] == "https://(user):(set)@hub.example"
    whole = json.dumps(content)
    assert [word for word in ("adalovelace", "sk-1", "hf_abcd") if word in whole] == []


def test_a_user_who_is_called_like_the_system_hides_nothing(monkeypatch) -> None:
    monkeypatch.setattr(getpass, "getuser", lambda: "root")
    assert dump.anonymous({"a": ["the root of it", 3, None, True]}) == {"a": ["the root of it", 3, None, True]}


def test_history_corrections_drift_and_vetoes(monkeypatch) -> None:
    for number, decode in enumerate((6.0, 6.0, 6.1, 12.0)):
        run_log.record(MACHINE, run(number, decode))
    run_log.record(MACHINE, run(9, 1.0, of="of an older build"))
    veto = Quality(
        id="q", time="", backend="gguf", model="m", quant="Q2_K", sha256="", text_sha256="", tokens=10, perplexity=50.0,
        veto="it agrees with the reference on 50.0% of tokens, 75% are asked",
    )  # fmt: skip
    run_log.record(MACHINE, veto)
    with open(run_log.path_of(MACHINE), "a") as file:
        file.write("no JSON\n")
    content = report(monkeypatch)
    history = content["history"]
    assert (history["lines"], history["skipped"], len(history["runs"]), len(history["checks"])) == (6, 1, 5, 1)
    (learned,) = history["corrections"]
    assert (learned["model"], learned["basis"]) == ("m", "corrected by 4 runs of m Q4_K_M here")
    assert 0.6 < learned["decode"] < 0.7
    assert "m Q2_K is not chosen on gguf: it agrees with" in " ".join(texts(content))
    assert any("1 line of" in text and "cannot be read" in text for text in texts(content))
    # The last run of the older build is compared with nothing, and so is not drift.
    assert history["drift"] == []


def test_the_last_run_drifts_from_what_those_before_it_had_taught(monkeypatch) -> None:
    for number, decode in enumerate((6.0, 6.0, 6.0, 12.0)):
        run_log.record(MACHINE, run(number, decode))
    history = report(monkeypatch)["history"]
    (drift,), (facts,) = history["drift"], history["drift_facts"]
    assert (facts["kind"], facts["quantity"], facts["measured"]) == ("drift", "decode", 12.0)
    assert drift["text"].startswith("decode of m Q4_K_M: 12 tok/s, 6.")
    assert "`edgellm calibrate`" in drift["fix"]
    assert any(text.startswith("drift: decode of m") for text in texts(report(monkeypatch)))


def test_a_history_that_cannot_be_read_is_a_problem(monkeypatch) -> None:
    run_log.path_of(MACHINE).mkdir(parents=True)
    assert any("cannot be read" in text and "move" in text for text in texts(report(monkeypatch)))


def test_a_history_of_which_no_line_can_be_read_is_a_problem(monkeypatch) -> None:
    path = run_log.path_of(MACHINE)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\xff\x00noise\nand more\n")
    assert f"none of the 2 lines of {path} can be read" in problems(report(monkeypatch))
    run_log.record(MACHINE, run(1, 8.0))
    assert not problems(report(monkeypatch))


def test_a_calibration_is_in_it_and_read_from_it() -> None:
    rates = Calibration({("Q4_K", 2): 5.0}, {("Q4_K", 2): 90.0}, "b1")
    facts = {"gguf": BackendFacts("gguf", frozenset({"gguf"}), calibration=rates), "x": BackendFacts("x", frozenset())}
    told = json.dumps({"machine": asdict(MACHINE), "calibrations": dump.calibrations(facts)})

    whole = profiles.parse(told, Path("doctor.json"))
    assert whole.machine == MACHINE
    assert calibrations.read(whole.calibrations, "doctor.json") == {"gguf": rates}


def test_what_is_stored_is_listed_with_its_problem(monkeypatch) -> None:
    folder = settings.current().data_dir / "models" / "m" / "Q4_0-1"
    folder.mkdir(parents=True)
    (folder / "stored.json").write_text('{"schema": 99}')
    content = report(monkeypatch)
    (row,) = content["models"]
    assert (row["model"], row["quant"], row["problem_facts"]["kind"]) == ("m", "Q4_0", "record_of_newer")
    assert problems(content) == [f"m Q4_0 is {row['problem']}"]


def test_damage_in_folders_of_ones_own_is_a_problem(monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "cut.gguf").write_bytes(gguf_writer.model().build()[:-1])
    monkeypatch.setenv("EDGELLM_MODELS_DIR", str(tmp_path))
    (problem,) = problems(report(monkeypatch))
    assert str(tmp_path / "cut.gguf") in problem


def problems(content: dict) -> list[str]:
    return [row["text"] for row in content["findings"] if row["level"] == "problem"]


def test_every_part_is_there(monkeypatch) -> None:
    assert asdict(Report()).keys() == report(monkeypatch).keys() >= {
        "schema", "versions", "machine", "backends", "plugins", "store", "models", "calibrations", "set_aside",
        "history", "settings", "used", "findings",
    }  # fmt: skip


LOUD = Occasion("2026-11-28", 0.63, 0.53)


@pytest.mark.parametrize(
    ("when", "told"),
    [
        (None, "gguf, onnx |"),
        (Occasion(), "onnx |"),
        (
            LOUD,
            "onnx; gguf was measured on 2026-11-28, but other programs took 63% of the "
            "processors' time and measuring waited for them 53% of its own",
        ),
    ],
    ids=["nothing", "quiet", "beside other programs"],
)
def test_what_does_not_count_is_told_once_with_its_cure(monkeypatch, when: Occasion | None, told: str) -> None:
    table = {("Q4_K", 2): 5.0}
    rates = None if when is None else Calibration(table, table, "b1", occasions={2: when})
    monkeypatch.setattr(
        calibrations, "load", lambda machine, backend, build, notes=None: rates if backend == "gguf" else None
    )
    content = report(monkeypatch)
    (text,) = [text for text in texts(content) if "`edgellm calibrate`" in text]
    assert text.startswith("speeds are predicted from processors of this kind: not measured: ")
    assert told in text
    assert ("gguf" in text) == (told != "onnx |")
    assert content["set_aside"] == (["gguf"] if when is LOUD else [])
    assert (content["calibrations"]["gguf"] is None) == (when is None)
