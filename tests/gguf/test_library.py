"""Whether llama.cpp runs here is asked in a process that may die of the answer, once per library and processor."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from edgellm_gguf import device_backends, library
from edgellm_gguf.device_build import cuda
from edgellm_gguf.plugin import GgufBackend
from support.refusals import refuses

from edgellm import settings
from edgellm.app import verify
from edgellm.app.launch import model_plan
from edgellm.catalog.lookup import catalog
from edgellm.contract.backend import Device, Offload
from edgellm.contract.manager import plugins
from edgellm.errors import BackendUnavailable, UsageError
from edgellm.hardware.probe import probe
from edgellm.selection.backend_facts import backend_facts, offload_facts
from edgellm.types.machine import Accelerator, Cpu, Machine, Memory
from edgellm.types.request import SelectionRequest

MACHINE = Machine("test", "Test", Cpu("x86_64", "a model", isa=("avx2", "fma")), Memory(2**33))
FakeProbe = Callable[[str], Path]


@pytest.fixture
def fake_probe(own_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeProbe:
    """Run this code instead of the probe; returns the file that has one line per run. Nothing is kept yet."""
    shutil.rmtree(own_home / "cache" / "gguf-probe", ignore_errors=True)

    def install(code: str) -> Path:
        package = tmp_path / "stub" / "edgellm_gguf"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("")
        runs = tmp_path / "runs"
        (package / "probe.py").write_text(f"open({str(runs)!r}, 'a').write('run\\n')\nimport os, signal, sys\n{code}\n")
        monkeypatch.setenv("PYTHONPATH", str(package.parent))
        return runs

    return install


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of libraries that LLAMA_CPP_LIB_PATH names; what is in them does not matter to a fake probe."""
    path = tmp_path / "lib"
    path.mkdir()
    (path / "libllama.so").write_bytes(b"first")
    monkeypatch.setenv("LLAMA_CPP_LIB_PATH", str(path))
    return path


WORKS = 'print(\'{"system_info": "AVX2 = 1"}\')'
GPU = Accelerator("cuda", "RTX 4090", 24 * 1024**3, 20 * 1024**3)
WITH_GPU = replace(MACHINE, accelerators=(GPU,))


def says(*backends: str, devices: tuple[str, ...] = ()) -> str:
    """Code of a probe whose library has these backends and sees these GPUs."""
    seen = [{"name": f"GPU{i}", "description": name, "total_bytes": 2**34} for i, name in enumerate(devices)]
    found = {"system_info": "", "offload": bool(seen), "backends": [*backends, "CPU"], "devices": seen}
    return f"print({json.dumps(found)!r})"


def kept_answers() -> list[Path]:
    return list((settings.current().cache_dir / "gguf-probe").glob("*"))


def times(runs: Path) -> int:
    return len(runs.read_text().splitlines()) if runs.exists() else 0


@pytest.mark.usefixtures("folder")
def test_the_answer_is_kept(fake_probe: FakeProbe) -> None:
    runs = fake_probe(WORKS)
    first = library.verdict(MACHINE)
    assert (first.problem, first.system_info) == ("", "AVX2 = 1")
    assert library.verdict(MACHINE) == first
    assert GgufBackend().check(MACHINE) == []
    assert times(runs) == 1


