"""What a placement takes of a GPU's memory, and what must hold of any placement."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgellm.catalog.lookup import catalog
from edgellm.estimate import device_memory
from edgellm.estimate.device_memory import DeviceBytes, OnDevice, device_bytes, host_bytes, reserve_bytes
from edgellm.estimate.layer_bytes import layers_of
from edgellm.estimate.weights import weights
from edgellm.hardware import gpu_table
from edgellm.types.gpu import Gpu
from edgellm.types.layers import Layers
from edgellm.types.machine import Accelerator
from edgellm.types.model import Shape
from edgellm.units import GIB, MIB

MODELS = ("smollm2-135m-instruct", "qwen3-8b", "gpt-oss-20b", "qwen3-30b-a3b", "gemma-3-12b-it")


def _gpu(name: str = "GeForce RTX 4090") -> Gpu:
    gpu = gpu_table.find(Accelerator("unknown", name))
    assert gpu is not None
    return gpu


def _model(name: str, quant: str = "Q4_K_M") -> tuple[Shape, int, Layers]:
    card = catalog()[name]
    assert card.shape is not None
    size = weights(card.shape, card.params, card.params_active, quant).total_bytes
    return card.shape, size, layers_of(card.shape, size, quant)


def test_ten_layers_and_all_as_the_library_said() -> None:
    """SmolLM2-135M Q4_1 on Vulkan's software device (ADR 015): weights 47.71 and 92.10 MiB, cache 6.75 and 22.50."""
    shape, _, _ = _model("smollm2-135m-instruct")
    sizes = layers_of(shape, 96576768, "Q4_1")
    ten, every = (device_bytes(shape, sizes, OnDevice(n), _gpu(), "vulkan", ctx=1024) for n in (10, shape.n_layer + 1))
    assert ten.weights / MIB == pytest.approx(47.71, abs=0.05)
    assert every.weights / MIB == pytest.approx(92.10, abs=0.05)
    assert (ten.kv / MIB, every.kv / MIB) == (6.75, 22.5)
    assert host_bytes(96576768, sizes, OnDevice(31)) / MIB == pytest.approx(28.69, abs=0.05)


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(MODELS), st.integers(0, 70), st.integers(0, 60), st.sampled_from([512, 4096, 32768]),
    st.integers(1, 4), st.sampled_from(["f16", "q8_0"]), st.sampled_from([128, 512, 2048]),
)  # fmt: skip
def test_more_of_anything_never_takes_less(
    name: str, n_layers: int, away: int, ctx: int, slots: int, kv_type: str, ubatch: int
) -> None:
    shape, size, sizes = _model(name)

    def held(n: int = n_layers, a: int = away, c: int = ctx, s: int = slots, u: int = ubatch) -> DeviceBytes:
        placed = device_bytes(shape, sizes, OnDevice(n, a), _gpu(), "cuda", ctx=c, slots=s, kv_type=kv_type, ubatch=u)
        assert min(placed.weights, placed.kv, placed.compute, placed.context) >= 0
        return placed

    def total(**other: int) -> int:
        return held(**other).total

    one_more, now = held(n=n_layers + 1), held()
    assert one_more.weights + one_more.kv >= now.weights + now.kv
    if n_layers + 1 < shape.n_layer:  # what the last ones take over from the processor needs no scratch to cross
        assert one_more.total >= now.total
    assert total(a=away + 1) <= total()
    assert total(c=2 * ctx) >= total()
    assert total(s=slots + 1) >= total()
    assert total(u=2 * ubatch) >= total()
    # Nothing is lost between card and RAM; a tied table is on both, an embedding in RAM only.
    placed = OnDevice(n_layers, away)
    both = device_bytes(shape, sizes, placed, _gpu(), "cuda", ctx=ctx).weights + host_bytes(size, sizes, placed)
    copied = sizes.output if sizes.tied and n_layers else 0
    assert both == pytest.approx(size + copied, abs=64)


def test_experts_of_the_first_blocks_stay_in_ram() -> None:
    shape, size, sizes = _model("gpt-oss-20b", "MXFP4")
    every = shape.n_layer + 1
    whole, half, none = (
        device_bytes(shape, sizes, OnDevice(every, away), _gpu(), "cuda", ctx=4096).weights for away in (0, 12, 24)
    )
    assert whole - half == sum(sizes.experts[:12])
    assert none < 0.2 * whole  # attention and tables
    assert host_bytes(size, sizes, OnDevice(every, 24)) > 0.8 * size


def test_contexts_and_reserves() -> None:
    assert device_memory.context_bytes(_gpu(), "cuda") == 500 * MIB
    assert device_memory.context_bytes(_gpu(), "vulkan") == 200 * MIB
    assert reserve_bytes(24 * GIB, unified=False) == 24 * GIB * 6 // 100
    assert reserve_bytes(4 * GIB, unified=False) == 512 * MIB
    assert reserve_bytes(4 * GIB, unified=False, display=True) == 1024 * MIB
    assert reserve_bytes(24 * GIB, unified=False, windows=True) >= 1280 * MIB
    assert reserve_bytes(128 * GIB, unified=True) == 0
