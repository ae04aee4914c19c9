"""Speeds of GPUs against published rates, and what must hold of them whatever the constants are."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace

import pytest
from support.published_gpu import rows

from edgellm.catalog.lookup import catalog
from edgellm.estimate import gpu_speed, gpu_terms
from edgellm.estimate.gpu_constants import constants
from edgellm.estimate.model_share import ModelShare, expert_params, streamed_by
from edgellm.estimate.weights import Weights, weights
from edgellm.hardware import gpu_table
from edgellm.types.basis import PredictedOnGpu
from edgellm.types.gpu import Api, Gpu
from edgellm.types.machine import Accelerator
from edgellm.types.model import Shape


def _gpu(name: str, gb_s: float | None = None) -> Gpu:
    gpu = gpu_table.find(Accelerator("unknown", name, bandwidth_gb_s=gb_s))
    assert gpu is not None
    return gpu


def _model(name: str, quant: str = "Q4_K_M") -> tuple[Shape, Weights]:
    card = catalog()[name]
    assert card.shape is not None
    return card.shape, weights(card.shape, card.params, card.params_active, quant)


def test_published_decode_rates_are_met() -> None:
    """With each device left out it is 1.08 (`make bench-speed-gpu`); here the constants have seen all of them."""
    off, inside = [], []
    for row in rows():
        if row.held or row.gpu.vendor in ("qualcomm", "arm"):
            continue
        if row.whole and row.trusted and row.decode:
            rate = gpu_speed.decode(row.gpu, row.api, row.shape, row.weights, depth=row.depth)
            assert rate is not None, row
            off.append(abs(math.log(rate.tok_s / row.decode)))
            inside.append(rate.low <= row.decode <= rate.high)
    assert len(off) > 340
    assert math.exp(statistics.median(off)) < 1.10
    assert statistics.mean(inside) > 0.87


def test_published_decode_rates_that_no_constant_has_seen_are_met() -> None:
    """Intel's, found after the fit; plans go by the low end."""
    pairs = [
        (gpu_speed.decode(row.gpu, row.api, row.shape, row.weights, depth=row.depth), row.decode)
        for row in rows()
        if row.held and row.whole and row.decode
    ]
    assert len(pairs) > 100
    off = [abs(math.log(rate.tok_s / measured)) for rate, measured in pairs if rate and measured]
    assert len(off) == len(pairs)
    assert math.exp(statistics.median(off)) < 1.35
    assert statistics.mean(rate.low <= measured for rate, measured in pairs if rate and measured) > 0.9


def test_published_prompt_rates_are_met() -> None:
    off = []
    for row in rows():
        if row.held or row.shape.n_expert or row.old:
            continue
        if row.whole and row.trusted and row.prefill and row.tokens:
            rate = gpu_speed.prefill(
                row.gpu, row.api, row.shape, row.weights, tokens=row.tokens, ubatch=row.ubatch, depth=row.prompt_depth
            )
            assert rate is not None, row
            off.append(abs(math.log(rate.tok_s / row.prefill)))
    assert len(off) > 170
    assert math.exp(statistics.median(off)) < 1.15


def test_published_prompt_rates_of_intel_lie_in_their_band() -> None:
    """No fitted constant has seen them. The band is made of them, too, and of the experts' with SYCL one constant; with
    each device left out of the band it holds 92 %."""
    inside, experts = [], []
    for row in rows():
        if row.held and row.whole and row.prefill and row.tokens:
            rate = gpu_speed.prefill(
                row.gpu, row.api, row.shape, row.weights, tokens=row.tokens, ubatch=row.ubatch, depth=row.prompt_depth
            )
            assert rate is not None, row
            inside.append(rate.low <= row.prefill <= rate.high)
            if row.shape.n_expert:
                experts.append(abs(math.log(rate.tok_s / row.prefill)))
    assert len(inside) == 99
    assert statistics.mean(inside) > 0.87
    assert math.exp(statistics.median(experts)) < 1.5


def test_every_constant_that_a_known_gpu_needs_is_there_and_has_a_band() -> None:
    known = constants()
    shape, size = _model("gpt-oss-20b", "MXFP4")
    apis: dict[str, tuple[Api, ...]] = {
        "nvidia": ("cuda", "vulkan"), "amd": ("rocm", "vulkan"), "intel": ("vulkan", "sycl"), "apple": ("metal",),
        "qualcomm": ("opencl", "vulkan"), "arm": ("vulkan",), "broadcom": ("vulkan",),
    }  # fmt: skip
    for row in gpu_table.table().rows:
        gpu = _gpu(row.name)
        for api in apis[gpu.vendor]:
            for rate in (gpu_speed.decode(gpu, api, shape, size), gpu_speed.prefill(gpu, api, shape, size)):
                assert rate is not None, (gpu.name, api)
                assert 0 < rate.low < rate.tok_s < rate.high
    assert all(0.05 < low < 1 < high < 4 for low, high in known.decode_bands.values())