def test_another_library_or_processor_is_asked_anew(fake_probe: FakeProbe, folder: Path) -> None:
    runs = fake_probe(WORKS)
    library.verdict(MACHINE)
    library.verdict(replace(MACHINE, cpu=replace(MACHINE.cpu, isa=("avx2",))))
    assert times(runs) == 2
    (folder / "libllama.so").write_bytes(b"second")
    library.verdict(MACHINE)
    assert times(runs) == 3
    (folder / "libggml-cpu.so").write_bytes(b"")
    library.verdict(MACHINE)
    assert times(runs) == 4


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("signal", "words"), [("SIGILL", "an instruction this CPU does not have"), ("SIGSEGV", "native code crashed")]
)
def test_a_library_that_dies_is_a_reason(fake_probe: FakeProbe, signal: str, words: str) -> None:
    runs = fake_probe(f"os.kill(os.getpid(), signal.{signal})")
    (reason,) = GgufBackend().check(MACHINE)
    assert signal in reason
    assert words in reason
    assert GgufBackend().check(MACHINE) == [reason]
    assert times(runs) == 1


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("sys.exit('libgomp.so.1: cannot open shared object file')", "libgomp.so.1"),
        ("sys.exit(3)", "no output"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
        ("os.kill(os.getpid(), 40)", "signal 40"),
        ("print('ggml: noise on stdout')", "noise"),
        ("print('[]')", "[]"),
        ("print('{\"devices\": 3}')", "devices"),
        ("", "no output"),
    ],
)
def test_what_may_pass_is_a_reason_and_is_asked_again_by_the_next_process(
    fake_probe: FakeProbe, code: str, words: str
) -> None:
    """A library that was missing may be installed, memory that was short may be free: no file keeps it."""
    runs = fake_probe(code)
    (reason,) = GgufBackend().check(MACHINE)
    assert words in reason
    assert GgufBackend().check(MACHINE) == [reason]
    assert times(runs) == 1
    assert kept_answers() == []


@pytest.mark.usefixtures("folder")
def test_a_library_that_hangs_is_a_reason(fake_probe: FakeProbe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "PROBE_TIMEOUT_S", 0.5)
    fake_probe("import time; time.sleep(100)")
    assert "did not answer" in GgufBackend().check(MACHINE)[0]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    "damage",
    ["", "{", "[]", '{"problem": "", "devices": [{}]}', '{"problem": 5}', '{"unknown": ""}', '{"problem": null}'],
)
def test_a_damaged_cache_is_asked_anew(fake_probe: FakeProbe, damage: str) -> None:
    runs = fake_probe(WORKS)
    library.verdict(MACHINE)
    (cached,) = kept_answers()
    cached.write_text(damage)
    assert library.verdict(MACHINE).problem == ""
    assert times(runs) == 2


@pytest.mark.usefixtures("folder")
def test_a_cache_that_cannot_be_written_costs_a_probe_a_process(
    fake_probe: FakeProbe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "cache").write_text("in the way")
    monkeypatch.setenv("EDGELLM_HOME", str(tmp_path / "home"))
    runs = fake_probe(WORKS)
    assert library.verdict(MACHINE).problem == ""
    assert library.verdict(MACHINE).problem == ""
    assert times(runs) == 1


def test_a_folder_without_a_library_is_a_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "gone"):
        monkeypatch.setenv("LLAMA_CPP_LIB_PATH", str(path))
        (reason,) = GgufBackend().check(MACHINE)
        assert str(path) in reason
        assert "LLAMA_CPP_LIB_PATH" in reason


def test_a_file_that_is_no_library_is_a_reason(folder: Path) -> None:
    """The real probe, with LLAMA_CPP_LIB_PATH honoured: it loads what lies there."""
    (reason,) = GgufBackend().check(MACHINE)
    assert "does not load" in reason
    assert folder.exists()


@pytest.mark.skipif(shutil.which("cc") is None, reason="compiler: no C compiler here")
def test_a_library_with_an_illegal_instruction_is_a_reason(folder: Path) -> None:
    """A real library that is built for another processor, in effect: it stops with an illegal instruction."""
    source = folder / "bad.c"
    source.write_text("__attribute__((constructor)) static void load(void) { __builtin_trap(); }")
    for name in ("libggml-base.so", "libggml-cpu.so", "libggml.so", "libllama.so"):
        subprocess.run(["cc", "-shared", "-fPIC", "-o", folder / name, source], check=True)
    (reason,) = GgufBackend().check(MACHINE)
    assert "SIGILL" in reason or "SIGTRAP" in reason  # aarch64 traps with another signal


@pytest.mark.usefixtures("folder")
def test_the_gpus_that_a_build_sees_are_kept_with_what_is_free_now(fake_probe: FakeProbe) -> None:
    runs = fake_probe(says("CUDA", devices=("NVIDIA GeForce RTX 4090",)))
    for _ in range(2):
        assert GgufBackend().offload(WITH_GPU) == Offload((Device("GPU0", "NVIDIA GeForce RTX 4090", 2**34),))
    found = offload_facts(GgufBackend(), WITH_GPU)
    assert found is not None
    assert (found.devices[0].total_bytes, found.devices[0].free_bytes) == (GPU.vram_bytes, GPU.free_bytes)
    assert times(runs) == 1


