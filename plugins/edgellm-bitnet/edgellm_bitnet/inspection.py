"""What a GGUF header says against running the file here: cheap enough for the parent, which asks before it plans."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgellm.errors import BadArtifact, EdgeLLMError
from edgellm.formats.gguf.header import GgufTensor
from edgellm.formats.hf_config import CONFIG, config_of
from edgellm_bitnet.architecture import Architecture, from_config
from edgellm_bitnet.layout import GROUPS, HEAD_KINDS, fused, layer_vectors


def reasons(arch: Architecture, tensors: Mapping[str, GgufTensor]) -> list[str]:
    """Why the engine cannot run these tensors; empty = it can. The first of each kind speaks for its layer's others."""
    problems = []
    for layer in range(arch.layers):
        for parts in fused(arch).values():
            for name, rows, cols in parts:
                problems += _matrix(f"blk.{layer}.{name}.weight", (cols, rows), tensors, GROUPS)
        for name, _, must in layer_vectors(arch).values():
            if must and f"blk.{layer}.{name}.weight" not in tensors:
                problems.append(f"tensor blk.{layer}.{name}.weight is missing")
        if problems:
            return problems[:1]
    for role in ("token_embd.weight", "output.weight"):
        if role == "token_embd.weight" or role in tensors:
            problems += _matrix(role, (arch.hidden, arch.vocab), tensors, HEAD_KINDS)
    return problems


def folder_reasons(path: str) -> list[str]:
    """Why a Hugging Face folder is no ternary model, as far as config.json tells; damage is told when it is opened."""
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    try:
        config = config_of(folder)
    except BadArtifact:
        return []
    try:
        from_config(config, str(folder / CONFIG))
    except EdgeLLMError as error:
        return [error.message]
    return []


def _matrix(
    role: str, dims: tuple[int, int], tensors: Mapping[str, GgufTensor], types: Mapping[str, object]
) -> list[str]:
    tensor = tensors.get(role)
    if tensor is None:
        return [f"tensor {role} is missing"]
    if tensor.dims != dims:
        return [f"tensor {role} has dimensions {tensor.dims}, its architecture says {dims}"]
    if tensor.type.name not in types:
        return [f"tensor {role} is {tensor.type.name}; {', '.join(types)} are computed with"]
    return []
