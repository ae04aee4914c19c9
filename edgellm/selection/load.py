"""What is to be placed: a model with its cache, and how many bytes of it lie where.

Layers are counted as llama.cpp does (`load_tensors` in src/llama-model.cpp, b11434): from the end, the output table
first, then the last block; the embedding table stays in RAM, and where it is the output table too, the GPU has a copy.
The cache of a block lies with its weights. Routed experts of the first blocks may stay in RAM. Each device takes
scratch of its own for one batch, and the context of its driver.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import accumulate

from edgellm.estimate.device_scratch import Scratch, block_caches
from edgellm.estimate.footprint import UBATCH
from edgellm.estimate.layer_bytes import Layers
from edgellm.selection.placement import Placement
from edgellm.selection.usable_gpu import UsableGpu
from edgellm.types.model import Shape
from edgellm.types.plan import Footprint


@dataclass(frozen=True)
class Load:
    """A model with `slots` caches of `ctx` tokens. `on_cpu(ubatch)` is what it takes where no GPU takes part."""

    shape: Shape
    sizes: Layers
    ctx: int
    slots: int
    on_cpu: Callable[[int], Footprint]
    _batches: dict[int, _Batch] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def n_blocks(self) -> int:
        return len(self.sizes.blocks)

    @property
    def total(self) -> int:
        return self.n_blocks + 1

    @cached_property
    def sums(self) -> Sums:
        return sums_of(self.sizes)

    @property
    def has_experts(self) -> bool:
        return self.sums.experts[-1] > 0

    def alone(self) -> Placement:
        return Placement(self.on_cpu(UBATCH), self.n_blocks)

    def _batch(self, ubatch: int) -> _Batch:
        batch = self._batches.get(ubatch)
        if batch is None:
            caches = block_caches(self.shape, self.on_cpu(ubatch).kv_bytes, self.ctx, ubatch)
            scratch = Scratch(self.shape, self.sizes, caches, self.ctx, self.slots, ubatch)
            batch = self._batches[ubatch] = _Batch(_caches_before(caches), scratch)
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
        scratch = self._batch(ubatch).scratch.reserved_bytes(first, experts)
        # What is copied there for a step comes back as a cache of its own.
        again = 0 if self.copied_bytes(device) == 0 else self.kv_bytes(first, self.n_blocks, ubatch)
        return device.room_bytes - device.context_bytes - scratch - again

    def copied_bytes(self, device: UsableGpu) -> int:
        """As `UsableGpu.copied_bytes`."""
        return device.copied_bytes(self.on_cpu(UBATCH).kv_bytes, self.slots)


@dataclass(frozen=True, slots=True)
class _Batch:
    """What depends on how many tokens are computed at once."""

    caches: tuple[int, ...]  # of the blocks before each
    scratch: Scratch


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
