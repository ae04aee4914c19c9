"""A peft folder, read without torch: adapter_config.json and adapter_model.safetensors, as factors for a GGUF model.

Names become those of the model's tensors, rows of q and k come into its order, scales become one alpha, and VeRA is
folded. DoRA and whole matrices (modules_to_save) are read, too: they can be merged, and `Lora.require_adapter` says
where an adapter is needed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
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


@dataclass(frozen=True)
class _Stored:
    """A tensor of the file: its shape may lie, so its values are read where the model has a place for them."""

    tensors: SafetensorsModel
    name: str

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensors.tensors[self.name].shape

    @cached_property
    def values(self) -> Floats:
        tensor = self.tensors.tensors[self.name]
        return floats_of(np.frombuffer(self.tensors.raw(self.name), np.uint8), tensor.dtype).reshape(tensor.shape)


@dataclass(frozen=True, slots=True)
class _Folder:
    where: Path
    config: PeftConfig
    modules: dict[str, dict[str, _Stored]] = field(default_factory=dict)  # module -> part
    shared: dict[str, _Stored] = field(default_factory=dict)  # of VeRA
    types: set[str] = field(default_factory=set)


@np.errstate(over="ignore", invalid="ignore")  # what becomes infinite is refused by its name in the end
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
            values = parts["whole"].values
            whole[name] = values if order is None else values[order.to_file]
            continue
        pair = _pair(content, module, parts, dims[name], is_table=name == EMBEDDING)
        scales[name] = 1.0 if content.shared else content.config.scale(module, pair.rank)
        factors[name] = pair if order is None else LoraFactors(pair.a, pair.b[order.to_file])
        if content.config.use_dora:
            stored = _part(content, module, parts, "length")
            _check_shape(content, module, (math.prod(stored.shape), dims[name][0]), dims[name])
            length = stored.values.reshape(-1)
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
            content.shared[_SHARED[name]] = _stored(tensors, name)
            continue
        # Of an embedding that has factors, peft writes the base's matrix along.
        if name.endswith(".base_layer.weight"):
            continue
        match = _PART.fullmatch(name.removeprefix(_PREFIX))
        if match is None or not name.startswith(_PREFIX):
            message = f"{folder}: what {name[:200]} does is not known"
            raise UnsupportedArtifact(message, hint="merge it with peft")
        content.modules.setdefault(match[1], {})[_PARTS[match[2]]] = _stored(tensors, name)
        content.types.add(tensors.tensors[name].dtype)
    if content.config.peft_type == "VERA" and len(content.shared) < len(_SHARED):
        message = f"{folder} lacks vera_A and vera_B, which torch draws from a seed"
        raise UnsupportedArtifact(message, hint="train with save_projection=True, peft's default")
    return content


def _check_folded(content: _Folder, sizes: Sequence[tuple[int, ...]], model: GgufModel) -> None:
    """Before shared matrices are multiplied out. `sizes`: of the model's matrices that are changed."""
    rank = content.shared["A"].shape[0]
    held = sum(math.prod(stored.shape) for stored in content.shared.values())
    n_bytes = 4 * max(held, rank * sum(map(sum, sizes)))
    most = max(MOST_FOLDED_BYTES, model.tensor_bytes)
    if rank > MOST_RANK or n_bytes > most:
        factors = f"whose factors of {len(sizes)} matrices are {show_size(n_bytes)}"
        message = f"{content.where} has VeRA of rank {rank}, {factors}"
        limits = f"rank {MOST_RANK} and {show_size(most)} for this model"
        raise UnsupportedArtifact(f"{message}; at most {limits} are taken", hint="merge it with peft")


def _stored(tensors: SafetensorsModel, name: str) -> _Stored:
    tensor = tensors.tensors[name]
    if tensor.dtype not in _TYPES or not 1 <= len(tensor.shape) <= 2:
        message = f"{tensors.paths[0]}: {name[:200]} is {tensor.dtype} {list(tensor.shape)}"
        raise UnsupportedArtifact(message, hint=f"matrices and vectors of {', '.join(_TYPES)} are read")
    return _Stored(tensors, name)


def _pair(
    content: _Folder, module: str, parts: Mapping[str, _Stored], dims: tuple[int, ...], *, is_table: bool
) -> LoraFactors:
    """As factors of the module's matrix, in Hugging Face's order of rows. `dims`: of the model's matrix."""
    if content.shared:
        return _vera(content, module, parts, dims)
    if is_table:
        if content.config.use_dora:
            message = f"{content.where} has DoRA for {module}, whose rows it does not scale"
            raise UnsupportedArtifact(message, hint="merge it with peft")
        a, b = (_part(content, module, parts, f"embedding_{end}") for end in ("a", "b"))
        _check_factors(content, module, b.shape[::-1], a.shape[::-1], dims)
        return LoraFactors(b.values.T, a.values.T)
    a, b = _part(content, module, parts, "a"), _part(content, module, parts, "b")
    _check_factors(content, module, a.shape, b.shape, dims)
    return LoraFactors(a.values, b.values)


def _check_factors(
    content: _Folder, module: str, a: tuple[int, ...], b: tuple[int, ...], dims: tuple[int, ...]
) -> None:
    _check_shape(content, module, (*b[:-1], *a[1:]), dims)
    if not a[0]:
        raise BadArtifact(f"{content.where}: the factors of {module} have rank 0", hint=_AGAIN)
    if a[0] != b[-1] or a[0] > MOST_RANK:
        message = f"{content.where}: the factors of {module} have ranks {a[0]} and {b[-1]}"
        raise BadArtifact(message, hint=f"they are the same, and at most {MOST_RANK}; export the adapter again")


def _vera(content: _Folder, module: str, parts: Mapping[str, _Stored], dims: tuple[int, ...]) -> LoraFactors:
    d, b = _part(content, module, parts, "d").shape, _part(content, module, parts, "b_row").shape
    a, shared_b = content.shared["A"].shape, content.shared["B"].shape
    are_matrices = len(a) == len(shared_b) == 2 and len(d) == len(b) == 1
    # Of the shared matrices, which are as large as the largest module, this one uses a part.
    if not are_matrices or not a[0] == d[0] == shared_b[1] or a[1] < dims[0] or shared_b[0] < b[0]:
        shapes = f"vera_A {a}, vera_B {shared_b}, vera_lambda_d {d}, vera_lambda_b {b}"
        raise BadArtifact(f"{content.where}: {module}: {shapes} do not multiply", hint=_AGAIN)
    _check_factors(content, module, (a[0], dims[0]), (b[0], a[0]), dims)
    shared = content.shared
    return folds.vera(shared["A"].values, shared["B"].values, parts["d"].values, parts["b_row"].values, dims[0])


def _part(content: _Folder, module: str, parts: Mapping[str, _Stored], part: str) -> _Stored:
    if part not in parts:
        name = next(name for name, other in _PARTS.items() if other == part)
        raise BadArtifact(f"{content.where}: {module}.{name} is missing", hint=_AGAIN)
    return parts[part]


def _check_shape(content: _Folder, module: str, shape: tuple[int, ...], dims: tuple[int, ...]) -> None:
    """Before rows are put into another order."""
    if shape != dims[::-1]:
        message = f"{content.where} changes {module}, a matrix of {list(shape)}; the model's is {list(dims[::-1])}"
        raise BadArtifact(message, hint="name the base that it was tuned on")
