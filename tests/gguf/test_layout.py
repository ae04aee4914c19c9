"""A library whose structs are not the binding's is refused, with the field; one that only behaves well is unproven."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from edgellm_gguf import library
from edgellm_gguf.advice import advise
from edgellm_gguf.pinned import pinned
from edgellm_gguf.plugin import GgufBackend
from edgellm_gguf.verdict import Verdict
from support.contexts import context
from support.drifted_library import DRIFTS, Drift, folder_with, table_with

from edgellm.catalog.lookup import catalog
from edgellm.hardware.probe import probe
from edgellm.selection.backend_facts import backend_facts
from edgellm.selection.decide import decide
from edgellm.types.backend_reason import BackendUnproven
from edgellm.types.machine import Cpu, Machine, Memory
from edgellm.types.request import SelectionRequest

layout = pytest.importorskip("edgellm_gguf.layout")
defaults = pytest.importorskip("edgellm_gguf.defaults")

MACHINE = Machine("m", "M", Cpu("x86_64", isa=("avx2", "fma")), Memory(2**34))
SLOW = pytest.mark.slow(6)


def refusal(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Why a backend with the libraries of this folder cannot run; "" = it can."""
    monkeypatch.setenv("LLAMA_CPP_LIB_PATH", str(folder))
    return "; ".join(GgufBackend().check(probe(measure=False)))


@pytest.mark.parametrize("drift", DRIFTS, ids=str)
def test_a_build_of_ours_with_another_struct_is_told_by_its_table(drift: Drift, tmp_path: Path) -> None:
    found = next(layout.differences(layout.of_library(ctypes.CDLL(str(table_with(drift, tmp_path))))))
    assert found.name.startswith(f"{drift.struct}.")
    assert drift.moved or found.here != found.expected


def test_the_table_of_the_right_build_is_the_bindings(tmp_path: Path) -> None:
    places = layout.of_library(ctypes.CDLL(str(table_with(None, tmp_path))))
    assert list(layout.differences(places)) == []
    fields = {
        f"{name}.{field}"
        for name, struct in vars(layout.binding).items()
        if isinstance(struct, type) and issubclass(struct, ctypes.Structure)
        for field, *_ in getattr(struct, "_fields_", ())
    }
    # An union without a name in C, and what nobody here uses.
    unused = ("llama_model_kv_override.value", "llama_sampler_i.", "llama_opt_params.")
    assert {field for field in fields if not field.startswith(unused)} <= set(places)


@pytest.mark.parametrize("drift", [DRIFTS[0], *(pytest.param(drift, marks=SLOW) for drift in DRIFTS[1:])], ids=str)
def test_a_foreign_library_with_another_struct_is_refused(
    drift: Drift, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no table: its default parameters tell, or what it does with a tiny model."""
    problem = refusal(folder_with(drift, tmp_path), monkeypatch)
    assert f"needs: {drift.struct}" in problem
    version = library.verdict(probe(measure=False)).version
    assert version in problem
    assert pinned().llama_cpp_python in problem
    # Another process, with the verdict at hand: refused before anything is opened, and without another probe.
    monkeypatch.setattr(library, "probe_library", None)
    assert refusal(tmp_path, monkeypatch) == problem


@SLOW
def test_a_foreign_library_that_behaves_is_unproven(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusal(folder_with(None, tmp_path), monkeypatch) == ""
    assert library.verdict(probe(measure=False)).doubt()


def test_the_library_of_the_bindings_wheel_is_proven() -> None:
    if library.missing() or os.environ.get("LLAMA_CPP_LIB_PATH"):
        pytest.skip("cpu: libllama is missing, or is no part of the binding's wheel")
    assert library.is_of_wheel()
    assert library.verdict(probe(measure=False)).proof == "wheel"


@SLOW
def test_a_build_of_ours_is_proven_wherever_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if library.missing() or not hasattr(ctypes.CDLL(str(library.library_file())), "edgellm_layout"):
        pytest.skip("cpu: libllama is missing, or was not built by set-up")
    shutil.copytree(str(library.library_dir()), tmp_path, dirs_exist_ok=True)
    with open(tmp_path / "libllama.so", "ab") as file:
        file.write(b"\0")  # not the wheel's any more
    assert refusal(tmp_path, monkeypatch) == ""
    assert library.verdict(probe(measure=False)).proof == "layout"


def test_the_recorded_defaults_are_those_of_the_pinned_release() -> None:
    """EDGELLM_UPDATE_GOLDEN=1 writes them again, when the binding's release changes."""
    if library.missing() or not library.is_of_wheel():
        pytest.skip("cpu: libllama is missing, or is no part of the binding's wheel")
    script = (
        "import sys, msgspec\n"
        "from edgellm_gguf import defaults\n"
        "sys.stdout.buffer.write(msgspec.json.encode(defaults.of_library()))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    recorded = pinned()
    if os.environ.get("EDGELLM_UPDATE_GOLDEN"):
        path = Path(defaults.__file__).with_name("pinned.json")
        row = json.loads(path.read_text()) | {"defaults": json.loads(done.stdout)}
        path.write_text(json.dumps(row, indent=1) + "\n")
    assert json.loads(done.stdout) == recorded.defaults


@pytest.mark.parametrize("proof", ["", "layout"])
def test_doctor_and_plan_call_a_library_unproven(monkeypatch: pytest.MonkeyPatch, proof: str) -> None:
    verdict = Verdict("", version="0.4.0 (abc)", proof=proof)  # type: ignore[arg-type]
    monkeypatch.setattr(library, "missing", lambda: "")
    monkeypatch.setattr(library, "verdict", lambda machine: verdict)
    monkeypatch.setattr(library, "last_verdict", lambda: verdict)
    backend = GgufBackend()
    assert bool(advise(MACHINE)) == (not proof)
    assert ("unproven" in backend.describe()["llama.cpp"]) == (not proof)
    (facts,) = backend_facts([backend], MACHINE)
    decision = decide(context(MACHINE, [catalog()["smollm2-135m-instruct"]], [facts]), SelectionRequest())
    reasons = [reason for reason in decision.reasons if isinstance(reason, BackendUnproven)]
    assert [reason.backend for reason in reasons] == ([] if proof else ["gguf"])


def test_doctor_says_which_variant_was_chosen_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = {"x64": 1, "haswell": 63, "sandybridge": 21, "sapphirerapids": 0}
    verdict = Verdict("", variant="haswell", variants=scores)
    monkeypatch.setattr(library, "last_verdict", lambda: verdict)
    about = GgufBackend().describe()
    assert about["variant"] == "haswell, the highest score (63) of the 3 of 4 that run here"
    assert about["build"] == library.build()
    assert about["build"].endswith(") haswell")


def test_a_backend_that_does_not_load_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    verdict = Verdict("", unloaded={"vulkan": "libvulkan.so.1: cannot open shared object file"}, proof="layout")
    monkeypatch.setattr(library, "missing", lambda: "")
    monkeypatch.setattr(library, "verdict", lambda machine: verdict)
    told = "libggml-vulkan is there and does not load: libvulkan.so.1: cannot open shared object file"
    assert GgufBackend().offload(MACHINE).missing == told
    assert [row.text for row in advise(MACHINE)] == [told]