@pytest.mark.usefixtures("folder")
def test_another_gpu_or_a_variable_that_hides_one_is_asked_anew(
    fake_probe: FakeProbe, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = fake_probe(says("CUDA", devices=("RTX 4090",)))
    library.verdict(WITH_GPU)
    library.verdict(replace(WITH_GPU, accelerators=(replace(GPU, free_bytes=0),)))
    assert times(runs) == 1
    library.verdict(replace(WITH_GPU, accelerators=(replace(GPU, name="RTX 3060"),)))
    assert times(runs) == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    library.verdict(WITH_GPU)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    library.verdict(WITH_GPU)
    assert times(runs) == 3


@pytest.mark.usefixtures("folder")
def test_a_gpu_build_without_a_gpu_is_asked_again_by_the_next_process(fake_probe: FakeProbe) -> None:
    """Its driver may be installed tomorrow."""
    runs = fake_probe(says("Vulkan"))
    found = GgufBackend().offload(WITH_GPU)
    assert found.missing == "this libllama (Vulkan) sees no GPU: is its driver there?"
    assert GgufBackend().offload(WITH_GPU) == found
    assert times(runs) == 1
    assert kept_answers() == []


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("kind", "compiler", "api"),
    [
        ("cuda", "", "vulkan"),
        ("rocm", "", "vulkan"),
        ("xe", "", "vulkan"),
        ("npu", "", None),
        ("cuda", "nvcc", "cuda"),
        ("rocm", "hipcc", "hip"),
    ],
)
def test_a_build_for_the_cpu_says_how_to_build_for_the_gpu(
    fake_probe: FakeProbe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str, compiler: str, api: str | None
) -> None:
    """With what `edgellm gpu setup` would take here: the vendor's own where its compiler is."""
    fake_probe(says())
    monkeypatch.setattr(cuda, "toolkit", lambda: cuda.Toolkit("nvcc", (12, 9)) if compiler == "nvcc" else None)
    if compiler:
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin" / compiler).write_text("#!/bin/sh\n")
        (tmp_path / "bin" / compiler).chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    offload = GgufBackend().offload(replace(MACHINE, accelerators=(Accelerator(kind, "A GPU"),)))
    remedy = f"`edgellm gpu setup --{api}` builds one beside it" if api else ""
    assert offload == Offload(missing="this libllama has no GPU backend", remedy=remedy, builds=api)  # type: ignore[arg-type]


def test_the_real_library_says_whether_it_can_use_a_gpu() -> None:
    """The build that `make setup` makes unasked has none; the same library refuses layers, in words."""
    found = library.verdict(MACHINE)
    if library.missing() or found.gpu_backends:
        pytest.skip("cpu: libllama is missing, or was built for a GPU")
    assert (found.offload, found.devices) == (False, ())
    assert "CPU" in found.backends
    assert GgufBackend().offload(WITH_GPU).missing == "this libllama has no GPU backend"


@pytest.mark.model
def test_layers_asked_of_a_build_without_a_gpu_are_refused(smollm2: str) -> None:
    found = library.verdict(MACHINE)
    if library.missing() or found.gpu_backends:
        pytest.skip("cpu: libllama is missing, or was built for a GPU")
    with refuses(BackendUnavailable):
        model_plan(smollm2, SelectionRequest(ctx=512, gpu_layers=5))
    assert model_plan(smollm2, SelectionRequest(ctx=512, gpu_layers=0)).settings.gpu_layers == 0


def test_the_real_library_runs_and_says_what_it_is() -> None:
    found = library.verdict(MACHINE)
    if not library.missing():
        assert found.problem == ""
        assert "CPU" in found.system_info
        assert len(found.library_sha256) == 64


def test_checking_imports_no_native_code() -> None:
    script = (
        "import sys\n"
        "from edgellm.contract.manager import plugins\n"
        "from edgellm.hardware.probe import probe\n"
        "backend, machine = plugins().backend('gguf'), probe()\n"
        "before = set(sys.modules); backend.check(machine)\n"
        "assert not {'llama_cpp', 'numpy'} & (set(sys.modules) - before), 'heavy import'"
    )
    subprocess.run([sys.executable, "-c", script], check=True, env=os.environ)


