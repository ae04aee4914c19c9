"""Bytes of each layer of a model, for what is put on another device layer by layer."""

from __future__ import annotations

from msgspec import Struct


class Layers(Struct, frozen=True, cache_hash=True):
    """Bytes of weights: the output table, and each block."""

    output: int
    blocks: tuple[int, ...]
    tied: bool  # the output table is a copy: what is on the GPU is not missing in RAM
    experts: tuple[int, ...]  # of each block, the routed experts; zeros where they are not known apart
    matrices: tuple[int, ...] = ()  # of each block, its largest matrix beside routed experts
    expert_matrices: tuple[int, ...] = ()  # of each block, the largest of the routed experts' (all experts in one)
    widths: tuple[int, ...] = ()  # of each block, how many values its dense network has for a token; () = not known
