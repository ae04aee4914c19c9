"""What is predicted of a GPU's memory against what llama.cpp reserves, on a Vulkan device in software.

How the reservation is read: llama.cpp tells its memory by device in C++ only (`llama_get_memory_breakdown`). It also
logs the size of each buffer with the device's name, in MiB with two decimals, when it makes it; the engine keeps those
lines. Weights are holes in a sparse file: nothing is computed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support import lavapipe
from support.memory_kinds import LAYERS, sparse

from edgellm.catalog.identify import identify
from edgellm.estimate.device_memory import DeviceBytes, OnDevice, device_bytes
from edgellm.estimate.layer_bytes import layers_of
from edgellm.store.card import local_card
from edgellm.types.gpu import Gpu
from edgellm.types.layers import Layers
from edgellm.types.model import Shape
from edgellm.units import MIB

pytestmark = [pytest.mark.usefixtures("lavapipe"), pytest.mark.timeout(900)]

GPU = Gpu("llvmpipe", "software", "unknown", "device", 1.0, 1.0, 1.0)
NEAR_MIB, NEAR_SHARE = 32, 0.02
LISTED = ("qwen3", "gemma3", "qwen3moe", "lfm2", "qwen35")
# Architectures whose tensors are read in the header alone.
READ = (
    "deepseek2", "deepseek2moe", "glm4moe", "glm4", "granitehybrid", "granitehybridmoe", "gemma3n", "gemma4",
    "gemma4moe",
)  # fmt: skip
SCRIPT = """
import json, sys
from edgellm.catalog.identify import identify
from edgellm.types.plan import LaunchPlan, Settings
from edgellm_gguf import reserve
from edgellm_gguf.loading import LOG, LoadedModel
from edgellm_gguf.params import context_params
for layers, away, ctx, slots, kv_type, ubatch, *split in json.loads(sys.argv[2]):
    devices = tuple(f"Vulkan{i}" for i in range(len(split)))
    settings = Settings(ctx, slots, 2, 2, kv_type, layers, ubatch, True, away, devices, tuple(split))
    plan = LaunchPlan("gguf", identify(sys.argv[1]), settings)
    told = reserve.scratch(plan)
    LoadedModel(plan, context_params(settings), 2, size="", hint="").close()
    print(json.dumps(["; ".join(line for line in LOG.facts if "buffer size" in line), told]), flush=True)
"""
# Without weights: contexts are made for a model that is loaded with `no_alloc`, and their scratch is that of the real.
SCRATCH = """
import itertools, json, sys
import llama_cpp
from edgellm.catalog.identify import identify
from edgellm.types.plan import Settings
from edgellm_gguf import ggml
from edgellm_gguf.loading import LOG
from edgellm_gguf.params import context_params, keep_flash_attention, model_params
LOG.start()
ggml.start(with_devices=True)
shape = identify(sys.argv[1]).shape
for layers, away in json.loads(sys.argv[2]):
    params = model_params(Settings(512, gpu_layers=layers, experts_away=away), shape)
    params.no_alloc, params.load_mode = True, llama_cpp.LLAMA_LOAD_MODE_NONE
    model = llama_cpp.llama_model_load_from_file(sys.argv[1].encode(), params)
    for batch, ctx, slots in itertools.product(*json.loads(sys.argv[3])):
        LOG.start()
        settings = Settings(ctx, slots, gpu_layers=layers, experts_away=away, n_batch=batch)
        params = context_params(settings)
        keep_flash_attention(params, model, layers)
        llama_cpp.llama_free(llama_cpp.llama_init_from_model(model, params))
        facts = "; ".join(line for line in LOG.facts if "compute buffer size" in line)
        print(json.dumps([layers, away, batch, ctx, slots, facts]), flush=True)
    llama_cpp.llama_model_free(model)
"""
MOST_MIB = (32, 42)  # too little and too much
# With micro-batches of 2,048, or several slots of 16,384 tokens, whose caches are copied by half, or twice.
MOST_OF = {
    "glm4": (32, 68), "granitehybrid": (50, 42), "granitehybridmoe": (65, 42), "gemma3n": (265, 92),
    "gemma4": (165, 165), "gemma4moe": (32, 125),
}  # fmt: skip


def described(path: Path) -> tuple[Shape, Layers]:
    """As a plan has them: of an architecture that is listed, what a name would give without a file."""
    artifact, file = identify(str(path)), local_card(path).files[0]
    shape = artifact.shape
    assert shape is not None
    own = None if shape.arch in LISTED else file.layers
    return shape, layers_of(shape, file.tensor_bytes or 0, artifact.quant, own)


def reserved(path: Path, jobs: list[tuple[OnDevice, tuple[int, int, str, int]]]) -> list[dict[str, float]]:
    """MiB of the device's buffers by kind, for each placement with (context, slots, type of cache, micro-batch)."""
    asked = [(placed.layers, placed.experts_away, *run) for placed, run in jobs]
    return [devices.get("Vulkan0", {}) for devices in reserved_on_each(path, asked)]


