"""`edgellm gpu setup`: what is missing is said before anything is done, and whatever goes wrong, what was there stays.

Sources are small ones of our own, compiled by the real tools; the real backend is for tests/gguf/test_lavapipe.py.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import msgspec
import pytest
from edgellm_gguf import device_backends
from edgellm_gguf.device_build import builder, cuda, packages, plan, source
from edgellm_gguf.device_build.command import Command
from edgellm_gguf.pinned import pinned
from edgellm_gguf.plugin import GgufBackend
from support.refusals import refuses
from support.waiting import wait_until

from edgellm.contract.device_build import DeviceBuild, DeviceBuilder
from edgellm.errors import BackendUnavailable, DiskFull, IntegrityError, UsageError
from edgellm.types.machine import Accelerator, Cpu, Machine, Memory

MACHINE = Machine("test", "Test", Cpu("x86_64"), Memory(2**33))
PLANNED = DeviceBuild("vulkan", (), "toy", (), disk_bytes=10**6)
MODULE = """
add_library(ggml-vulkan MODULE backend.c)
set_target_properties(ggml-vulkan PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${CMAKE_RUNTIME_OUTPUT_DIRECTORY})
"""


def nothing(_done: int, _steps: int, _what: str) -> None:
    """Progress that nobody looks at."""


@pytest.fixture
def toy(request: pytest.FixtureRequest) -> Path:
    """Sources in the place of ggml's: a library that is no backend."""
    for name in ("cmake", "ninja", "cc"):
        if shutil.which(name) is None:
            pytest.skip(f"compiler: no {name}")
    return toy_sources(MODULE, "int nothing(void) { return 1; }\n")


def toy_sources(cmake: str, code: str) -> Path:
    pin = pinned()
    top = plan.work_dir() / f"{source.PACKAGE}-{pin.llama_cpp_python}-{pin.commit}" / "toy"
    folder = top / "vendor" / "llama.cpp" / "ggml"
    folder.mkdir(parents=True)
    (folder / "CMakeLists.txt").write_text(cmake)
    (folder / "backend.c").write_text(code)
    return folder


@pytest.fixture
def former() -> Path:
    """A backend that was built before."""
    path = device_backends.folder() / "vulkan" / device_backends.file_name("vulkan")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"former")
    return path


@pytest.mark.parametrize(("content", "is_it"), [(b"former", True), (b"other", False)])
def test_only_what_was_built_here_is_loaded(former: Path, content: bytes, is_it: bool) -> None:
    assert not device_backends.is_as_built("vulkan")  # without a record
    build = device_backends.Build("vulkan", "a commit", hashlib.sha256(content).hexdigest(), (), {})
    (former.parent / device_backends.RECORD).write_bytes(msgspec.json.encode(build))
    assert device_backends.is_as_built("vulkan") is is_it
    for damaged in (b'{"x":' + b"[" * 10_000, b'{"api": "\xec"}', b""):
        (former.parent / device_backends.RECORD).write_bytes(damaged)
        assert device_backends.build_of("vulkan") is None


@pytest.mark.skipif(os.name != "posix", reason="os: Windows has no such modes")
@pytest.mark.parametrize("place", ["library", "record", "vulkan", "commit", "gpu", "data"])
@pytest.mark.parametrize("mode", [0o002, 0o020])
def test_what_others_may_write_is_not_loaded(former: Path, place: str, mode: int) -> None:
    build = device_backends.Build("vulkan", "a commit", hashlib.sha256(b"former").hexdigest(), (), {})
    record = former.parent / device_backends.RECORD
    record.write_bytes(msgspec.json.encode(build))
    paths = dict(zip(("vulkan", "commit", "gpu", "data"), former.parents, strict=False))
    path = {"library": former, "record": record, **paths}[place]
    assert device_backends.is_as_built("vulkan")

    os.chmod(path, path.stat().st_mode | mode)
    state = path.stat()
    is_own_group = mode == 0o020 and state.st_gid == state.st_uid
    assert device_backends.is_as_built("vulkan") is is_own_group
    assert (str(path) in device_backends.written_by_others("vulkan")) is not is_own_group


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="user: only root gives files away")
@pytest.mark.parametrize("place", ["library", "folder"])
def test_what_belongs_to_somebody_else_is_not_loaded(former: Path, place: str) -> None:
    build = device_backends.Build("vulkan", "a commit", hashlib.sha256(b"former").hexdigest(), (), {})
    (former.parent / device_backends.RECORD).write_bytes(msgspec.json.encode(build))
    assert device_backends.is_as_built("vulkan")

    os.chown(former if place == "library" else former.parent, 65534, 65534)
    assert not device_backends.is_as_built("vulkan")


