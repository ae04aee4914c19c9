"""`edgellm bundle`: what is made for a machine is what `auto-select` chooses for it, whole, and the same each time."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from support import pythons
from support.bundles import wheel
from support.random_lora import random_lora
from support.refusals import check_refusal
from support.tiny_models import MODELS

from edgellm.adaptation import adapter_file
from edgellm.bundle import reader, signature
from edgellm.bundle.layout import unpacked_at
from edgellm.cli.main import cli
from edgellm.errors import NothingFits, SourceUnreachable, UnknownAdapter, UnknownProfile, UsageError
from edgellm.formats.gguf.reader import read_model
from edgellm.hardware import profiles
from edgellm.history import calibrations
from edgellm.store.library import Library
from edgellm.types.calibration import Calibration
from edgellm.types.model import ModelCard, ModelFile

PI, LITTLE = "raspberry-pi-5-8gb", "300MiB"  # so little that the catalog's smallest is chosen


def invoke(*arguments: str | Path, code: int = 0) -> Result:
    if arguments[0] == "create" and "--golden" not in arguments:  # which starts the model
        arguments = (*arguments, "--no-golden")
    result = CliRunner().invoke(cli, ["bundle", *map(str, arguments)])
    assert (result.exception is None) == (code == 0), result.output
    return result


def answer(*arguments: str | Path) -> Any:
    return json.loads(invoke(*arguments, "--json").stdout)


def files_of(path: Path) -> dict[str, bytes]:
    with reader.opened(path) as bundle:
        return {entry.path: b"".join(pieces) for entry, pieces in bundle.files()}


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    return replace(MODELS["llama-grouped"], n_layer=1).write(tmp_path)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    invoke("key", tmp_path / "box.key")
    return tmp_path / "box.key"


@pytest.fixture
def chosen(toy: Path, own_home: Path) -> str:
    """What is chosen for the little machine, stored here under its name and source, though it is another model."""
    result = CliRunner().invoke(cli, ["auto-select", "--profile", PI, "--max-memory", LITTLE, "--json"])
    choice = json.loads(result.stdout)["choice"]
    card = ModelCard(choice["model"], "", "chat", "apache-2.0", 256, 1, 1, None)
    root = Library().root
    root.mkdir(parents=True, exist_ok=True)
    Library().keep(card, ModelFile(choice["source"], choice["quant"]), toy.rename(root / "toy.gguf"))
    return result.stdout


def test_the_plan_is_what_auto_select_prints(chosen, tmp_path):
    output = tmp_path / "pi.edgellm"
    made = answer("create", "--for", PI, "--max-memory", LITTLE, "-o", output)
    files = files_of(output)

    assert files[f"plans/{PI}.json"].decode() == chosen
    (target,) = made["targets"]
    choice = json.loads(chosen)["choice"]
    assert target["serve"][:2] == [f"{choice['model']}:{choice['quant']}", "--backend"]
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(files["sbom.cdx.json"].decode()) is None


def test_what_was_measured_on_such_a_machine_goes_along(chosen, toy, tmp_path):
    """The plan rests on it, and the machines get it into their caches."""
    rates = Calibration({("Q4_1", 4): 5.0}, {("Q4_1", 4): 60.0}, "b1", layer_s={4: 2e-5})
    machine, profile = profiles.load(PI), tmp_path / "measured.toml"
    profile.write_text(profiles.dump(machine, {"gguf": calibrations.stated(rates)}))
    told = CliRunner().invoke(cli, ["auto-select", "--profile", str(profile), "--max-memory", LITTLE, "--json"])
    answer("create", "--for", profile, "--max-memory", LITTLE, "-o", tmp_path / "x")
    files = files_of(tmp_path / "x")

    assert files[f"plans/{PI}.json"].decode() == told.stdout
    assert "measured" in json.loads(told.stdout)["choice"]["decode"]["basis"]
    name, content = calibrations.entry(machine, "gguf", rates)
    assert files[f"calibration/{name}"] == content
    assert files[f"profiles/{PI}.toml"] == profile.read_bytes()


def test_every_file_is_in_the_sbom(chosen, tmp_path):
    answer("create", "--for", PI, "--max-memory", LITTLE, "-o", tmp_path / "pi.edgellm")
    files = files_of(tmp_path / "pi.edgellm")
    document = json.loads(files["sbom.cdx.json"])

    rows = [row for component in document["components"] for row in (component.get("components") or [component])]
    assert {row["properties"][0]["value"] for row in rows} == files.keys() - {"sbom.cdx.json"}


def test_two_are_the_same_bytes(toy, key, tmp_path):
    for name in ("1", "2"):
        answer("create", "--for", PI, "--model", toy, "--key", key, "-o", tmp_path / name)

    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_only_the_plan_names_a_file_of_this_machine(toy, tmp_path):
    answer("create", "--for", PI, "--model", toy, "-o", tmp_path / "pi.edgellm")

    files = files_of(tmp_path / "pi.edgellm").items()
    assert [path for path, data in files if str(tmp_path).encode() in data] == [f"plans/{PI}.json"]


def test_the_model_is_stored_there_as_it_is_here(toy, tmp_path, monkeypatch):
    """Its record has the time that unpacked files get, so that no gigabyte is hashed again."""
    made = answer("create", "--for", PI, "--model", toy, "-o", tmp_path / "pi.edgellm")
    (target,) = made["targets"]
    record = json.loads(files_of(tmp_path / "pi.edgellm")[f"{target['model']['folder']}/stored.json"])

    (file,) = record["files"]
    assert file["mtime_ns"] == unpacked_at(file["sha256"]) * 10**9
    assert (record["model_id"], record["quant"]) == (target["model"]["id"], target["model"]["quant"])


def test_verify_tells_whose_it_is(toy, key, tmp_path):
    path = tmp_path / "pi.edgellm"
    invoke("create", "--for", PI, "--model", toy, "--key", key, "-o", path, "--name", "kiosk", "--release", "7")

    checked = answer("verify", path, "--key", f"{key}.pub")
    assert (checked["signature"], checked["name"], checked["release"]) == ("checked", "kiosk", 7)
    assert answer("verify", path)["signature"] == "unchecked"
    assert "its signature is right" in invoke("verify", path, "--key", f"{key}.pub").stdout


def test_wheels_are_those_of_the_machine(toy, tmp_path):
    folder = tmp_path / "wheels"
    wheel(folder, "edgellm-1.0", more="License-Expression: Apache-2.0\nRequires-Dist: numpy\nProvides-Extra: bundle\n")
    wheel(folder, "edgellm-gguf-1.0")
    for tag in ("cp313-cp313-manylinux_2_28_aarch64", "cp313-cp313-manylinux_2_28_x86_64"):
        wheel(folder, "numpy-2.4", tag=tag)
    made = answer("create", "--for", PI, "--model", toy, "--wheels", folder, "--python", "3.13", "-o", tmp_path / "x")

    names = [
        "edgellm-1.0-py3-none-any",
        "edgellm_gguf-1.0-py3-none-any",
        "numpy-2.4-cp313-cp313-manylinux_2_28_aarch64",
    ]
    (target,) = made["targets"]
    assert target["wheels"] == [f"wheels/{name}.whl" for name in names]
    assert {"licences/numpy-2.4/LICENSE", *target["wheels"]} <= files_of(tmp_path / "x").keys()
    assert target["requires"] == ["edgellm[bundle]", "edgellm-gguf"]


def test_a_newer_system_gets_what_keeps_answers_to_a_grammar(toy, tmp_path):
    folder = tmp_path / "wheels"
    extra = 'Provides-Extra: grammar\nRequires-Dist: llguidance; extra == "grammar"\n'
    wheel(folder, "edgellm-1.0", more=f"License-Expression: MIT\n{extra}")
    wheel(folder, "edgellm-gguf-1.0")
    wheel(folder, "llguidance-1.9", tag="cp39-abi3-manylinux_2_31_aarch64")
    requires = {}
    for glibc, n_wheels in (("2.28", 2), ("2.31", 3)):
        given = ("--for", PI, "--model", toy, "--wheels", folder, "--glibc", glibc, "-o", tmp_path / glibc)
        (target,) = answer("create", *given)["targets"]
        requires[glibc] = target["requires"][0]
        assert len(target["wheels"]) == n_wheels
    assert requires == {"2.28": "edgellm[bundle]", "2.31": "edgellm[bundle,grammar]"}


def test_machines_with_musl_get_wheels_for_it(toy, tmp_path):
    folder = tmp_path / "wheels"
    wheel(folder, "edgellm-1.0", more="License-Expression: MIT\n")
    for system in ("manylinux_2_28", "musllinux_1_2"):
        wheel(folder, "edgellm-gguf-1.0", tag=f"py3-none-{system}_x86_64", more="License-Expression: MIT\n")
    given = ("--for", "intel-n100-16gb", "--model", toy, "--wheels", folder)
    (target,) = answer("create", *given, "--musl", "1.2", "-o", tmp_path / "x")["targets"]

    assert (target["glibc"], target["musl"], target["requires"][0]) == ("", "1.2", "edgellm[bundle]")
    assert "wheels/edgellm_gguf-1.0-py3-none-musllinux_1_2_x86_64.whl" in target["wheels"]
    assert len(target["wheels"]) == 2
    text = files_of(tmp_path / "x")["install"].decode()
    assert " musl-1.2 " in text.partition("<<'TARGETS'")[2]


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    folder = tmp_path / "wheels"
    for name in ("edgellm-1.0", "edgellm-gguf-1.0"):
        wheel(folder, name, more="License-Expression: MIT\nProvides-Extra: bundle\n")
    return folder


def test_a_python_goes_along_for_machines_without_one(toy, wheels, tmp_path):
    archive = pythons.tar(tmp_path / "cpython.tar.gz", pythons.files())
    given = ("--for", PI, "--model", toy, "--wheels", wheels, "--with-python", archive)
    (target,) = answer("create", *given, "-o", tmp_path / "x")["targets"]
    files = files_of(tmp_path / "x")

    n_bytes = sum(map(len, pythons.files().values()))
    assert target["python"] == "3.13"
    assert target["interpreter"] == {
        "archive": "python/cpython.tar.gz", "program": "python/bin/python3", "bytes": n_bytes,
    }  # fmt: skip
    assert files["python/cpython.tar.gz"] == archive.read_bytes()
    assert files["licences/cpython-3.13-aarch64/LICENSE.txt"] == pythons.LICENCE
    assert b" python/cpython.tar.gz python/bin/python3\n" in files["install"]
    (row,) = (row for row in json.loads(files["sbom.cdx.json"])["components"] if row["name"] == "cpython")
    assert (row["licenses"], row["purl"]) == ([{"license": {"id": "PSF-2.0"}}], "pkg:generic/cpython@3.13")


def test_a_python_for_musl_goes_along_for_machines_with_it(toy, wheels, tmp_path):
    archive = pythons.tar(tmp_path / "cpython.tar.gz", pythons.files(loader="/lib/ld-musl-aarch64.so.1"))
    given = ("--for", PI, "--model", toy, "--wheels", wheels, "--with-python", archive)
    (target,) = answer("create", *given, "--musl", "1.2", "-o", tmp_path / "x")["targets"]

    assert (target["python"], target["glibc"], target["musl"]) == ("3.13", "", "1.2")
    assert target["interpreter"]["archive"] == "python/cpython.tar.gz"
    refused = invoke("create", *given, "-o", tmp_path / "y", code=1)
    check_refusal(refused.exception, UsageError, param="musl")


def test_the_script_is_signed_where_the_bundle_is(toy, wheels, key, tmp_path):
    given = ("--for", PI, "--model", toy, "--wheels", wheels, "--release", "7")
    answer("create", *given, "--key", key, "-o", tmp_path / "x")
    answer("create", *given, "-o", tmp_path / "y")
    files = files_of(tmp_path / "x")

    signature.check(files["install"], files["install.minisig"], signature.public_key(f"{key}.pub"))
    assert f"install of edgellm bundle {PI} release 7".encode() in files["install.minisig"]
    assert "install.minisig" not in files_of(tmp_path / "y")


def test_a_python_that_does_not_fit_is_refused(toy, wheels, tmp_path):
    archive = pythons.tar(tmp_path / "cpython.tar.gz", pythons.files())
    newer = pythons.tar(tmp_path / "newer.tar.gz", pythons.files() | {"python/bin/python3.13": pythons.elf(glibc=34)})
    given = ("--model", toy, "--with-python")
    for arguments, param in (
        (["--for", PI, *given, archive], "with_python"),  # without wheels
        (["--for", "intel-n100-16gb", *given, archive, "--wheels", wheels], "with_python"),
        (["--for", PI, *given, archive, "--wheels", wheels, "--python", "3.12"], "python"),
        (["--for", PI, *given, newer, "--wheels", wheels], "glibc"),
        (["--for", PI, *given, archive, "--wheels", wheels, "--musl", "1.2"], "musl"),
        (["--for", PI, *given[:-1], "--wheels", wheels, "--musl", "1.2", "--glibc", "2.31"], "musl"),
    ):
        check_refusal(invoke("create", *arguments, "-o", tmp_path / "x", code=1).exception, UsageError, param=param)
    assert not (tmp_path / "x").exists()


def test_a_fleet_has_a_target_for_each_box(toy, tmp_path):
    (tmp_path / "fleet.toml").write_text(
        f'name = "school"\n[[boxes]]\nname = "classroom"\nprofile = "{PI}"\n'
        '[[boxes]]\nname = "library"\nprofile = "intel-n100-16gb"\n'
    )
    made = answer("create", "--for", tmp_path / "fleet.toml", "--model", toy, "-o", tmp_path / "x")

    assert made["name"] == "school"
    assert [(t["name"], t["arch"], t["plan"]) for t in made["targets"]] == [
        ("classroom", "aarch64", "plans/classroom.json"),
        ("library", "x86_64", "plans/library.json"),
    ]


def test_a_stored_adapter_comes_along(toy, tmp_path):
    adapter_file.write(tmp_path / "mail.gguf", random_lora(read_model(toy), roles=("attn_q",)))
    result = CliRunner().invoke(cli, ["adapters", "import", str(tmp_path / "mail.gguf"), "--base", str(toy)])
    assert result.exception is None, result.output
    made = answer("create", "--for", PI, "--model", toy, "--adapter", "mail", "-o", tmp_path / "x")

    files = files_of(tmp_path / "x")
    (record,) = (json.loads(data) for path, data in files.items() if path.endswith("/mail/adapter.json"))
    assert (record["name"], record["base_path"]) == ("mail", "")
    assert "--adapter" in made["targets"][0]["serve"]


def test_it_is_refused_before_anything_is_written(toy, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGELLM_OFFLINE", "1")
    output = tmp_path / "x"
    for arguments, kind in (
        (["--for", "raspberry-pi-9"], UnknownProfile),
        (["--for", PI, "--max-memory", "1MiB"], NothingFits),
        (["--for", PI], SourceUnreachable),
        (["--for", PI, "--model", toy, "--expires", "tomorrow"], UsageError),
        (["--for", PI, "--model", toy, "--expires", "2020-01-01"], UsageError),
        (["--for", PI, "--model", toy, "--name", "../x"], UsageError),
        (["--for", "apple-m2-16gb", "--model", toy, "--wheels", tmp_path], UsageError),
        (["--for", PI, "--model", toy, "--wheels", tmp_path], UsageError),
        (["--for", PI, "--model", toy, "--adapter", "none"], UnknownAdapter),
        (["--for", PI, "--model", toy, "--licences", "MIT,Apache-2.0"], UsageError),
    ):
        check_refusal(invoke("create", *arguments, "-o", output, code=1).exception, kind)
        assert list(tmp_path.iterdir()) == [toy]


def test_a_fleet_says_itself_what_is_asked(tmp_path):
    (tmp_path / "fleet.toml").write_text(f'[[boxes]]\nname = "x"\nprofile = "{PI}"\n')
    (tmp_path / "here.toml").write_text('[[boxes]]\nname = "x"\nprofile = "this machine"\n')

    for arguments in (["--for", tmp_path / "fleet.toml", "--ctx", "4k"], ["--for", tmp_path / "here.toml"]):
        check_refusal(invoke("create", *arguments, code=1).exception, UsageError, param="for")


def test_no_file_is_replaced_unasked(toy, tmp_path):
    (tmp_path / "x").write_bytes(b"dear")
    result = invoke("create", "--for", PI, "--model", toy, "-o", tmp_path / "x", code=1)

    check_refusal(result.exception, UsageError, param="output")
    invoke("create", "--for", PI, "--model", toy, "-o", tmp_path / "x", "--force")
    answer("verify", tmp_path / "x")
