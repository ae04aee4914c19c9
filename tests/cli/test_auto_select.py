"""`edgellm auto-select` as a person and a program meet it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from support.gguf_decoders import Decoder
from support.loras import write_lora
from support.refusals import check_refusal

from edgellm.adaptation.gate import accuracy_gain
from edgellm.cli.main import cli
from edgellm.errors import BackendUnavailable, UsageError
from edgellm.store.adapters import AdapterOrigin, AdapterStore
from edgellm.types.tuning_gate import Gate, OtherModel

PI = ("--profile", "raspberry-pi-5-8gb")
ROW = """
[[models]]
id = "house-model"
family = "house"
kind = "chat"
license = "mit"
ctx_train = 32768
params = 1543714304
params_active = 1543714304
scores = {"MMLU-Pro" = 90.0}
files = [{source = "file:/models/house.gguf", quant = "Q5_K_M"}]
[models.shape]
arch = "qwen2"
n_layer = 28
n_embd = 1536
n_ff = 8960
n_head = 12
n_head_kv = 2
head_dim = 128
n_vocab = 151936
tied_embeddings = true
kv_full_bytes = 28672
"""


CHOSEN: dict[tuple[str, ...], dict] = {}  # of a profile: nothing of the machine changes it


def choose(planner, *arguments: str) -> dict:
    if arguments not in CHOSEN or "--profile" not in arguments:
        CHOSEN[arguments] = json.loads(planner("auto-select", "--json", *arguments).stdout)
    return CHOSEN[arguments]


def test_json_is_one_object_with_the_documented_choice(planner) -> None:
    report = choose(planner, *PI)

    assert report["schema"] == 1
    assert set(report["choice"]) >= {"model", "params", "quant", "backend", "ctx", "tensor_bytes", "source"}
    assert report["choice"]["backend"] == "gguf"
    assert report["reasons"]
    assert report["runners_up"]
    assert report["rejected"]
    assert report["inputs"]["machine"] == "raspberry-pi-5-8gb"
    assert report["inputs"]["source_trust"] == "verified"


def test_numbers_from_memory_are_said_to_be_unverified(planner) -> None:
    sentence = "The numbers of this profile are unverified: written from memory, not looked up."

    assert sentence in planner("auto-select", "--profile", "apple-m3-max-96gb").stdout
    assert sentence not in planner("auto-select", *PI).stdout
    assert choose(planner, "--profile", "apple-m3-max-96gb")["inputs"]["source_trust"] == "unverified"


def test_a_type_of_cache_that_no_backend_has_is_refused_with_that_reason(planner) -> None:
    done = planner("auto-select", *PI, "--kv", "q4_0", code=3)

    assert "gguf holds a cache in f16, not in q4_0" in done.stderr
    assert choose(planner, *PI, "--kv", "f16")["inputs"]["kv_type"] == "f16"


def test_json_is_the_same_every_time(planner_process) -> None:
    first, second = (planner_process("auto-select", "--json", *PI).stdout for _ in range(2))

    assert first == second


def test_people_get_the_choice_first_then_why(planner) -> None:
    output = planner("auto-select", *PI).stdout
    data = choose(planner, *PI)

    assert output.splitlines()[0] == f"{data['choice']['model']} {data['choice']['quant']}"
    assert output.index("Why") < output.index("Runners-up") < output.index("Rejected")
    assert "Memory budget 7.20 GiB" in output
    assert "--explain shows all" in output
    assert output.index("Planned as if every source answered") < output.index("Why")


def test_a_choice_that_is_not_here_is_said_to_be_so_beside_it(planner) -> None:
    lines = planner("auto-select", "--max-memory", "1500MiB").stdout.partition("\nWhy")[0].splitlines()

    assert any(line.startswith("Not on this disk: ") and "to fetch" in line for line in lines)
    assert "Nothing that is on this disk would do." not in lines, "nothing is there"


def test_what_is_here_and_would_not_do_is_told_as_that(planner, tmp_path: Path) -> None:
    (tmp_path / "house.gguf").touch()
    rows = tmp_path / "rows.toml"
    rows.write_text(ROW.replace("90.0", "9.0").replace("/models/house.gguf", str(tmp_path / "house.gguf")))
    output = planner("auto-select", "--max-memory", "700MiB", "--models-file", str(rows)).stdout

    assert "Nothing that is on this disk would do." in output.splitlines()


@pytest.mark.parametrize(
    ("free_mb", "way_on"),
    [
        # Of a package twice its model's 98.6 MB must be free, with what stays free of the disk.
        (170, "`--max-download 102MB` chooses"),
        (66, "free space, or set HF_HOME to a folder on another disk"),
    ],
)
def test_a_choice_that_the_disk_has_no_room_for_is_told_with_what_there_is_room_for(
    planner, monkeypatch: pytest.MonkeyPatch, free_mb: int, way_on: str
) -> None:
    chosen = choose(planner, "--max-memory", "1500MiB")
    usage = shutil.disk_usage("/")._replace(free=free_mb * 10**6)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    report = choose(planner, "--max-memory", "1500MiB")
    output = planner("auto-select", "--max-memory", "1500MiB").stdout
    (told,) = (line for line in output.partition("\nWhy")[0].splitlines() if line.startswith("No room for "))
    (fact,) = (fact for fact in report["reasons_facts"] if fact["kind"] == "no_room")

    assert report["choice"] == chosen["choice"], "the same machine has the same model"
    assert not any(fact["kind"] == "no_room" for fact in chosen["reasons_facts"])
    assert f"{free_mb}.0 MB are free. To go on: {way_on}" in told
    assert fact["free_bytes"] == free_mb * 10**6 < fact["needed_bytes"]
    assert (fact["limit_bytes"] is None) == ("--max-download" not in way_on)
    if fact["instead"]:
        within = choose(planner, "--max-memory", "1500MiB", "--max-download", f"{fact['limit_bytes']}")
        assert (within["choice"]["model"], within["choice"]["quant"]) == (fact["instead"], fact["instead_quant"])
        assert not any(fact["kind"] == "no_room" for fact in within["reasons_facts"])
    assert "No room" not in planner("auto-select", *PI).stdout, "of another machine's disk nothing is known"


def test_what_can_be_had_without_a_network_is_said_beside_the_choice(planner, tmp_path: Path) -> None:
    (tmp_path / "house.gguf").touch()
    rows = tmp_path / "rows.toml"
    house = ROW.replace("90.0", "9.0").replace("/models/house.gguf", str(tmp_path / "house.gguf"))
    rows.write_text(house)
    output = planner("auto-select", "--max-memory", "6GiB", "--models-file", str(rows)).stdout

    assert "Best on this disk (--offline): house-model Q5_K_M" in output.partition("\nWhy")[0]


def test_explain_lists_every_rejection(planner) -> None:
    output = planner("auto-select", "--explain", *PI).stdout
    data = choose(planner, *PI)

    assert len(data["rejected"]) > 100
    for rejection in data["rejected"]:
        assert rejection["reason"] in output


def test_this_machine_is_planned_for_without_a_profile(planner) -> None:
    report = choose(planner, "--max-memory", "1500MiB")

    assert report["budget_bytes"] <= 1500 * 2**20
    assert report["choice"]["memory"]["resident_bytes"] <= 1500 * 2**20


@pytest.mark.parametrize(
    ("flags", "key", "value"),
    [
        (("--task", "agent"), "task", "agent"),
        (("--ctx", "16384"), "ctx", 16384),
        (("--min-tps", "7.5"), "floor_tps", 7.5),
        (("--max-memory", "2GiB"), "max_memory_bytes", 2 * 2**30),
        (("--backend", "gguf"), "backend", "gguf"),
        (("--slots", "4"), "slots", 4),
    ],
)
def test_what_is_asked_is_recorded_and_kept(flags: tuple[str, str], key: str, value: object) -> None:
    done = CliRunner().invoke(cli, ["auto-select", "--json", *PI, *flags], catch_exceptions=False)
    report = json.loads(done.stdout)

    assert report["inputs"][key] == value
    assert key not in ("ctx", "slots") or report["choice"][key] == value


def test_a_users_catalog_takes_part(planner, tmp_path: Path) -> None:
    rows = tmp_path / "mine.toml"
    rows.write_text(ROW)

    assert choose(planner, *PI, "--models-file", str(rows))["choice"]["source"] == "file:/models/house.gguf"


def test_offline_with_an_empty_store_says_what_it_would_take_and_fails(planner) -> None:
    done = planner("auto-select", "--json", "--offline", code=5)
    report = json.loads(done.stdout)

    assert report["choice"] is None
    assert report["would_choose"]["source"].startswith("hf://")
    output = planner("auto-select", code=5, EDGELLM_OFFLINE="1").stdout
    assert "Nothing can be had now." in output
    assert "With every source: " in output
    assert "Where there is one, `edgellm pull`" in output
    assert "`edgellm run PATH.gguf`" in output


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--task", "poetry"), "unknown task"),
        (("--ctx", "7"), "allowed: 256 to"),
        (("--ctx", "99999999999"), "ctx=99999999999"),
        (("--gpu-layers", "some"), "a number from 0 on, all or auto"),
        (("--gpu-layers", "-1"), "gpu_layers='-1'"),
        (("--ctx", "many"), "'many' is not a number of tokens"),
        (("--max-memory", "lots"), "is not a size"),
        (("--slots", "0"), "slots=0"),
        (("--profile", "toaster"), "toaster"),
        ((*PI, "--models-file", "none.toml"), "cannot read"),
        (("--nonsense",), "No such option"),
        (("--profile", "desktop-rtx-4090", "--device", "NOPE"), "no GPU 'NOPE' is seen"),
    ],
)
def test_what_cannot_be_understood_is_refused(arguments: tuple[str, ...], told: str) -> None:
    result = CliRunner().invoke(cli, ["auto-select", "--json", *arguments])

    assert isinstance(result.exception, UsageError | SystemExit)
    assert told in f"{result.exception} {result.stderr}"
    assert result.stdout == ""


def test_layers_are_planned_for_another_machines_gpu_and_refused_where_it_has_none() -> None:
    """By the flag's own words: what a build for that machine would do."""
    desktop = ("auto-select", "--profile", "desktop-rtx-4090")
    result = CliRunner().invoke(cli, [*desktop, "--gpu-layers", "all", "--explain"])
    plain = CliRunner().invoke(cli, [*desktop, "--explain"])
    refused = CliRunner().invoke(cli, ["auto-select", "--profile", "container-2cpu-2gb", "--gpu-layers", "all"])

    assert "layers on RTX 4090, as asked: " in result.output
    assert "all layers on RTX 4090 (" in plain.output
    assert "there, `edgellm gpu setup --cuda` makes it." in plain.output
    check_refusal(refused.exception, BackendUnavailable)