def test_a_version_of_a_driver_that_is_no_text_is_shown_as_it_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = pytest.importorskip("pynvml")
    monkeypatch.setattr(nvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(nvml, "nvmlShutdown", lambda: None)
    monkeypatch.setattr(nvml, "nvmlDeviceGetCount", lambda: 0)
    monkeypatch.setattr(nvml, "nvmlSystemGetCudaDriverVersion", lambda: 13010)
    monkeypatch.setattr(nvml, "nvmlSystemGetDriverVersion", nvml.convertStrBytes(lambda: b"595.\xff"))
    assert cuda.driver() == cuda.Driver("595.\ufffd", (13, 1))


def test_the_backend_builds_its_code_for_gpus() -> None:
    assert isinstance(GgufBackend(), DeviceBuilder)


def test_what_is_missing_is_said_before_anything_is_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "apt-get").write_text("#!/bin/sh\n")
    (tmp_path / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "")
    planned = plan.plan(MACHINE, "vulkan", ())
    assert len(planned.missing) >= 2
    assert planned.get[0].startswith("apt-get install g++")
    with pytest.raises(BackendUnavailable) as caught:
        builder.compile_devices(planned, nothing)
    assert all(text in caught.value.message for text in planned.missing)
    assert not plan.work_dir().exists()


@pytest.mark.parametrize(
    ("kind", "api"),
    [("rocm", "vulkan"), ("xe", "vulkan"), ("vulkan", "vulkan"), ("metal", "metal"), ("cuda", "vulkan")],
)
def test_what_fits_the_gpu_is_built_unasked(monkeypatch: pytest.MonkeyPatch, kind: str, api: str) -> None:
    """With the vendor's own compiler where it is here; none is."""
    monkeypatch.setattr(shutil, "which", lambda name, **_: None)
    for name in ("CUDACXX", "CUDA_HOME", "CUDA_PATH", "CUDAToolkit_ROOT"):
        monkeypatch.delenv(name, raising=False)
    machine = Machine("test", "Test", Cpu("x86_64"), Memory(2**33), accelerators=(Accelerator(kind, "a GPU"),))
    assert plan.usual_api(machine) == api


def test_without_a_gpu_nothing_says_what_to_build() -> None:
    with refuses(UsageError):
        plan.plan(MACHINE, None, ())


@pytest.mark.parametrize("name", ["rtx", "1", "8.6.1.2"])
def test_an_architecture_is_a_compute_capability(name: str) -> None:
    with refuses(UsageError, param="arch"):
        plan.plan(MACHINE, "cuda", (name,))


@pytest.mark.parametrize(
    ("version", "driver", "capability", "words"),
    [
        ((13, 0), cuda.Driver(), 61, ["CUDA 12"]),  # Pascal
        ((13, 0), cuda.Driver(), 70, ["CUDA 12"]),  # Volta
        ((13, 0), cuda.Driver("595.10", (13, 1)), 86, []),
        ((12, 4), cuda.Driver("580.1", (13, 0)), 61, []),
        ((12, 4), cuda.Driver("580.1", (13, 0)), 120, ["CUDA 12.8"]),  # Blackwell
        ((13, 0), cuda.Driver("550.54", (12, 4)), 89, ["550.54"]),
    ],
)
def test_toolkit_driver_and_gpu_must_fit(
    version: tuple[int, int], driver: cuda.Driver, capability: int, words: list[str]
) -> None:
    needs = cuda.misfits(version, driver, (capability,))
    assert len(needs) == len(words)
    assert all(word in need.text for need, word in zip(needs, words, strict=True))
    assert bool(packages.commands(needs)) == bool(words)


def test_a_failing_compiler_leaves_the_former_build(toy: Path, former: Path) -> None:
    (toy / "backend.c").write_text("#error no such thing\n")
    with refuses(BackendUnavailable, varies=r"/[^ ]+backend\.c:\d+:\d+: "):
        builder.compile_devices(PLANNED, nothing)
    assert former.read_bytes() == b"former"
    assert "no such thing" in (plan.work_dir() / "vulkan.log").read_text()


def test_a_library_that_does_not_load_leaves_the_former_build(toy: Path, former: Path) -> None:
    with refuses(BackendUnavailable, varies=r"/[^ ]+libggml-vulkan\.so"):
        builder.compile_devices(PLANNED, nothing)
    assert former.read_bytes() == b"former"


