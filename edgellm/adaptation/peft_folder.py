"""A peft folder, read without torch: adapter_config.json and adapter_model.safetensors, as factors for a GGUF model.

Names become those of the model's tensors, rows of q and k come into its order, scales become one alpha, and VeRA is
folded. DoRA and whole matrices (modules_to_save) are read, too: they can be merged, and `Lora.require_adapter` says
where an adapter is needed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from edgellm.adaptation import folds
from edgellm.adaptation.adapter_file import floats_of
from edgellm.adaptation.lora import Floats, Lora, LoraFactors, sound
from edgellm.adaptation.module_names import MODULES, tensor_name
from edgellm.adaptation.peft_config import PeftConfig, read_config
from edgellm.adaptation.row_order import row_order
from edgellm.errors import BadArtifact, UnsupportedArtifact
from edgellm.formats.gguf.adapter import EMBEDDING, MOST_RANK
from edgellm.formats.gguf.reader import GgufModel
from edgellm.formats.safetensors.reader import SafetensorsModel, read_safetensors
from edgellm.units import show_size

WEIGHTS, PICKLED = "adapter_model.safetensors", "adapter_model.bin"
_TYPES = ("F32", "F16", "BF16")
_PREFIX = "base_model.model."
_SHARED = {"base_model.vera_A": "A", "base_model.vera_B": "B"}
# What peft calls the parts of one module.
_PARTS = {
    "lora_A.weight": "a", "lora_B.weight": "b", "lora_embedding_A": "embedding_a", "lora_embedding_B": "embedding_b",
    "lora_magnitude_vector": "length", "lora_magnitude_vector.weight": "length", "vera_lambda_d": "d",
    "vera_lambda_b": "b_row", "weight": "whole",
}  # fmt: skip
_PART = re.compile(r"(.+?)\.(" + "|".join(sorted(map(re.escape, _PARTS), key=len, reverse=True)) + ")")
_AGAIN = "export the adapter again"
# Of VeRA, whose file is small however much it makes: rank 256 of all matrices of SmolLM2-135M makes 312 MB.
MOST_FOLDED_BYTES = 512 * 1024**2  # or as many as the model has


@dataclass(frozen=True, slots=True)
class _Folder:
    where: Path
    config: PeftConfig
    modules: dict[str, dict[str, Floats]] = field(default_factory=dict)  # module -> part -> values
    shared: dict[str, Floats] = field(default_factory=dict)  # of VeRA
    types: set[str] = field(default_factory=set)


def load(folder: Path, model: GgufModel) -> Lora:
    """The factors of a peft folder for `model`, of which it was trained in Hugging Face's form.

    Raises:
        BadArtifact: malformed, parts missing, values that are no numbers.
        UnsupportedArtifact: another method, a module that the model's file does not have in one piece.
    """
    architecture = model.header.architecture
    if architecture not in MODULES:
        message = f"names of {architecture}'s modules are not known, so {folder} cannot be read for it"
        raise UnsupportedArtifact(message, hint=f"known are {', '.join(sorted(MODULES))}; others: merge it with peft")
    content = _read(folder)
    content.config.check_matches(folder, len(content.modules))
    dims = {tensor.name: tensor.dims for tensor in model.tensors}
    if len(content.shared) == len(_SHARED):
        _check_folded(content, [dims.get(tensor_name(architecture, name) or "", ()) for name in content.modules], model)
    factors: dict[str, LoraFactors] = {}
    scales, lengths, whole = {}, {}, {}
    for module, parts in content.modules.items():
        name = tensor_name(architecture, module)
        if name is None or name not in dims:
            tied = " It shares the embedding's, which changes with it." if name == "output.weight" else ""
            message = f"{folder} changes {module[:200]}, {model.paths[0]} has no such matrix.{tied}"
            raise UnsupportedArtifact(message, hint="name the base that it was tuned on, or merge it with peft")
        if name in factors or name in whole:
            raise BadArtifact(f"{folder} changes {name} twice, at last as {module[:200]}", hint=_AGAIN)
        order = row_order(model.header, name, dims[name][1])
        # Of an embedding that has factors, peft writes the base's matrix along.
        if set(parts) == {"whole"}:
            _check_shape(content, module, parts["whole"].shape, dims[name])
            whole[name] = parts["whole"] if order is None else parts["whole"][order.to_file]
            continue
        pair = _pair(content, module, parts, dims[name][0], is_table=name == EMBEDDING)
        _check_shape(content, module, (*pair.b.shape[:-1], *pair.a.shape[1:]), dims[name])
        if not pair.rank:
            raise BadArtifact(f"{folder}: the factors of {module} have rank 0", hint=_AGAIN)
        scales[name] = 1.0 if content.shared else content.config.scale(module, pair.rank)
        factors[name] = pair if order is None else LoraFactors(pair.a, pair.b[order.to_file])
        if content.config.use_dora:
            length = _part(content, module, parts, "length").reshape(-1)
            _check_shape(content, module, (*length.shape, dims[name][0]), dims[name])
            lengths[name] = length if order is None else length[order.to_file]
    ordered = {name: factors[name] for name in dims if name in factors}
    alpha, ordered, is_changed = folds.one_alpha(ordered, scales)
    exact = content.types.pop() if len(content.types) == 1 and not (is_changed or content.shared) else "F32"
    lora = Lora(architecture, alpha, ordered, exact, tuple(content.config.alora_invocation_tokens or ()))
    return sound(replace(lora, lengths=lengths, replaced=whole), str(folder))


def _read(folder: Path) -> _Folder:
    content = _Folder(folder, read_config(folder))
    if not (folder / WEIGHTS).exists() and (folder / PICKLED).exists():
        message = f"{folder} has its weights in {PICKLED}, a pickle, which can run code: it is not read"
        raise UnsupportedArtifact(message, hint="save it again with peft's save_pretrained(safe_serialization=True)")
    tensors = read_safetensors(folder / WEIGHTS)
    for name in tensors.tensors:
        if name in _SHARED:
            content.shared[_SHARED[name]] = _values(tensors, name)
            continue
        # Of an embedding that has factors, peft writes the base's matrix along.
        if name.endswith(".base_layer.weight"):
            continue
        match = _PART.fullmatch(name.removeprefix(_PREFIX))
        if match is None or not name.startswith(_PREFIX):
            message = f"{folder}: what {name[:200]} does is not known"
            raise UnsupportedArtifact(message, hint="merge it with peft")
        content.modules.setdefault(match[1], {})[_PARTS[match[2]]] = _values(tensors, name)
        content.types.add(tensors.tensors[name].dtype)
    if content.config.peft_type == "VERA" and len(content.shared) < len(_SHARED):
        message = f"{folder} lacks vera_A and vera_B, which torch draws from a seed"
        raise UnsupportedArtifact(message, hint="train with save_projection=True, peft's default")
    return content


def _check_folded(content: _Folder, sizes: Sequence[tuple[int, ...]], model: GgufModel) -> None:
    """Before shared matrices are multiplied out. `sizes`: of the model's matrices that are changed."""
    rank, n_bytes = len(content.shared["A"]), 4 * len(content.shared["A"]) * sum(map(sum, sizes))
    most = max(MOST_FOLDED_BYTES, model.tensor_bytes)
    if rank > MOST_RANK or n_bytes > most:
        factors = f"whose factors of {len(sizes)} matrices are {show_size(n_bytes)}"
        message = f"{content.where} has VeRA of rank {rank}, {factors}"
        limits = f"rank {MOST_RANK} and {show_size(most)} for this model"
        raise UnsupportedArtifact(f"{message}; at most {limits} are taken", hint="merge it with peft")


