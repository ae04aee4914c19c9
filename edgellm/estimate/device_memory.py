"""What a placement takes of a GPU's memory, term by term.

Where things lie (llama.cpp b11434, `load_tensors`): the input embedding on the host; the output table first, then
blocks from the last one on, each with its cache; routed experts of the first blocks may stay on the host. Each device
has scratch for one batch (`device_scratch`), and the context of its driver. Sources: research notes on GPUs, section 3;
the context's range is of gpus.json. tests/gguf/test_device_reservation.py compares with what the library reserves.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgellm.estimate.device_scratch import Scratch, block_caches
from edgellm.estimate.footprint import UBATCH, kv_bytes
from edgellm.types.gpu import Api, Gpu
from edgellm.types.layers import Layers
from edgellm.types.model import Shape
from edgellm.units import MIB

# What Vulkan's, HIP's and OpenCL's contexts were estimated to take at most; CUDA's is the architecture's own.
_CONTEXT_MIB: dict[Api, int] = {"vulkan": 200, "rocm": 200, "sycl": 200, "opencl": 500, "metal": 100}
LEAST_RESERVE_BYTES = 512 * MIB
DISPLAY_RESERVE_BYTES = 1024 * MIB  # a screen is drawn from this memory, too
WINDOWS_RESERVE_BYTES = 1280 * MIB  # its driver moves what does not fit to RAM, silently and slowly
_RESERVED_PERCENT = 6


@dataclass(frozen=True, slots=True)
class OnDevice:
    """Layers as llama.cpp counts them: the output table is the first, then the last block, ...

    `experts_away`: of how many of the model's first blocks the routed experts stay on the host (`--n-cpu-moe`).
    """

    layers: int
    experts_away: int = 0


@dataclass(frozen=True, slots=True)
class DeviceBytes:
    """Bytes of one GPU's memory."""

    weights: int
    kv: int  # with recurrent state
    compute: int
    context: int  # of the driver, at most

    @property
    def total(self) -> int:
        return self.weights + self.kv + self.compute + self.context


def device_bytes(
    shape: Shape,
    layers: Layers,
    placed: OnDevice,
    gpu: Gpu,
    api: Api,
    *,
    ctx: int,
    slots: int = 1,
    kv_type: str = "f16",
    ubatch: int = UBATCH,
    flash_attention: bool = True,
) -> DeviceBytes:
    """What one GPU takes that holds the last `placed.layers` layers of a model; nothing for none.

    Raises:
        KeyError: unknown cache type.
    """
    if placed.layers < 1:
        return DeviceBytes(0, 0, 0, 0)
    n_blocks = min(placed.layers - 1, len(layers.blocks))
    first = len(layers.blocks) - n_blocks
    blocks = sum(layers.blocks[first:])
    away = sum(layers.experts[first : max(first, placed.experts_away)])
    caches = block_caches(shape, kv_bytes(shape, ctx, slots, kv_type, ubatch), ctx, ubatch)
    batch = Scratch(
        shape, layers, caches, ctx, slots, ubatch, flash_attention=flash_attention, on_vulkan=api == "vulkan"
    )
    scratch = batch.reserved_bytes(first, placed.experts_away)
    return DeviceBytes(layers.output + blocks - away, sum(caches[first:]), scratch, context_bytes(gpu, api))


def context_bytes(gpu: Gpu, api: Api) -> int:
    """The most that a process takes beside its buffers."""
    return _CONTEXT_MIB.get(api, gpu.overhead_mib[1]) * MIB


def reserve_bytes(total_bytes: int, *, unified: bool, display: bool = False, windows: bool = False) -> int:
    """What stays free beside everything that is counted.

    A memory that the GPU shares has the machine's own reserve (`Machine.memory_budget_bytes`), never a second one.

    Args:
        total_bytes: of the device.
        display: a screen is attached to it.
    """
    if unified:
        return 0
    least = WINDOWS_RESERVE_BYTES if windows else DISPLAY_RESERVE_BYTES if display else LEAST_RESERVE_BYTES
    return max(total_bytes * _RESERVED_PERCENT // 100, least)


def host_bytes(tensor_bytes: int, layers: Layers, placed: OnDevice) -> int:
    """Weights that stay in RAM: the input embedding always, also where it is the output table, too."""
    if placed.layers < 1:
        return tensor_bytes
    n_blocks = min(placed.layers - 1, len(layers.blocks))
    first = len(layers.blocks) - n_blocks
    gone = sum(layers.blocks[first:]) - sum(layers.experts[first : max(first, placed.experts_away)])
    return max(0, tensor_bytes - gone - (0 if layers.tied else layers.output))