def test_sources_that_are_not_those_of_this_release_are_refused(
    tmp_path: Path, former: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before pip runs anything of them."""
    line = source.REQUIREMENT.read_text()
    assert line.startswith(f"{source.PACKAGE}=={pinned().llama_cpp_python} --hash=sha256:")
    name = f"llama_cpp_python-{pinned().llama_cpp_python}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "setup.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    (tmp_path / name / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: llama-cpp-python\n")
    with tarfile.open(tmp_path / f"{name}.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / name, name)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with refuses(IntegrityError):
        builder.compile_devices(PLANNED, nothing)
    assert not (tmp_path / "ran").exists()
    assert former.read_bytes() == b"former"


def test_a_full_disk_is_told_as_one(toy: Path, former: Path) -> None:
    (toy / "CMakeLists.txt").write_text('message(FATAL_ERROR "write error: No space left on device")\n')
    with refuses(DiskFull):
        builder.compile_devices(PLANNED, nothing)
    assert former.read_bytes() == b"former"


def test_too_little_room_is_refused_before(toy: Path) -> None:
    with refuses(DiskFull, varies=r"[\d.]+ \w+ are free"):
        builder.compile_devices(DeviceBuild("vulkan", (), "toy", (), disk_bytes=10**18), nothing)


def test_two_at_once_and_an_interrupt(toy: Path, former: Path, tmp_path: Path) -> None:
    """The second is refused. Ctrl-C ends the first with all that it started, and the next goes on from there."""
    begun = tmp_path / "begun"
    long = f"sleep 3599.{os.getpid()}"
    (toy / "CMakeLists.txt").write_text(
        f"{MODULE}\nadd_custom_command(OUTPUT long.c COMMAND touch {begun} COMMAND {long} COMMAND false)\n"
        "target_sources(ggml-vulkan PRIVATE long.c)\n"
    )
    script = (
        "from edgellm_gguf.device_build import builder\n"
        "from edgellm.contract.device_build import DeviceBuild\n"
        "builder.compile_devices(DeviceBuild('vulkan', (), 'toy', (), disk_bytes=1), lambda *_: None)\n"
    )
    first = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)
    wait_until(begun.exists)
    with refuses(UsageError):
        builder.compile_devices(PLANNED, nothing)
    first.send_signal(signal.SIGINT)
    _, words = first.communicate()
    assert "KeyboardInterrupt" in words
    wait_until(lambda: not _running(long))
    assert former.read_bytes() == b"former"
    assert list(plan.work_dir().glob("vulkan-*"))


def test_an_interrupt_ends_what_left_the_group(tmp_path: Path) -> None:
    """As compilers do that ninja starts."""
    long = f"sleep 3598.{os.getpid()}"
    script = (
        f"import subprocess; subprocess.Popen({long.split()}, process_group=0); print('begun', flush=True); input()"
    )

    def interrupt(_done: int, _steps: int, _what: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Command(tmp_path / "log", interrupt).run((sys.executable, "-c", script))
    wait_until(lambda: not _running(long), timeout_s=10)


def _running(command: str) -> bool:
    lines = (Path(f"/proc/{pid}/cmdline") for pid in os.listdir("/proc") if pid.isdecimal())
    return any(command.replace(" ", "\0") in line.read_text(errors="replace") for line in lines if line.exists())


def test_a_plan_says_everything_as_json() -> None:
    command = [sys.executable, "-m", "edgellm", "gpu", "setup", "--vulkan", "--dry-run", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout)
    assert (answer["schema"], answer["api"], answer["built"]) == (1, "vulkan", None)
    assert "-DGGML_VULKAN=ON" in answer["configure"]


def _compiler_that_says(folder: Path, text: str) -> Path:
    script = folder / "c++"
    script.write_text(f"#!/bin/sh\necho {text}\n")
    script.chmod(0o755)
    return script


def test_a_toolkit_without_its_libraries_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cuda-13.0"
    (folder / "lib64").mkdir(parents=True)
    monkeypatch.setenv("CXX", str(_compiler_that_says(tmp_path, "libcublas.so")))
    (need,) = cuda.lacks(folder)
    assert "libcublas-dev-13-0" in need.other
    monkeypatch.setenv("CXX", str(_compiler_that_says(tmp_path, "/usr/lib/x86_64-linux-gnu/libcublas.so")))
    assert cuda.lacks(folder) == [], "Debian has it among its own libraries"
    monkeypatch.undo()
    (folder / "lib64" / "libcublas.so").touch()
    assert cuda.lacks(folder) == []