def _values(tensors: SafetensorsModel, name: str) -> Floats:
    tensor = tensors.tensors[name]
    if tensor.dtype not in _TYPES or not 1 <= len(tensor.shape) <= 2:
        message = f"{tensors.paths[0]}: {name[:200]} is {tensor.dtype} {list(tensor.shape)}"
        raise UnsupportedArtifact(message, hint=f"matrices and vectors of {', '.join(_TYPES)} are read")
    return floats_of(np.frombuffer(tensors.raw(name), np.uint8), tensor.dtype).reshape(tensor.shape)


def _pair(content: _Folder, module: str, parts: Mapping[str, Floats], n_in: int, *, is_table: bool) -> LoraFactors:
    """As factors of the module's matrix, in Hugging Face's order of rows."""
    if content.shared:
        d, b = _part(content, module, parts, "d"), _part(content, module, parts, "b_row")
        a, shared_b = content.shared["A"], content.shared["B"]
        are_matrices = a.ndim == shared_b.ndim == 2 and d.ndim == b.ndim == 1
        # Of the shared matrices, which are as large as the largest module, this one uses a part.
        if not are_matrices or not len(a) == len(d) == shared_b.shape[1] or a.shape[1] < n_in or len(shared_b) < len(b):
            shapes = f"vera_A {a.shape}, vera_B {shared_b.shape}, vera_lambda_d {d.shape}, vera_lambda_b {b.shape}"
            raise BadArtifact(f"{content.where}: {module}: {shapes} do not multiply", hint=_AGAIN)
        return folds.vera(a, shared_b, d, b, n_in)
    if is_table:
        if content.config.use_dora:
            message = f"{content.where} has DoRA for {module}, whose rows it does not scale"
            raise UnsupportedArtifact(message, hint="merge it with peft")
        a, b = (_part(content, module, parts, f"embedding_{end}") for end in ("a", "b"))
        return LoraFactors(b.T, a.T)
    return LoraFactors(_part(content, module, parts, "a"), _part(content, module, parts, "b"))


def _part(content: _Folder, module: str, parts: Mapping[str, Floats], part: str) -> Floats:
    if part not in parts:
        name = next(name for name, other in _PARTS.items() if other == part)
        raise BadArtifact(f"{content.where}: {module}.{name} is missing", hint=_AGAIN)
    return parts[part]


def _check_shape(content: _Folder, module: str, shape: tuple[int, ...], dims: tuple[int, ...]) -> None:
    """Before rows are put into another order."""
    if shape != dims[::-1]:
        message = f"{content.where} changes {module}, a matrix of {list(shape)}; the model's is {list(dims[::-1])}"
        raise BadArtifact(message, hint="name the base that it was tuned on")