def test_a_gpu_that_is_named_is_used_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine that is planned for as on this one. The variable is about this one only."""
    monkeypatch.setenv("EDGELLM_DEVICE", "Vulkan7")
    desktop = ("auto-select", "--profile", "desktop-rtx-4090")
    plain, named = (CliRunner().invoke(cli, [*desktop, "--json", *more]) for more in ((), ("--device", "cuda0")))
    assert json.loads(plain.stdout)["choice"] == json.loads(named.stdout)["choice"]
    refused = CliRunner().invoke(cli, ["auto-select", "--profile", "container-2cpu-2gb", "--device", "CUDA0"])
    check_refusal(refused.exception, BackendUnavailable)


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("--max-memory", "10MiB"), 3, "nothing fits"),
        (("--min-tps", "1000000"), 3, "nothing reaches"),
        (("--backend", "none"), 6, "'none'"),
    ],
)
def test_errors_are_told_on_standard_error_with_their_exit_code(planner, arguments, code: int, told: str) -> None:
    done = planner("auto-select", "--json", *PI, *arguments, code=code)

    assert told in done.stderr
    assert done.stdout == ""


def test_no_heavy_library_is_imported_for_json() -> None:
    script = """
import io, contextlib, sys
from edgellm.cli.main import cli
with contextlib.redirect_stdout(io.StringIO()):
    try:
        cli.main(args=["auto-select", "--json", "--profile", "raspberry-pi-5-8gb"], standalone_mode=False)
    except Exception as error:
        print(type(error).__name__, file=sys.stderr)
