"""Where a model's layers lie, and what that takes of every memory."""

from __future__ import annotations

from functools import cached_property

from msgspec import Struct

from edgellm.estimate.footprint import UBATCH
from edgellm.estimate.model_share import ModelShare
from edgellm.selection.usable_gpu import UsableGpu
from edgellm.types.gpu_place import GpuPlace, GpuSplit
from edgellm.types.plan import Footprint, PlacedPart
from edgellm.types.refusal import LayersDoNotFit, WholeModelOnly
from edgellm.types.request import ALL_LAYERS


class DevicePart(Struct, frozen=True):
    """What one GPU holds."""

    device: UsableGpu
    first: int  # block; it holds `blocks` of them from there on
    blocks: int
    table: bool  # the output table
    experts_away: int  # of how many of its blocks the routed experts stay in RAM
    n_bytes: int  # all that it takes of its memory; 0 where that is the machine's
    scratch_bytes: int = 0  # of one batch, as predicted


class Placement(Struct, frozen=True, dict=True):
    """One way to run a model: `parts` on GPUs, the rest on the processor, which takes `footprint` of RAM."""

    footprint: Footprint
    n_blocks: int
    parts: tuple[DevicePart, ...] = ()
    experts_away: int = 0  # of how many of the first blocks the routed experts stay in RAM
    ubatch: int = UBATCH
    host_weight_bytes: int = 0  # of weights that a batch of a prompt reads from RAM; without the input embedding
    problem: LayersDoNotFit | WholeModelOnly | None = None  # of layers that were asked for
    copied_bytes: int = 0  # of one slot's cache, that lies in RAM and is copied for each step, there and back

    @property
    def layers(self) -> int:
        """On GPUs, the output table among them."""
        return sum(part.blocks + part.table for part in self.parts)

    @property
    def gpu_layers(self) -> int:
        """As in `Settings.gpu_layers`."""
        return ALL_LAYERS if self.layers == self.n_blocks + 1 else self.layers

    @property
    def is_rated(self) -> bool:
        """Whether it is known how fast all of its devices are."""
        return all(part.device.gpu is not None for part in self.parts)

    @property
    def is_whole(self) -> bool:
        """Whether GPUs compute everything."""
        return self.gpu_layers == ALL_LAYERS and not self.experts_away

    @cached_property
    def is_unified(self) -> bool:
        return any(part.device.unified for part in self.parts)

    @cached_property
    def held(self) -> tuple[object, ...]:
        """Equal for placements that differ in bytes and in how prompts are read only."""
        held = tuple((part.device.name, part.blocks, part.experts_away) for part in self.parts)
        return (held, self.experts_away, self.copied_bytes)

    @property
    def place(self) -> tuple[object, ...]:
        """Equal for placements that differ in bytes only."""
        return (self.held, self.ubatch)

    @cached_property
    def gpu_place(self) -> GpuPlace:
        """What it has in common with others whose runs teach of it."""
        split: GpuSplit = "whole" if self.is_whole else "experts" if self.layers == self.n_blocks + 1 else "part"
        return GpuPlace(tuple(sorted(part.device.identity for part in self.parts)), split, self.is_strange)

    @cached_property
    def is_strange(self) -> bool:
        """Whether nothing is known of one of its devices but what ran there."""
        return any(part.device.gpu is not None and part.device.gpu.known == "nothing" for part in self.parts)

    @property
    def on_gpus(self) -> tuple[PlacedPart, ...]:
        """As a plan tells it."""
        return tuple(
            PlacedPart(
                p.device.name, p.device.description, p.blocks + p.table, p.n_bytes, p.device.unified, p.scratch_bytes
            )
            for p in self.parts
        )

    def share(self, part: DevicePart) -> ModelShare:
        experts = 1 - part.experts_away / part.blocks if part.blocks else 1.0
        return ModelShare(part.blocks / max(1, self.n_blocks), part.table, experts)
