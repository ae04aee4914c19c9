"""Weights that a backend copies while it loads: shown as they are, counted as far as they must stay."""

from __future__ import annotations

from edgellm.catalog.lookup import catalog
from edgellm.estimate.footprint import footprint
from edgellm.estimate.layer_bytes import layers_of
from edgellm.selection.load import Load
from edgellm.selection.placing import asked
from edgellm.selection.usable_gpu import UsableGpu
from edgellm.types.machine import Cpu, Machine, Memory
from edgellm.types.priors import Repacking
from edgellm.units import GIB, MIB

ARM = Cpu("aarch64", "test", 4, 4, ("dotprod", "neon"))
X86 = Cpu("x86_64", "test", 4, 4, ("avx", "avx2", "ssse3"))
# What llama.cpp copies there of the types that these models have.
COPIED = {X86: Repacking(frozenset({"Q4_0", "Q4_K"}), 8),
          ARM: Repacking(frozenset({"Q4_0", "Q4_K", "Q5_K", "Q6_K", "Q8_0"}), 8)}  # fmt: skip


def taken(option, gguf, cpu: Cpu, quant: str):
    machine = Machine("m", "M", cpu, Memory(8 * GIB, bandwidth_gb_s=20.0))
    facts = gguf(repacking=COPIED[cpu])
    plain = option("llama-3.2-1b-instruct", quant, machine, facts=gguf()).footprint_at(2048)
    chosen = option("llama-3.2-1b-instruct", quant, machine, facts=facts)
    return plain, chosen.footprint_at(2048), chosen.counted_at(2048)


def test_copies_are_resident_and_their_originals_may_go(option, gguf) -> None:
    plain, copied, counted = taken(option, gguf, X86, "Q4_0")

    assert copied.resident_bytes - plain.resident_bytes == 522 * MIB
    assert copied.needed_bytes == plain.needed_bytes == counted


def test_a_table_that_is_copied_counts_twice(option, gguf) -> None:
    plain, copied, counted = taken(option, gguf, ARM, "Q4_0")
    table = 128256 * 2048 // 256 * 210

    assert copied.resident_bytes - plain.resident_bytes == 522 * MIB + table
    assert copied.needed_bytes - plain.needed_bytes == table
    assert counted == copied.needed_bytes


def test_layers_on_a_gpu_are_not_copied_in_ram() -> None:
    shape = catalog()["qwen3-8b"].shape
    assert shape is not None
    whole = footprint(shape, 5 * GIB, 2048, repacked_bytes=4 * GIB, table_bytes=0)
    load = Load(shape, layers_of(shape, 5 * GIB, "Q4_K_M"), 2048, 1, lambda ubatch: whole)
    gpus = [UsableGpu("CUDA0", "A GPU", 24 * GIB, 0, unified=False)]

    half, none = asked(load, gpus, 19).footprint, asked(load, gpus, -1).footprint

    share = half.weights_bytes / whole.weights_bytes
    assert 0.4 < share < 0.6
    assert half.repack_bytes == half.reclaimable_bytes == round(4 * GIB * share)
    assert none.repack_bytes < 0.15 * whole.repack_bytes
