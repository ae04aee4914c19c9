"""Providers of the installed onnxruntime: which devices they have here, and sessions that a plan counts on."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
from edgellm_onnx import devices, engine, library, session, start
from edgellm_onnx.plugin import OnnxBackend
from edgellm_onnx.providers import CPU, PROVIDERS, choose
from support import onnx_models
from support.onnx_models import KINDS, Tiny
from support.refusals import refuses

from edgellm import settings
from edgellm.contract.engine import SlotInput
from edgellm.errors import BackendUnavailable
from edgellm.hardware import profiles
from edgellm.types.machine import Accelerator, Machine
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan, Settings

TOKENS = np.random.default_rng(3).integers(2, 300, 60).tolist()
TINY = Tiny(layers=2)
MACHINE = profiles.load("desktop-rtx-4090")
OPENVINO = PROVIDERS["openvino"].library
HAS_OPENVINO = OPENVINO in onnxruntime.get_available_providers()
GIB = 1024**3


def opened(folder, device="", n_slots=4, **options):
    placed = {"gpu_layers": -1, "devices": (device,)} if device else {}
    run = Settings(128, n_slots, n_batch=64, options=tuple(options.items()), **placed)
    return OnnxBackend().open(LaunchPlan("onnx", Artifact("onnx", (str(folder),), "tiny"), run))


@pytest.fixture(scope="module")
def golden():
    return TINY.logits(TOKENS)


@pytest.fixture
def having(monkeypatch):
    """A build with some providers, whose start, which needs a device, is taken for granted or fails."""

    def build(*names: str, problem: str = "") -> None:
        libraries = tuple(PROVIDERS[name].library for name in names)
        monkeypatch.setattr(library, "verdict", lambda: library.Verdict(version="1.0", providers=(*libraries, CPU)))
        monkeypatch.setattr(library, "start_problem", lambda provider, options, device: problem)

    return build


def on(*gpus: Accelerator) -> Machine:
    return replace(MACHINE, accelerators=gpus)


@pytest.mark.skipif(HAS_OPENVINO, reason="this onnxruntime is made for more than the CPU")
def test_a_build_for_the_cpu_has_no_devices_on_any_machine():
    assert OnnxBackend().accelerators(MACHINE) is None


def test_each_accelerator_is_one_device_of_the_first_provider_that_computes_on_it(having):
    having("dml", "cuda", "tensorrt")
    card, intel = Accelerator("cuda", "RTX 4090", 24 * GIB, 20 * GIB, slot="0000:01:00.0"), Accelerator("xe", "Iris Xe")
    offload = OnnxBackend().accelerators(on(card, intel))
    assert offload is not None
    assert [(device.name, device.description) for device in offload.devices] == [
        ("CUDA0", "RTX 4090 (CUDAExecutionProvider)")
    ]
    (device,) = offload.devices
    assert (device.total_bytes, device.free_bytes, device.slot) == (24 * GIB, 20 * GIB, "0000:01:00.0")
    having("openvino")
    offload = OnnxBackend().accelerators(on(intel))
    assert offload is not None
    assert [device.name for device in offload.devices] == ["OpenVINOGPU0"]


@pytest.mark.parametrize(
    "gpus",
    [
        (),
        (Accelerator("rocm", "RX 7900 XTX", 24 * GIB),),
        (Accelerator("cuda", "RTX 4090", 24 * GIB, usable=False),),
        (Accelerator("cuda", "RTX 3090", 24 * GIB), Accelerator("cuda", "RTX 3060", 12 * GIB)),
    ],
    ids=["no GPU", "another's", "out of reach", "which of two"],
)
def test_a_provider_without_a_device_of_its_own_has_none_and_says_so(having, gpus):
    having("cuda")
    offload = OnnxBackend().accelerators(on(*gpus))
    assert offload is not None
    assert (offload.devices, "CUDAExecutionProvider" in offload.missing) == ((), True)


def test_a_provider_that_does_not_start_has_no_device_and_says_why(having):
    having("cuda", problem="CUDAExecutionProvider does not start (libcublasLt.so.13)")
    offload = OnnxBackend().accelerators(on(Accelerator("cuda", "RTX 4090", 24 * GIB)))
    assert offload is not None
    assert (offload.devices, offload.missing) == ((), "CUDAExecutionProvider does not start (libcublasLt.so.13)")


def test_a_provider_that_does_not_start_beside_one_that_does_is_told(having, monkeypatch):
    having("cuda", "openvino")
    problems = {"CUDAExecutionProvider": "CUDAExecutionProvider does not start (libcublasLt.so.13)"}
    monkeypatch.setattr(library, "start_problem", lambda provider, options, device: problems.get(provider, ""))
    gpus = Accelerator("cuda", "RTX 4090", 24 * GIB), Accelerator("xe", "Iris Xe", unified=True)
    offload = OnnxBackend().accelerators(on(*gpus))
    assert offload is not None
    assert ([device.name for device in offload.devices], offload.missing) == (["OpenVINOGPU0"], "")
    assert offload.problems == tuple(problems.values())


def test_whether_a_provider_starts_is_tried_and_a_silent_replacement_is_found():
    """In every wheel, Azure's provider starts and leaves each operator to the CPU."""
    assert start.problem(CPU, {}) == ""
    assert start.problem("NoSuchExecutionProvider", {}) != ""
    if "AzureExecutionProvider" in onnxruntime.get_available_providers():
        assert CPU in start.problem("AzureExecutionProvider", {})


