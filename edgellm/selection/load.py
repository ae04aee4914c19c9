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

from edgellm.estimate.footprint import UBATCH
from edgellm.estimate.layer_bytes import Layers
from edgellm.selection.placement import Placement
from edgellm.selection.usable_gpu import UsableGpu
from edgellm.types.plan import Footprint


@dataclass(frozen=True)
class Load:
    """A model with its cache. `on_cpu(ubatch)` is what it takes where no GPU takes part."""

    sizes: Layers
    on_cpu: Callable[[int], Footprint]
    _kv: dict[int, int] = field(default_factory=dict, init=False, repr=False, compare=False)

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
        return self.sums.largest_experts > 0

    def alone(self) -> Placement:
        return Placement(self.on_cpu(UBATCH), self.n_blocks)

    def kv_of_block(self, ubatch: int) -> int:
        # Blocks without a cache count like those with one, so that what is planned does not depend on which they are.
        if ubatch not in self._kv:
            self._kv[ubatch] = -(-self.on_cpu(ubatch).kv_bytes // max(1, self.n_blocks))
        return self._kv[ubatch]

    def away_bytes(self, first: int, end: int, experts: int) -> int:
        """Of blocks on a device, the routed experts that stay in RAM."""
        before = self.sums.experts
        return before[max(first, min(end, experts))] - before[first]

    def held_bytes(self, first: int, end: int, experts: int, ubatch: int) -> int:
        """Weights and cache of blocks on a device."""
        before = self.sums.blocks
        weights = before[end] - before[first] - self.away_bytes(first, end, experts)
        return weights + self.kv_of_block(ubatch) * (end - first)

    def room_for_blocks(self, device: UsableGpu, count: int, experts: int, ubatch: int) -> int:
        """Of a device, beside scratch and the driver's context; the output table comes on top."""
        # A batch of a prompt copies weights that lie in RAM to the GPU, one matrix at a time: half of a block is more.
        # Or the cache of a block in RAM, with the keys of the next.
        sums = self.sums
        if count <= self.n_blocks:
            copied = max(sums.largest_block, 3 * self.kv_of_block(ubatch))
        else:
            copied = sums.largest_experts if experts else 0
        return device.room_bytes - device.context_bytes - self.on_cpu(ubatch).compute_bytes - copied // 2


@dataclass(frozen=True, slots=True)
class Sums:
    """Of blocks and their routed experts, what those before each take together; and the largest of each."""

    blocks: tuple[int, ...]
    experts: tuple[int, ...]
    largest_block: int
    largest_experts: int


@lru_cache(maxsize=4096)
def sums_of(sizes: Layers) -> Sums:
    return Sums(
        tuple(accumulate(sizes.blocks, initial=0)), tuple(accumulate(sizes.experts, initial=0)),
        max(sizes.blocks, default=0), max(sizes.experts, default=0),
    )  # fmt: skip