heavy = {"rich", "numpy", "starlette", "jinja2", "uvicorn", "huggingface_hub", "llama_cpp", "onnxruntime", "torch"}
sys.exit(", ".join(sorted(heavy & set(sys.modules))) or 0)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


def test_only_models_that_fit_an_adapter(planner, tmp_path: Path) -> None:
    any_llama = Decoder().write(tmp_path / "tiny.gguf")
    pair = np.ones((4, 576), np.float32), np.ones((576, 4), np.float32)
    adapter = write_lora(tmp_path / "mail.gguf", any_llama, {"blk.29.attn_q.weight": pair})
    report = choose(planner, *PI, "--adapter", str(adapter))

    assert report["choice"]["model"] == "smollm2-135m-instruct"
    [other] = [row for row in report["rejected"] if row["model"] == "llama-3.2-1b-instruct"][:1]
    assert other["rule"] == "fits_adapter"


def test_what_was_measured_of_an_adapter_is_shown(planner, planner_home: Path, tmp_path: Path) -> None:
    any_llama = Decoder().write(tmp_path / "tiny.gguf")
    pair = np.ones((4, 576), np.float32), np.ones((576, 4), np.float32)
    adapter = write_lora(tmp_path / "mail.gguf", any_llama, {"blk.29.attn_q.weight": pair})
    gain = accuracy_gain([False] * 30 + [True] * 10, [True] * 35 + [False] * 5)
    figures = Gate(zero_shot=gain, against=OtherModel("llama-3.2-1b-instruct", gain, gain, 4)).figures
    store = AdapterStore(planner_home / "data" / "adapters")
    for name, of in (("mail", figures), ("post", {})):
        origin = AdapterOrigin(
            name, "smollm2-135m-instruct", "Q8_0", "", "/b.gguf", against="llama-3.2-1b-instruct", figures=of
        )
        store.add(origin, lambda path: shutil.copy(adapter, path))
    shown, bare = (" ".join(planner("auto-select", *PI, "--adapter", name).stdout.split()) for name in ("mail", "post"))
    for stored in store.installed():
        store.remove(stored)

    assert "smollm2-135m-instruct:mail was right in 87.5% of 40 held-out questions" in shown
    assert "25.0% llama-3.2-1b-instruct, 25.0% llama-3.2-1b-instruct with examples" in shown
    assert "was right" not in bare