def test_what_starts_is_kept_and_what_does_not_is_tried_again(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGELLM_HOME", str(tmp_path))
    kept = settings.current().cache_dir / "onnx-probe"
    assert "does not start" in library.start_problem("NoSuchExecutionProvider", {}, "a GPU")
    assert list(kept.glob("start-*")) == []
    assert library.start_problem(CPU, {}, "a processor") == ""
    assert len(list(kept.glob("start-*"))) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_caches_in_memory_of_onnxruntime_s_own_compute_the_same(tmp_path, golden, kind, monkeypatch):
    """The calls of a cache on a device, with the only device that is always there."""
    made = engine.open_session
    monkeypatch.setattr(engine, "open_session", lambda *given: replace(made(*given), memory="cpu"))
    run = opened(KINDS[kind](tmp_path, TINY))
    run.step([SlotInput(0, 0, tuple(TOKENS[:20]), 1)])
    assert run.fork(0, 2, 15) == 15
    assert run.truncate(0, 10) == 10
    rows = run.step([SlotInput(0, 10, tuple(TOKENS[10:20]), 10), SlotInput(2, 15, tuple(TOKENS[15:30]), 15)])
    assert np.abs(rows[0] - golden[10:20]).max() < 1e-5
    assert np.abs(rows[1] - golden[15:30]).max() < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_that_are_bound_again_for_each_step_compute_the_same(tmp_path, golden, kind, monkeypatch):
    """As for a provider with memory of its own, to which inputs in RAM are copied when they are bound."""
    monkeypatch.setattr("edgellm_onnx.binding.CPU", "")
    run = opened(KINDS[kind](tmp_path, TINY))
    rows = [run.step([SlotInput(1, 0, tuple(TOKENS[:20]), 20)])[0].copy()]
    rows += [run.step([SlotInput(1, at, (TOKENS[at],), 1)])[0].copy() for at in range(20, 40)]
    assert np.abs(np.concatenate(rows) - golden[:40]).max() < 1e-5


@pytest.mark.parametrize("device", ["CUDA0", "DML0", "Vulkan0"])
def test_a_plan_for_a_device_that_is_not_there_is_refused(tmp_path, device):
    with refuses(BackendUnavailable):
        opened(onnx_models.shared(tmp_path), device)


def test_single_layers_are_refused(tmp_path):
    run = Settings(128, gpu_layers=1, devices=("CUDA0",))
    with refuses(BackendUnavailable):
        OnnxBackend().open(LaunchPlan("onnx", Artifact("onnx", (str(onnx_models.shared(tmp_path)),), "tiny"), run))


def test_a_plan_for_a_provider_that_leaves_the_graph_to_the_cpu_is_refused_and_asked_for_it_is_told(
    tmp_path, monkeypatch, caplog
):
    """Azure's provider again: it starts, and onnxruntime says nothing of who computes."""
    azure = "AzureExecutionProvider"
    if azure not in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has no provider that takes no operator")
    graph, run = onnx_models.shared(tmp_path) / "model.onnx", Settings(128)
    wanted = choose("cuda", [PROVIDERS["cuda"].library])
    options = session.Options()
    with caplog.at_level(logging.ERROR, "edgellm.onnx"):
        told = session.open_session(graph, run, options, replace(wanted, providers=(azure, CPU)))
    assert told.nodes.startswith("0 of ")
    assert f"{azure} computes only 0 of " in caplog.text
    with refuses(BackendUnavailable):
        session.open_session(graph, run, options, replace(wanted, providers=(azure, CPU), planned=True))


def test_the_plan_s_device_decides_and_an_option_overrides_it():
    cuda = PROVIDERS["cuda"].library
    planned = choose("auto", [cuda, CPU], ("CUDA0",))
    assert (planned.providers, planned.memory, planned.planned) == ((cuda, CPU), "cuda", True)
    assert planned.with_options[0] == (cuda, dict(devices.DEVICES["CUDA"].options))
    assert choose("cpu", [cuda, CPU], ("CUDA0",)).providers == (CPU,)


@pytest.mark.skipif(not HAS_OPENVINO, reason="needs onnxruntime-openvino: make test-openvino")
@pytest.mark.parametrize("kind", KINDS)
def test_openvino_computes_a_plan_for_it(tmp_path, golden, kind):
    run = opened(KINDS[kind](tmp_path, TINY), "OpenVINOCPU0")
    assert run.info.device == OPENVINO
    own, total = map(int, run.info.details["operators"].split()[0:3:2])
    assert own > total / 2
    rows = [run.step([SlotInput(1, 0, tuple(TOKENS[:20]), 20)])[0].copy()]
    rows += [run.step([SlotInput(1, at, (TOKENS[at],), 1)])[0].copy() for at in range(20, 40)]
    assert np.abs(np.concatenate(rows) - golden[:40]).max() < 1e-4


@pytest.mark.skipif(not HAS_OPENVINO, reason="needs onnxruntime-openvino: make test-openvino")
def test_openvino_without_a_gpu_is_found_out_and_refused(tmp_path):
    assert library.start_problem(OPENVINO, {"device_type": "CPU"}, "here") == ""
    assert "not available" in library.start_problem(OPENVINO, {"device_type": "GPU"}, "here")
    offload = OnnxBackend().accelerators(on(Accelerator("xe", "Iris Xe", unified=True)))
    assert offload is not None
    assert (offload.devices, "not available" in offload.missing) == ((), True)
    with pytest.raises(BackendUnavailable):
        opened(onnx_models.shared(tmp_path), "OpenVINOGPU0")