def test_no_constant_is_of_one_device() -> None:
    groups = {row.group for row in gpu_table.table().rows}
    cells = [*constants().decode_cells.values(), *constants().prefill_cells.values()]
    assert {group for cell in cells for group in cell.groups} == groups


@pytest.mark.parametrize(("device", "api", "model", "quant", "least", "most"), [
    ("GeForce RTX 4090", "cuda", "gpt-oss-20b", "MXFP4", 190, 260),  # 225 measured with builds of 2025-08
    ("GeForce RTX 3060", "cuda", "llama-3.2-3b-instruct", "Q4_K_M", 100, 150),  # 123, research notes on GPUs
])  # fmt: skip
def test_two_cards_that_were_planned_as_processors(
    device: str, api: Api, model: str, quant: str, least: float, most: float
) -> None:
    rate = gpu_speed.decode(_gpu(device), api, *_model(model, quant), depth=0)
    assert rate is not None
    assert least < rate.tok_s < most
    assert isinstance(rate.basis, PredictedOnGpu)
    assert rate.basis.bound == "memory" if quant != "MXFP4" else rate.basis.bound in ("memory", "launches")


def test_more_bandwidth_arithmetic_or_fewer_bits_are_never_slower() -> None:
    gpu, (shape, size) = _gpu("GeForce RTX 4070"), _model("qwen3-8b")
    rate = gpu_speed.decode(gpu, "cuda", shape, size)
    assert rate is not None
    for faster in (replace(gpu, bandwidth_gb_s=gpu.bandwidth_gb_s * 1.1), replace(gpu, fp32_tflops=40.0)):
        better = gpu_speed.decode(faster, "cuda", shape, size)
        assert better is not None
        assert better.tok_s >= rate.tok_s
    deep = gpu_speed.decode(gpu, "cuda", shape, size, depth=32768)
    assert deep is not None
    assert deep.tok_s < rate.tok_s
    large = gpu_speed.prefill(gpu, "cuda", shape, size, tokens=2048, ubatch=2048)
    small = gpu_speed.prefill(gpu, "cuda", shape, size, tokens=2048, ubatch=128)
    assert large is not None
    assert small is not None
    assert large.tok_s > small.tok_s


def test_the_less_is_known_the_wider_the_band() -> None:
    shape, size = _model("qwen3-8b")
    widths = []
    for gpu in (_gpu("GeForce RTX 4070"), _gpu("Apple M3 Max"), _gpu("NVIDIA GeForce RTX 4070 Max-Q")):
        rate = gpu_speed.decode(gpu, "metal" if gpu.vendor == "apple" else "cuda", shape, size)
        assert rate is not None
        widths.append(rate.high / rate.low)
    assert widths == sorted(widths)
    stranger = gpu_table.find(Accelerator("cuda", "NVIDIA GeForce RTX 7090", None, None, 2400.0))
    assert stranger is not None
    rate = gpu_speed.decode(stranger, "cuda", shape, size)
    assert rate is not None
    assert rate.high / rate.low > widths[0] * 1.5


def test_a_library_that_does_not_run_on_a_gpu_has_no_rate() -> None:
    shape, size = _model("qwen3-8b")
    assert gpu_speed.decode(_gpu("Apple M3 Max"), "cuda", shape, size) is None
    assert gpu_speed.prefill(_gpu("GeForce RTX 4090"), "rocm", shape, size) is None


def test_shares_of_a_model_add_up_to_it() -> None:
    for name, quant in (("gpt-oss-20b", "MXFP4"), ("qwen3-30b-a3b", "Q4_K_M"), ("qwen3-8b", "Q4_K_M")):
        shape, size = _model(name, quant)
        upper = streamed_by(ModelShare(0.25, True, 0.5), shape, size)
        lower = streamed_by(ModelShare(0.75, False), shape, size)
        away = replace(upper, streamed_bytes=0)
        whole = streamed_by(ModelShare(0.25, True), shape, size).streamed_bytes + lower.streamed_bytes
        assert whole == pytest.approx(size.streamed_bytes, rel=1e-6)
        assert away.streamed_bytes == 0
        if shape.n_expert:
            assert upper.streamed_bytes < streamed_by(ModelShare(0.25, True), shape, size).streamed_bytes