def test_the_real_library_opens_the_architectures_it_lists_and_no_others() -> None:
    """The list is not of the C API, so each is tried with a header of nothing else: does it say "unknown"?"""
    listed = GgufBackend().architectures(MACHINE)
    if listed is None:
        pytest.skip("cpu: libllama is missing, or does not list architectures")
    named = sorted({card.shape.arch for card in catalog().values() if card.shape})
    script = (
        "import ctypes, struct, sys, tempfile, llama_cpp\n"
        "from pathlib import Path\n"
        "said = []\n"
        "heard = llama_cpp.llama_log_callback(lambda level, text, user: said.append(text.decode()))\n"
        "llama_cpp.llama_log_set(heard, ctypes.c_void_p(0))\n"
        "params = llama_cpp.llama_model_default_params()\n"
        "params.vocab_only = True\n"
        "text = lambda value: struct.pack('<Q', len(value)) + value\n"
        "for arch in sys.argv[1:]:\n"
        "    path = Path(tempfile.mkdtemp()) / 'header.gguf'\n"
        "    key = text(b'general.architecture') + struct.pack('<I', 8) + text(arch.encode())\n"
        "    path.write_bytes(b'GGUF' + struct.pack('<IQQ', 3, 0, 1) + key + bytes(64))\n"
        "    del said[:]\n"
        "    assert not llama_cpp.llama_model_load_from_file(str(path).encode(), params)\n"
        "    print(arch, 'unknown model architecture' not in ''.join(said))\n"
    )
    command = [sys.executable, "-c", script, *named, "not-an-architecture"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    tried = {line.split()[0] for line in done.stdout.splitlines() if line.endswith("True")}
    assert tried == listed & {*named, "not-an-architecture"}
    assert {"llama", "gemma3", "qwen3", "bitnet"} <= tried


def test_the_real_library_says_which_tensors_it_opens_and_repacks() -> None:
    if library.missing():
        pytest.skip("cpu: libllama is missing")
    machine = probe()
    types = GgufBackend().tensor_types(machine)
    assert types is not None
    assert {"F32", "Q4_0", "Q4_K", "IQ4_XS", "TQ2_0"} <= types
    # bitnet.cpp's number for it means a type that llama.cpp has removed.
    assert "I2_S" not in types
    # What is planned for machines of this kind that are not here is what this one does.
    here, planned = (GgufBackend().repacking(machine, is_here=is_here) for is_here in (True, False))
    assert here.types - {"F32", "F16", "BF16"} == planned.types
    assert here.row_multiple == planned.row_multiple


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGSEGV)", "sys.exit('libcuda.so.1: no such file')"])
def test_a_driver_that_ends_the_probe_costs_the_gpus_only(fake_probe: FakeProbe, end: str) -> None:
    """The processor's part was said before backends for GPUs were loaded."""
    words = {"system_info": "AVX2 = 1", "backends": ["CPU"], "loading": ["cuda"]}
    fake_probe(f"print({json.dumps(words)!r}, flush=True)\n{end}")
    assert GgufBackend().check(WITH_GPU) == []
    verdict = library.verdict(WITH_GPU)
    assert set(verdict.unloaded) == {"cuda"}
    assert "libggml-cuda" in GgufBackend().offload(WITH_GPU).missing


@pytest.mark.usefixtures("folder")
def test_a_backend_that_was_built_is_asked_anew(fake_probe: FakeProbe) -> None:
    runs = fake_probe(WORKS)
    library.verdict(MACHINE)
    path = device_backends.folder() / "vulkan" / device_backends.file_name("vulkan")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"built")
    library.verdict(MACHINE)
    library.verdict(MACHINE)
    assert times(runs) == 2


def test_what_a_driver_says_is_the_reason(fake_probe: FakeProbe, folder: Path) -> None:
    words = "ggml_cuda_init: failed to initialize CUDA: CUDA driver version is insufficient for CUDA runtime version"
    seen = {"system_info": "", "backends": ["CUDA", "CPU"], "complaints": [words]}
    fake_probe(f"print({json.dumps(seen)!r})")
    assert "insufficient for CUDA runtime" in GgufBackend().offload(WITH_GPU).missing