def reserved_on_each(path: Path, asked: list[tuple[object, ...]]) -> list[dict[str, dict[str, float]]]:
    command = [sys.executable, "-c", SCRIPT, str(path), json.dumps(asked)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    for facts, told in answers:
        scratch = {
            device: kinds["compute"] for device, kinds in lavapipe.reserved_mib(facts).items() if "compute" in kinds
        }
        # What a plan goes by, before weights are read. Of Gemma 4 it may lack 48 MiB (docs/limits.md).
        assert {device: n_bytes / MIB for device, n_bytes in told.items()} == pytest.approx(scratch, rel=0.12, abs=2.5)
    return [lavapipe.reserved_mib(facts) for facts, _ in answers]


@pytest.mark.slow(30)
@pytest.mark.parametrize("arch", [*LISTED, *READ])
def test_what_is_predicted_is_what_is_reserved(tmp_path: Path, arch: str) -> None:
    path = sparse(arch, tmp_path / "model.gguf")
    shape, layers = described(path)
    blocks, half = shape.n_layer, shape.n_layer // 2
    # Of LFM2 and half + 1 the last block in RAM attends, and the first on the device does not.
    places = [OnDevice(n) for n in (0, 1, half, half + 1, blocks, blocks + 1)]
    if shape.n_expert:
        places += [OnDevice(blocks + 1, half), OnDevice(blocks + 1, blocks), OnDevice(half, blocks)]
    runs = [(4096, 1, "f16", 512), (8192, 2, "q8_0", 512)]
    jobs = [(placed, run) for run in runs for placed in places]
    for (placed, run), buffers in zip(jobs, reserved(path, jobs), strict=True):
        ctx, slots, kv_type, ubatch = run
        taken = device_bytes(
            shape, layers, placed, GPU, "vulkan", ctx=ctx, slots=slots, kv_type=kv_type, ubatch=ubatch
        )  # fmt: skip
        close_to(taken, buffers, (placed, run))


@pytest.mark.slow(30)
@pytest.mark.parametrize("arch", sorted(MOST_OF))
def test_where_no_formula_is_near_the_library_tells(tmp_path: Path, arch: str) -> None:
    """`reserved_on_each` compares what is told before a load with what the load reserves."""
    path = sparse(arch, tmp_path / "model.gguf")
    shape, _ = described(path)
    places = [OnDevice(1), OnDevice(shape.n_layer // 2), OnDevice(shape.n_layer + 1)]
    places += [OnDevice(shape.n_layer + 1, shape.n_layer)] if shape.n_expert else []
    assert all(reserved(path, [(placed, (16384, 4, "f16", 2048)) for placed in places]))


@pytest.mark.slow(5)
def test_layers_are_split_over_devices_as_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One device twice: to the library these are two, with the same free memory each."""
    monkeypatch.setenv("GGML_VK_VISIBLE_DEVICES", "0,0")
    path = sparse("qwen3", tmp_path / "model.gguf")
    _, layers = described(path)
    splits = [(1, 2), (2, LAYERS - 2), (LAYERS, 1), (1, LAYERS), (3, 1)]
    jobs: list[tuple[object, ...]] = [(sum(split), 0, 512, 1, "f16", 64, *split) for split in splits]
    for (near, far), buffers in zip(splits, reserved_on_each(path, jobs), strict=True):
        last = LAYERS + 1 - far
        held = sum(layers.blocks[last - near : last]), sum(layers.blocks[last:]) + layers.output
        there = tuple(buffers.get(name, {}).get("model", 0.0) for name in ("Vulkan0", "Vulkan1"))
        assert there == pytest.approx(tuple(n_bytes / MIB for n_bytes in held), abs=1.0), (near, far)


def close_to(taken: DeviceBytes, buffers: dict[str, float], about: object) -> None:
    """All together; weights and cache by themselves, too."""
    predicted, actual = (taken.weights + taken.kv + taken.compute) / MIB, sum(buffers.values())
    assert abs(predicted - actual) <= max(NEAR_MIB, NEAR_SHARE * actual), (about, predicted, buffers)
    assert taken.weights / MIB == pytest.approx(buffers.get("model", 0.0), abs=1.0), about
    assert taken.kv / MIB == pytest.approx(buffers.get("KV", 0.0) + buffers.get("RS", 0.0), abs=8.0), about


@pytest.mark.slow(10)
@pytest.mark.parametrize("arch", [*LISTED, *READ])
def test_scratch_of_every_placement_and_batch(tmp_path: Path, arch: str) -> None:
    """A wider look: 96 settings each, 144 of the mixture. Too little is what matters; the margin takes it."""
    path = sparse(arch, tmp_path / "model.gguf")
    shape, layers = described(path)
    blocks, half = shape.n_layer, shape.n_layer // 2
    placed = [(n, 0) for n in (1, half, blocks, blocks + 1)]
    placed += [(blocks + 1, half), (blocks + 1, blocks)] if shape.n_expert else []
    runs = [[32, 128, 512, 2048], [512, 4096, 16384], [1, 4]]
    command = [sys.executable, "-c", SCRATCH, str(path), json.dumps(placed), json.dumps(runs)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == len(placed) * 24
    off, near = {}, {}
    for on, away, batch, ctx, slots, facts in rows:
        taken = device_bytes(shape, layers, OnDevice(on, away), GPU, "vulkan", ctx=ctx, slots=slots, ubatch=batch)
        off[on, away, batch, ctx, slots] = taken.compute / MIB - lavapipe.reserved_mib(facts)["Vulkan0"]["compute"]
        held = taken.weights + taken.kv + taken.compute
        near[on, away, batch, ctx, slots] = max(NEAR_MIB, NEAR_SHARE * held / MIB)
    under, over = MOST_OF.get(arch, MOST_MIB)
    assert min(off.values()) > -under, min(off, key=lambda key: off[key])
    assert max(off.values()) < over, max(off, key=lambda key: off[key])
    # A slot of 4,096 tokens in micro-batches of 512: what is usual.
    usual = {key: far for key, far in off.items() if key[2:] == (512, 4096, 1)}
    assert all(abs(far) <= near[key] for key, far in usual.items()), usual
