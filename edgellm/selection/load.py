"""What is to be placed: a model with its cache, and how many bytes of it lie where.

Layers are counted as llama.cpp does (`load_tensors` in src/llama-model.cpp, b11434): from the end, the output table
first, then the last block; the embedding table stays in RAM, and where it is the output table too, the GPU has a copy.
The cache of a block lies with its weights. Routed experts of the first blocks may stay in RAM. Each device takes
scratch of its own for one batch, and the context of its driver.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

from edgellm.estimate.device_scratch import Scratch, block_caches
from edgellm.estimate.footprint import UBATCH
from edgellm.selection.placement import Placement
from edgellm.selection.usable_gpu import UsableGpu
from edgellm.types.layers import Layers
from edgellm.types.model import Shape
from edgellm.types.plan import Footprint


class Load:
    """A model with `slots` caches of `ctx` tokens. `on_cpu(ubatch)` is what it takes where no GPU takes part."""

    def __init__(
        self, shape: Shape, sizes: Layers, ctx: int, slots: int, on_cpu: Callable[[int], Footprint],
        *, on_vulkan: bool = False,
    ) -> None:  # fmt: skip
        """`on_vulkan`: all devices are computed on with it."""
        self.sizes, self.slots, self.on_cpu = sizes, slots, on_cpu
        self._shape, self._ctx, self._on_vulkan = shape, ctx, on_vulkan
        self.n_blocks = len(sizes.blocks)
        self.total = self.n_blocks + 1
        self.sums = sums_of(sizes)
        self.has_experts = self.sums.experts[-1] > 0
        self._batches: dict[int, _Batch] = {}

    def alone(self) -> Placement:
        return Placement(self.on_cpu(UBATCH), self.n_blocks)

    def _batch(self, ubatch: int) -> _Batch:
        batch = self._batches.get(ubatch)
        if batch is None:
            caches = block_caches(self._shape, self.on_cpu(ubatch).kv_bytes, self._ctx, ubatch)
            scratch = Scratch(self._shape, self.sizes, caches, self._ctx, self.slots, ubatch, on_vulkan=self._on_vulkan)
            batch = self._batches[ubatch] = _Batch(self.sums, self.sizes.output, _caches_before(caches), scratch)
        return batch

    def kv_bytes(self, first: int, end: int, ubatch: int) -> int:
        """Of blocks, the cache."""
        before = self._batch(ubatch).caches
        return before[end] - before[first]

    def away_bytes(self, first: int, end: int, experts: int) -> int:
        """Of blocks on a device, the routed experts that stay in RAM."""
        before = self.sums.experts
        return before[max(first, min(end, experts))] - before[first]

    def held_bytes(self, first: int, end: int, experts: int, ubatch: int) -> int:
        """Weights and cache of blocks on a device."""
        before = self.sums.blocks
        weights = before[end] - before[first] - self.away_bytes(first, end, experts)
        return weights + self.kv_bytes(first, end, ubatch)

    def room_for_blocks(self, device: UsableGpu, first: int, experts: int, ubatch: int) -> int:
        """Of a device, beside scratch and the driver's context, where blocks before `first` are in RAM.

        The output table comes on top.
        """
        return self.room(device, first, ubatch) - self.scratch_bytes(first, experts, ubatch)

    def scratch_bytes(self, first: int, experts: int, ubatch: int) -> int:
        """Of one batch, on each device, where blocks before `first` are in RAM."""
        return self._batch(ubatch).scratch.reserved_bytes(first, experts)

    def room(self, device: UsableGpu, first: int, ubatch: int) -> int:
        """Of a device, beside the driver's context and what is copied there for a step, which is a cache of its own."""
        again = 0 if self.copied_bytes(device) == 0 else self.kv_bytes(first, self.n_blocks, ubatch)
        return device.room_bytes - device.context_bytes - again

    def needs(self, ubatch: int) -> Callable[[int, int], int]:
        """`needed(first, experts)`: of `room`, what the device takes that holds everything from block `first` on."""
        return self._batch(ubatch).needed_bytes

    def copied_bytes(self, device: UsableGpu) -> int:
        """As `UsableGpu.copied_bytes`."""
        return device.copied_bytes(self.on_cpu(UBATCH).kv_bytes, self.slots)


class _Batch:
    """What depends on how many tokens are computed at once."""

    def __init__(self, sums: Sums, output: int, caches: tuple[int, ...], scratch: Scratch) -> None:
        """`caches`: of the blocks before each."""
        self.caches, self.scratch = caches, scratch
        self._blocks, self._routed = sums.blocks, sums.experts
        self._everything = sums.blocks[-1] + caches[-1] + output

    def needed_bytes(self, first: int, experts: int) -> int:
        """Weights, cache and scratch: asked of many placements, so it adds up what is summed already."""
        away = self._routed[experts] - self._routed[first] if experts > first else 0
        gone = self._blocks[first] + self.caches[first] + away
        return self._everything - gone + self.scratch.reserved_bytes(first, experts)


@lru_cache(maxsize=4096)
def _caches_before(caches: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(accumulate(caches, initial=0))


@dataclass(frozen=True, slots=True)
class Sums:
    """Of blocks and their routed experts, what those before each take together."""

    blocks: tuple[int, ...]
    experts: tuple[int, ...]


@lru_cache(maxsize=4096)
def sums_of(sizes: Layers) -> Sums:
    return Sums(tuple(accumulate(sizes.blocks, initial=0)), tuple(accumulate(sizes.experts, initial=0)))
