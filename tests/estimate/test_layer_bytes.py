"""Which block of a model has how many bytes: against files whose tensors name their blocks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from support.memory_kinds import KINDS, sparse
from support.tiny_models import MODELS

from edgellm.catalog.lookup import catalog
from edgellm.estimate import architecture
from edgellm.estimate.device_memory import OnDevice, host_bytes
from edgellm.estimate.device_scratch import block_caches
from edgellm.estimate.footprint import kv_bytes
from edgellm.estimate.layer_bytes import layers_of
from edgellm.estimate.layer_parts import full_layers
from edgellm.estimate.weights import weights
from edgellm.formats.gguf.reader import read_model
from edgellm.formats.gguf.reader import shape as shape_of
from edgellm.store.card import local_card
from edgellm.types.model import Shape


def _read(path: Path) -> tuple[Shape, int, list[int], list[int]]:
    """Shape, bytes of all tensors, of each block's, and of each block's routed experts."""
    model = read_model(str(path))
    shape = shape_of(model.header, model.tensors)
    blocks, experts = [0] * shape.n_layer, [0] * shape.n_layer
    for tensor in model.tensors:
        block = int(tensor.name.split(".")[1]) if tensor.name.startswith("blk.") else shape.n_layer
        if block < shape.n_layer:
            blocks[block] += tensor.n_bytes
            experts[block] += tensor.n_bytes if "_exps.weight" in tensor.name or "_exps.scale" in tensor.name else 0
    return shape, model.tensor_bytes, blocks, experts


@pytest.mark.parametrize("name", [name for name in MODELS if MODELS[name].arch in architecture.KNOWN])
def test_blocks_are_those_of_the_file_to_the_byte(tmp_path: Path, name: str) -> None:
    shape, n_bytes, blocks, experts = _read(MODELS[name].sparse(tmp_path))
    sizes = layers_of(shape, n_bytes, "F16")
    assert list(sizes.blocks) == blocks
    assert list(sizes.experts) == experts


@pytest.mark.parametrize("arch", ["lfm2", "qwen35"])
def test_a_split_hybrid_has_its_large_blocks_where_they_lie(tmp_path: Path, arch: str) -> None:
    """In RAM stays what the device does not hold: here nothing is tied but the table, which both have."""
    shape, n_bytes, blocks, _ = _read(sparse(arch, tmp_path / "model.gguf"))
    assert len(set(blocks)) == 2
    sizes = layers_of(shape, n_bytes, "F16")
    for n_layers in range(1, len(blocks) + 2):
        there = sum(blocks[len(blocks) + 1 - n_layers :])
        assert host_bytes(n_bytes, sizes, OnDevice(n_layers)) == n_bytes - there, n_layers


def test_the_table_of_an_architecture_that_is_not_known_is_of_the_files_type(tmp_path: Path) -> None:
    shape, n_bytes, _, _ = _read(sparse("deepseek2", tmp_path / "model.gguf"))
    assert shape.arch not in architecture.KNOWN
    assert layers_of(shape, n_bytes, "F16").output == shape.n_vocab * shape.n_embd * 2
    assert layers_of(shape, n_bytes, "no such mix").output == shape.n_vocab * shape.n_embd


FULL = {
    "lfm2": (1, 3, 5, 7), "qwen35": (3, 7), "gemma3": (5,), "granitehybrid": (3, 7), "granitehybridmoe": (3, 7),
    "gemma3n": (4, 9, 14, 19), "gemma4": (3, 7), "gemma4moe": (3, 7),
}  # fmt: skip


@pytest.mark.parametrize("arch", sorted(KINDS))
def test_only_layers_that_attend_cache_tokens(tmp_path: Path, arch: str) -> None:
    shape, *_ = _read(sparse(arch, tmp_path / "model.gguf"))
    caches = block_caches(shape, kv_bytes(shape, 4096), 4096, 512)
    attends = FULL.get(arch, tuple(range(8)))
    assert full_layers(shape) == attends
    n_own = shape.n_layer - shape.shared_kv_layers
    assert not any(caches[n_own:])
    full, caches = tuple(layer for layer in attends if layer < n_own), caches[:n_own]
    assert [caches[layer] for layer in full] == [shape.kv_full_bytes * 4096 // len(full)] * len(full)
    others = [size for layer, size in enumerate(caches) if layer not in full]
    assert sum(caches) - sum(others) == shape.kv_full_bytes * 4096
    assert len(set(others)) <= 1, "they are of one kind"


@pytest.mark.parametrize("arch", sorted(KINDS))
def test_a_file_that_is_here_has_the_blocks_of_its_header(tmp_path: Path, arch: str) -> None:
    """Whether or not its architecture's tensors are listed; what llama.cpp makes of it: test_device_reservation."""
    path = sparse(arch, tmp_path / "model.gguf")
    shape, n_bytes, blocks, experts = _read(path)
    own = local_card(path).files[0].layers
    assert own is not None
    assert layers_of(shape, n_bytes, "F16", own) is own
    tables = _bytes(path, "per_layer_model_proj.weight", "per_layer_proj_norm.weight")
    assert own.blocks == (blocks[0] + tables, *blocks[1:])
    assert list(own.experts) == experts
    thirds = 2 if arch == "gemma4moe" else 1  # gate and up are one matrix there
    # Scales of experts are no matrices.
    assert own.expert_matrices == pytest.approx([n_bytes * thirds / 3 for n_bytes in experts], abs=64)
    assert own.output == _bytes(
        path, "token_embd.weight", "output_norm.weight", "altup_proj.weight", "altup_unembd_proj.weight"
    )
    assert own.tied
    # Of another number of layers than the catalog's: it is another model.
    assert layers_of(replace(shape, n_layer=shape.n_layer + 1), n_bytes, "F16", own) is not own


def _bytes(path: Path, *names: str) -> int:
    return sum(tensor.n_bytes for tensor in read_model(str(path)).tensors if tensor.name in names)


def test_cards_say_which_layers_attend() -> None:
    """As the headers of their files do (tests/formats/test_gguf_shape.py); else it is the last of each group."""
    said = {card.id: card.shape for card in catalog().values() if card.shape is not None and card.shape.n_attn}
    assert said["lfm2-350m"].full_layers == (2, 5, 8, 10, 12, 14)
    assert said["granite-4.0-h-micro"].full_layers == (5, 15, 25, 35)
    for name, shape in said.items():
        assert len(full_layers(shape)) == shape.n_attn, name


@pytest.mark.parametrize("arch", ["gemma3n", "gemma4", "gemma4moe", "granitehybrid", "granitehybridmoe", "glm4"])
def test_blocks_of_a_name_are_those_of_its_files_header(tmp_path: Path, arch: str) -> None:
    """Before a header was read: the list of the architecture's tensors, at the size that is known."""
    path = sparse(arch, tmp_path / "model.gguf")
    shape, n_bytes, *_ = _read(path)
    own, named = local_card(path).files[0].layers, layers_of(shape, n_bytes, "F16")
    assert own is not None
    assert weights(shape, 0, 0, "F16").total_bytes == n_bytes
    for of in ("blocks", "matrices", "expert_matrices", "widths"):
        assert getattr(named, of) == getattr(own, of), of
    # Scales of experts go with them, 4 bytes each.
    assert named.experts == pytest.approx(own.experts, abs=4 * shape.n_expert)
    assert own.output - named.output == _bytes(path, "output_norm.weight")