@pytest.mark.usefixtures("folder")
def test_devices_that_are_named_are_the_only_ones(fake_probe: FakeProbe) -> None:
    """GPU0 and GPU1 are seen."""
    fake_probe(says("Vulkan", devices=("A card", "Another card")))
    with settings.override(devices=("gpu1",)):
        offload = offload_facts(GgufBackend(), MACHINE)
        assert offload is not None
        assert [device.description for device in offload.devices] == ["Another card"]
    with settings.override(devices=("GPU1", "GPU0")):
        offload = offload_facts(GgufBackend(), MACHINE)
        assert offload is not None
        assert [device.name for device in offload.devices] == ["GPU1", "GPU0"]
    with settings.override(devices=("GPU1", "gpu1")):
        offload = offload_facts(GgufBackend(), MACHINE)
        assert offload is not None
        assert [device.name for device in offload.devices] == ["GPU1"]
    with settings.override(devices=("GPU7",)), refuses(UsageError, param="device"):
        offload_facts(GgufBackend(), MACHINE)


@pytest.mark.usefixtures("folder")
def test_what_is_known_after_a_load_may_name_devices_of_other_backends(
    fake_probe: FakeProbe, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Other(GgufBackend):
        name = "other"

        def offload(self, machine: Machine) -> Offload:
            return Offload((Device("CUDA0", "A card", 1 << 30, None, False),))

    fake_probe(says("Vulkan", devices=("A card",)))
    monkeypatch.setattr(plugins(), "_backends", {"gguf": GgufBackend(), "other": Other()})
    with settings.override(devices=("CUDA0",)):
        offload = verify.facts_of("gguf", MACHINE).offload
        assert offload is not None
        assert offload.devices == ()


@pytest.mark.skipif(bool(library.missing()) or sys.platform == "win32", reason="cpu: libllama is missing")
@pytest.mark.skipif(not shutil.which("cc"), reason="compiler: no cc")
@pytest.mark.parametrize("is_recorded", [True, pytest.param(False, marks=pytest.mark.slow(1))])
def test_a_library_that_somebody_else_may_have_put_there_is_not_run(tmp_path: Path, is_recorded: bool) -> None:
    """The real probe. A library's constructor runs before any of its functions is called."""
    ran, source = tmp_path / "ran", tmp_path / "code.c"
    source.write_text(
        f'#include <stdio.h>\n__attribute__((constructor)) static void run(void) {{ fclose(fopen("{ran}", "w")); }}'
    )
    path = device_backends.folder() / "vulkan" / device_backends.file_name("vulkan")
    path.parent.mkdir(parents=True)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", path, source], check=True)
    if is_recorded:
        build = device_backends.Build("vulkan", "", hashlib.sha256(path.read_bytes()).hexdigest(), (), {})
        (path.parent / device_backends.RECORD).write_bytes(msgspec.json.encode(build))
        path.chmod(0o777)
    facts = GgufBackend().offload(WITH_GPU)
    assert not facts.devices
    assert set(library.verdict(WITH_GPU).unloaded) == {"vulkan"}
    assert (str(path) in facts.missing, bool(facts.remedy)) == (is_recorded, not is_recorded)
    assert not ran.exists()


@pytest.mark.skipif(bool(library.missing()), reason="cpu: libllama is missing")
def test_a_gpu_backend_that_was_changed_is_built_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real probe, which this process runs once."""
    path = device_backends.folder() / "vulkan" / device_backends.file_name("vulkan")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"junk")
    runs, run = [], library.probe_library
    monkeypatch.setattr(library, "probe_library", lambda *of: runs.append(of) or run(*of))
    facts = backend_facts([GgufBackend()], WITH_GPU)[0]
    assert facts.offload is not None
    assert (facts.problems, facts.offload.devices, facts.offload.builds) == ((), (), "vulkan")
    assert "--vulkan" in facts.offload.remedy
    assert len(runs) == 1


def test_backends_whose_library_has_another_name() -> None:
    assert [device_backends.registered(api) for api in ("hip", "metal", "cuda")] == ["rocm", "mtl", "cuda"]