def test_experts_that_a_token_reads() -> None:
    shape, size = _model("gpt-oss-120b", "MXFP4")
    # 36 layers, 4 experts, three matrices of 2880 x 2880.
    assert expert_params(shape) == 36 * 4 * 3 * 2880 * 2880
    without = streamed_by(ModelShare(experts=0.0), shape, size)
    assert dict(without.streamed_params).get("MXFP4", 0) == 0


def test_terms_say_what_takes_the_time() -> None:
    shape, size = _model("smollm2-135m-instruct", "Q4_0")
    gpu = _gpu("GeForce RTX 5090")
    cell = constants().decode_cell(gpu, "cuda")
    assert cell is not None
    kinds = gpu_speed.by_kind(gpu_terms.decode(gpu, "cuda", cell, shape, size), constants().values)
    assert max(kinds, key=lambda kind: kinds[kind]) == "launches"


def test_bands_of_prompts_hold_what_was_published_and_are_no_wider_than_asked() -> None:
    """Left out, 92 % are inside and the median is 1.76 (`make bench-speed-gpu`)."""
    inside, widths = [], []
    for row in rows():
        replaced = row.old and row.api in ("cuda", "rocm", "vulkan")
        if row.whole and row.trusted and not row.held and row.prefill and row.tokens and not replaced:
            rate = gpu_speed.prefill(
                row.gpu, row.api, row.shape, row.weights, tokens=row.tokens, ubatch=row.ubatch, depth=row.prompt_depth
            )
            assert rate is not None, row
            inside.append(rate.low <= row.prefill <= rate.high)
            widths.append(rate.high / rate.low)
    assert len(inside) > 270
    assert statistics.mean(inside) > 0.85
    assert statistics.median(widths) < 1.9


def test_prompts_are_slower_with_less_power_and_answers_are_not() -> None:
    shape, size = _model("qwen3-8b")
    for full, bound in (("GeForce RTX 4090", "RTX 6000 Ada"), ("GeForce RTX 3080", "A40")):
        one, other = _gpu(full), _gpu(bound)
        assert one.power > other.power
        assert gpu_terms.sustained(one) / one.matrix_tflops > gpu_terms.sustained(other) / other.matrix_tflops
        same = replace(one, power=other.power)
        for rate in (gpu_speed.prefill, gpu_speed.decode):
            fast, slow = rate(one, "cuda", shape, size), rate(same, "cuda", shape, size)
            assert fast is not None
            assert slow is not None
            assert (fast.tok_s > slow.tok_s) == (rate is gpu_speed.prefill)
    assert _gpu("GeForce RTX 4070 Laptop").power == 1.0  # its maker says how much it may take
    assert 0.5 < _gpu("GB10").power < 1.0


def test_more_tokens_at_once_help_experts_more_than_dense_models() -> None:
    gains = {}
    for name, quant in (("gpt-oss-20b", "MXFP4"), ("qwen3-8b", "Q4_0")):
        shape, size = _model(name, quant)
        few, many = (
            gpu_speed.prefill(_gpu("GeForce RTX 4090"), "cuda", shape, size, tokens=2048, ubatch=ubatch)
            for ubatch in (512, 2048)
        )
        assert few is not None
        assert many is not None
        gains[name] = many.tok_s / few.tok_s
    assert gains["gpt-oss-20b"] > gains["qwen3-8b"] > 1


def test_layers_that_carry_a_state_take_time_beside_their_weights() -> None:
    shape, size = _model("nemotron-3-nano-4b", "Q8_0")
    gpu = _gpu("GeForce RTX 4090")
    with_state = gpu_speed.prefill(gpu, "cuda", shape, size)
    without = gpu_speed.prefill(gpu, "cuda", replace(shape, recurrent_bytes=0), size)
    assert with_state is not None
    assert without is not None
    assert with_state.tok_s < without.tok_s


def test_what_few_devices_made_has_a_wider_band() -> None:
    shape, size = _model("qwen3-8b")
    widths = {}
    for name in ("GeForce RTX 4090", "H100 PCIe"):
        rate = gpu_speed.prefill(_gpu(name), "cuda", shape, size)
        assert rate is not None
        widths[name] = rate.high / rate.low
    assert widths["H100 PCIe"] > widths["GeForce RTX 4090"]
