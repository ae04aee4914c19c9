"""The trainer on another device, as far as that can be shown without one: where each tensor is, what is refused."""

from __future__ import annotations

import contextlib
import sys

import numpy as np
import pytest
from support.gguf_decoders import FAMILIES, Decoder
from support.refusals import refuses
from support.tuning import rows, trainer

from edgellm.contract.manager import plugins
from edgellm.errors import BackendError, BackendUnavailable
from edgellm.formats.gguf.reader import read_model
from edgellm.types.model import Artifact
from edgellm.types.tuning import METHODS, TuneSettings

TYPES: frozenset[str] = frozenset()
with contextlib.suppress(ImportError):  # conftest.py skips
    from edgellm_tune.tuner import TYPES
with contextlib.suppress(ImportError):
    import torch
    from edgellm_tune.device import build_of, computing_on, ready

BATCH = rows((9, 7), (12,))


def elsewhere(path, **settings):
    from edgellm_tune.trainer import TorchTrainer
    from support.other_device import OTHER

    return TorchTrainer(read_model(path), TuneSettings(rank=4, **settings), device=OTHER)


def goes_through(path, monkeypatch, **settings):
    """All that the loop asks of a trainer, with every tensor on one device."""
    from support.other_device import OTHER, followed

    with followed(monkeypatch):
        tuned = elsewhere(path, **settings)
        tuned.step([BATCH], 1e-3)
        restored = tuned.state()
        tuned.loss(BATCH)
        tuned.next_token([1, 2, 3])
        tuned.restore({name: np.ones_like(array) for name, array in restored.items()} | {"steps": np.array([1])})
        tensors = tuned._stateful() | tuned._shared | tuned.model.vectors
        tensors |= {linear.matrix.name: linear.matrix.held for linear in tuned.model.linears}
        assert {tensor.device.type for tensor in tensors.values()} == {OTHER.type}
        assert tuned.factors().keys()


@pytest.mark.slow(15)
@pytest.mark.parametrize("method", METHODS)
def test_all_of_a_method_is_on_its_device(method, tmp_path, monkeypatch):
    goes_through(Decoder(kind="Q4_1").write(tmp_path / "m.gguf"), monkeypatch, method=method, delta_start=0)


@pytest.mark.slow(20)
@pytest.mark.parametrize("family", ["llama untied, one head of keys, biases", "llama 3.1", "qwen3", "gemma3"])
def test_all_of_a_family_is_on_its_device(family, tmp_path, monkeypatch):
    path = FAMILIES[family].write(tmp_path / "m.gguf")
    goes_through(path, monkeypatch, quantized=False, checkpointing=False)


@pytest.mark.slow(5)
@pytest.mark.parametrize("tied", [True, False])
def test_blocks_of_tables_are_on_their_device(tied, tmp_path, monkeypatch):
    goes_through(
        Decoder(kind="Q4_K", hidden=256, ffn=256, head_dim=64, tied=tied).write(tmp_path / "m.gguf"), monkeypatch
    )


@pytest.mark.slow(5)
@pytest.mark.parametrize("kind", sorted(TYPES))
def test_blocks_are_unpacked_on_their_device(kind, monkeypatch):
    from edgellm_tune.blocks import unpack
    from support.other_device import OTHER, followed

    from edgellm.formats.gguf.ggml_types import BY_NAME

    with followed(monkeypatch):
        row = 512 // BY_NAME[kind].block_elems * BY_NAME[kind].block_bytes
        values = unpack(torch.zeros(4, row, dtype=torch.uint8, device=OTHER), BY_NAME[kind], torch.float32)
        assert (values.device, tuple(values.shape)) == (OTHER, (4, 512))


@pytest.mark.slow(2)
def test_the_oracle_sees_a_tensor_elsewhere(tmp_path, monkeypatch):
    """What has no device of its own is on the processor: torch itself copies indices silently."""
    from support.other_device import OTHER, MixedDevices, followed

    path = Decoder().write(tmp_path / "m.gguf")
    with followed(monkeypatch):
        tuned = elsewhere(path)
        tuned.device = torch.device("cpu")  # so its rows are
        with pytest.raises(MixedDevices):
            tuned.step([BATCH], 1e-3)
        with pytest.raises(MixedDevices):
            _ = torch.zeros(3, device=OTHER) + torch.zeros(3)


@pytest.mark.slow(2)
@pytest.mark.parametrize("name", ["cuda:0", "cuda:7", "xpu:0", "mps"])
def test_a_device_that_torch_does_not_see_is_refused(name, tmp_path):
    if torch.accelerator.is_available() and name != "cuda:7":
        pytest.skip("torch sees a GPU here")
    path = Decoder().write(tmp_path / "m.gguf")
    with refuses(BackendUnavailable):
        plugins().tuners()["torch"].open(Artifact("gguf", (str(path),), "m"), TuneSettings(device=name))


@pytest.mark.slow(2)
def test_a_build_for_processors_says_what_it_has_no_code_for():
    tuner = plugins().tuners()["torch"]
    lacks = {kind: tuner.lacks(kind) for kind in ("cuda", "xpu", "mps", "nvidia", "amd")}
    has = {"cuda": torch.version.cuda or torch.version.hip, "xpu": torch.version.xpu, "mps": sys.platform == "darwin"}
    has |= {"nvidia": torch.version.cuda, "amd": torch.version.hip}

    assert {kind: advice is None for kind, advice in lacks.items()} == {kind: bool(code) for kind, code in has.items()}
    assert all(advice.fix for advice in lacks.values() if advice is not None)


@pytest.mark.slow(2)
def test_the_processor_is_left_as_it_is():
    assert ready("cpu") == torch.device("cpu")
    assert not torch.are_deterministic_algorithms_enabled()
    assert build_of(torch.device("cpu")) == f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}"
    with pytest.raises(RuntimeError), computing_on(torch.device("cpu")):
        _ = torch.zeros(2) @ torch.zeros(3)


@pytest.mark.slow(2)
def test_a_full_memory_is_told_with_what_to_do(tmp_path, monkeypatch):
    """The error is torch's own class, raised where a GPU raises it: none is here to be filled."""
    tuned = trainer(Decoder().write(tmp_path / "m.gguf"), rank=4)
    tuned.device = torch.device("cuda:0")
    for error in (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), RuntimeError("no kernel")):

        def fails(*_args, error=error, **_kwargs):
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(type(tuned), "_tokens", fails)
            for call in (
                lambda: tuned.step([BATCH], 1e-3),
                lambda: tuned.loss(BATCH),
                lambda: tuned.next_token([1]),
            ):
                with refuses(BackendError):
                    call()
